"""The ordered rules for pw.x, ph.x and the smaller programs of Quantum ESPRESSO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import qe_box, qe_files, qe_ions, qe_ph, qe_scf, qe_silent
from orionflow.launchers.custodian.common import Killed, LauncherFailed, ending_signal
from orionflow.launchers.custodian.qe_base import FINISHED, STARTED
from orionflow.launchers.custodian.qe_continue import go_on
from orionflow.launchers.custodian.qe_user import UserError
from orionflow.launchers.custodian.qe_walltime import StoppedByUser, WalltimeStop
from orionflow.launchers.custodian.watch import FROZEN_ID
from orionflow.launchers.qe_output import error_box, is_finished, line_with

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt, Rule

__all__ = ["FROZEN_ID", "ph_rules", "pw_rules", "tool_rules"]


def pw_rules(run: QeRun) -> list[Rule]:
    """Return the rules for pw.x in the order in which they are asked."""
    return [
        *_outside(run, checked=True),
        qe_files.BrokenXml(run), qe_files.BrokenDensity(run), qe_files.BrokenWavefunctions(run),
        qe_files.BrokenRestart(run),
        qe_box.Pools(run), qe_box.TooManyBands(run), qe_box.TooFewBands(run),
        qe_box.OddElectrons(run), qe_box.ChargeWrong(run), qe_box.FermiLevel(run),
        qe_ions.CellFactor(run), qe_ions.CellSymmetry(run), qe_ions.AtomSymmetry(run),
        qe_box.TooManyRanks(), qe_box.Diagonalisation(run),
        UserError(run), qe_box.Crash(run),
        qe_silent.FunctionalWrong(run), qe_silent.EnergyAbsurd(run), qe_silent.SilentMetal(run),
        qe_scf.ScfNotConverged(run), qe_scf.ScfPretended(run),
        qe_ions.StepsUsedUp(run),
        MessageLost(run), UnknownEnd(checked=True),
        # From here on the code itself is content.
        qe_files.ResultMissing(run), qe_silent.NothingPrinted(run), qe_silent.XmlSaysNo(run),
        qe_silent.TooFewBandsRead(run), qe_silent.TopBandOccupied(run),
        qe_silent.BandsNotConverged(run),
        qe_ions.RelaxNotDone(run), qe_ions.ForcesLeft(run), qe_ions.PressureLeft(run),
    ]


def ph_rules(run: QeRun) -> list[Rule]:
    """Return the rules for ph.x."""
    return [
        *_outside(run),
        qe_files.BrokenXml(run), qe_files.BrokenDensity(run), qe_files.BrokenWavefunctions(run),
        qe_box.Pools(run), qe_ph.GammaTricks(), qe_ph.ElectricFieldInMetal(run),
        qe_ph.ParentIncompatible(run), qe_box.TooManyRanks(),
        UserError(run), qe_box.Crash(run),
        qe_ph.ResponseNotConverged(run),
        MessageLost(run), UnknownEnd(),
        qe_ph.PhononNotDone(run),
    ]


def tool_rules(run: QeRun) -> list[Rule]:
    """Return the rules for programs that only read and write (q2r.x, dos.x, bands.x ...)."""
    return [*_outside(run), UserError(run), qe_box.Crash(run), MessageLost(run), UnknownEnd()]


def _outside(run: QeRun, *, checked: bool = False) -> list[Rule]:
    return [
        QeNotStarted(begun=STARTED, failure_id="QE_NOT_STARTED"),
        qe_files.DiskFull(run), qe_box.OutOfMemory(run),
        QeKilled(run, checked),
        QeFrozen(run), WalltimeStop(run), StoppedByUser(),
    ]


@dataclass
class QeNotStarted(LauncherFailed):
    """Not started; some boxes come before the code has said its name."""

    def find(self, attempt: Attempt) -> str | None:
        """Look for the launcher's complaint where no box explains the end."""
        return None if error_box(attempt.stdout) else super().find(attempt)


