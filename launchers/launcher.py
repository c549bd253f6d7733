"""The process inside an allocation: claim a job that fits, run it, settle it, until none is left.

Jobs run one at a time through FireWorks' own Rocket, each in a folder of its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.errors import ConfigError, StoreError
from orionflow.launchers.allocation import Allocation, read_allocation
from orionflow.launchers.identity import ENV_KEY
from orionflow.launchers.machine import load_machine
from orionflow.launchers.project import FWORKER_FILE, JOBFLOW_FILE, project_environment
from orionflow.log import get_logger
from orionflow.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from orionflow.launchers.rocket import RocketPad

log = get_logger(__name__)
_FOLDER_DATE = "%Y-%m-%d-%H-%M-%S-%f"
# A job that takes longer to end its processes, or lost the exception, is asked once more.
_RAISE_AGAIN = 25.0
_STORE_PATIENCE_MS = 12 * 3600 * 1000
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


@dataclass(frozen=True)
class LaunchOptions:
    """What the user of `orionflow launch` may ask for.

    Attributes
    ----------
    max_jobs
        End after so many jobs; None: no limit.
    patience
        Wait so long for new work while none is READY, s.
    time_limit
        End after so many seconds.
    cores
        Use only so many cores.
    fw_id
        Run this firework alone (`qlaunch -r`).
    """

    max_jobs: int | None = None
    patience: float = 0.0
    time_limit: int | None = None
    cores: int | None = None
    fw_id: int | None = None


@dataclass
class LaunchReport:
    """What a launcher did: jobs by final state, and why it ended."""

    states: Counter[str] = field(default_factory=Counter)
    fw_ids: list[int] = field(default_factory=list)
    ended: str = ""

    def describe(self) -> str:
        """Return one line."""
        names = {"COMPLETED": "completed", "FIZZLED": "fizzled", "READY": "put back"}
        counts = ", ".join(f"{self.states[s]} {n}" for s, n in names.items() if self.states[s])
        run = f"{sum(self.states.values())} job(s) run"
        return f"{run}{': ' if counts else ''}{counts} ({self.ended})"


class Launcher:
    """Runs the jobs of one project in one allocation.

    Parameters
    ----------
    project
        Project folder.
    options
        Limits.
    folder
        Where the folders of jobs are made; the current folder unless given.
    """

    def __init__(self, project: Path, options: LaunchOptions, folder: Path | None = None) -> None:
        self.project = project
        self.options = options
        self.settings = load_settings(project)
        self.machine = load_machine(project=project)
        self.allocation: Allocation = read_allocation(
            self.machine, project, time_limit=options.time_limit, cores=options.cores)
        self.folder = folder or Path.cwd()
        self.report = LaunchReport()
        self._stop = ""
        self._raised = float("-inf")
        self.pad: RocketPad

    def run(self) -> LaunchReport:
        """Run jobs until none fits, the time is over or a signal comes.

        Returns
        -------
        LaunchReport
            Jobs by final state.

        Raises
        ------
        ConfigError
            The JobStore is not one that lasts, or a file of the project is wrong.
        StoreError
            MongoDB can't be reached at the start.
        """
        self._export()
        check_job_store(self.project)
        from orionflow.launchers.launchpad import open_launchpad
        from orionflow.launchers.recovery import recover
        from orionflow.launchers.rocket import DatabaseGoneError, RocketPad

        self.pad = open_launchpad(self.project, kind=RocketPad)
        self.pad.max_reruns = self.settings.max_reruns
        self.pad.patience = self._may_wait
        make_job_store_patient()
        os.environ["ORIONFLOW_LAUNCHER"] = self.pad.identity.token
        log.info("%s", self.allocation.describe())
        with self._signals(), contextlib.redirect_stdout(sys.stderr):
            try:
                for step in recover(self.project, self.pad):
                    log.info("recovered: %s", step.describe())
                self._work()
            except DatabaseGoneError:
                self.report.ended = "MongoDB did not come back; `orionflow recover` settles"
        self.pad.connection.close()
        return self.report

    # ------------------------------------------------------------------------ the loop

    def _work(self) -> None:
        idle_since: float | None = None
        pause = 0.2
        while True:
            if self._stop:
                self.report.ended = self._stop
                return
            if self.options.max_jobs is not None and (
                    sum(self.report.states.values()) >= self.options.max_jobs):
                self.report.ended = f"{self.options.max_jobs} job(s) asked for"
                return
            if self.options.fw_id is not None:
                self._run_one(self.options.fw_id)
                self.report.ended = f"firework {self.options.fw_id} alone"
                return
            if self.pad.when_back(lambda: self.pad.run_exists(self._fworker())):
                self._run_one(None)
                idle_since, pause = None, 0.2
                continue
            idle_since = idle_since or time.monotonic()
            if why := self._nothing_to_wait_for(time.monotonic() - idle_since):
                self.report.ended = why
                return
            time.sleep(pause)
            pause = min(1.5 * pause, 5.0)

    def _nothing_to_wait_for(self, idle: float) -> str:
        mine = self._query({})
        ready = self.pad.when_back(
            lambda: self.pad.fireworks.count_documents({**mine, "state": "READY"}, limit=1000))
        left = f"; {ready} READY job(s) do not fit here" if ready else ""
        if self.allocation.deadline is not None and time.time() > self.allocation.deadline:
            return f"time is over{left}"
        if idle < self.options.patience:
            return ""
        return f"no job left that fits{left}" if ready else "no READY job left"

    def _run_one(self, fw_id: int | None) -> None:
        from fireworks.core import rocket
        from fireworks.core.rocket_launcher import launch_rocket
        from pymongo.errors import ConnectionFailure

        from orionflow.launchers.rocket import Stopped

        rocket.ROCKET_STREAM_LOGLEVEL = "WARNING"  # we say it ourselves, in one line a job
        home = Path.cwd()
        folder = self._new_folder()
        os.chdir(folder)
        self.pad.forget()
        self._raised = float("-inf")
        started = time.monotonic()
        ran, words = False, io.StringIO()
        try:
            ran = launch_rocket(self.pad, self._fworker(), fw_id=fw_id, strm_lvl="ERROR",
                                err_file=words)
        except ConnectionFailure as error:
            # In the claim: all later writes wait for MongoDB.
            log.warning("MongoDB went away during a claim: %s", str(error)[:200])
            self.pad.when_back(self._settle_mine)
        except Stopped as stop:
            # The signal came in the moment between claim and job.
            log.warning("%s", stop.reason)
            self.pad.when_back(self._settle_mine)
        finally:
            os.chdir(home)
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if nothing was put there: the job ran elsewhere or not
        outcome = self.pad.outcome
        if ran and outcome is not None:
            self.report.states[outcome.state] += 1
            self.report.fw_ids.append(outcome.fw_id)
            if outcome.state == "FIZZLED":
                sys.stderr.write(words.getvalue())  # the traceback; no use where it goes on
            state = "put back" if outcome.state == "READY" else outcome.state
            log.info("firework %d %s after %.1f s%s", outcome.fw_id, state,
                     time.monotonic() - started, f": {outcome.reason}" if outcome.reason else "")

    def _settle_mine(self) -> None:
        """Give back whatever carries our name; this process runs nothing now."""
        from orionflow.launchers.recovery import settle_launcher

        for step in settle_launcher(self.pad, self.pad.identity):
            log.info("%s", step.describe())

    # ------------------------------------------------------------------------ what it asks for

    def _fworker(self) -> Any:
        from fireworks.core.fworker import FWorker

        base = self._base_worker()
        env = {**base.env, ENV_KEY: self.pad.identity.to_dict()}
        own = base._query  # noqa: SLF001  its `query` has category and name mixed in already
        return FWorker(base.name, base.category, self._fit(own), env)

    def _fit(self, own: dict[str, Any]) -> dict[str, Any]:
        fits = self.allocation.query(time.time())
        return {"$and": [own, fits]} if own else fits

    def _query(self, extra: dict[str, Any]) -> dict[str, Any]:
        return {**self._base_worker().query, **extra}

    def _base_worker(self) -> Any:
        from fireworks.core.fworker import FWorker

        path = self.project / FWORKER_FILE
        if not path.is_file():
            return FWorker(self.machine.name, self.machine.category)
        return FWorker.from_file(str(path))

    def _new_folder(self) -> Path:
        while True:
            path = self.folder / f"launcher_{datetime.now(UTC).strftime(_FOLDER_DATE)}"
            with contextlib.suppress(FileExistsError):
                path.mkdir(parents=True)
                return path

    def _export(self) -> None:
        """Set the variables by which jobs find the project, and jobflow its store."""
        os.environ.update(project_environment(self.project))
        if self.allocation.deadline is not None:
            os.environ["ORIONFLOW_DEADLINE"] = f"{self.allocation.deadline:.0f}"
        else:
            os.environ.pop("ORIONFLOW_DEADLINE", None)

    # ------------------------------------------------------------------------ signals

    def _may_wait(self) -> bool:
        return not self._stop

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Have signals, and the end of the time, stop the job that runs."""
        old = {number: signal.signal(number, self._on_signal)
               for number in (*_STOP_SIGNALS, signal.SIGALRM)}
        if self.allocation.deadline is not None:
            # Slurm's notice comes later; a code that ends by itself has ended before.
            left = max(self.allocation.deadline - time.time(), 0.1)
            signal.setitimer(signal.ITIMER_REAL, left)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in old.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        from orionflow.launchers.rocket import Stopped

        if not self._stop:
            end = self.allocation.deadline
            over = end is not None and time.time() >= end - 1
            self._stop = ("time is over" if over or number == signal.SIGUSR1
                          else f"stopped by {signal.Signals(number).name}")
        if not _inside_job(frame):
            # In FireWorks' or our own database work, which must not be cut: look again soon.
            signal.setitimer(signal.ITIMER_REAL, 0.2)
        elif time.monotonic() - self._raised > _RAISE_AGAIN:
            self._raised = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, _RAISE_AGAIN + 1)
            raise Stopped(self._stop, counts=self._stop == "time is over")


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
        raise StoreError(f"the JobStore of {path} does not answer: {error}",
                         hint="`orionflow db status`", transient=True) from error


def make_job_store_patient() -> None:
    """Have jobs wait for MongoDB when they store a result, instead of failing after 30 s.

    A signal ends the waiting.
    """
    from jobflow import SETTINGS

    store = SETTINGS.JOB_STORE
    additional: dict[str, Any] = store.additional_stores  # type: ignore[has-type]  # untyped there
    for one in (store.docs_store, *additional.values()):
        options = getattr(one, "mongoclient_kwargs", None)
        if isinstance(options, dict):
            one.close()
            options.setdefault("serverSelectionTimeoutMS", _STORE_PATIENCE_MS)


def _inside_job(frame: FrameType | None) -> bool:
    """Whether a Firetask runs in this stack: between Rocket's own database calls."""
    while frame is not None:
        caller = frame.f_back
        if frame.f_code.co_name == "run_task" and caller is not None and (
                caller.f_globals.get("__name__") == "fireworks.core.rocket"):
            return True
        frame = caller
    return False
