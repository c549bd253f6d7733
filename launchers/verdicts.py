"""What becomes of a job that has ended: stored, put back or failed. Pure decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orionflow.launchers.jobs import Result, blame_surroundings, failed_action
from orionflow.launchers.retry import FailureClass, FailureInfo, RetryPolicy, decide

if TYPE_CHECKING:
    from orionflow.launchers.jobs import ClaimedJob

_NOT_THE_SURROUNDINGS = frozenset({FailureClass.USER, FailureClass.UNKNOWN})


def told_end(job: ClaimedJob, message: dict[str, Any], policy: RetryPolicy, host: str
             ) -> tuple[Result, FailureInfo | None]:
    """Return what becomes of a job whose worker has said how it ended.

    Parameters
    ----------
    job
        The job, with the reason for which it was asked to stop, if it was.
    message
        The worker's: ``state``, ``action``, ``folder`` and, of a failed job, ``failure``.
    policy
        How often which failure is tried again.
    host
        Name of this node.

    Returns
    -------
    tuple
        What is to be written, and the failure behind it (None where that is of no importance).
    """
    if message["state"] == "COMPLETED":
        if job.is_lost:
            return _as_asked(job), None
        return Result(job, "COMPLETED", "", message["action"]), None
    told = message["failure"] or {}
    info = FailureInfo(FailureClass(told.get("kind", "user")), told.get("reason", ""),
                       failure_id=told.get("failure_id", ""),
                       progressed=bool(told.get("progressed")), folder=message["folder"],
                       host=host)
    return _failure(job, info, message["action"], policy, host, stopped=bool(told.get("stopped")))


def spooled_end(job: ClaimedJob, spool: dict[str, Any], policy: RetryPolicy, host: str
                ) -> tuple[Result, FailureInfo | None]:
    """Return what becomes of a job whose word lay in its folder when its process died.

    It is the one it would have said: see `told_end`.
    """
    if spool["state"] == "COMPLETED" or spool.get("failure"):
        return told_end(job, {"folder": job.folder, **spool}, policy, host)
    return Result(job, "FIZZLED", "", spool["action"]), None


def silent_end(job: ClaimedJob, code: int | None, policy: RetryPolicy, host: str
               ) -> tuple[Result, FailureInfo | None]:
    """Return what becomes of a job whose process ended without a word; see `told_end`.

    Parameters
    ----------
    code
        Exit code of the process, minus the signal if one ended it; None where nobody knows.
    """
    if code is None:
        info = FailureInfo.launcher_lost("the process that starts workers died",
                                         folder=job.folder, host=host)
    else:
        info = FailureInfo.from_exit(code, folder=job.folder, host=host)
    killed = job.stop is not None and job.worker is not None and job.worker.killed
    return _failure(job, info, failed_action(info.reason), policy, host, stopped=killed)


def _failure(job: ClaimedJob, info: FailureInfo, action: dict[str, Any] | None,
             policy: RetryPolicy, host: str, *, stopped: bool
             ) -> tuple[Result, FailureInfo | None]:
    stop = job.stop
    if stop is not None and stop.kind in {"cancel", "lost"}:
        return _as_asked(job), None
    if stop is not None and stop.kind == "memory":
        info = FailureInfo(FailureClass.MEMORY, stop.reason, folder=job.folder, host=host)
        action = failed_action(stop.reason)
    elif stopped:
        reason = stop.reason if stop is not None else "stopped by a signal"
        info = FailureInfo.stopped(reason, time_over=stop is not None and stop.kind == "time",
                                   kept=info.progressed, folder=job.folder, host=host)
        action = action or failed_action(reason)
    decision = decide(info, job.spec, policy)
    if decision.put_back:
        return Result(job, "READY", decision.reason, spec=decision.spec), info
    action = action or failed_action(info.reason)
    if info.kind not in _NOT_THE_SURROUNDINGS:
        action = blame_surroundings(action, info.reason)
    return Result(job, "FIZZLED", decision.reason, action), info


def _as_asked(job: ClaimedJob) -> Result:
    """Return the end of a job that was cancelled, or given to another launcher."""
    reason = job.stop.reason if job.stop is not None else ""
    return Result(job, "READY" if job.is_lost else "CANCELLED", reason)
