"""Simulations that fly apart: one ladder of remedies behind many messages."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_edit as edit
from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.lammps_timestep import MOST_SHORTER, shorten_timestep

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.lammps_output import LammpsOutput, RunBlock
    from orionflow.launchers.custodian.lammps_script import Script
    from orionflow.launchers.custodian.rules import Attempt

EARLY = 100
_LOST = r"Lost atoms: original \d+ current \d+"


@dataclass
class Ladder:
    """Remedies for an unstable simulation, each used once, the time step as often as it helps.

    Shared by all rules of one job, so that another message after a correction (lost atoms, then
    non-numeric pressure) goes on where the last one stopped.
    """

    run: LammpsRun
    minimized: bool = False
    limited: bool = False
    boundary: bool = False
    steps: int = 0
    failed_at: list[float] = field(default_factory=list)

    def climb(self, attempt: Attempt, *, start_first: bool = False) -> list[str] | None:
        """Apply the next remedy.

        Parameters
        ----------
        attempt
            The attempt that failed.
        start_first
            The message speaks of the start rather than of the time step.
        """
        output = self.run.output(attempt)
        begun = self.run.begin_again()
        changes = self._rung(output, start_first=start_first)
        return [*begun, *changes] if changes else None

    def _rung(self, output: LammpsOutput, *, start_first: bool) -> list[str]:
        script, units = self.run.script, output.units
        start = _start_step(output) if self.run.begun_at is None else self.run.begun_at
        long = _timestep(output, script) > model.USUAL_TIMESTEP.get(units, math.inf)
        bad_start = start_first or starts_badly(output) or (fails_early(output) and not long)
        changes: list[str] = []
        if bad_start and not self.minimized and edit.can_minimize(script):
            self.minimized = True
            changes += edit.minimize_first(script, units, start)
            if not long:
                return changes
        if (bad_start or self.steps > 1) and not long and self.minimized and not self.limited:
            self.limited = True
            changes += edit.limited_first(script, units, start)
            if changes:
                return changes
        shorter = shorten_timestep(self.run, output) if self.steps < MOST_SHORTER else None
        if shorter is not None:
            self.steps += 1
            changes += shorter + edit.check_neighbours_each_step(script)
        elif not self.minimized and edit.can_minimize(script):
            self.minimized = True
            changes += edit.minimize_first(script, units, start)
        elif not self.limited:
            self.limited = True
            changes += edit.limited_first(script, units, start)
        return changes


def _start_step(output: LammpsOutput) -> int | None:
    moving = [r for r in output.runs if not r.minimize]
    return moving[0].first_step if moving else None


def _timestep(output: LammpsOutput, script: Script) -> float:
    known = [r.timestep for r in output.runs if r.timestep]
    return known[-1] if known else model.timestep(script)


def starts_badly(output: LammpsOutput) -> bool:
    """Whether the first thermo row already shows atoms that push each other apart.

    Cohesive energies are negative; a positive potential energy of more than the kinetic one at
    many times any melting point (1 eV, or 10 epsilon) is overlap.
    """
    moving = [r for r in output.runs if not r.minimize and r.rows]
    if not moving or not output.atoms:
        return False
    energy = moving[0].column("PotEng", "E_pair", "TotEng")
    high = {"lj": 10.0, "real": 25.0, "metal": 1.0, "electron": 0.04}.get(output.units)
    if not energy or high is None:
        return False
    per_atom = energy[0] if output.units == "lj" else energy[0] / output.atoms
    return per_atom > high


def began_calmly(script: Script, output: LammpsOutput) -> bool:
    """Whether everything known of a run that lost atoms speaks against an unstable one.

    No overlap at the start, a usual time step, no temperature at which atoms are faster than the
    step allows, and rows until then neither hotter by far nor without numbers.
    """
    moving = [r for r in output.runs if not r.minimize and r.rows]
    hottest = _HOTTEST.get(output.units)
    if not moving or hottest is None or starts_badly(output):
        return False
    temperature = [t for r in moving for t in r.column("Temp")]
    if not temperature or not all(math.isfinite(t) for t in temperature):
        return False
    usual = model.USUAL_TIMESTEP.get(output.units, 0.0)
    return (_timestep(output, script) <= usual * 1.001 and max(temperature) < hottest
            and max(temperature) <= 3 * max(temperature[0], _median(temperature)) + 1e-9)


# At the usual time step a light atom then moves about 0.05 sigma or 0.1 Å in one step.
_HOTTEST = {"lj": 100.0, "real": 2e4, "metal": 5e4, "electron": 2e4}


def fails_early(output: LammpsOutput) -> bool:
    """Whether the last run failed within its first hundred steps or so."""
    last = output.last_run
    if last is None or last.minimize or len([r for r in output.runs if not r.minimize]) > 1:
        return last is None
    column = last.column("Step")
    return bool(column) and last.steps is None and column[-1] - column[0] < EARLY


def energy_was_sane(block: RunBlock | None) -> bool | None:
    """Whether temperature and energy kept within bounds until the end; None when not known."""
    if block is None or len(block.rows) < 3:  # noqa: PLR2004  start, something, end
        return None
    temperature = block.column("Temp")
    total = block.column("TotEng")
    potential = block.column("PotEng", "E_pair")
    if not temperature or any(not math.isfinite(t) for t in temperature):
        return None if not temperature else False
    if max(temperature) > 3 * max(temperature[0], _median(temperature)) + 1e-9:
        return False
    if total and potential:
        kinetic = max(abs(t - p) for t, p in zip(total, potential, strict=True))
        # More than what a thermostat could have put in.
        return max(total) - total[0] < 3 * kinetic
    return True


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


@dataclass
class BoundaryLost:
    """Atoms leave through a fixed boundary although the energy stays sane."""

    run: LammpsRun
    ladder: Ladder
    failure_id: str = "LAMMPS_LOST_THROUGH_BOUNDARY"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for lost atoms, an `f` in `boundary` and an energy that kept."""
        output = self.run.output(attempt)
        line = next((e for e in output.errors if re.search(_LOST, e)), None)
        if line is None or self._fixed() is None:
            return None
        sane = energy_was_sane(output.last_run)
        if sane is None and began_calmly(self.run.script, output):
            sane = True  # lost before the table could show more
        time = _failure_time(output)
        if sane is None and time is not None:
            # The same physical time with another time step: no matter of integration.
            earlier = self.ladder.failed_at
            sane = bool(earlier) and abs(time - earlier[-1]) < 0.2 * max(time, earlier[-1])
        if not sane and time is not None:
            self.ladder.failed_at.append(time)
        return line if sane else None

    def _fixed(self) -> int | None:
        return next((i for i in self.run.script.find("boundary")
                     if any("f" in w for w in self.run.script.commands[i].args)), None)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Let the box grow with the atoms, where neither walls nor a slab need it as it is."""
        script, at = self.run.script, self._fixed()
        slab = any("slab" in c.words for c in script.all("kspace_modify"))
        walls = next((c for c in script.all("fix") if len(c.args) > 2  # noqa: PLR2004  the style
                      and c.args[2].startswith("wall/")), None)
        if walls is not None:
            self.advice = (f"atoms went past {str(walls)!r} or where there is no wall, out of a "
                           "box with boundary f: put a wall at every open face, inside the box, "
                           "or use a stronger one, or boundary m")
        if at is None or times or slab or walls:
            return None
        begun = self.run.begin_again()
        at = script.find("boundary")[0] if begun else at
        old = " ".join(script.commands[at].words[1:])
        new = old.replace("f", "m")
        script.replace(at, f"boundary {new}")
        return [*begun, f"boundary: {old} -> {new}"]


def _failure_time(output: LammpsOutput) -> float | None:
    last = output.last_run
    if last is None or last.last_step is None or not last.timestep:
        return None
    return last.last_step * last.timestep


@dataclass
class Unstable:
    """A message by which LAMMPS says that the simulation flew apart.

    Attributes
    ----------
    pattern
        The message.
    start_first
        It usually means atoms too close at the start.
    stop_at_start
        At the first step it means a wrong structure that nothing here can mend.
    """

    run: LammpsRun
    ladder: Ladder
    failure_id: str
    pattern: str
    start_first: bool = False
    stop_at_start: str = ""
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the message."""
        errors = self.run.output(attempt).errors
        return next((e for e in errors if re.search(self.pattern, e)), None)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Take the next step of the ladder."""
        output = self.run.output(attempt)
        if self.stop_at_start and not any(r.rows for r in output.runs):
            self.advice = self.stop_at_start
            return None
        return self.ladder.climb(attempt, start_first=self.start_first)


@dataclass
class Stretched:
    """FENE bonds beyond their range until the end: a warning only, but no result."""

    run: LammpsRun
    ladder: Ladder
    failure_id: str = "LAMMPS_FENE"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for warnings within the last run."""
        last = self.run.output(attempt).last_run
        return (last.stretched or None) if last is not None else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Take the next step of the ladder."""
        return self.ladder.climb(attempt)


@dataclass
class NotANumber:
    """nan or inf in the thermo table, which LAMMPS itself does not mind."""

    run: LammpsRun
    ladder: Ladder
    failure_id: str = "LAMMPS_NAN"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Return the first such row."""
        for block in self.run.output(attempt).runs:
            row = nan_row(block)
            if row is not None:
                return row
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Stop where it was so from the start, else take the next step of the ladder."""
        if nan_at_start(self.run.output(attempt)):
            self.advice = ("the energy of the start structure is not a number: two atoms at one "
                           "place, a wrong box, or a potential not meant for this structure")
            return None
        return self.ladder.climb(attempt)


_PHYSICAL = ("Temp", "PotEng", "TotEng", "KinEng", "E_pair", "E_mol", "Press", "Volume", "Lx",
             "E_vdwl", "E_coul", "E_long", "Enthalpy", "Pxx", "Pyy", "Pzz")


def nan_row(block: RunBlock) -> str | None:
    """Return the first row of a table with nan or inf in a column that must be a number."""
    places = [i for i, c in enumerate(block.columns) if c in _PHYSICAL]
    for row in block.rows:
        if any(not math.isfinite(row[i]) for i in places if i < len(row)):
            return "  ".join(f"{c} {v:g}" for c, v in zip(block.columns, row, strict=False))
    return None


def nan_at_start(output: LammpsOutput) -> bool:
    """Whether the very first energies are no numbers."""
    first = next((r for r in output.runs if r.rows), None)
    return first is not None and nan_row(
        type(first)(columns=first.columns, rows=first.rows[:1])) is not None
