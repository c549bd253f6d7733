"""The launcher's side of its worker processes: start them, give them jobs, notice their deaths."""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orionflow.errors import ConfigError, LaunchError, StoreError
from orionflow.launchers.deaths import processes_of
from orionflow.launchers.identity import LauncherIdentity
from orionflow.launchers.process_tree import descendants
from orionflow.launchers.services.processes import end_processes
from orionflow.launchers.wire import Channel, Message, pair
from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


log = get_logger(__name__)
_START = 300.0
_MESSAGE = 65536
# A zygote that dies so often within ten minutes dies again.
_MOST_STARTS = 5
_STARTS_WITHIN = 600.0


@dataclass(eq=False)
class WorkerProcess:
    """One worker.

    Attributes
    ----------
    job
        Launch it runs, None when it is idle.
    leaving
        It takes no further job.
    """

    number: int
    channel: Channel
    pid: int = 0
    job: int | None = None
    leaving: bool = False
    killed: bool = False


@dataclass(frozen=True)
class Ended:
    """A job has ended with a word of its own: see `WirePad.complete_launch`."""

    launch_id: int
    message: Message


@dataclass(frozen=True)
class Told:
    """A running job says something: ``checkpoint`` or ``moved``."""

    launch_id: int
    message: Message


@dataclass(frozen=True)
class Freed:
    """All processes of a job are gone; its cores are free."""

    launch_id: int


@dataclass(frozen=True)
class Died:
    """The process of a job ended; ``code`` as `subprocess` has it, None when nobody knows.

    All it left behind has ended, too.
    """

    launch_id: int
    code: int | None


Event = Ended | Told | Freed | Died


