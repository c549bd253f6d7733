"""Results of pw.x that look finished and are not physics."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian.qe_box import SMEARING, more_bands
from orionflow.launchers.custodian.qe_scf import trend
from orionflow.launchers.qe_output import (
    is_finished,
    line_with,
    read_bands,
    scf_accuracies,
    total_energies,
    xml_text,
)

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt

_TOP_OCCUPATION = 0.01
_OVERLAP = 1e-3  # eV
_NO_GAP = 0.05  # eV
_OWN_EXCHANGE = (5, 6)  # HCTH and OPTX hold the local exchange in their gradient term


@dataclass
class EnergyAbsurd:
    """A total energy that no bound system has."""

    run: QeRun
    failure_id: str = "QE_ENERGY_ABSURD"

    def find(self, attempt: Attempt) -> str | None:
        """Look at the sign and for numbers that are none."""
        if line_with(attempt.stdout, r"total energy\s+=\s+(?:NaN|Infinity|\*+)|"
                     r"estimated scf accuracy\s+<\s+(?:NaN|\*{5,})"):
            return line_with(attempt.stdout, r"total energy\s+=|estimated scf accuracy")
        energies = total_energies(attempt.stdout)
        if energies and not energies[-1] < 0:
            return f"total energy {energies[-1]:.8f} Ry is not negative"
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Leave it: the structure or the pseudopotential is wrong."""
        return None


@dataclass
class FunctionalWrong:
    """``input_dft`` was matched in part: no local exchange."""

    run: QeRun
    failure_id: str = "QE_FUNCTIONAL_WRONG"

    def find(self, attempt: Attempt) -> str | None:
        """Look at the numbers of exchange, correlation and their gradient terms."""
        wanted = self.run.input.get("system", "input_dft")
        said = re.search(r"Exchange-correlation\s*=(.*)\n?\s*\(([\s\d]+)\)", attempt.stdout)
        if not wanted or said is None:
            return None
        numbers = [int(x) for x in said[2].split()]
        if len(numbers) < 4 or numbers[0] or any(numbers[4:]) or (  # noqa: PLR2004
                numbers[2] in _OWN_EXCHANGE or "nox" in str(wanted).lower()):
            return None
        return (f"input_dft = {str(wanted).strip()!r} was read as {said[1].strip()} "
                f"({' '.join(map(str, numbers))}): no local exchange")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Leave it: the functional is the user's."""
        return None


@dataclass
class SilentMetal:
    """Levels cross: a metal was given the fixed occupations of an insulator."""

    run: QeRun
    failure_id: str = "QE_METAL_AS_INSULATOR"

    def find(self, attempt: Attempt) -> str | None:
        """Compare the highest full with the lowest empty level."""
        found = self.run.input
        occupations = str(found.get("system", "occupations", "fixed")).strip().lower()
        if occupations != "fixed" or found.calculation in {"nscf", "bands"}:
            return None
        unconverged = "convergence NOT achieved" in attempt.stdout
        if not unconverged and not is_finished(attempt.stdout):
            return None
        cycles = scf_accuracies(attempt.stdout)
        if unconverged and trend(cycles[-1] if cycles else []) == "falling":
            return None  # levels of an unfinished cycle prove nothing
        bands = read_bands(self.run.xml())
        edges = bands.edges() if bands is not None else None
        # Levels that meet in a cycle that does not settle exchange places at each iteration.
        gap = _NO_GAP if unconverged else -_OVERLAP
        if edges is None or edges[1] - edges[0] >= gap:
            return None
        if unconverged:
            return (f"the SCF cycle does not settle and only {edges[1] - edges[0]:.4f} eV part "
                    "full and empty levels")
        return (f"highest full level {edges[0]:.4f} eV lies above the lowest empty one, "
                f"{edges[1]:.4f} eV")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Smear the occupations; the empty bands stay."""
        return self.run.edit(system=SMEARING) if times == 0 else None


@dataclass
class TooFewBandsRead:
    """Fewer bands than electrons fill, which pw.x accepts after an SCF: nscf and bands."""

    run: QeRun
    failure_id: str = "QE_TOO_FEW_BANDS"

    def find(self, attempt: Attempt) -> str | None:
        """Compare places with electrons."""
        if not is_finished(attempt.stdout):
            return None
        structure = self.run.xml()
        structure = structure.find("output/band_structure") if structure is not None else None
        if structure is None:
            return None
        electrons = _number(structure.findtext("nelec") or "")
        both = [_number(structure.findtext(f"nbnd_{spin}") or "") for spin in ("up", "dw")]
        bands = _number(structure.findtext("nbnd") or "")
        if math.isfinite(sum(both)):
            places = sum(both)
        else:
            places = bands if (structure.findtext("noncolin") or "").strip() == "true" else (
                2 * bands)
        if not electrons - places > 1e-6:  # noqa: PLR2004  also when a number is missing
            return None
        return f"bands for {places:g} electrons, but there are {electrons:g}"

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Back to the default number of bands."""
        return (self.run.edit(system={"nbnd": 0}) or None) if times == 0 else None


