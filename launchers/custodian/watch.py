"""Monitors for any code: no sign of life, and the end of the allocation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import guard

if TYPE_CHECKING:
    from orionflow.launchers.custodian.jobs import CodeJob
    from orionflow.launchers.custodian.rules import Attempt

FROZEN_ID = "CODE_FROZEN"
_TICKS_BUSY = 5  # clock ticks of all ranks together that count as work


@dataclass
class FrozenMonitor:
    """The output has not grown for too long.

    Attributes
    ----------
    silence
        Longest silence of a code that computes, s; never less than twenty times the longest
        silence it has shown so far.
    idle
        Longest silence of a code that does not even compute, s: ranks wait for ever in busy
        loops, so no use of the processor at all means stopped or dead processes.
    """

    silence: float = 1800.0
    idle: float = 300.0
    failure_id: str = FROZEN_ID
    _attempt: int = 0
    _size: int = -1
    _grown: float = 0.0
    _longest: float = 0.0
    _ticks: int = 0
    _worked: float = 0.0

    def look(self, job: CodeJob, folder: Path) -> str | None:
        """Compare size and processor time with the last look."""
        now = job.clock()
        if job.attempt != self._attempt:
            self._attempt, self._size, self._ticks = job.attempt, -1, -_TICKS_BUSY
            self._grown = self._worked = now
            self._longest = 0.0
        size = job.output_size(folder)
        if size != self._size:
            if self._size > 0:
                self._longest = max(self._longest, now - self._grown)
            self._size, self._grown = size, now
        silent = now - self._grown
        if silent > min(self.idle, self.silence) / 4:
            ticks = _ticks(job.process.pid) if job.process else 0
            if abs(ticks - self._ticks) >= _TICKS_BUSY:
                self._ticks, self._worked = ticks, now
            idle = now - max(self._worked, self._grown)
            if idle > max(self.idle, 5 * self._longest):
                return f"no output for {silent:.0f} s and no processor time for {idle:.0f} s"
        if silent > max(self.silence, 20 * self._longest):
            return f"no output for {silent:.0f} s"
        return None

    def grace(self) -> float:
        """Frozen codes do not listen."""
        return 0.0


@dataclass
class DeadlineMonitor:
    """The allocation is about to end and the code has not stopped by itself."""

    deadline: float
    failure_id: str
    margin: float = 2.0

    def look(self, job: CodeJob, folder: Path) -> str | None:  # noqa: ARG002  Monitor's signature
        """Look at the clock."""
        left = self.deadline - time.time()
        return f"{max(0.0, left):.0f} s before the end of the time" if left < self.margin else None

    def grace(self) -> float:
        """Give it what is left."""
        return max(0.0, self.deadline - time.time())


@dataclass
class Frozen:
    """What to do about a frozen code: once more, unchanged."""

    failure_id: str = FROZEN_ID

    def find(self, attempt: Attempt) -> str | None:  # noqa: ARG002  only the monitor can tell
        """Nothing in the output shows it."""
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Once more."""
        return [] if times == 0 else None


def _ticks(session: int) -> int:
    """Return the processor time of a session so far, clock ticks; waiting for a disk is work."""
    total = 0
    for pid in guard.session_members(session):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
        if fields[0] == "D":
            total += int(time.time() * 100)
    return total
