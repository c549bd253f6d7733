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
from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure, PyMongoError

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
    from collections.abc import Iterator, Sequence

log = get_logger(__name__)
_LONGEST_PAUSE = 30.0
_GROUP = 100
# While cores have other work, results wait so long for company, s, or until they are so many.
_COMPANY, _ENOUGH = 0.05, 24
# In one go locks are waited for so long, s: there are signals to hear and jobs to start. Then the
# end is set aside and tried again after a pause, while others go on. A dead process loses its lock
# after a minute or two; what is locked for longer is left to `recover`, which finds it stored.
LOCK_PATIENCE = 0.5
_LOCK_PAUSE, _LOCKED_MOST = 1.5, 300.0
# What MongoDB answers to documents it never takes: BadValue, Overflow (nested too deeply), field
# names it does not allow, more than 16 MB.
_BAD_DOCUMENT = frozenset({2, 15, 52, 56, 57, 10334, 17419, 17420})


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


def _is_mongodbs(error: Exception) -> bool:
    """Whether MongoDB has refused for reasons of its own: a full disk, say, or too much to do."""
    return isinstance(error, PyMongoError) and not is_document_error(error)


def store_checkpoint(pad: Any, job: ClaimedJob) -> None:
    """Store what a job's Rocket last said; what can't be stored is of no use to anybody.

    Raises
    ------
    pymongo.errors.ConnectionFailure
        MongoDB is away; the job keeps it.
    """
    try:
        pad.ping_launch(job.launch_id, checkpoint=job.checkpoint)
    except ConnectionFailure:
        raise
    except Exception as error:  # noqa: BLE001  it, and the files its launch tracks, hold anything
        log.warning("launch %d: its checkpoint can't be stored: %s", job.launch_id,
                    str(error)[:200])
    job.checkpoint = None


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
        # Launches whose workflows are locked, since when; and when to try again.
        self._aside: dict[int, float] = {}
        self._again = 0.0
        self._stuck: float | None = None
        self._kept: set[int] = set()
        self._replaced: set[int] = set()
        # Launches whose ends nobody takes: they are left to `recover`.
        self.refused: set[int] = set()

    def add(self, result: Result) -> None:
        """Take a result."""
        if len(self.pending) == len(self._aside):
            self._first = time.monotonic()
        self.pending.append(result)

    @property
    def busy(self) -> bool:
        """Whether something is still to be written."""
        return bool(self.pending or self.pad.overdue)

    @property
    def locked(self) -> bool:
        """Whether all that is still to be written waits for locks of others."""
        return self.busy and len(self.pending) == len(self._aside)

    @property
    def locked_for(self) -> float:
        """Seconds for which nothing but others' locks has kept us from being done."""
        return 0.0 if self._stuck is None else time.monotonic() - self._stuck

    @property
    def patience(self) -> float:
        """Seconds for which what is pending may wait for company."""
        return max(0.0, self._first + _COMPANY - time.monotonic())

    @property
    def presses(self) -> bool:
        """Whether what is pending has waited enough."""
        return len(self.pending) - len(self._aside) >= _ENOUGH or self.patience <= 0.0

    @property
    def waits(self) -> float:
        """Seconds until the next attempt is worth while."""
        when = max(self._not_before, self._again) if self.locked else self._not_before
        return max(0.0, when - time.monotonic())

    def settle(self, *, last: bool = False) -> list[Verdict]:
        """Write what is pending, if MongoDB and those who hold locks let us.

        Parameters
        ----------
        last
            Try even if it was away just now.
        """
        if not self.busy or (self.waits and not last):
            return []
        verdicts: list[Verdict] = []
        try:
            with self.pad.locks.hurried(0.0 if self._aside else LOCK_PATIENCE):
                verdicts.extend(self._write(self._fresh()))
            if (self._aside or self.pad.overdue) and time.monotonic() >= self._again:
                with self.pad.locks.hurried(LOCK_PATIENCE):
                    verdicts.extend(self._write(
                        [r for r in self.pending if self._is_aside(r)]))
                    self.pad.settle_overdue()
                self._again = time.monotonic() + _LOCK_PAUSE
        except PyMongoError as error:
            self._away(error)
        else:
            self._back()
        if not self.locked:
            self._stuck = None
        elif self._stuck is None:
            self._stuck = time.monotonic()
        return verdicts

    def _write(self, group: list[Result]) -> Iterator[Verdict]:
        """Give what was written: should MongoDB go away then, that counts."""
        for result in [r for r in group if r.state in {"READY", "CANCELLED"}]:
            yield from self._give_back(result)
        ends = [r for r in group if r.state in {"COMPLETED", "FIZZLED"}]
        for begin in range(0, len(ends), _GROUP):
            yield from self._complete(ends[begin:begin + _GROUP])

    def _fresh(self) -> list[Result]:
        return [r for r in self.pending if not self._is_aside(r)]

    def _is_aside(self, result: Result) -> bool:
        return result.job.launch_id in self._aside

    def _done(self, result: Result) -> None:
        self.pending.remove(result)
        self._aside.pop(result.job.launch_id, None)

    # ------------------------------------------------------------------------ one kind each

    def _give_back(self, result: Result) -> list[Verdict]:
        job, state = result.job, ""
        try:
            folder = job.folder if job.worker else ""
            if result.state == "CANCELLED" and job.stop is not None and job.stop.request:
                request, why = job.stop.request, result.reason
                if cancel.settle(self.pad, job.fw_id, job.launch_id, request, folder):
                    state = request.becomes
            else:
                state, why = cancel.put_back(self.pad, job.fw_id, job.launch_id, result.reason,
                                             spec=result.spec, folder=folder)
        except LostLockError:  # we slept; the next attempt takes it anew
            return []
        except ConnectionFailure:
            raise
        except Exception as error:  # noqa: BLE001  others' tools made its spec and its workflow
            return self._not_given_back(result, error)
        self._done(result)
        self._forget_spool(job)
        return [Verdict(job, state or "refused", why)]

    def _not_given_back(self, result: Result, error: Exception) -> list[Verdict]:
        if isinstance(error, LockedWorkflowError) or _is_mongodbs(error):
            return self._set_aside(result, error)
        if type(error) is ValueError:  # its workflow was deleted while it ran
            return [self._refuse(result, str(error))]
        result.state = "FIZZLED"
        result.reason = f"it can't be put back: {type(error).__name__}: {error}"[:1000]
        result.action = failed_action(result.reason)
        return []

    def _complete(self, results: Sequence[Result]) -> list[Verdict]:
        outcomes, by_launch = [], {}
        for result in results:
            job = result.job
            if result.state == "FIZZLED" and job.checkpoint is not None:
                store_checkpoint(self.pad, job)
            outcomes.append(Outcome(job.launch_id, result.state, self._action(result)))
            by_launch[job.launch_id] = result
        try:
            settled = self.pad.complete_launches(outcomes)
        except ConnectionFailure:
            raise
        except Exception as error:  # noqa: BLE001  a result is made by a job's own code
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
        if _is_mongodbs(error):
            return self._set_aside(result, error)
        if result.job.launch_id in self._replaced:
            return [self._refuse(result, str(error))]
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
        self._done(result)
        self._forget_spool(result.job)
        data = (result.action or {}).get("stored_data") or {}
        trace = ""
        if result.state == "FIZZLED":
            exception = data.get("_exception")
            trace = exception.get("_stacktrace", "") if isinstance(exception, dict) else ""
        return Verdict(result.job, result.state, result.reason, trace)

    def _refused(self, result: Result, error: Exception) -> list[Verdict]:
        if isinstance(error, LaunchRefusedError):
            return [self._refuse(result, error.message)]
        if isinstance(error, LockedWorkflowError):
            return self._set_aside(result, error)
        if result.state == "COMPLETED":
            # As FireWorks' Rocket does with an action that can't be applied.
            trace = "".join(traceback.format_exception(error))
            result.state, result.reason = "FIZZLED", f"its action can't be applied: {error}"
            result.action = failed_action("runtime error during task", trace)
            return []
        return [self._refuse(result, str(error))]

    def _refuse(self, result: Result, why: str) -> Verdict:
        self._done(result)
        self.refused.add(result.job.launch_id)
        return Verdict(result.job, "refused", why)

    def _set_aside(self, result: Result, error: Exception) -> list[Verdict]:
        """Let others go on while this one can't be written: its workflow is locked, mostly."""
        now = time.monotonic()
        if not self._aside:
            self._again = now + _LOCK_PAUSE
        if result.job.launch_id not in self._aside:
            log.info("firework %d is written later: %s", result.job.fw_id, str(error)[:200])
        since = self._aside.setdefault(result.job.launch_id, now)
        if not isinstance(error, LockedWorkflowError) or now - since < _LOCKED_MOST:
            return []
        return [self._refuse(result, f"{error}; `orionflow recover` settles")]

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