@dataclass
class QeKilled:
    """Killed from outside; an error box tells of an end of the code's own.

    Attributes
    ----------
    checked
        Whether later rules look at the result so closely that the output's own word for its end
        is enough. It is not for ph.x and the smaller programs, whose one return code for all that
        is not well, 1, is also that of an mpirun that was asked to end.
    """

    run: QeRun
    checked: bool = False
    failure_id: str = "QE_KILLED"
    signal: Killed = field(default_factory=lambda: Killed(FINISHED, "QE_KILLED"))

    def find(self, attempt: Attempt) -> str | None:
        """Look for the signal where neither a box nor the code's own end explains it."""
        if error_box(attempt.stdout):
            return None
        if is_finished(attempt.stdout):
            if self.checked or not attempt.returncode or qe_ph.known_end(attempt.stdout):
                return None
            return (f"return code {attempt.returncode} after `JOB DONE`, without a reason in the "
                    "output")
        found = self.signal.find(attempt)
        if found is None and attempt.returncode and STARTED in attempt.stdout and (
                not attempt.stderr.strip()):
            # mpirun, asked to end by SIGTERM, takes its ranks along without a word.
            return (f"the output stops in the middle, without a message; return code "
                    f"{attempt.returncode}")
        return found

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Run again unchanged, a relaxation from its last step, while there is time for it."""
        if is_finished(attempt.stdout) and times > 0:
            return None
        if self.signal.fix(attempt, times) is None:
            return None
        return go_on(self.run, attempt.stdout)


@dataclass
class QeFrozen:
    """Frozen; a relaxation goes on from its last step."""

    run: QeRun
    failure_id: str = FROZEN_ID

    def find(self, attempt: Attempt) -> str | None:  # noqa: ARG002  only the monitor can tell
        """Nothing in the output shows it."""
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Once more."""
        return go_on(self.run, attempt.stdout) if times == 0 else None


@dataclass
class MessageLost:
    """It aborted, and its last words were lost on the way through MPI."""

    run: QeRun
    failure_id: str = "QE_MESSAGE_LOST"

    def find(self, attempt: Attempt) -> str | None:
        """Look for MPI's words where there are none of the code."""
        if attempt.returncode == 0 or is_finished(attempt.stdout) or error_box(attempt.stdout):
            return None
        return line_with(attempt.stderr, r"with errorcode|exiting improperly|ORTE_ERROR_LOG|"
                         r"PMIX ERROR")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Run once more, to hear them."""
        return go_on(self.run, attempt.stdout) if times == 0 else None


@dataclass
class UnknownEnd:
    """It did not end well and no other rule knows why."""

    checked: bool = False
    failure_id: str = "CODE_UNKNOWN"

    def find(self, attempt: Attempt) -> str | None:
        """Look for a box, a bad return code or a missing end."""
        box = error_box(attempt.stdout)
        if box is not None:
            return str(box)
        if not is_finished(attempt.stdout):
            if attempt.returncode != 0:
                return f"return code {attempt.returncode}; " + _last_line(attempt)
            return "the output has no `JOB DONE`; " + _last_line(attempt)
        if attempt.returncode and (not self.checked or attempt.returncode in _OWN_CODES):
            return f"return code {attempt.returncode}; " + _last_line(attempt)
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Do not guess."""
        return None


# pw.x: not converged, steps used up, stopped. Other codes beside JOB DONE are not its own.
_OWN_CODES = frozenset({2, 3, 255})


def late_end(attempt: Attempt) -> str | None:
    """Return a note on a run that came to its own end and yet has a return code, or None."""
    if not attempt.returncode or not is_finished(attempt.stdout):
        return None
    ended = ending_signal(attempt.returncode, attempt.stderr)
    return (f"return code {attempt.returncode} although it ended by itself: MPI "
            f"{'was stopped' if ended else 'failed'} after `JOB DONE`; the result is whole and "
            "passed all checks")


def _last_line(attempt: Attempt) -> str:
    for text in (attempt.stderr, attempt.stdout):
        lines = [x.strip() for x in text.splitlines() if x.strip(" -=")]
        if lines:
            return f"last line: {lines[-1][:200]}"
    return "nothing was printed"
