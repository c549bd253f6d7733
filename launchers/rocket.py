"""Runs one claimed firework as FireWorks does: its own Rocket, over a LaunchPad that is a wire.

What the Rocket would write into MongoDB goes to the launcher, which does it for many jobs at once.
A result goes to the job's folder first: whoever comes next can store it, should the launcher die.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bson.errors import BSONError

from orionflow.launchers.retry import FailureInfo
from orionflow.launchers.stopping import Stopped
from orionflow.launchers.wire import decode, encode
from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from fireworks.core.firework import Firework, FWAction

log = get_logger(__name__)
SPOOL_FILE = "orionflow_settle.bson"
# As earlier versions wrote it; their results may still lie there.
_OLD_SPOOL_FILE = "orionflow_settle.json"
# Exit code of a process a job has forked and let run on into the launcher's code.
STRAY = 70


class WirePad:
    """What a Rocket takes for its LaunchPad; other questions go to the real one.

    Parameters
    ----------
    fw, launch_id
        The firework that was claimed for it.
    send
        Takes messages to the launcher.
    database
        Name of the database, for the file with the result.
    real
        Opens the real LaunchPad, for jobs that ask for it (``_add_launchpad_and_fw_id``).
    """

    def __init__(self, fw: Firework, launch_id: int, send: Callable[[dict[str, Any]], None],
                 database: str, real: Callable[[], Any]) -> None:
        self._fw = fw
        self._launch_id = launch_id
        self._send = send
        self._database = database
        self._open = real
        self._real: Any = None
        self._pid = os.getpid()
        self.ended = False

    def __getattr__(self, name: str) -> Any:
        """Return what the real LaunchPad has of this name."""
        if name.startswith("__"):
            raise AttributeError(name)
        if self._real is None:
            self._real = self._open()
        return getattr(self._real, name)

    def close(self) -> None:
        """Close the real LaunchPad, if it was opened."""
        if self._real is not None:
            self._real.connection.close()

    def get_logdir(self) -> None:
        """Return no folder: the launcher has the log."""

    def checkout_fw(self, *_args: Any, **_options: Any) -> tuple[Firework, int]:
        """Return what was claimed."""
        return self._fw, self._launch_id

    def change_launch_dir(self, launch_id: int, launch_dir: str) -> None:
        """Say that the job runs elsewhere."""
        self._send({"kind": "moved", "launch_id": launch_id, "folder": launch_dir})

    def ping_launch(self, launch_id: int, ptime: Any = None,  # noqa: ARG002  the launcher has heartbeats
                    checkpoint: dict[str, Any] | None = None) -> None:
        """Pass on a checkpoint."""
        if checkpoint is not None:
            from fireworks.utilities.fw_serializers import recursive_dict

            self._send({"kind": "checkpoint", "launch_id": launch_id,
                        "checkpoint": recursive_dict(checkpoint)})

    def restore_backup_data(self, launch_id: int, fw_id: int) -> None:
        """Do nothing: nothing has been written."""

    def complete_launch(self, launch_id: int, action: FWAction | None = None,
                        state: str = "COMPLETED") -> dict[str, Any]:
        """Write the result to the folder, then tell the launcher."""
        if os.getpid() != self._pid:
            os._exit(STRAY)
        # Rocket calls this from its `except` block.
        error = sys.exc_info()[1] if state == "FIZZLED" else None
        stored = None if action is None else action.to_dict()
        folder = Path.cwd()  # Rocket runs the job in its folder
        failure = describe_failure(error, folder)
        message = {"kind": "ended", "launch_id": launch_id, "state": state, "action": stored,
                   "folder": str(folder), "failure": failure}
        spooled = not isinstance(error, Stopped)
        if spooled:
            write_spool(folder, stored, launch_id=launch_id, fw_id=self._fw.fw_id, state=state,
                        database=self._database, failure=failure)
        self._send({**message, "spooled": spooled})
        self.ended = True
        return {}


def describe_failure(error: BaseException | None, folder: Path) -> dict[str, Any] | None:
    """Return what the launcher must know of an exception to decide what becomes of its job."""
    if error is None:
        return None
    info = FailureInfo.from_exception(error, folder=str(folder))
    stopped = isinstance(error, Stopped)
    return {**asdict(info), "kind": info.kind.value, "stopped": stopped,
            "progressed": error.kept if isinstance(error, Stopped) else info.progressed}


def write_spool(folder: Path, action: dict[str, Any] | None, *, launch_id: int, fw_id: int,
                state: str, database: str, failure: dict[str, Any] | None = None) -> Path:
    """Write a finished job's result beside its output, before MongoDB is asked to take it.

    There it survives the death of the launcher. It is forced to the disk, which takes long on some
    file systems, only if MongoDB does not take it (`keep_spool`). The file holds what the launcher
    is told, in the same form, so that both give the same document.

    Raises
    ------
    bson.errors.InvalidDocument
        It holds what MongoDB can't store.
    """
    path = folder / SPOOL_FILE
    content = encode({"launch_id": launch_id, "fw_id": fw_id, "state": state,
                      "database": database, "action": action, "failure": failure})
    part = path.with_name(f".{SPOOL_FILE}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        log.warning("can't write %s: %s", path, error)
    return path


def keep_spool(folder: Path) -> None:
    """Have a spooled result survive a loss of power, too."""
    for path in (folder / SPOOL_FILE, folder):
        try:
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("%s may not be on the disk yet: %s", path, error)


def read_spool(folder: Path, launch_id: int, database: str) -> dict[str, Any] | None:
    """Return what was spooled for this launch, None when there is nothing whole.

    Returns
    -------
    dict
        ``launch_id``, ``fw_id``, ``state``, ``database``, ``action``; ``failure`` of a failed job
        as `describe_failure` words it.
    """
    for name, read in ((SPOOL_FILE, decode), (_OLD_SPOOL_FILE, json.loads)):
        try:
            content = read((folder / name).read_bytes())
        except (OSError, ValueError, BSONError):
            continue
        if (isinstance(content, dict) and content.get("launch_id") == launch_id
                and content.get("database") == database and "state" in content
                and "action" in content):
            return content
    return None