@dataclass
class WorkerPool:
    """Warm workers of one launcher.

    Parameters
    ----------
    setup
        What workers are told at their start; see `Worker`.
    environment
        Variables of the workers.
    """

    setup: dict[str, Any]
    environment: Mapping[str, str]
    workers: list[WorkerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._control: socket.socket | None = None
        self._zygote: Any = None
        self._ready = False
        self._renewed: float | None = None
        self._count = 0
        self._starts: list[float] = []
        self._poll = select.poll()
        self._by_fd: dict[int, WorkerProcess] = {}

    # ------------------------------------------------------------------------ start and end

    def start(self) -> None:
        """Begin to start the zygote; its imports take seconds, which `wait_ready` waits for.

        Raises
        ------
        LaunchError
            It has died too often.
        """
        now = time.monotonic()
        self._starts = [t for t in self._starts if now - t < _STARTS_WITHIN] + [now]
        if len(self._starts) > _MOST_STARTS:
            raise LaunchError(f"the process that starts workers died {_MOST_STARTS} times",
                              hint="something on this node ends it: memory, or a limit on "
                              "processes; see the messages above")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._zygote = start_zygote(theirs, self.environment)
        theirs.close()
        self._control, self._ready = ours, False
        self._poll.register(ours, select.POLLIN)
        if self._renewed is not None:
            self.renew(self._renewed)

    def preload(self, modules: Sequence[str]) -> None:
        """Have modules imported before the next worker is forked, so that all share them."""
        self._tell({"kind": "preload", "modules": list(modules)})

    def wait_ready(self) -> None:
        """Wait until a first worker has looked at the JobStore.

        Raises
        ------
        ConfigError, StoreError
            Jobs could not store what they return.
        LaunchError
            The workers don't start.
        """
        worker = self._fork(check=True)
        end = time.monotonic() + _START
        poll = select.poll()
        poll.register(worker.channel, select.POLLIN)
        while not poll.poll(200):
            if self._zygote.poll() is not None or time.monotonic() > end:
                raise LaunchError("workers don't start: their process ended with code "
                                  f"{self._zygote.poll()}", hint="see the messages above")
        hello = worker.channel.receive()
        if hello is None:
            raise LaunchError("the first worker died at its start", hint="see the messages above")
        if problem := hello["problem"]:
            kind = StoreError if problem["store"] else ConfigError
            raise kind(problem["message"], hint=problem["hint"])

    def close(self) -> None:
        """End all workers; returns when they are gone."""
        for worker in self.workers:
            worker.channel.close()
        self.workers.clear()
        self._by_fd.clear()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._zygote is not None:
            if not self._count:  # it has no workers to end, and may be in the midst of its imports
                self._zygote.kill()
            try:
                self._zygote.wait(30.0)
            except subprocess.TimeoutExpired:
                self._zygote.kill()
                self._zygote.wait()

    # ------------------------------------------------------------------------ jobs

    def run(self, launch_id: int, job: Message) -> WorkerProcess:
        """Give a job to an idle worker, or to a new one."""
        while True:
            idle = next((w for w in self.workers if w.job is None and not w.leaving), None)
            worker = idle or self._fork(check=False)
            try:
                worker.channel.send(job)
            except OSError:
                if idle is not None:
                    self._drop(worker)  # it died while idle
                    continue
                # Nothing forks it: the process that should has died, as `events` will tell.
            worker.job = launch_id
            return worker

    def stop(self, worker: WorkerProcess, number: signal.Signals) -> None:
        """Ask the job of a worker to stop; the signal tells how (`stopping`)."""
        self._signal(worker, number)

    def kill(self, worker: WorkerProcess) -> None:
        """End a worker at once; what its job started is ended after it."""
        worker.leaving = worker.killed = True
        self._signal(worker, signal.SIGKILL)

    def renew(self, until: float) -> None:
        """Say until when all jobs are certainly ours (see `lease`); from any thread."""
        control, self._renewed = self._control, until
        if control is not None:
            with suppress(OSError):  # gone, or it does not listen: it holds the jobs then
                control.send(json.dumps({"kind": "renew", "until": until}).encode(),
                             socket.MSG_DONTWAIT)

    def processes(self, worker: WorkerProcess) -> list[int]:
        """Return the processes of a worker and its job."""
        return [worker.pid, *descendants(worker.pid)] if worker.pid else []

    @property
    def idle(self) -> int:
        """Workers without a job."""
        return sum(w.job is None and not w.leaving for w in self.workers)

    # ------------------------------------------------------------------------ events

    def register(self, fd: int) -> None:
        """Have `events` return early when this descriptor can be read."""
        self._poll.register(fd, select.POLLIN)

    def events(self, timeout: float) -> list[Event]:
        """Return what happened, waiting for it no longer than that, s."""
        found: list[Event] = []
        readable = [fd for fd, _ in self._poll.poll(max(0, int(timeout * 1000)))]
        for fd in readable:
            worker = self._by_fd.get(fd)
            if worker is not None:
                found += self._read(worker)
        if self._control is not None and self._control.fileno() in readable:
            found += self._read_control()
        return found

    def _read(self, worker: WorkerProcess) -> list[Event]:
        found: list[Event] = []
        try:
            for message in worker.channel.ready():
                found += self._take(worker, message)
        except EOFError:
            # How it ended, and that all it left is gone, the zygote tells.
            self._forget_fd(worker)
        return found

    def _take(self, worker: WorkerProcess, message: Message) -> list[Event]:
        kind = message["kind"]
        if kind == "idle":
            done, worker.job = worker.job, None
            if message["used_up"]:
                log.debug("worker %d is replaced: %s", worker.pid, message["used_up"])
                worker.leaving = True
            return [Freed(done)] if done is not None else []
        if kind == "ended":
            return [Ended(message["launch_id"], message)]
        if kind in {"checkpoint", "moved"}:
            return [Told(message["launch_id"], message)]
        return []

    def _read_control(self) -> list[Event]:
        if self._control is None:
            return []
        try:
            data = self._control.recv(_MESSAGE)
        except ConnectionError:
            data = b""
        if not data:
            return self._zygote_died()
        return self._told_by_zygote(json.loads(data))

    def _told_by_zygote(self, message: Message) -> list[Event]:
        if message["kind"] == "forked":
            for worker in self.workers:
                if worker.number == message["number"]:
                    worker.pid = message["pid"]
        elif message["kind"] == "not forked":
            log.warning("no process for a job: %s", message["why"])
            for worker in list(self.workers):
                if worker.number == message["number"]:
                    return self._bury(worker, None)
        elif message["kind"] == "exited":
            for worker in self.workers:
                if worker.pid == message["pid"]:
                    # Its last words may still lie in the connection.
                    last = self._last_words(worker)
                    return [*last, *self._bury(worker, message["status"])]
        return []

    def _last_words(self, worker: WorkerProcess) -> list[Event]:
        found: list[Event] = []
        if worker.channel.fileno() in self._by_fd:
            worker.channel.sock.setblocking(False)
            with suppress(EOFError, BlockingIOError):
                while True:
                    for message in worker.channel.ready():
                        found += self._take(worker, message)
        return found

    def _bury(self, worker: WorkerProcess, code: int | None) -> list[Event]:
        job = worker.job
        self._drop(worker)
        return [Died(job, code)] if job is not None else []

    def _zygote_died(self) -> list[Event]:
        """All workers died with it: end what they left, then start anew."""
        log.warning("the process that starts workers has died; starting it again")
        if self._control is not None:
            self._poll.unregister(self._control)
            self._control.close()
        self._zygote.wait()
        try:  # before their jobs are put back, and run again in the same folders
            end_processes(processes_of(LauncherIdentity.of_this_process()), patience=5.0)
        except LaunchError as error:
            log.warning("%s", error)
        found: list[Event] = []
        for worker in list(self.workers):
            found += self._last_words(worker)
            found += self._bury(worker, None)
        self.start()
        return found

    # ------------------------------------------------------------------------ helpers

    def _fork(self, *, check: bool) -> WorkerProcess:
        ours, theirs = pair()
        self._count += 1
        worker = WorkerProcess(self._count, Channel(ours))
        task = {"kind": "fork", "number": self._count, "setup": {**self.setup, "check": check}}
        if self._control is not None:
            with suppress(OSError):  # it died; the connection shows it
                socket.send_fds(self._control, [json.dumps(task).encode()], [theirs.fileno()])
        theirs.close()
        self.workers.append(worker)
        self._by_fd[ours.fileno()] = worker
        self._poll.register(ours, select.POLLIN)
        return worker

    def _signal(self, worker: WorkerProcess, number: signal.Signals) -> None:
        if worker.pid:
            # By the zygote, which knows whether that process is still the worker.
            self._tell({"kind": "signal", "pid": worker.pid, "number": int(number)})

    def _tell(self, order: Message) -> None:
        if self._control is not None:
            with suppress(OSError):  # it died; the connection shows it
                self._control.send(json.dumps(order).encode())

    def _forget_fd(self, worker: WorkerProcess) -> None:
        fd = worker.channel.fileno()
        if self._by_fd.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _drop(self, worker: WorkerProcess) -> None:
        self._forget_fd(worker)
        worker.channel.close()
        if worker in self.workers:
            self.workers.remove(worker)


def start_zygote(sock: socket.socket, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the process that forks workers; what jobs print outside their folder goes to stderr."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "orionflow.launchers.zygote", str(sock.fileno())],
        pass_fds=[sock.fileno()], env=dict(environment), stdin=subprocess.DEVNULL,
        stdout=2, stderr=2, start_new_session=True)
