"""Minimisations that ended before the forces were small. LAMMPS calls all of them a success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_edit as edit
from orionflow.launchers.custodian import lammps_model as model

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.lammps_output import LammpsOutput, RunBlock
    from orionflow.launchers.custodian.rules import Attempt

_MOST = 3
_FACTORS = (5, 25, 25)


def results(output: LammpsOutput) -> list[RunBlock]:
    """Return the minimisations that are a result: not those that prepare dynamics."""
    last_moving = max((i for i, r in enumerate(output.runs) if not r.minimize and r.steps != 0),
                      default=-1)
    return [r for r in output.runs[last_moving + 1:] if r.minimize]


def judged(run: LammpsRun, attempt: Attempt) -> list[RunBlock]:
    """Return the minimisations that have to be good: the last, or each pass of a loop over one."""
    blocks = results(run.output(attempt))
    return blocks if len(run.script.find("minimize")) == 1 else blocks[-1:]


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
        """Look at the last minimisation."""
        return next((evidence(b) for b in self._ended_early(attempt)), None)

    def _ended_early(self, attempt: Attempt) -> list[RunBlock]:
        return [b for b in judged(self.run, attempt) if b.criterion.startswith("max ")
                and not _as_asked(self.run, b)]

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Allow five times as many, then more; another minimiser where the force stays."""
        if times >= len(_FACTORS):
            return None
        block = self._ended_early(attempt)[0]
        force = block.force_norm[1] if block.force_norm else None
        stuck = self._force is not None and force is not None and force > 0.5 * self._force
        self._force = force
        changes = edit.scale_minimize(self.run.script, _FACTORS[times])
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
        """Look at the last minimisation; small forces mean the limit of accuracy, no failure."""
        last = judged(self.run, attempt)
        return next((evidence(b) for b in last if "linesearch alpha is zero" in b.criterion
                     and not _small(self.run, b)), None)

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
        """Look at the last minimisation."""
        last = judged(self.run, attempt)
        factor = 1.0 if _force_tolerance(self.run) else 10.0  # no force tolerance asked for
        return next((evidence(b) for b in last if b.criterion == "energy tolerance"
                     and not _small(self.run, b, factor)), None)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Let the force tolerance decide."""
        if times >= _MOST:
            return None
        return edit.set_etol(self.run.script) or None


def _force_tolerance(run: LammpsRun) -> float:
    given = [model.value(run.script, c.args[1]) for c in run.script.all("minimize")
             if len(c.args) > 1]
    return max((g for g in given if g is not None), default=0.0)


def _as_asked(run: LammpsRun, block: RunBlock) -> bool:
    """Whether the force is below the user's tolerance; without one, whether it is small."""
    tolerance = _force_tolerance(run)
    if not tolerance:
        return _small(run, block)
    return block.force_norm is not None and block.force_norm[1] <= tolerance


def _small(run: LammpsRun, block: RunBlock, factor: float = 1.0) -> bool:
    """Whether the largest force is below what counts as relaxed, or below the user's tolerance."""
    if block.force_max is None:
        return False
    if block.force_norm is not None and block.force_norm[1] <= _force_tolerance(run):
        return True
    return block.force_max[1] <= factor * model.SMALL_FORCE.get(run.units, 0.0)


def _relaxes_box(run: LammpsRun) -> bool:
    return any("box/relax" in c.args for c in run.script.all("fix"))
