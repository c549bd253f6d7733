"""The ordered rules for pw.x, ph.x and the smaller programs of Quantum ESPRESSO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import qe_box, qe_files, qe_ions, qe_ph, qe_scf, qe_silent
from orionflow.launchers.custodian.common import Killed, LauncherFailed
from orionflow.launchers.custodian.qe_base import FINISHED, STARTED
from orionflow.launchers.custodian.qe_user import UserError
from orionflow.launchers.custodian.qe_walltime import StoppedByUser, WalltimeStop
from orionflow.launchers.custodian.watch import FROZEN_ID, Frozen
from orionflow.launchers.qe_output import error_box, is_finished, line_with

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt, Rule

__all__ = ["FROZEN_ID", "ph_rules", "pw_rules", "tool_rules"]


def pw_rules(run: QeRun) -> list[Rule]:
    """Return the rules for pw.x in the order in which they are asked."""
    return [
        *_outside(run),
        qe_files.BrokenXml(run), qe_files.BrokenDensity(run), qe_files.BrokenWavefunctions(run),
        qe_box.Pools(run), qe_box.TooManyBands(run), qe_box.TooFewBands(run),
        qe_box.OddElectrons(run), qe_box.ChargeWrong(run), qe_box.FermiLevel(run),
        qe_ions.CellFactor(run), qe_ions.CellSymmetry(run), qe_ions.AtomSymmetry(run),
        qe_box.TooManyRanks(), qe_box.Diagonalisation(run),
        UserError(), qe_box.Crash(),
        qe_silent.EnergyAbsurd(run), qe_silent.SilentMetal(run),
        qe_scf.ScfNotConverged(run), qe_scf.ScfPretended(run),
        qe_ions.StepsUsedUp(run),
        MessageLost(), UnknownEnd(),
        # From here on the code itself is content.
        qe_files.ResultMissing(run), qe_silent.NothingPrinted(run), qe_silent.XmlSaysNo(run),
        qe_silent.TopBandOccupied(run), qe_silent.BandsNotConverged(run),
        qe_ions.RelaxNotDone(run), qe_ions.ForcesLeft(run), qe_ions.PressureLeft(run),
    ]


def ph_rules(run: QeRun) -> list[Rule]:
    """Return the rules for ph.x."""
    return [
        *_outside(run),
        qe_files.BrokenXml(run), qe_files.BrokenDensity(run), qe_files.BrokenWavefunctions(run),
        qe_box.Pools(run), qe_ph.GammaTricks(), qe_ph.ElectricFieldInMetal(run),
        qe_ph.ParentIncompatible(run), qe_box.TooManyRanks(),
        UserError(), qe_box.Crash(),
        qe_ph.ResponseNotConverged(run),
        MessageLost(), UnknownEnd(),
        qe_ph.PhononNotDone(run),
    ]


def tool_rules(run: QeRun) -> list[Rule]:
    """Return the rules for programs that only read and write (q2r.x, dos.x, bands.x ...)."""
    return [*_outside(run), UserError(), qe_box.Crash(), MessageLost(), UnknownEnd()]


def _outside(run: QeRun) -> list[Rule]:
    return [
        QeNotStarted(begun=STARTED, failure_id="QE_NOT_STARTED"),
        qe_files.DiskFull(run), qe_box.OutOfMemory(run),
        QeKilled(finished=FINISHED, failure_id="QE_KILLED"),
        Frozen(FROZEN_ID), WalltimeStop(run), StoppedByUser(),
    ]


@dataclass
class QeNotStarted(LauncherFailed):
    """Not started; some boxes come before the code has said its name."""

    def find(self, attempt: Attempt) -> str | None:
        """Look for the launcher's complaint where no box explains the end."""
        return None if error_box(attempt.stdout) else super().find(attempt)


@dataclass
class QeKilled(Killed):
    """Killed from outside; an error box tells of an end of the code's own."""

    def find(self, attempt: Attempt) -> str | None:
        """Look for the signal where no box explains the end."""
        if error_box(attempt.stdout):
            return None
        found = super().find(attempt)
        if found is None and attempt.returncode and STARTED in attempt.stdout and (
                not attempt.stderr.strip() and not is_finished(attempt.stdout)):
            # mpirun, asked to end by SIGTERM, takes its ranks along without a word.
            return (f"the output stops in the middle, without a message; return code "
                    f"{attempt.returncode}")
        return found


@dataclass
class MessageLost:
    """It aborted, and its last words were lost on the way through MPI."""

    failure_id: str = "QE_MESSAGE_LOST"

    def find(self, attempt: Attempt) -> str | None:
        """Look for MPI's words where there are none of the code."""
        if attempt.returncode == 0 or is_finished(attempt.stdout) or error_box(attempt.stdout):
            return None
        return line_with(attempt.stderr, r"with errorcode|ORTE_ERROR_LOG|PMIX ERROR")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Run once more, to hear them."""
        return [] if times == 0 else None


@dataclass
class UnknownEnd:
    """It did not end well and no other rule knows why."""

    failure_id: str = "CODE_UNKNOWN"

    def find(self, attempt: Attempt) -> str | None:
        """Look for a box, a bad return code or a missing end."""
        box = error_box(attempt.stdout)
        if box is not None:
            return str(box)
        if attempt.returncode != 0:
            return f"return code {attempt.returncode}; " + _last_line(attempt)
        if not is_finished(attempt.stdout):
            return "the output has no `JOB DONE`; " + _last_line(attempt)
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Do not guess."""
        return None


def _last_line(attempt: Attempt) -> str:
    for text in (attempt.stderr, attempt.stdout):
        lines = [x.strip() for x in text.splitlines() if x.strip(" -=")]
        if lines:
            return f"last line: {lines[-1][:200]}"
    return "nothing was printed"
