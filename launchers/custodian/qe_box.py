"""Error boxes of pw.x that can be answered: diagonalisation, bands, occupations, memory, pools."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian.common import ending_signal, memory_line
from orionflow.launchers.custodian.qe_continue import go_on
from orionflow.launchers.mpi_ranks import pool_option, rank_count
from orionflow.launchers.qe_output import error_box, line_with

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt

_DIAGONALISATION = re.compile(
    r"[cr]diaghg|S matrix not positive definite|cholesky|eigenvectors failed to converge|zhegvd|"
    r"dsygvd|\[Q, R\] = qr|broyden|too many bands are not converged|regterg|cegterg|"
    r"rotate_wfc", re.IGNORECASE)
_SOLVERS = ("david", "paro", "cg", "ppcg")
SMEARING = {"occupations": "smearing", "smearing": "mv", "degauss": 0.02}


@dataclass
class Diagonalisation:
    """The eigenvalue solver broke down: take another, each once."""

    run: QeRun
    failure_id: str = "QE_DIAGONALISATION"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the boxes of the solvers."""
        box = error_box(attempt.stdout)
        if box is None or box.routine == "iosys":  # which names a solver it does not know
            return None
        return str(box) if _DIAGONALISATION.search(str(box)) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Next solver; then random wavefunctions."""
        found = self.run.input
        if line_with(attempt.stdout, r"more bands than PWs"):
            return _default_bands(self)
        tried = self.run.notes.setdefault("solvers", [])
        now = str(found.get("electrons", "diagonalization", "david")).strip().lower()
        tried.append({"davidson": "david"}.get(now, now))
        for solver in _SOLVERS:
            if solver not in tried:
                return self.run.edit(electrons={"diagonalization": solver})
        if "random" not in tried:
            tried.append("random")
            return self.run.edit(electrons={"diagonalization": "david", "diago_david_ndim": 4,
                                            "startingwfc": "random"})
        self.advice = "all solvers fail: check the structure, the cutoffs and the pseudopotentials"
        return None


@dataclass
class TooManyBands:
    """More bands than plane waves."""

    run: QeRun
    failure_id: str = "QE_MORE_BANDS_THAN_PW"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the text of memory_report."""
        return line_with(attempt.stdout,
                         r"more bands than PWs|too many bands, or too few plane waves")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Back to the default number of bands, if it was chosen by hand."""
        return _default_bands(self)


@dataclass
class TooFewBands:
    """``nbnd`` is smaller than the electrons need."""

    run: QeRun
    failure_id: str = "QE_TOO_FEW_BANDS"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the box of setup."""
        box = error_box(attempt.stdout)
        return str(box) if box is not None and re.search(
            r"too few (?:spin (?:up|dw|down) )?bands", str(box)) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Back to the default number of bands."""
        return _default_bands(self)


@dataclass
class OddElectrons:
    """An insulator was assumed where bands are half filled."""

    run: QeRun
    failure_id: str = "QE_SMEARING_NEEDED"
    title: str | None = None
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the box of electrons."""
        box = error_box(attempt.stdout)
        if box is None or "smearing is needed" not in str(box):
            return None
        occupations = str(self.run.input.get("system", "occupations", "fixed")).strip().lower()
        if occupations != "fixed":
            self.title = f"the charge does not add up with occupations = '{occupations}'"
        return str(box)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002  Rule's signature
        """Smear the occupations, unless the k-points are at fault."""
        found = self.run.input
        kpoints = found.cards.get("K_POINTS")
        if kpoints is not None and kpoints.option in {"", "tpiba", "crystal"}:
            weights = [line.split()[3:4] for line in kpoints.lines[1:]]
            try:
                total = sum(float(w[0]) for w in weights if w)
            except ValueError:
                total = 0.0
            if total <= 0:
                self.advice = "all k-points have weight 0: give them weights in K_POINTS"
                return None
        occupations = str(found.get("system", "occupations", "fixed")).strip().lower()
        if times > 0 or occupations != "fixed":
            self.advice = "check the number of electrons, tot_charge and the occupations"
            return None
        return self.run.edit(system=SMEARING)


@dataclass
class ChargeWrong:
    """The charge does not add up although occupations are smeared."""

    run: QeRun
    failure_id: str = "QE_CHARGE_WRONG"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the box."""
        box = error_box(attempt.stdout)
        return str(box) if box is not None and "charge is wrong" in str(box) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Cutoffs and bands are the user's."""
        return None


