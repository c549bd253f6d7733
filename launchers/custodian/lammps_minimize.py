"""Minimisations that ended before the forces were small. LAMMPS calls all of them a success."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_edit as edit
from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.lammps_walltime import LAST_RESTART

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.lammps_output import RunBlock
    from orionflow.launchers.custodian.lammps_script import Command, Script
    from orionflow.launchers.custodian.rules import Attempt

_MOST = 3
_FACTORS = (5, 25, 25)


@dataclass(frozen=True)
class Judged:
    """A minimisation whose end is a result.

    Attributes
    ----------
    at
        Position of its command; None where the script jumps and nobody knows which it was.
    tolerance
        Force tolerance asked for, in the units of the script.
    final
        No dynamics come after it.
    """

    block: RunBlock
    at: int | None
    tolerance: float
    final: bool


def judged(run: LammpsRun, attempt: Attempt) -> list[Judged]:
    """Return the minimisations that have to end well.

    The last one when no dynamics follow, and each whose state is written or printed before
    atoms are moved again. What only prepares the next run may be as short as the user likes.
    """
    script, blocks = run.script, run.output(attempt).runs
    last_moving = max((i for i, r in enumerate(blocks) if not r.minimize and r.steps != 0),
                      default=-1)
    plans = model.plans(script)
    known = script.linear and len(plans) >= len(blocks)
    found = []
    for i, block in enumerate(blocks):
        if not block.minimize or not block.criterion:
            continue
        at = plans[i].at if known else None
        final = i > last_moving
        is_last = final and not any(b.minimize for b in blocks[i + 1:])
        if is_last or (looked_at(script, at) if at is not None else final):
            found.append(Judged(block, at, _force_tolerance(script, at), final))
    return found


def looked_at(script: Script, at: int) -> bool:
    """Whether anything is written or printed of a state before atoms are moved again."""
    end = next((i for i in script.runs() if i > at and script.commands[i].args[:1] != ["0"]),
               len(script.commands))
    dumps = {c.args[0] for c in script.commands[:at] if c.name == "dump" and c.args}
    for i, command in enumerate(script.commands[at + 1:end], start=at + 1):
        if command.name in _WRITES and command.args[:1] != [LAST_RESTART]:
            return True
        if command.name == "undump" and command.args and command.args[0] in dumps:
            return True  # a trajectory of nothing but this
        if command.name in {"print", "variable"} and _takes_values(script, command, i):
            return True
    return False


_WRITES = frozenset({"write_data", "write_restart", "write_dump"})
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$\(([^)]*)\)|\$(\w)")


def _takes_values(script: Script, command: Command, at: int) -> bool:
    """Whether a text holds a value that comes from the simulation."""
    for match in _VARIABLE.finditer(" ".join(command.args)):
        word = match[0] if not match[2] else f"$({match[2].rsplit(':%', 1)[0]})"
        name = match[1] or match[3]
        styles = [c.args[1] for c in script.commands[:at] if c.name == "variable"
                  and c.args[:1] == [name] and len(c.args) > 1]
        if model.value(script, word, at) is None and (not name or "equal" in styles):
            return True
    return False


def evidence(block: RunBlock) -> str:
    """Return criterion and force on one line."""
    force = f"; force max component {block.force_max[1]:g}" if block.force_max else ""
    norm = f", two-norm {block.force_norm[1]:g}" if block.force_norm else ""
    return f"Stopping criterion = {block.criterion}{force}{norm}"


@dataclass
class MinimizeSteps:
    """The allowed iterations or force evaluations were used up."""

    run: LammpsRun
    failure_id: str = "LAMMPS_MIN_STEPS"
    advice: str | None = None
    _force: float | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look at each minimisation that is a result."""
        return next((evidence(m.block) for m in self._ended_early(attempt)), None)

    def _ended_early(self, attempt: Attempt) -> list[Judged]:
        return [m for m in judged(self.run, attempt) if m.block.criterion.startswith("max ")
                and not _as_asked(self.run, m)]

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Allow five times as many, then more; another minimiser where the force stays."""
        if times >= len(_FACTORS):
            return None
        early = self._ended_early(attempt)
        block = early[0].block
        force = block.force_norm[1] if block.force_norm else None
        stuck = self._force is not None and force is not None and force > 0.5 * self._force
        self._force = force
        places = None if any(m.at is None for m in early) else {m.at for m in early}
        changes = edit.scale_minimize(self.run.script, _FACTORS[times], places)
        if stuck and not _relaxes_box(self.run):
            changes += edit.set_min_style(self.run.script, "fire")
        return changes or None


@dataclass
class LineSearch:
    """The line search found no lower energy although forces are large."""

    run: LammpsRun
    failure_id: str = "LAMMPS_MIN_LINESEARCH"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look at each; small forces mean the limit of accuracy, no failure."""
        return next((evidence(m.block) for m in judged(self.run, attempt)
                     if "linesearch alpha is zero" in m.block.criterion
                     and not _small(self.run, m)), None)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Use minimisers that need no line search; with a moving box, begin again from there."""
        script = self.run.script
        if _relaxes_box(self.run):
            if times >= _MOST:
                return None
            at = script.find("minimize")[-1]
            script.insert(at, [str(script.commands[at])])
            return [f"{script.commands[at]}: once -> again from where it ended"]
        styles = ("fire", "quickmin")
        if times >= len(styles):
            self.advice = ("look for a step in the potential at its cutoff (shift or smooth it), "
                           "or a table too coarse")
            return None
        return edit.set_min_style(script, styles[times])


@dataclass
class EnergyTolerance:
    """The energy hardly changed, but the forces are still far above the tolerance asked for."""

    run: LammpsRun
    failure_id: str = "LAMMPS_MIN_ENERGY_TOLERANCE"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look at those that end the script; one before dynamics is as sharp as asked for."""
        for m in judged(self.run, attempt):
            factor = 1.0 if m.tolerance else 10.0  # no force tolerance asked for
            if m.final and m.block.criterion == "energy tolerance" and not _small(
                    self.run, m, factor):
                return evidence(m.block)
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Let the force tolerance decide."""
        if times >= _MOST:
            return None
        return edit.set_etol(self.run.script) or None


def _force_tolerance(script: Script, at: int | None) -> float:
    """Return the force tolerance of one minimisation, or the largest in the script."""
    commands = [script.commands[at]] if at is not None else script.all("minimize")
    given = [model.value(script, c.args[1], at) for c in commands if len(c.args) > 1]
    return max((g for g in given if g is not None), default=0.0)


def _as_asked(run: LammpsRun, minimum: Judged) -> bool:
    """Whether the force is below the user's tolerance; without one, whether it is small."""
    if not minimum.tolerance:
        return _small(run, minimum)
    norm, largest = minimum.block.force_norm, minimum.block.force_max
    if largest is not None and largest[1] <= _NOTHING * model.SMALL_FORCE.get(run.units, 0.0):
        return True
    return norm is not None and norm[1] <= minimum.tolerance


# Of a small force: about 1e-6 eV/Å, where a tolerance is below what the potential resolves.
_NOTHING = 1e-4


def _small(run: LammpsRun, minimum: Judged, factor: float = 1.0) -> bool:
    """Whether the largest force is below what counts as relaxed, or below the user's tolerance."""
    block = minimum.block
    if block.force_max is None:
        return False
    if block.force_norm is not None and block.force_norm[1] <= minimum.tolerance:
        return True
    return block.force_max[1] <= factor * model.SMALL_FORCE.get(run.units, 0.0)


def _relaxes_box(run: LammpsRun) -> bool:
    return any("box/relax" in c.args for c in run.script.all("fix"))
