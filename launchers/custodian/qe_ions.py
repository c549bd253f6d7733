"""Relaxations of ions and cell that stopped early, went astray or only seem converged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.errors import InputError
from orionflow.launchers.custodian.qe_continue import RELAX, continue_from_output
from orionflow.launchers.qe_output import (
    error_box,
    is_finished,
    last_stress,
    line_with,
    read_xml,
    total_energies,
    xml_forces,
    xml_text,
)

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt
    from orionflow.launchers.qe_input import QeInput

_FORCE_SLACK = 1.05
_FINAL_SCF = "Final scf calculation at the relaxed structure"


@dataclass
class StepsUsedUp:
    """``nstep`` reached before forces vanished: go on from there."""

    run: QeRun
    failure_id: str = "QE_NSTEP"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the text; for a dynamics it is the normal end."""
        if self.run.input.calculation not in RELAX:
            return None
        return line_with(attempt.stdout, r"The maximum number of steps has been reached")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Restart with more steps, as long as the energy falls."""
        energies = total_energies(attempt.stdout)
        if times > 0 and len(energies) > 5 and min(energies) >= energies[0]:  # noqa: PLR2004
            self.advice = ("the energy no longer falls: look at the structure, or at conv_thr, "
                           "which may be too loose for the forces")
            return None
        found = self.run.input
        steps = int(found.number("control", "nstep", 50))
        more = {"nstep": max(50, 2 * steps)}
        if times == 0 and read_xml(self.run.xml_path) is not None:
            return self.run.edit(control={"restart_mode": "restart", **more})
        changes = self.run.edit(control={"restart_mode": "from_scratch", **more})
        return changes + continue_from_output(self.run, attempt.stdout)


@dataclass
class CellFactor:
    """The cell grew out of the tables made for the first one."""

    run: QeRun
    failure_id: str = "QE_CELL_FACTOR"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the box of scale_h."""
        box = error_box(attempt.stdout)
        return str(box) if box is not None and re.search(
            r"cell_factor|Not enough space allocated for radial FFT", str(box)) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Larger tables; once they are large, go on from the last cell."""
        now = self.run.input.number("cell", "cell_factor", 2.0)
        if times == 0 and now < 4.0:  # noqa: PLR2004
            return self.run.edit(cell={"cell_factor": min(4.0, max(2.0, 2 * now))})
        if times > 2:  # noqa: PLR2004
            return None
        changes = self.run.edit(control={"restart_mode": "from_scratch"},
                                cell={"cell_factor": max(2.0, now)})
        return (changes + continue_from_output(self.run, attempt.stdout)) or None


@dataclass
class CellSymmetry:
    """The cell lost a symmetry it was told to keep."""

    run: QeRun
    failure_id: str = "QE_SYMMETRY_CELL"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the box of checkallsym."""
        box = error_box(attempt.stdout)
        return str(box) if box is not None and re.search(
            r"not orthogonal operation", str(box)) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Go on from the last cell, whose symmetry is found anew; then without symmetry."""
        return _without_symmetry(self.run, attempt, times)


@dataclass
class AtomSymmetry:
    """The atoms lost a symmetry found at the start."""

    run: QeRun
    failure_id: str = "QE_SYMMETRY_ATOMS"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the box."""
        box = error_box(attempt.stdout)
        return str(box) if box is not None and re.search(
            r"symmetry operations? (?:is )?not satisfied|checkallsym", str(box)) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Go on from the last positions; then without symmetry."""
        if self.run.input.calculation not in RELAX:
            return self.run.edit(system={"nosym": True}) or None
        return _without_symmetry(self.run, attempt, times)


@dataclass
class RelaxNotDone:
    """It ended with success and without a relaxed structure."""

    run: QeRun
    failure_id: str = "QERELAX_UNFINISHED"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the final coordinates and the flag in the XML."""
        if self.run.input.calculation not in RELAX or not is_finished(attempt.stdout):
            return None
        if "Begin final coordinates" not in attempt.stdout:
            return "no `Begin final coordinates` in the output"
        flag = xml_text(self.run.xml(), "output/convergence_info/opt_conv/convergence_achieved")
        return "the XML says: opt_conv convergence_achieved false" if flag == "false" else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Go on from the last structure."""
        if times > 1:
            return None
        return self.run.edit(control={"restart_mode": "from_scratch"}) + continue_from_output(
            self.run, attempt.stdout)


@dataclass
class ForcesLeft:
    """BFGS gave up and called it converged: the forces say otherwise."""

    run: QeRun
    failure_id: str = "QE_FORCES_NOT_CONVERGED"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Compare the forces with their threshold."""
        found = self.run.input
        if found.calculation not in RELAX or not is_finished(attempt.stdout):
            return None
        threshold = found.number("control", "forc_conv_thr", 1e-3)
        largest = largest_free_force(self.run)
        slack = 1.5 if _FINAL_SCF in attempt.stdout else _FORCE_SLACK  # another basis: see P below
        if largest is None or largest <= slack * threshold:
            return None
        why = line_with(attempt.stdout, r"history already reset|bfgs failed|NR step-length|dE0s")
        return (f"largest force {largest:.2e} Ry/bohr, forc_conv_thr {threshold:.2e}"
                + (f"; {why}" if why else ""))

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Better forces and smaller steps, then damped dynamics."""
        found = self.run.input
        control = {"restart_mode": "from_scratch"}
        cell = found.calculation == "vc-relax"
        bfgs_gave_up = line_with(attempt.stdout, r"history already reset|bfgs failed")
        if cell and times < 2 and not bfgs_gave_up:  # noqa: PLR2004  the basis changed with the cell
            return self.run.edit(control=control) + continue_from_output(self.run, attempt.stdout)
        if times == 0:
            threshold = found.number("electrons", "conv_thr", 1e-6)
            changes = self.run.edit(
                control=control,
                electrons={"conv_thr": 1e-8 if threshold > 1e-8 else 0.01 * threshold},  # noqa: PLR2004
                ions={"trust_radius_min": 0.1 * found.number("ions", "trust_radius_min", 1e-3)})
        elif times == 1:
            changes = self.run.edit(control={**control, "nstep": 200},
                                    ions={"ion_dynamics": "damp"},
                                    **({"cell": {"cell_dynamics": "damp-pr"}} if cell else {}))
        else:
            self.advice = ("forces stay above forc_conv_thr: tighten conv_thr or raise the "
                           "cutoffs; the energy surface is too rough for the threshold")
            return None
        return changes + continue_from_output(self.run, attempt.stdout)


@dataclass
class PressureLeft:
    """The final SCF, with plane waves for the final cell, finds a pressure that is not zero."""

    run: QeRun
    failure_id: str = "QE_FINAL_PRESSURE"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Compare the last stress with the target."""
        found = self.run.input
        if found.calculation != "vc-relax" or _FINAL_SCF not in attempt.stdout:
            return None
        stress = last_stress(attempt.stdout)
        if stress is None:
            return None
        threshold = found.number("cell", "press_conv_thr", 0.5)
        target = found.number("cell", "press", 0.0)
        freedom = str(found.get("cell", "cell_dofree", "all")).strip().lower()
        if freedom not in {"all", "volume"} and not _along_axes(found):
            return None  # freed elements of the cell matrix are no components of the stress then
        left = worst_stress(stress, target, freedom)
        if left <= 1.05 * threshold:
            return None
        return (f"stress differs by {left:.2f} kbar from the target {target:g} kbar in the final "
                f"SCF, press_conv_thr {threshold:g} kbar")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Relax again from the final cell, with its own plane waves, while it helps."""
        self.advice = ("the pressure of the final SCF stays above press_conv_thr: a larger ecutwfc "
                       "makes the basis less dependent on the cell")
        stress = last_stress(attempt.stdout) or []
        seen = self.run.notes.setdefault("stress", [])
        seen.append(max((abs(x) for row in stress for x in row), default=0.0))
        if times > 2 and seen[-1] > 0.9 * min(seen[:-1]):  # noqa: PLR2004
            return None
        return self.run.edit(control={"restart_mode": "from_scratch"}) + continue_from_output(
            self.run, attempt.stdout)


def worst_stress(stress: list[list[float]], target: float, freedom: str) -> float:
    """Return the largest deviation of the free stress components from the target, kbar."""
    pressure = sum(stress[i][i] for i in range(3)) / 3
    off = [[stress[i][j] - (target if i == j else 0.0) for j in range(3)] for i in range(3)]
    if freedom == "all":
        return max(abs(x) for row in off for x in row)
    if freedom == "volume":
        return abs(pressure - target)
    if freedom in {"x", "y", "z", "xy", "xz", "yz", "xyz"}:
        return max(abs(off["xyz".index(axis)]["xyz".index(axis)]) for axis in freedom)
    if freedom == "2dxy":
        return max(abs(off[i][j]) for i in range(2) for j in range(2))
    return 0.0  # shape, 2Dshape, ibrav ...: what is free depends on the lattice


def _along_axes(found: QeInput) -> bool:
    """Whether the lattice vectors lie along x, y and z."""
    from orionflow.launchers.qe_geometry import read_geometry

    try:
        cell = read_geometry(found).cell
    except InputError:
        return False
    return all(abs(cell[i][j]) < 1e-6 for i in range(3) for j in range(3) if i != j)  # noqa: PLR2004  Å


def largest_free_force(run: QeRun) -> float | None:
    """Return the largest component of the forces on free atoms, Ry/bohr."""
    forces = xml_forces(run.xml())
    card = run.input.cards.get("ATOMIC_POSITIONS")
    if not forces or card is None:
        return None
    largest = 0.0
    for force, line in zip(forces, card.lines, strict=False):
        flags = line.split()[4:7]
        for k in range(3):
            if len(flags) == 3 and flags[k] == "0":  # noqa: PLR2004  a fixed coordinate
                continue
            largest = max(largest, abs(force[k]))
    return largest


def _without_symmetry(run: QeRun, attempt: Attempt, times: int) -> list[str] | None:
    scratch = {"restart_mode": "from_scratch"}
    if times == 0 and (moved := continue_from_output(run, attempt.stdout)):
        return run.edit(control=scratch) + moved
    if times <= 1 and run.input.get("system", "nosym") is not True:
        return run.edit(control=scratch, system={"nosym": True})
    return None
