"""ph.x: unconverged responses, and pw.x runs it can't start from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.qe_output import error_box, is_finished, line_with

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt


def known_end(text: str) -> bool:
    """Whether an output says why ph.x ended without a full result."""
    return line_with(text, r"No convergence has been achieved|Maximum CPU time exceeded|"
                     r"Program stopped by user request") is not None


@dataclass
class ResponseNotConverged:
    """The self-consistent response did not converge within niter_ph."""

    run: QeRun
    failure_id: str = "PH_NOT_CONVERGED"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the text; JOB DONE follows it."""
        return line_with(attempt.stdout, r"No convergence has been achieved")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """More iterations first, then another mixing; always go on from what is done."""
        found = self.run.input
        steps: list[dict[str, int | float]] = [
            {"niter_ph": max(100, int(found.number("inputph", "niter_ph", 100)))},
                 {"nmix_ph": 8}, {"alpha_mix": 0.3}, {"alpha_mix": 0.1}]
        if times >= len(steps):
            return None
        return self.run.edit(inputph={"recover": True, **steps[times]})


@dataclass
class ElectricFieldInMetal:
    """``epsil`` asked for a dielectric constant a metal does not have."""

    run: QeRun
    failure_id: str = "PH_EPSIL_METAL"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the box of phq_readin."""
        box = error_box(attempt.stdout)
        return str(box) if box is not None and re.search(
            r"no elec\. field with metals|epsil", str(box)) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Leave it out: it only adds what does not exist here."""
        return (self.run.edit(inputph={"epsil": False}) or None) if times == 0 else None


@dataclass
class GammaTricks:
    """The SCF used real wavefunctions at Gamma, which ph.x can't read."""

    failure_id: str = "PH_GAMMA_TRICKS"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the box."""
        box = error_box(attempt.stdout)
        return str(box) if box is not None and re.search(
            r"Gamma-point tricks|gamma_only|Gamma tricks", str(box), re.IGNORECASE) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Leave it: the step before must change, see `run_input`."""
        return None


@dataclass
class ParentIncompatible:
    """Grid or representation of the SCF do not fit the phonon's symmetry."""

    run: QeRun
    failure_id: str = "PH_SYMMETRY"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the boxes."""
        box = error_box(attempt.stdout)
        return str(box) if box is not None and re.search(
            r"FFT grid incompatible|wrong representation|set_irr|non orthogonal|find_mode_sym",
            str(box)) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Do without the classification of modes."""
        return (self.run.edit(inputph={"search_sym": False}) or None) if times == 0 else None


@dataclass
class PhononNotDone:
    """It ended without the dynamical matrices it was asked for."""

    run: QeRun
    failure_id: str = "PH_RESULT_INCOMPLETE"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the end and the file."""
        if not is_finished(attempt.stdout):
            return None
        found = self.run.input
        if str(found.get("inputph", "trans", True)).lower() in {"false", ".false."} or (
                found.get("inputph", "only_init") is True):
            return None
        # A part of the modes leaves its part in outdir; another run puts them together.
        if {"start_irr", "last_irr"} & set(found.namelists.get("inputph", {})):
            return None
        name = str(found.get("inputph", "fildyn", "matdyn")).strip()
        if not any(f.stat().st_size for f in self.run.folder.glob(f"{name}*") if f.is_file()):
            return f"no dynamical matrix in {name}"
        return line_with(attempt.stdout, r"freq \(\s*\d+\) =\s+(?:NaN|\*+)")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Nothing is known of the cause."""
        return None
