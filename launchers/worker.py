"""A warm process that runs one job after another for the launcher, each as if it were the first.

Forked by the zygote. It ends when the launcher or the zygote does.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireworks.core import rocket
from fireworks.core.firework import Firework, FWAction
from fireworks.core.fworker import FWorker
from fireworks.utilities.fw_serializers import DATETIME_HANDLER

from orionflow.errors import ConfigError, StoreError, database_reason
from orionflow.launchers.process_tree import adopt_orphans, end_descendants
from orionflow.launchers.project import JOBFLOW_FILE
from orionflow.launchers.restore import Snapshot, reseed, wait_for_threads
from orionflow.launchers.rocket import STRAY, WirePad
from orionflow.launchers.stopping import GRACE, Stopped
from orionflow.launchers.wire import Channel, Message

if TYPE_CHECKING:
    import socket
    from types import FrameType

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# A job that takes longer to end its code and processes, or lost the exception, is asked once more.
_RAISE_AGAIN = 15.0
_STORE_PATIENCE_MS = 12 * 3600 * 1000
# As FireWorks' own `rlaunch rapidfire --local_redirect` names them.
OUT_FILE, ERROR_FILE = "FW_job.out", "FW_job.error"
# A worker is replaced after so many jobs, or when it has grown by so much, MiB.
_MOST_JOBS = 500
_MOST_GROWTH = 512
_LIBC = ctypes.CDLL(None)
# The kernel takes a job, not the launcher, when memory runs out.
_OOM_SCORE = "500"


class Worker:
    """Runs jobs.

    Parameters
    ----------
    sock
        Connection to the launcher.
    setup
        ``project``, ``database`` (name), ``check`` (look whether the JobStore is there first).
    """

    def __init__(self, sock: socket.socket, setup: dict[str, Any]) -> None:
        self.channel = Channel(sock)
        self.project = Path(setup["project"])
        self.database: str = setup["database"]
        self.check: bool = setup["check"]
        self.pid = os.getpid()
        self.jobs = 0
        self._raised = float("-inf")
        self._asked = int(signal.SIGTERM)
        self._said = self._busy = False

    def serve(self) -> None:
        """Run jobs until the launcher closes the connection, or this process is used up."""
        adopt_orphans()
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
        os.register_at_fork(after_in_child=self._forked)
        for number in (*_STOP_SIGNALS, signal.SIGALRM):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        # We say it ourselves; the launcher has the heartbeats.
        rocket.ROCKET_STREAM_LOGLEVEL = "WARNING"
        rocket.start_ping_launch = _no_ping
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text file
        self._hello()
        snapshot = Snapshot()
        size = _resident()
        while (job := self.channel.receive()) is not None:
            used_up = self._run(job, snapshot)
            self.jobs += 1
            if not used_up and self.jobs >= _MOST_JOBS:
                used_up = f"{_MOST_JOBS} jobs"
            if not used_up and _resident() - size > _MOST_GROWTH:
                used_up = "its memory has grown"
            self.channel.send({"kind": "idle", "used_up": used_up})
            if used_up:
                wait_for_threads(snapshot, patience=60.0)
                return

    def _hello(self) -> None:
        problem = None
        try:
            if self.check:
                check_job_store(self.project)
        except (ConfigError, StoreError) as error:
            problem = {"store": isinstance(error, StoreError), "message": error.message,
                       "hint": error.hint}
        make_job_store_patient()
        self.channel.send({"kind": "hello", "problem": problem})

    # ------------------------------------------------------------------------ one job

    def _run(self, job: Message, snapshot: Snapshot) -> str:
        """Run a job; returns why this process should not be used again, if so."""
        self._raised = float("-inf")
        self._said, self._busy = False, True
        os.environ.update(job["environment"])
        snapshot.bind(job["cores"])
        reseed()
        try:
            with _Output(_enter(job), snapshot):
                self._launch(job)
        except Stopped:  # in the moment before or after the job itself
            self._say(job, "its launcher stopped it", "stopped", stopped=True)
        except Exception:  # noqa: BLE001  the job must end with a word, whatever happened to it
            self._say(job, traceback.format_exc(), "runtime error during task")
        if os.getpid() != self.pid:
            os._exit(STRAY)
        self._busy = False
        end_descendants()
        return snapshot.restore()

    def _launch(self, job: Message) -> None:
        """Run FireWorks' Rocket."""
        try:
            fw = Firework.from_dict(job["firework"])
        except Exception:  # noqa: BLE001  any import or any constructor may fail
            self._say(job, traceback.format_exc(), "FireWork failed to deserialize")
            return
        if "_recovery" not in fw.spec:  # a recovery's own folder may bring a file of this name
            fw.to_file = partial(_write_firework, job["firework"])
        pad = WirePad(fw, job["launch_id"], self._send, self.database, self._open_pad)
        rocket.Rocket(pad, FWorker.from_dict(job["fworker"]), fw.fw_id).run()
        pad.close()
        self._say(job, "its Rocket ended without a result", "no result")

    def _send(self, message: Message) -> None:
        self.channel.send(message)
        self._said = self._said or message["kind"] == "ended"

    def _say(self, job: Message, trace: str, message: str, *, stopped: bool = False) -> None:
        """Say that a job failed, unless it has been said already how it ended."""
        if self._said:
            return
        action = FWAction(stored_data={"_message": message, "_task": None, "_exception": {
            "_stacktrace": trace, "_details": None}}, exit=True)
        reason = (trace.strip().splitlines() or [message])[-1]
        self._send({"kind": "ended", "launch_id": job["launch_id"], "state": "FIZZLED",
                    "action": action.to_dict(), "folder": job["folder"],
                    "failure": {"kind": "user", "reason": reason, "stopped": stopped}})

    def _open_pad(self) -> Any:
        from orionflow.launchers.launchpad import open_launchpad

        return open_launchpad(self.project)

    # ------------------------------------------------------------------------ signals

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.pid:
            os._exit(STRAY)
        if not self._busy:
            return
        if number != signal.SIGALRM:
            self._asked = number
        grace = GRACE[self._asked]
        if not _inside_job(frame):
            # In FireWorks' own work, which must not be cut: look again soon.
            signal.setitimer(signal.ITIMER_REAL, 0.2)
        elif time.monotonic() - self._raised > _RAISE_AGAIN + grace:
            self._raised = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, _RAISE_AGAIN + grace + 1)
            raise Stopped("stopped by the launcher", grace)

    def _forked(self) -> None:
        """In a process a job forks: it is no worker, and says nothing to the launcher."""
        for number in (*_STOP_SIGNALS, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        self.channel.close()


class _Output:
    """While it lasts, what is printed goes to files in the job's folder."""

    def __init__(self, folder: Path, snapshot: Snapshot) -> None:
        self.files = (folder / OUT_FILE, folder / ERROR_FILE)
        self.snapshot = snapshot
        self.saved: list[int] = []

    def __enter__(self) -> None:
        for number, path in zip((1, 2), self.files, strict=True):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            self.saved.append(os.dup(number))
            os.dup2(fd, number)
            os.close(fd)

    def __exit__(self, *error: object) -> None:
        for stream in {*self.snapshot.streams[1:], sys.stdout, sys.stderr}:
            with suppress(OSError, ValueError, AttributeError):  # a job may have closed it
                stream.flush()
        _LIBC.fflush(None)  # what compiled libraries have printed
        for number, (fd, path) in enumerate(zip(self.saved, self.files, strict=True), start=1):
            os.dup2(fd, number)
            os.close(fd)
            with suppress(OSError):
                if path.stat().st_size == 0:
                    path.unlink()


def check_job_store(project: Path) -> None:
    """Refuse to start with a JobStore in which results would be lost.

    jobflow takes a store in memory, without a word, when it does not find its file.

    Raises
    ------
    ConfigError
        jobflow uses another file than the project's, or a store in memory.
    StoreError
        The store can't be reached.
    """
    from jobflow import SETTINGS
    from maggma.stores import MemoryStore
    from pymongo.errors import PyMongoError

    path = project / JOBFLOW_FILE
    used = Path(SETTINGS.CONFIG_FILE).expanduser()
    if not path.is_file() or used.resolve() != path.resolve():
        raise ConfigError(
            f"jobflow reads {used}, not the project's {path}"
            if path.is_file() else f"no {JOBFLOW_FILE} in {project}: results would be lost",
            hint="start it as `orionflow launch` in the project, after `orionflow db start`")
    docs = SETTINGS.JOB_STORE.docs_store
    if type(docs) is MemoryStore:
        raise ConfigError(f"{path} names a store in memory: results would be lost",
                          hint="name a MongoStore, as `orionflow db start` writes it")
    try:
        SETTINGS.JOB_STORE.connect()
        docs.count({"uuid": ""})
    except PyMongoError as error:
        raise StoreError(f"the JobStore of {path} does not answer: {database_reason(error)}",
                         hint="`orionflow db status`", transient=True) from error


def make_job_store_patient() -> None:
    """Have jobs wait for MongoDB when they store a result, instead of failing after 30 s.

    A signal ends the waiting.
    """
    from jobflow import SETTINGS
    from maggma.core import StoreError as NotConnected

    store = SETTINGS.JOB_STORE
    additional: dict[str, Any] = store.additional_stores  # type: ignore[has-type]  # untyped there
    for one in (store.docs_store, *additional.values()):
        options = getattr(one, "mongoclient_kwargs", None)
        if isinstance(options, dict):
            with suppress(NotConnected):
                one.close()
            options.setdefault("serverSelectionTimeoutMS", _STORE_PATIENCE_MS)


def _enter(job: Message) -> Path:
    """Go to the job's folder, which is made here; where that fails, FireWorks says why."""
    for name in (job["folder"], job["fallback"]):
        with suppress(OSError):
            folder = Path(name)
            folder.mkdir(parents=True, exist_ok=True)
            os.chdir(folder)
            return folder
    raise OSError(f"can't make the folder {job['folder']} or {job['fallback']}")


def _write_firework(doc: dict[str, Any], filename: str, **_options: Any) -> None:
    """Write ``FW.json`` from the stored document: making it anew takes three times as long.

    A line for each entry; indenting all of it takes long, too.
    """
    entries = [f" {_dump(key)}: {_dump(value)}" for key, value in doc.items() if key != "spec"]
    spec = [f"  {_dump(key)}: {_dump(value)}" for key, value in doc["spec"].items()]
    text = ",\n".join([' "spec": {\n' + ",\n".join(spec) + "\n }", *entries])
    Path(filename).write_bytes(f"{{\n{text}\n}}\n".encode(errors="replace"))


def _dump(value: Any) -> str:
    return json.dumps(value, default=DATETIME_HANDLER, ensure_ascii=False)


def _no_ping(_pad: Any, _launch_id: int) -> None:
    """Start no thread."""


def _inside_job(frame: FrameType | None) -> bool:
    """Whether a Firetask runs in this stack: between Rocket's own calls."""
    while frame is not None:
        caller = frame.f_back
        if frame.f_code.co_name == "run_task" and caller is not None and (
                caller.f_globals.get("__name__") == "fireworks.core.rocket"):
            return True
        frame = caller
    return False


def _resident() -> float:
    """Return the memory of this process that it does not share, MiB."""
    size, resident, shared = map(int, Path("/proc/self/statm").read_text().split()[:3])
    del size
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20
