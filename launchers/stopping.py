"""Stopping jobs: they are asked, asked once more, then killed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orionflow.launchers.jobs import Stop
from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orionflow.launchers.jobs import ClaimedJob
    from orionflow.launchers.workers import WorkerPool

log = get_logger(__name__)
# A job that was asked to stop is asked again after so long, then killed, s.
_ASK_AGAIN, _KILL = 10.0, 20.0
# Cancelled ones have 15 s in all, of which the heartbeat may take five.
_KILL_CANCELLED = 8.0
_AT_ONCE = frozenset({"cancel", "lost", "memory"})
# A second signal is for the impatient.
_KILL_HURRIED = 1.0
# After its result a job's process has so long to end what it started and become free, s.
_KILL_ENDED = 60.0
# We look once a second; what uses up what was set aside for it is killed so long before, s.
_KILL_BEFORE = 1.5
_USED_UP = Stop("time", "what was set aside for it is used up")


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
        if not job.asked:
            job.asked, job.times_asked = now, 1
            pool.stop(job.worker)
        waited = now - job.asked
        most = _KILL_CANCELLED if job.stop.kind in _AT_ONCE else _KILL
        if (waited > most or (hurried and waited > _KILL_HURRIED)
                or now > job.ends - _KILL_BEFORE):
            if not job.worker.killed:
                log.warning("firework %d does not stop: it is killed", job.fw_id)
                pool.kill(job.worker)
        elif waited > _ASK_AGAIN and job.times_asked == 1:
            job.times_asked = 2
            pool.stop(job.worker)


def _end_hanging(pool: WorkerPool, job: ClaimedJob, now: float) -> None:
    """Kill a process that has given its result, and does not become free."""
    if job.worker is not None and not job.worker.killed and (
            job.ended_at and now - job.ended_at > _KILL_ENDED):
        log.warning("the process of firework %d hangs after its end: it is killed", job.fw_id)
        pool.kill(job.worker)
