"""Watching lmp while it runs: tables that explode, output that stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.lammps_output import OutputParser
from orionflow.launchers.custodian.lammps_pressure import (
    exploded,
    has_barostat,
    hasty_barostat,
)
from orionflow.launchers.custodian.lammps_unstable import nan_row
from orionflow.launchers.custodian.watch import FrozenMonitor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orionflow.launchers.custodian.jobs import CodeJob, Monitor
    from orionflow.launchers.custodian.lammps_output import RunBlock
    from orionflow.launchers.custodian.lammps_script import Script

_CHUNK = 4 * 2**20
PATIENCE = 600.0
_FOR_EVER = 10 * 365 * 86400.0


@dataclass
class _Watch:
    """Reads what is new in the output at each look."""

    attempt: int = -1
    offset: int = 0
    rest: bytes = b""
    parser: OutputParser = field(default_factory=OutputParser)
    grown_at: float = 0.0
    begun_at: float = 0.0
    rows_at: list[float] = field(default_factory=list)

    def update(self, job: CodeJob, folder: Path) -> None:
        if job.attempt != self.attempt:
            self.attempt, self.offset, self.rest = job.attempt, 0, b""
            self.parser, self.grown_at, self.rows_at = OutputParser(), job.clock(), []
            self.begun_at = self.grown_at
        size = job.output_size(folder)
        if size <= self.offset:
            return
        self.grown_at = job.clock()
        with (folder / job.stdout).open("rb") as stream:
            stream.seek(self.offset)
            new = stream.read(_CHUNK)
        self.offset += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        for line in lines:
            self.parser.feed(line.decode(errors="replace"))
        last = self.parser.output.last_run
        if last is not None:
            # One thermo table is enough to judge by, and long runs must not fill the memory.
            self.rows_at.append(self.grown_at)
            del self.rows_at[:-50]
            del last.rows[1:-20]


@dataclass
class Exploding:
    """The box grows or shrinks many times over, or energies are no numbers any more."""

    failure_id: str
    test: Callable[[RunBlock], str | None]
    watch: _Watch

    def look(self, job: CodeJob, folder: Path) -> str | None:
        """Look at the last rows."""
        self.watch.update(job, folder)
        last = self.watch.parser.output.last_run
        return None if last is None or last.minimize else self.test(last)

    def grace(self) -> float:
        """Kill it: nothing of such a run is worth keeping."""
        return 0.0


@dataclass
class Hanging:
    """A barostat that is too fast can hang LAMMPS before the second row of its table.

    One step takes no longer than all that came before the first row, which holds the same force
    computation; so the second row is due after that time, times the steps between rows.

    Attributes
    ----------
    interval
        Steps between two rows.
    """

    watch: _Watch
    interval: int
    failure_id: str = "LAMMPS_BOX_EXPLODED"
    patience: float = 15.0

    def look(self, job: CodeJob, folder: Path) -> str | None:
        """Wait for the second row."""
        self.watch.update(job, folder)
        last = self.watch.parser.output.last_run
        if last is None or last.minimize or len(last.rows) != 1 or last.steps is not None:
            return None
        before = self.watch.rows_at[0] - self.watch.begun_at if self.watch.rows_at else 0.0
        silence = job.clock() - self.watch.grown_at
        if silence < max(self.patience, before * self.interval):
            return None
        return (f"no output for {silence:.0f} s after the first row: the barostat damping is far "
                "below 1000 time steps")

    def grace(self) -> float:
        """Kill it: nothing of such a run is worth keeping."""
        return 0.0


@dataclass
class SlowRows:
    """No output for far longer than a thermo line takes.

    Attributes
    ----------
    patience
        The shortest silence that counts, s.
    """

    watch: _Watch
    failure_id: str = "LAMMPS_FROZEN"
    patience: float = PATIENCE

    def look(self, job: CodeJob, folder: Path) -> str | None:
        """Compare the silence with the time between thermo lines so far."""
        self.watch.update(job, folder)
        last = self.watch.parser.output.last_run
        times = self.watch.rows_at
        if last is None or len(last.rows) < 2 or len(times) < 2:  # noqa: PLR2004
            return None  # nobody knows yet how long a line takes
        longest = max(b - a for a, b in pairwise(times))
        silence = job.clock() - self.watch.grown_at
        limit = max(self._least(last.column("Temp"), last.column("Press")), 20 * longest)
        return f"no output for {silence:.0f} s" if silence > limit else None

    def grace(self) -> float:
        """Kill it: a frozen run does not look for a stop file."""
        return 0.0

    def _least(self, *columns: list[float]) -> float:
        """Wait less where temperature or pressure just rose a thousandfold."""
        for column in columns:
            if len(column) > 2 and abs(column[-1]) > 1000 * max(1.0, abs(column[0])):  # noqa: PLR2004
                return self.patience / 20
        return self.patience


def lammps_monitors(script: Script, frozen_after: float | None = None) -> list[Monitor]:
    """Return the monitors for one script; all read the output once.

    A run that computes may print nothing for hours; only one that has shown how long a row takes,
    or that does not even use the processor, is taken for frozen.
    """
    watch = _Watch()
    silence = PATIENCE if frozen_after is None else frozen_after
    monitors: list[Monitor] = [
        Exploding("LAMMPS_NAN", nan_row, watch), SlowRows(watch, patience=silence),
        FrozenMonitor(silence=_FOR_EVER, idle=min(300.0, silence)),
    ]
    if has_barostat(script):
        monitors.insert(0, Exploding("LAMMPS_BOX_EXPLODED", _volume, watch))
        interval = _thermo_interval(script)
        if interval and hasty_barostat(script):
            monitors.insert(1, Hanging(watch, interval))
    return monitors


def _thermo_interval(script: Script) -> int | None:
    """Return the steps between two rows, where that is a plain number."""
    found = [model.value(script, c.args[0]) for c in script.all("thermo") if c.args]
    if not found or any(not f for f in found):
        return None
    return int(max(f for f in found if f is not None))


def _volume(block: RunBlock) -> str | None:
    return exploded(block.column("Volume"))
