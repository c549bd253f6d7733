"""Stopping jobs: they are asked, asked once more, then killed."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.jobs import Stop
from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orionflow.launchers.jobs import ClaimedJob
    from orionflow.launchers.workers import WorkerPool

log = get_logger(__name__)


@dataclass(frozen=True)
class Manner:
    """How a job is stopped.

    Attributes
    ----------
    signal
        Tells its worker which manner it is.
    grace
        How long its code may take to write restart files when it is asked to end, s; then it
        gets SIGTERM.
    most
        After so long the worker and all it started are killed, s.
    """

    signal: signal.Signals
    grace: float
    most: float


# Slurm gives notice a minute before the end of the time.
_TIME = Manner(signal.SIGUSR1, grace=35.0, most=45.0)
# Between SIGTERM and SIGKILL lie 30 s, unless the site has set Slurm's KillWait.
_SIGNAL = Manner(signal.SIGTERM, grace=12.0, most=20.0)
# Cancelled ones have 15 s in all, of which the heartbeat may take five.
_RESTARTABLE = Manner(signal.SIGHUP, grace=3.0, most=8.0)
_AT_ONCE = Manner(signal.SIGINT, grace=0.0, most=8.0)
GRACE = {int(m.signal): m.grace for m in (_TIME, _SIGNAL, _RESTARTABLE, _AT_ONCE)}
_ASK_AGAIN = 10.0
# A second signal is for the impatient.
_KILL_HURRIED = 1.0
# After its result a job's process has so long to end what it started and become free, s.
_KILL_ENDED = 60.0
# We look once a second; what uses up what was set aside for it is killed so long before, s.
_KILL_BEFORE = 1.5
_USED_UP = Stop("time", "what was set aside for it is used up")


class Stopped(BaseException):
    """The launcher was told to end while a job ran.

    Not an Exception: recipes may catch those.

    Attributes
    ----------
    grace
        How long the code that runs may take to write restart files, s.
    kept
        It was asked, and ended by itself.
    """

    def __init__(self, message: str, grace: float = 0.0) -> None:
        super().__init__(message)
        self.grace = grace
        self.kept = False


def drive_stops(pool: WorkerPool, jobs: Iterable[ClaimedJob], stop: Stop | None, *,
                hurried: bool) -> None:
    """Ask jobs to stop that shall, again after a while, then kill them.

    Parameters
    ----------
    pool
        The workers they run in.
    jobs
        Running ones; each knows whether it was asked, and when.
    stop
        Why all shall stop, None while only those shall that say so themselves.
    hurried
        Whether to kill those that do not obey at once.
    """
    now = time.monotonic()
    for job in jobs:
        if job.ended or job.worker is None:
            _end_hanging(pool, job, now)
            continue
        job.stop = job.stop or stop or (_USED_UP if job.time_left <= 0.0 else None)
        if job.stop is None or not job.worker.pid:
            continue
        manner = _manner(job.stop)
        if not job.asked:
            job.asked, job.times_asked = now, 1
            pool.stop(job.worker, manner.signal)
        waited = now - job.asked
        if (waited > manner.most or (hurried and waited > _KILL_HURRIED)
                or now > job.ends - _KILL_BEFORE):
            if not job.worker.killed:
                log.warning("firework %d does not stop: it is killed", job.fw_id)
                pool.kill(job.worker)
        elif waited > _ASK_AGAIN and job.times_asked == 1:
            job.times_asked = 2
            pool.stop(job.worker, manner.signal)


def _manner(stop: Stop) -> Manner:
    if stop.kind in {"time", "signal"}:
        return _TIME if stop.kind == "time" else _SIGNAL
    goes_on = stop.request is not None and stop.request.becomes != "DEFUSED"
    return _RESTARTABLE if goes_on else _AT_ONCE


def _end_hanging(pool: WorkerPool, job: ClaimedJob, now: float) -> None:
    """Kill a process that has given its result, and does not become free."""
    if job.worker is not None and not job.worker.killed and (
            job.ended_at and now - job.ended_at > _KILL_ENDED):
        log.warning("the process of firework %d hangs after its end: it is killed", job.fw_id)
        pool.kill(job.worker)
