"""Results LAMMPS reports as good that are not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_edit as edit
from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.lammps_base import DANGER_FILE
from orionflow.launchers.custodian.lammps_timestep import MOST_SHORTER, shorten_timestep
from orionflow.launchers.custodian.lammps_unstable import (
    began_calmly,
    energy_was_sane,
    starts_badly,
)
from orionflow.launchers.custodian.rules import read_text

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.lammps_model import Fix, RunPlan
    from orionflow.launchers.custodian.lammps_output import LammpsOutput, RunBlock
    from orionflow.launchers.custodian.lammps_script import Script
    from orionflow.launchers.custodian.lammps_unstable import Ladder
    from orionflow.launchers.custodian.rules import Attempt

# Share of the mean kinetic energy by which the total energy of an NVE run may drift, and range. A
# potential cut off without a shift jumps at the cutoff: small evaporating clusters reach 2 and 8 %.
SMOOTH = (0.02, 0.05)
CUT = (0.03, 0.12)
CUT_OPEN = (0.2, 0.4)  # a cluster that evaporates for the most part passes the step pair by pair
_COLD = 1e-3
_CHANGES_NUMBER = ("deposit", "pour", "evaporate", "gcmc", "bond/react", "widom", "sgcmc",
                   "charge/regulation", "append/atoms")


def pairs(script: Script, output: LammpsOutput) -> list[tuple[RunPlan, RunBlock]]:
    """Return the runs of a linear script with what each printed, as far as it came."""
    plans = model.plans(script)
    if not script.linear or len(plans) < len(output.runs):
        return []
    return list(zip(plans, output.runs, strict=False))


@dataclass
class AtomsGone:
    """`thermo_modify lost ignore` or `warn`: atoms disappeared without an error."""

    run: LammpsRun
    ladder: Ladder
    failure_id: str = "LAMMPS_ATOMS_LOST_SILENTLY"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Compare the number of atoms at the start and at the end of each run."""
        script, output = self.run.whole(attempt)
        if any(f.style.startswith(_CHANGES_NUMBER) for p in model.plans(script) for f in p.fixes):
            return None
        if not any({"lost", "ignore"} <= set(c.words) or {"lost", "warn"} <= set(c.words)
                   for c in script.all("thermo_modify")):
            return None  # LAMMPS itself looks after them
        open_box = _open_box(script)
        for block in output.runs:
            counts = [int(a) for a in block.column("Atoms")]
            first = counts[0] if counts else block.atoms_before
            last = block.atoms if block.atoms is not None else (counts[-1] if counts else first)
            if first is None or last is None or last >= first:
                continue
            if open_box and energy_was_sane(block) and last > first // 2:
                continue  # evaporated from an open box, as the user allowed
            return f"{first} atoms at the start of the run, {last} at its end"
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Stop where atoms evaporated; else treat it as what it hides, an unstable simulation."""
        script, output = self.run.whole(attempt)
        if _open_box(script) and began_calmly(script, output):
            self.advice = ("most atoms left the open box at usual energies and a usual time step, "
                           "and `thermo_modify lost` let them go: make the box larger, hold the "
                           "atoms by walls, use boundary m or p, or run for a shorter time")
            return None
        return self.ladder.climb(attempt)


def _open_box(script: Script) -> bool:
    return any("p" not in w for c in script.all("boundary") for w in c.args)


@dataclass
class AbsurdEnergy:
    """The potential energy at the end is that of atoms pressed into each other."""

    run: LammpsRun
    ladder: Ladder
    failure_id: str = "LAMMPS_ENERGY_ABSURD"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Compare the last potential energy with a hundred electronvolts for each atom."""
        output = self.run.output(attempt)
        last = output.last_run
        limit = _ABSURD.get(output.units)
        if last is None or limit is None or not output.atoms or not last.rows:
            return None
        energy = last.column("PotEng", "E_pair")
        if not energy:
            return None
        each = _for_each(self.run.script, output, energy[-1])
        return (f"potential energy {energy[-1]:g}, {each:.3g} for each atom in units "
                f"{output.units}") if each > limit else None

    def _minimizing_was_no_use(self, attempt: Attempt) -> bool:
        """Whether the moving run after our minimisation began with atoms still overlapping."""
        output = self.run.output(attempt)
        limit = _ABSURD.get(output.units)
        moving = next((b for b in output.runs if not b.minimize and b.rows), None)
        energy = moving.column("PotEng", "E_pair") if moving is not None else []
        if not self.ladder.minimized or not energy or limit is None or not output.atoms:
            return False
        return _for_each(self.run.script, output, energy[0]) > limit

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Stop where nothing was to move; else as an unstable simulation."""
        blocks = self.run.output(attempt).runs
        # No time step helps where a minimisation found no way out either.
        if not any(not b.minimize and b.steps for b in blocks) or (
                self._minimizing_was_no_use(attempt)):
            self.advice = ("atoms overlap: correct the structure, the box (atoms overlap through "
                           "its faces when it is too small) or the units")
            return None
        return self.ladder.climb(attempt, start_first=True)


def _for_each(script: Script, output: LammpsOutput, energy: float) -> float:
    """Return an energy of the thermo table for each atom; in units lj it is that already."""
    asked = [c.args[c.args.index("norm") + 1] for c in script.all("thermo_modify")
             if "norm" in c.args[:-1]]
    normalized = asked[-1] in {"yes", "on", "true"} if asked else output.units == "lj"
    return energy if normalized else energy / max(1, output.atoms or 1)


# About 100 eV for each atom; nothing that holds together comes near.
_ABSURD = {"lj": 1e3, "real": 2500.0, "metal": 100.0, "electron": 4.0}


@dataclass
class ZeroTemperature:
    """A thermostat can't heat atoms that do not move."""

    run: LammpsRun
    failure_id: str = "LAMMPS_ZERO_TEMPERATURE"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the message, or for a thermostat whose atoms stay at rest."""
        output = self.run.output(attempt)
        message = next((e for e in output.errors if "cannot be 0.0" in e and "emperature" in e),
                       None)
        if message or output.errors:
            return message
        for plan, block in pairs(self.run.script, output):
            target = _target(self.run, plan)
            temperature = block.column("Temp")
            if (target and len(temperature) > 1 and block.steps != 0 and plan.command.name == "run"
                    and max(temperature) < _COLD * target[1]):
                return (f"fix {target[0].style} asks for {target[1]:g}, Temp is "
                        f"{temperature[-1]:g} at step {block.last_step}")
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Create velocities at the thermostat's temperature."""
        script = self.run.script
        begun = self.run.begin_again()
        count = max(1, len(self.run.output(attempt).runs))
        # A continued run has only its last runs in the output: look at all of the first script.
        seen = model.plans(script) if begun else model.plans(script)[:count][::-1]
        for plan in seen if script.linear else []:
            target = _target(self.run, plan)
            if target is not None and not times:
                return [*begun, *edit.create_velocities(
                    script, plan.at, target[0].group, target[1])]
        return None


