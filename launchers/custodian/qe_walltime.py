"""pw.x or ph.x stopped by its clock or on request: go on from where it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian.qe_continue import go_on, in_last_scf
from orionflow.launchers.qe_output import line_with, longest_iteration, read_xml

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt

_DEFAULT_SECONDS = 1e7  # QE's own default of max_seconds: no limit
_PROGRESS = (r"estimated scf accuracy|^\s*Computing kpt #|^\s+iter #\s+\d+ total cpu|"
             r"Calculation stopped in k-point loop")
# Slices of seconds must still be long enough for the files, s.
_LEAST_MARGIN = 2.5


def max_seconds(seconds_left: float, iteration: float = 0.0) -> float:
    """Return the time pw.x may take so that it can stop by itself and write its files, s.

    Parameters
    ----------
    seconds_left
        Until the end of the allocation, s.
    iteration
        Longest step between two looks of the code at its clock, s.
    """
    margin = max(min(300.0, 0.1 * seconds_left), 2.0 * iteration)
    return float(max(1.0, seconds_left - max(_LEAST_MARGIN, margin)))


@dataclass
class WalltimeStop:
    """``max_seconds`` reached: restart from the files it left, if it got anywhere."""

    run: QeRun
    failure_id: str = "QE_WALLTIME"
    transient: bool = True
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the text; the exit code is that of an unconverged SCF."""
        return line_with(attempt.stdout, r"Maximum CPU time exceeded")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002  progress decides
        """Restart with the time that is left."""
        left = attempt.seconds_left()
        endless = left > _DEFAULT_SECONDS
        moved = line_with(attempt.stdout, _PROGRESS) is not None
        if not moved and not endless:
            self.transient = False
            self.advice = ("not one step was finished in the time given: ask for more walltime "
                           "or more ranks")
            return None
        iteration = longest_iteration(attempt.stdout)
        if left < max(15.0, 3 * iteration):
            return None
        found = self.run.input
        group = "inputph" if "inputph" in found.namelists else "control"
        old = found.number(group, "max_seconds", _DEFAULT_SECONDS)
        # Without a known end the user's own limit is only too small for this job.
        new = max((4 if moved else 20) * old, 60.0) if endless else max_seconds(left, iteration)
        if group == "inputph":
            return self.run.edit(inputph={"max_seconds": new, "recover": True})
        if in_last_scf(attempt.stdout):
            return go_on(self.run, attempt.stdout) + self.run.edit(control={"max_seconds": new})
        # Without the XML QE would start from scratch without a word.
        if not moved or read_xml(self.run.xml_path) is None:
            return self.run.edit(control={"max_seconds": new, "restart_mode": "from_scratch"})
        return self.run.edit(control={"max_seconds": new, "restart_mode": "restart"})


@dataclass
class StoppedByUser:
    """Somebody put an EXIT file there: it ended because it was told to."""

    failure_id: str = "QE_STOPPED"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the text."""
        return line_with(attempt.stdout, r"Program stopped by user request")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Do not go on against the wish of a person."""
        return None