@dataclass
class TopBandOccupied:
    """The last band holds electrons: others are missing above it."""

    run: QeRun
    failure_id: str = "QE_TOP_BAND_OCCUPIED"

    def find(self, attempt: Attempt) -> str | None:
        """Look at its occupation."""
        found = self.run.input
        occupations = str(found.get("system", "occupations", "fixed")).strip().lower()
        if occupations in {"fixed", "from_input"} or found.calculation in {"nscf", "bands"} or (
                not is_finished(attempt.stdout)):
            return None
        bands = read_bands(self.run.xml())
        if bands is None or (top := bands.top_occupation()) <= _TOP_OCCUPATION:
            return None
        return f"occupation of the last band up to {top:.3f}"

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """More bands."""
        return more_bands(self.run, attempt) if times < 4 else None  # noqa: PLR2004


@dataclass
class BandsNotConverged:
    """Eigenvalues of the last diagonalisation were not converged."""

    run: QeRun
    failure_id: str = "QE_BANDS_NOT_CONVERGED"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the warning where no later iteration can have mended it."""
        at = max(attempt.stdout.rfind("     iteration #"), 0)
        return line_with(attempt.stdout[at:], r"c_bands:\s*\d+ eigenvalues not converged")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Take a solver with more patience."""
        steps = [{"diagonalization": "david", "diago_david_ndim": 4, "diago_full_acc": True},
                 {"diagonalization": "cg", "diago_cg_maxiter": 100}]
        for step in steps[times:]:
            if changes := self.run.edit(electrons=step):
                return changes
        return None


@dataclass
class XmlSaysNo:
    """The XML does not call the SCF converged."""

    run: QeRun
    failure_id: str = "QE_SCF_PRETENDED"

    def find(self, attempt: Attempt) -> str | None:
        """Look at the flag and the energy."""
        if self.run.input.calculation in {"nscf", "bands"} or not is_finished(attempt.stdout):
            return None
        root = self.run.xml()
        if xml_text(root, "output/convergence_info/scf_conv/convergence_achieved") == "false":
            return "the XML says: scf_conv convergence_achieved false"
        energy = xml_text(root, "output/total_energy/etot")
        if root is not None and (energy is None or not math.isfinite(_number(energy))):
            return f"total energy in the XML: {energy}"
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Nothing is known of the cause."""
        return None


@dataclass
class NothingPrinted:
    """It says it is done but printed no result."""

    run: QeRun
    failure_id: str = "QE_RESULT_INCOMPLETE"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the end of the calculation that was asked for."""
        calculation = self.run.input.calculation
        text = attempt.stdout
        if calculation in {"nscf", "bands"}:
            return None if "End of band structure calculation" in text else (
                "no `End of band structure calculation` in the output")
        if not total_energies(text):
            return "no converged total energy in the output"
        ends = ("The maximum number of steps has been reached",
                "End of molecular dynamics calculation",
                "Maximum number of iterations reached, stopping")
        steps = self.run.input.number("control", "nstep", 50)
        if calculation in {"md", "vc-md"} and not any(end in text for end in ends) and (
                text.count("Entering Dynamics") < steps):
            return "the dynamics did not reach its number of steps"
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Nothing is known of the cause."""
        return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