def _target(run: LammpsRun, plan: RunPlan) -> tuple[Fix, float] | None:
    """Return the thermostat of a run and the temperature it starts from."""
    for fix in plan.fixes:
        if not model.THERMOSTATS.match(fix.style) or fix.style.startswith("langevin"):
            continue  # random forces move atoms from rest
        if fix.style.startswith("temp/"):
            place = 1 if fix.style.startswith("temp/rescale") else 0
            words = fix.args[place : place + 2]
        else:
            words = fix.keyword("temp", 2)
        values = [model.value(run.script, w, fix.at) for w in words]
        if len(values) == 2 and values[0] is not None and values[1] is not None:  # noqa: PLR2004
            temperature = values[0] or 0.01 * values[1]
            if temperature > 0:
                return fix, temperature
    return None


@dataclass
class DangerousBuilds:
    """Neighbour lists were rebuilt too late, or nobody looked."""

    run: LammpsRun
    ladder: Ladder
    failure_id: str = "LAMMPS_DANGEROUS_BUILDS"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look at the statistics after each run."""
        runs = self.run.output(attempt).runs
        line = next((r.dangerous_line for r in runs
                     if r.dangerous and r.steps and not r.minimize), None)
        if line is None and runs and runs[-1].steps is None and not runs[-1].minimize:
            return self._counted(attempt, runs[-1].first_step or 0)
        return line

    def _counted(self, attempt: Attempt, first: int) -> str | None:
        """Look into the file in which a run that was killed counted its dangerous builds."""
        file = self.run.folder / DANGER_FILE
        if not file.is_file() or file.stat().st_mtime < time.time() - attempt.seconds - 1.0:
            return None
        lines = [line.split() for line in read_text(file).splitlines()]
        counts = [(int(w[0]), int(w[1])) for w in lines
                  if len(w) == 2 and w[0].isdigit() and w[1].isdigit()]  # noqa: PLR2004
        step, count = max((c for c in counts if c[0] >= first), default=(0, 0))
        return f"Dangerous builds = {count} at step {step}" if count else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Look at every step; then a wider skin, and where it is wide already, as unstable."""
        script, units = self.run.script, self.run.output(attempt).units
        begun = self.run.begin_again()
        changes = edit.check_neighbours_each_step(script)
        skin = edit.skin(script, units)
        usual = model.DEFAULT_SKIN.get(units)
        if starts_badly(self.run.output(attempt)) and edit.can_minimize(script):
            changes += self.ladder.climb(attempt, start_first=True) or []
        if not changes and skin is not None and usual is not None and skin < 2 * usual and (
                times < 2 or skin < usual):  # noqa: PLR2004
            changes = edit.widen_skin(script, units, max(1.5, usual / skin))
        changes = changes or self.ladder.climb(attempt, start_first=True) or []
        return [*begun, *changes] if changes else None


