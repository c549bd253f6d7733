"""Writes how jobs ended, many at once; while MongoDB is away, the results wait.

They lie in the jobs' folders, too: should the launcher end first, another one finds them there.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bson.errors import BSONError
from fireworks.core.launchpad import LockedWorkflowError
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from orionflow.errors import database_reason
from orionflow.launchers import cancel
from orionflow.launchers.jobs import ClaimedJob, Result, failed_action
from orionflow.launchers.pad.commit import LostLockError
from orionflow.launchers.pad.errors import LaunchRefusedError
from orionflow.launchers.pad.settle import Outcome
from orionflow.launchers.raw_action import read_action
from orionflow.launchers.rocket import SPOOL_FILE, keep_spool
from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

log = get_logger(__name__)
_LONGEST_PAUSE = 30.0
_GROUP = 100
# While cores have other work, results wait so long for company, s, or until they are so many.
_COMPANY, _ENOUGH = 0.05, 24
# A workflow that stays locked so often is left to `recover`; the result is stored by then.
_LOCKED_TIMES = 5
# What MongoDB answers to documents it never takes: BadValue, Overflow (nested too deeply).
_BAD_DOCUMENT = frozenset({2, 15})


@dataclass(frozen=True)
class Verdict:
    """What became of a job in the end.

    Attributes
    ----------
    state
        State of its firework, or ``refused`` when the launch was no longer its own.
    """

    job: ClaimedJob
    state: str
    reason: str
    trace: str = ""


def is_document_error(error: Exception) -> bool:
    """Return whether a document is at fault that MongoDB takes at no time."""
    if isinstance(error, BulkWriteError):
        return any(e.get("code") in _BAD_DOCUMENT for e in error.details.get("writeErrors", ()))
    if isinstance(error, OperationFailure):
        return error.code in _BAD_DOCUMENT
    return isinstance(error, (BSONError, UnicodeError, OverflowError))


class Desk:
    """Takes results and writes them.

    Parameters
    ----------
    pad
        The project's LaunchPad.
    """

    def __init__(self, pad: Any) -> None:
        self.pad = pad
        self.pending: list[Result] = []
        self.away_since: float | None = None
        self._pause = 1.0
        self._not_before = self._first = 0.0
        self._locked: dict[int, int] = {}
        self._kept: set[int] = set()
        self._replaced: set[int] = set()

    def add(self, result: Result) -> None:
        """Take a result."""
        if not self.pending:
            self._first = time.monotonic()
        self.pending.append(result)

    @property
    def patience(self) -> float:
        """Seconds for which what is pending may wait for company."""
        return max(0.0, self._first + _COMPANY - time.monotonic())

    @property
    def presses(self) -> bool:
        """Whether what is pending has waited enough."""
        return len(self.pending) >= _ENOUGH or self.patience <= 0.0

    @property
    def waits(self) -> float:
        """Seconds until the next attempt is worth while."""
        return max(0.0, self._not_before - time.monotonic())

    def settle(self, *, last: bool = False) -> list[Verdict]:
        """Write what is pending, if MongoDB lets us.

        Parameters
        ----------
        last
            Try even if it was away just now.
        """
        if not self.pending or (self.waits and not last):
            return []
        verdicts: list[Verdict] = []
        try:
            for result in [r for r in self.pending if r.state in {"READY", "CANCELLED"}]:
                verdicts += self._give_back(result)
            while ends := [r for r in self.pending
                           if r.state in {"COMPLETED", "FIZZLED"}][:_GROUP]:
                if not (written := self._complete(ends)):
                    break  # their workflows are locked
                verdicts += written
        except PyMongoError as error:
            self._away(error)
        else:
            self._back()
        return verdicts

    # ------------------------------------------------------------------------ one kind each

    def _give_back(self, result: Result) -> list[Verdict]:
        job = result.job
        try:
            if result.state == "CANCELLED" and job.stop is not None and job.stop.request:
                done = cancel.settle(self.pad, job.fw_id, job.launch_id, job.stop.request,
                                     job.folder if job.worker else "")
                state = job.stop.request.becomes
            else:
                done = self.pad.put_back(job.fw_id, job.launch_id, result.reason,
                                         spec=result.spec)
                state = "READY"
        except LockedWorkflowError as error:
            return self._still_locked(result, error)
        except LostLockError:  # we slept; the next attempt takes it anew
            return []
        except ValueError as error:  # its workflow was deleted while it ran
            self.pending.remove(result)
            return [Verdict(job, "refused", str(error))]
        self.pending.remove(result)
        self._forget_spool(job)
        return [Verdict(job, state if done else "refused", result.reason)]

    def _complete(self, results: Sequence[Result]) -> list[Verdict]:
        outcomes, by_launch = [], {}
        for result in results:
            job = result.job
            if result.state == "FIZZLED" and job.checkpoint is not None:
                self.pad.ping_launch(job.launch_id, checkpoint=job.checkpoint)
                job.checkpoint = None
            outcomes.append(Outcome(job.launch_id, result.state, self._action(result)))
            by_launch[job.launch_id] = result
        try:
            settled = self.pad.complete_launches(outcomes)
        except Exception as error:
            if not is_document_error(error):
                raise
            return self._not_taken(results, error)
        verdicts = [self._verdict(by_launch[i]) for i in settled.done]
        for launch_id, refusal in settled.errors.items():
            verdicts += self._refused(by_launch[launch_id], refusal)
        return verdicts

    def _not_taken(self, results: Sequence[Result], error: Exception) -> list[Verdict]:
        """Find out whose result MongoDB never takes, and store that instead."""
        if len(results) > 1:
            return [v for result in results for v in self._complete([result])]
        (result,) = results
        if result.job.launch_id in self._replaced:
            self.pending.remove(result)
            return [Verdict(result.job, "refused", str(error))]
        self._replaced.add(result.job.launch_id)
        result.state, result.reason = "FIZZLED", f"its result can't be stored: {error}"[:1000]
        result.action = failed_action("its result can't be stored", result.reason)
        return []

    def _action(self, result: Result) -> Any:
        try:
            return read_action(result.action)
        except (KeyError, TypeError, ValueError):  # made by a job's own code
            trace = traceback.format_exc()
            result.state, result.action = "FIZZLED", failed_action(
                "its action is malformed", trace)
            return read_action(result.action)

    def _verdict(self, result: Result) -> Verdict:
        self.pending.remove(result)
        self._forget_spool(result.job)
        data = (result.action or {}).get("stored_data") or {}
        trace = ""
        if result.state == "FIZZLED":
            exception = data.get("_exception")
            trace = exception.get("_stacktrace", "") if isinstance(exception, dict) else ""
        return Verdict(result.job, result.state, result.reason, trace)

    def _refused(self, result: Result, error: Exception) -> list[Verdict]:
        if isinstance(error, LaunchRefusedError):
            self.pending.remove(result)
            return [Verdict(result.job, "refused", error.message)]
        if isinstance(error, LockedWorkflowError):
            return self._still_locked(result, error)
        if result.state == "COMPLETED":
            # As FireWorks' Rocket does with an action that can't be applied.
            trace = "".join(traceback.format_exception(error))
            result.state, result.reason = "FIZZLED", f"its action can't be applied: {error}"
            result.action = failed_action("runtime error during task", trace)
            return []
        self.pending.remove(result)
        return [Verdict(result.job, "refused", str(error))]

    def _still_locked(self, result: Result, error: Exception) -> list[Verdict]:
        launch_id = result.job.launch_id
        self._locked[launch_id] = self._locked.get(launch_id, 0) + 1
        if self._locked[launch_id] < _LOCKED_TIMES:
            self._not_before = time.monotonic() + 2.0
            return []
        self.pending.remove(result)
        return [Verdict(result.job, "refused", f"{error}; `orionflow recover` settles")]

    def _forget_spool(self, job: ClaimedJob) -> None:
        if job.spooled:
            try:
                (Path(job.folder) / SPOOL_FILE).unlink(missing_ok=True)
            except OSError as error:  # it holds a launch that has ended: no harm
                log.debug("can't remove the result in %s: %s", job.folder, error)

    # ------------------------------------------------------------------------ MongoDB away

    def _away(self, error: PyMongoError) -> None:
        if self.away_since is None:
            self.away_since = time.monotonic()
            self._pause = 1.0
        for result in self.pending:
            if result.state in {"COMPLETED", "FIZZLED"} and result.job.spooled and (
                    result.job.launch_id not in self._kept):
                self._kept.add(result.job.launch_id)
                keep_spool(Path(result.job.folder))
        log.warning("MongoDB does not answer; trying again in %.0f s (%s)", self._pause,
                    database_reason(error)[:200])
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _back(self) -> None:
        if self.away_since is not None:
            log.info("MongoDB is back after %.0f s", time.monotonic() - self.away_since)
            self.away_since = None
            self._kept.clear()
