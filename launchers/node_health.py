"""Whether this node can run jobs at all: looked at before the first one, and after failures.

One bad node must not fail a whole queue.
"""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from orionflow.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from orionflow.launchers.jobs import Result
    from orionflow.launchers.machine import MachineProfile

_DISK_MIB = 100
# Heartbeats are compared by clocks of different machines, s.
_CLOCK = 60.0
# So many different jobs that fail for the node's sake, one after another, condemn it.
_MOST_FAILURES = 5
# A failed job waits so long for what others show of the node, s.
_LONGEST_HELD = 60.0


def find_problems(machine: MachineProfile, folder: Path, pad: Any) -> list[str]:
    """Return what keeps this node from running jobs; empty when nothing does.

    Parameters
    ----------
    machine
        Its profile.
    folder
        Where the folders of jobs are made.
    pad
        The project's LaunchPad.
    """
    return [p for p in (_mpi(machine), *_executables(machine), _disk(folder), _clock(pad)) if p]


def _mpi(machine: MachineProfile) -> str:
    if machine.mpi == "none" or shutil.which(machine.mpi, path=machine.environment.get("PATH")):
        return ""
    return f"{machine.mpi} is not on PATH"


def _executables(machine: MachineProfile) -> list[str]:
    """Look for those the profile names; others only some jobs need."""
    problems = []
    for name in machine.executables:
        try:
            machine.executable(name)
        except ConfigError as error:
            problems.append(error.message)
    return problems


def _disk(folder: Path) -> str:
    probe = folder / f".orionflow-probe-{time.monotonic_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
        free = shutil.disk_usage(folder).free / 2**20
    except OSError as error:
        return f"{folder} can't be written: {error.strerror or error}"
    return "" if free >= _DISK_MIB else f"the disk of {folder} is full ({free:.0f} MiB left)"


def _clock(pad: Any) -> str:
    try:
        before = datetime.now(UTC)
        theirs = pad.connection.admin.command("hello")["localTime"]
        after = datetime.now(UTC)
    except (PyMongoError, KeyError):
        return ""  # an outage is no fault of this node
    theirs = theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)
    off = (theirs - after if theirs > after else before - theirs).total_seconds()
    return "" if off <= _CLOCK else f"the clock is {off:.0f} s off from that of MongoDB"


class Suspicion:
    """Failures that may be the node's fault; what becomes of the jobs waits for the verdict."""

    def __init__(self) -> None:
        self.held: list[Result] = []
        self._since = 0.0
        self._seen: set[int] = set()

    def add(self, result: Result) -> bool:
        """Hold a failed job; returns whether there are enough of them to condemn the node."""
        if not self.held:
            self._since = time.monotonic()
        self.held.append(result)
        self._seen.add(result.job.fw_id)
        return len(self._seen) >= _MOST_FAILURES

    @property
    def stale(self) -> bool:
        """Whether jobs have waited too long for a verdict: what else runs may take hours."""
        return bool(self.held) and time.monotonic() - self._since > _LONGEST_HELD

    def clear(self, *, success: bool) -> list[Result]:
        """Return what was held: the node is not to blame.

        Parameters
        ----------
        success
            A job has ended well here; else failures go on being counted.
        """
        held, self.held = self.held, []
        if success:
            self._seen.clear()
        return held

    def condemn(self) -> list[Result]:
        """Return what was held, as jobs that never ran: the node is to blame."""
        held, self.held = self.held, []
        for result in held:
            result.state = "READY"
            result.action = None
            result.spec = {k: v for k, v in result.spec.items() if k == "_launch_dir"}
        return held