@dataclass
class EnergyDrift:
    """The total energy of a run at constant energy is not constant."""

    run: LammpsRun
    failure_id: str = "LAMMPS_ENERGY_DRIFT"
    advice: str | None = None
    _range: float | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Compare drift and range of TotEng with the kinetic energy."""
        script, output = self.run.whole(attempt)
        for plan, block in pairs(script, output):
            atoms = [*block.column("Atoms"), *(a for a in (block.atoms_before, block.atoms) if a)]
            if plan.conserves_energy and block.steps != 0 and len(set(atoms)) < 2:  # noqa: PLR2004
                limits = CUT_OPEN if _open_box(script) else CUT
                line = drift(block, limits if _jumps(script) else SMOOTH)
                if line:
                    return line
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Shorten the time step, as long as that helps."""
        script, output = self.run.whole(attempt)
        ranges = [spread(block)[1] for plan, block in pairs(script, output)
                  if plan.conserves_energy and block.steps != 0]
        now = max(ranges, default=0.0)
        # An error of integration falls with the square of the time step.
        if self._range is not None and now > _SAME * self._range:
            self.advice = ("the drift does not depend on the time step: let the potential go to "
                           "zero at its cutoff (pair_modify shift yes, a switched style), make "
                           "kspace_style sharper, or look for a fix that works on the atoms")
            return None
        if times >= MOST_SHORTER:
            return None
        self._range = now
        begun = self.run.begin_again()
        shorter = shorten_timestep(self.run, self.run.output(attempt))
        return [*begun, *shorter] if shorter else None


_SAME = 0.7


def _jumps(script: Script) -> bool:
    """Whether the potential has a step at its cutoff."""
    cut = any(w.startswith(("lj/", "buck", "morse", "born", "coul/cut", "mie", "hybrid"))
              for c in script.all("pair_style") for w in c.args[:1])
    return cut and not any("shift" in c.words for c in script.all("pair_modify"))


def drift(block: RunBlock, limits: tuple[float, float] = SMOOTH) -> str | None:
    """Return what is wrong with the total energy of a run at constant energy, or None."""
    moved, width = spread(block)
    if moved <= limits[0] and width <= limits[1]:
        return None
    total = block.column("TotEng")
    return (f"TotEng {total[0]:g} -> {total[-1]:g} at constant energy: drift {moved:.1%}, "
            f"range {width:.1%} of the kinetic energy")


def spread(block: RunBlock) -> tuple[float, float]:
    """Return drift and range of the total energy over the kinetic energy; 0 when not known."""
    total = block.column("TotEng")
    potential = block.column("PotEng")
    if not potential:
        parts = [block.column("E_pair"), block.column("E_mol")]
        potential = [sum(p) for p in zip(*parts, strict=False)] if all(parts) else []
    kinetic = block.column("KinEng") or [
        t - p for t, p in zip(total, potential, strict=False)]
    if len(total) < 5 or not kinetic:  # noqa: PLR2004  too few to tell drift from noise
        return 0.0, 0.0
    scale = sum(kinetic) / len(kinetic)
    if scale <= 0:
        return 0.0, 0.0
    count = max(1, len(total) // 5)
    moved = abs(sum(total[-count:]) - sum(total[:count])) / count / scale
    return moved, (max(total) - min(total)) / scale


@dataclass
class StepsMissing:
    """LAMMPS ended well, but not all steps asked for were done."""

    run: LammpsRun
    failure_id: str = "LAMMPS_STEPS_MISSING"

    def find(self, attempt: Attempt) -> str | None:
        """Compare the steps done with those of the script."""
        script, blocks = self.run.script, self.run.output(attempt).runs
        plans = model.plans(script)
        if not script.linear or any(r.halted for r in blocks):
            return None  # fix halt is the user's own condition
        if next(self.run.quits(), None) is not None:
            return None
        if len(blocks) < len(plans):
            return f"{len(plans)} runs in the input, {len(blocks)} in the output"
        for plan, block in pairs(script, self.run.output(attempt)):
            args = plan.command.args
            wanted = model.value(script, args[0], plan.at) if args else None
            if plan.command.name == "minimize" or wanted is None or block.steps is None:
                continue
            if "upto" in args:
                wanted -= block.first_step or 0
            if block.steps < wanted:
                return f"{block.steps} steps done of {wanted:g} ({plan.command})"
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Run it once more."""
        return [] if times < 1 else None