@dataclass
class FermiLevel:
    """The Fermi level can't be found."""

    run: QeRun
    failure_id: str = "QE_FERMI_LEVEL"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the box of efermig."""
        box = error_box(attempt.stdout)
        return str(box) if box is not None and re.search(
            r"cannot bracket Ef|efermi[gt]|bad Fermi energy", str(box)) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """As many bands as pw.x itself takes; cold smearing in place of Methfessel-Paxton."""
        if times > 1:
            return None
        kind = str(self.run.input.get("system", "smearing", "gaussian")).lower()
        if times == 0 and kind.startswith(("m-p", "mp", "meth")):
            return self.run.edit(system={"smearing": "mv"})
        if times == 0 and self.run.input.number("system", "nbnd", 0):
            return self.run.edit(system={"nbnd": 0})
        return more_bands(self.run, attempt)


@dataclass
class OutOfMemory:
    """The memory of the node was too small."""

    run: QeRun
    failure_id: str = "QE_OUT_OF_MEMORY"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the kernel's, Slurm's, gfortran's and QE's words."""
        box = error_box(attempt.stdout)
        if box is not None:
            return str(box) if re.search(
                r"cannot allocate|unable to allocate|allocation (?:failed|error)|"
                r"insufficient memory", str(box), re.IGNORECASE) else None
        return memory_line(attempt.stderr) or line_with(
            attempt.stderr, r"Error allocating|Allocation would exceed memory limit|"
            r"Cannot allocate memory|bad_alloc")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Once unchanged if it was killed, then the leanest solver."""
        found = self.run.input
        if "inputph" in found.namelists:
            return None
        if times == 0 and ending_signal(attempt.returncode, attempt.stderr) is not None:
            return go_on(self.run, attempt.stdout)
        solver = str(found.get("electrons", "diagonalization", "david")).strip().lower()
        if solver.startswith("david") and found.number("electrons", "diago_david_ndim", 2) > 2:  # noqa: PLR2004
            changes = self.run.edit(electrons={"diago_david_ndim": 2})
            if changes:
                return changes
        return self.run.edit(electrons={"diagonalization": "cg"}) if solver != "cg" else None


@dataclass
class Crash:
    """A segmentation fault or the like, without a word."""

    run: QeRun
    failure_id: str = "QE_CRASHED"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the signals a program sends to itself."""
        if error_box(attempt.stdout) is not None:
            return None
        ended = ending_signal(attempt.returncode, attempt.stderr)
        if ended is not None and ended[0] in {4, 6, 7, 8, 11}:
            return ended[1]
        return line_with(attempt.stderr, r"Program received signal SIG\w+")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Once more, unchanged; a relaxation from its last step."""
        return go_on(self.run, attempt.stdout) if times == 0 else None


@dataclass
class Pools:
    """``-nk`` on the command line does not fit the ranks or the k-points."""

    run: QeRun
    failure_id: str = "QE_POOLS"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the boxes about pools."""
        box = error_box(attempt.stdout)
        if box is not None and re.search(
                r"number of pools|pools with no k-points|nodes have no k-points|npool", str(box)):
            return str(box)
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Take the largest number of pools that divides the ranks, not above the k-points."""
        command = self.run.job.command
        option = pool_option(command)
        if option is None or times > 1:
            self.advice = "choose -nk so that it divides the ranks and is at most the k-points"
            return None
        index, pools = option
        ranks = rank_count(command)
        said = line_with(attempt.stdout, r"number of processors|Parallel version.*running on")
        digits = re.search(r"(\d+)\s+processors", said or "")
        ranks = int(digits[1]) if digits else ranks
        points = line_with(attempt.stdout, r"number of k points=\s*\d+")
        most = int(re.findall(r"number of k points=\s*(\d+)", points)[0]) if points else pools
        fitting = max(n for n in range(1, ranks + 1)
                      if ranks % n == 0 and (n <= min(most, pools) or n == 1))
        if fitting == pools:
            self.advice = "use fewer pools (-nk) or fewer ranks"
            return None
        command[index] = str(fitting)
        return [f"{command[index - 1]} on the command line: {pools} -> {fitting}"]


@dataclass
class TooManyRanks:
    """More ranks than planes or plane waves to share."""

    failure_id: str = "QE_TOO_MANY_RANKS"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the boxes about empty ranks."""
        box = error_box(attempt.stdout)
        return str(box) if box is not None and re.search(
            r"processors? ha(?:ve|s) no (?:G-vectors|planes|data|sticks)|no G-vectors|nr3x|"
            r"some processors have no", str(box)) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Leave it: the number of ranks belongs to the launch command."""
        return None


def more_bands(run: QeRun, attempt: Attempt) -> list[str]:
    """Raise nbnd by a twentieth, at least four."""
    line = line_with(attempt.stdout, r"number of Kohn-Sham states=\s*\d+")
    now = int(re.findall(r"states=\s*(\d+)", line)[0]) if line else int(
        run.input.number("system", "nbnd", 4))
    return run.edit(system={"nbnd": now + max(4, now // 20)})


def _default_bands(rule: TooManyBands | TooFewBands | Diagonalisation) -> list[str] | None:
    found = rule.run.input
    if not found.number("system", "nbnd", 0):
        rule.advice = "raise ecutwfc, or ask for fewer bands (nbnd)"
        return None
    return rule.run.edit(system={"nbnd": 0})
