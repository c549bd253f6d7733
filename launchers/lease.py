"""The lease on a launcher's jobs: who can't renew it holds them still before others take them.

A launcher on another host, of which Slurm knows nothing, is dead for others when its heartbeat has
stood still for `LOST` seconds under the eyes of somebody whom MongoDB answers (`deaths`). It may
as well be cut off from MongoDB, or stopped. So its jobs are held still (SIGSTOP) `LEASE` seconds
after its last heartbeat: two copies of a job never compute at once. When MongoDB answers again,
they go on, unless the launcher was given up meanwhile; then they are ended where they stand.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from orionflow.errors import LaunchError
from orionflow.launchers.process_tree import descendants, signal_all
from orionflow.launchers.services.processes import read_state
from orionflow.launchers.slurm import Fate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from orionflow.launchers.identity import LauncherIdentity
    from orionflow.launchers.scheduler import Scheduler

#: Without renewal for so long jobs are held, s.
LEASE = 40.0
#: A heartbeat that has stood still for so long is that of a dead launcher, s. The difference is
#: for the one who holds them: he looks every second, on a busy machine.
LOST = 55.0
#: In the document of a launcher that was given up; it can't write into that any more.
GIVEN_UP = "given_up"
_LOOK = 1.0
# So often Slurm is asked about the own job while MongoDB does not answer, s.
_ASK = 10.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def clock() -> float:
    """Return seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Hold:
    """Holds all jobs of a launcher while its lease is over.

    It lives in the process that forks the workers: should the launcher itself be stopped, nobody
    renews, and its jobs are held as well.
    """

    def __init__(self) -> None:
        self._until: float | None = None
        self._held = False

    @property
    def pause(self) -> float | None:
        """Seconds until `look` should be called again; None before the first renewal."""
        return None if self._until is None else _LOOK

    def renew(self, until: float) -> None:
        """Let the lease last until then, by `clock`."""
        self._until = max(until, self._until or until)

    def look(self, workers: Collection[int]) -> None:
        """Hold these processes and all below them, or let them go on, as the lease has it."""
        if self._until is None:
            return
        over = clock() > self._until
        if over:
            _stop_all(workers)
        elif self._held:
            signal_all(_with_descendants(workers), signal.SIGCONT)
        self._held = over


def _stop_all(workers: Collection[int]) -> None:
    """Stop processes, and those they fork meanwhile."""
    stopped: set[int] = set()
    while new := [pid for pid in _with_descendants(workers) if pid not in stopped]:
        signal_all(new, signal.SIGSTOP)
        stopped.update(new)


def _with_descendants(workers: Collection[int]) -> list[int]:
    return [pid for worker in list(workers) for pid in (worker, *descendants(worker))]


class Tether:
    """The launcher's part: renews the lease with each heartbeat.

    Parameters
    ----------
    renew
        Tells who holds the jobs until when the lease lasts, by `clock`.
    safe
        Whether nobody can have given the launcher up although MongoDB does not answer it.
    seconds
        Length of the lease.
    """

    def __init__(self, renew: Callable[[float], None] = lambda _: None,
                 safe: Callable[[], bool] = lambda: False, seconds: float = LEASE) -> None:
        self._renew = renew
        self._safe = safe
        self._seconds = seconds
        self._asked = float("-inf")

    def heard(self, began: float) -> None:
        """Renew: a heartbeat that began then has arrived."""
        self._renew(began + self._seconds)

    def cut_off(self) -> None:
        """Renew even without MongoDB, where that is safe."""
        now = clock()
        if now - self._asked >= _ASK:
            self._asked = now
            if self._safe():
                self._renew(now + self._seconds)


def safe_without_database(project: Path, address: tuple[str, int], owner: LauncherIdentity,
                          scheduler: Scheduler) -> bool:
    """Return whether others can't give a launcher up that MongoDB does not answer.

    Parameters
    ----------
    project
        Its project folder.
    address
        Host and port at which it looks for MongoDB.
    owner
        The launcher.
    scheduler
        Its Slurm.

    Returns
    -------
    bool
        True where Slurm says that its job runs (others ask Slurm first), and where MongoDB is the
        project's own on this very host, so that nothing can lie between the two.
    """
    if owner.slurm_job_id is not None:
        try:
            return scheduler.fate(owner.slurm_job_id, owner.slurm_restarts) is Fate.ALIVE
        except LaunchError:
            return False
    try:
        state = read_state(project / ".orionflow" / "mongo" / "server.json")
    except (LaunchError, OSError):
        return False
    process = state.get("process")
    return (address[0] in _LOOPBACK and address[1] == state.get("port")
            and isinstance(process, dict) and process.get("boot") == owner.boot)
