"""The launcher's LaunchPad: no good job is lost because the world around it ended.

FireWorks' Rocket turns every exception of a job into FIZZLED. Here the last word is ours: a job
that was stopped, or failed for a reason outside itself, becomes READY again in its folder; a
result that can't be stored is written to the folder first and stored when MongoDB is back.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireworks.utilities.fw_serializers import DATETIME_HANDLER
from pymongo.errors import ConnectionFailure

from orionflow.errors import CodeError, OrionflowError
from orionflow.launchers.launchpad import ProjectLaunchPad
from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from fireworks.core.firework import FWAction

    from orionflow.launchers.launchpad import Count

log = get_logger(__name__)
SPOOL_FILE = "orionflow_settle.json"
_LONGEST_PAUSE = 30.0


class Stopped(BaseException):
    """The launcher was told to end while a job ran.

    Not an Exception: recipes may catch those.

    Attributes
    ----------
    counts
        Whether the job used up its time (it counts as a rerun), or was stopped from outside.
    """

    def __init__(self, reason: str, *, counts: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.counts = counts


class DatabaseGoneError(BaseException):
    """MongoDB did not come back before the launcher had to end; the result lies in the folder."""


@dataclass(frozen=True)
class Outcome:
    """How one launch ended.

    Attributes
    ----------
    state
        COMPLETED, FIZZLED, or READY for a job put back.
    """

    fw_id: int
    launch_id: int
    state: str
    reason: str = ""


class RocketPad(ProjectLaunchPad):
    """The LaunchPad of a launcher, which runs one job at a time."""

    max_reruns = 3
    patience: Callable[[], bool]
    outcome: Outcome | None = None
    running = -1

    def checkout_fw(self, *args: Any, **kwargs: Any) -> Any:
        """Claim a firework, and say so."""
        fw, launch_id = super().checkout_fw(*args, **kwargs)
        if fw is not None:
            self.running = fw.fw_id
            log.info("firework %d (%s) started", fw.fw_id, fw.name)
        return fw, launch_id

    def ping_launch(self, launch_id: int, ptime: Any = None, checkpoint: Any = None) -> None:
        """Say that a launch is alive; a silent database is no reason to stop the job."""
        try:
            super().ping_launch(launch_id, ptime=ptime, checkpoint=checkpoint)
        except (ConnectionFailure, ValueError) as error:
            # ValueError: the launch is not there, for a moment after mongod was killed.
            log.warning("no heartbeat for launch %d: %s", launch_id, error)

    def complete_launch(self, launch_id: int, action: FWAction | None = None,
                        state: str = "COMPLETED") -> dict[str, Any]:
        """Store how a launch ended, or put its firework back."""
        # Rocket calls this from its `except` block.
        error = sys.exc_info()[1] if state == "FIZZLED" else None
        fw_id, folder = self.running, Path.cwd()  # Rocket runs the job in its folder
        if error is not None and self._give_back(launch_id, str(folder), error):
            return {}
        spool = write_spool(folder, action, launch_id=launch_id, fw_id=fw_id, state=state,
                            database=self.name)
        complete = super().complete_launch
        result: dict[str, Any] = self.when_back(
            lambda: complete(launch_id, action, state))
        spool.unlink(missing_ok=True)
        self.outcome = Outcome(fw_id, launch_id, state, "" if error is None else _line(error))
        return result

    def when_back(self, operation: Callable[[], Any]) -> Any:
        """Return an operation's value, waiting for MongoDB as long as it takes.

        Raises
        ------
        DatabaseGoneError
            The launcher has to end before MongoDB is back.
        """
        pause, since = 1.0, time.monotonic()
        while True:
            try:
                value = operation()
            except ConnectionFailure as error:
                if not self.patience():
                    raise DatabaseGoneError from error
                log.warning("MongoDB does not answer; trying again in %.0f s (%s)", pause,
                            str(error).split(",", 1)[0][:200])
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if pause > 1.0:
                    log.info("MongoDB is back after %.0f s", time.monotonic() - since)
                return value

    def _give_back(self, launch_id: int, folder: str, error: BaseException) -> bool:
        if (found := transient_reason(error)) is None:
            return False
        reason, counts = found
        done = self.when_back(lambda: self.put_back_in_folder(
            self.running, launch_id, folder, reason, counts=counts, most=self.max_reruns))
        if done:
            self.outcome = Outcome(self.running, launch_id, "READY", reason)
        return bool(done)

    def forget(self) -> None:
        """Drop FireWorks' copies of finished launches, which it never does itself."""
        self.outcome = None
        self.backup_launch_data.clear()
        self.backup_fw_data.clear()


def transient_reason(error: BaseException) -> tuple[str, Count] | None:
    """Return why a failed job should run again and how that counts, None when it should not.

    Parameters
    ----------
    error
        What the job raised.
    """
    if isinstance(error, Stopped):
        return error.reason, "lost" if error.counts else "stopped"
    if isinstance(error, ConnectionFailure):
        return f"MongoDB did not answer: {_line(error)}", "lost"
    if isinstance(error, OrionflowError) and error.transient:
        # A code that ran out of time without getting further says that it is not transient.
        timed = isinstance(error, CodeError) and error.failure_id.endswith("_WALLTIME")
        return _line(error), "continued" if timed else "lost"
    return None


def write_spool(folder: Path, action: FWAction | None, *, launch_id: int, fw_id: int, state: str,
                database: str) -> Path:
    """Write a finished job's result beside its output, before MongoDB is asked to take it."""
    path = folder / SPOOL_FILE
    content = {"launch_id": launch_id, "fw_id": fw_id, "state": state, "database": database,
               "action": action.to_dict() if action is not None else None}
    part = path.with_name(f".{SPOOL_FILE}.part")
    try:
        part.write_text(json.dumps(content, default=DATETIME_HANDLER))
        part.replace(path)
    except OSError as error:
        log.warning("can't write %s: %s", path, error)
    return path


def read_spool(folder: Path, launch_id: int, database: str) -> dict[str, Any] | None:
    """Return what was spooled for this launch, None when there is nothing whole."""
    try:
        content = json.loads((folder / SPOOL_FILE).read_text())
    except (OSError, ValueError):
        return None
    fits = (isinstance(content, dict) and content.get("launch_id") == launch_id
            and content.get("database") == database)
    return content if fits else None


def _line(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0].strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
