"""The ordered rules for pw.x and ph.x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian.common import Killed, LauncherFailed
from orionflow.launchers.custodian.qe_base import FINISHED, STARTED
from orionflow.launchers.custodian.qe_scf import ScfNotConverged
from orionflow.launchers.custodian.qe_walltime import StoppedByUser, WalltimeStop
from orionflow.launchers.qe_output import error_box, is_finished

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt, Rule


def pw_rules(run: QeRun) -> list[Rule]:
    """Return the rules for pw.x in the order in which they are asked."""
    return [
        LauncherFailed(begun=STARTED, failure_id="QE_NOT_STARTED"),
        QeKilled(finished=FINISHED, failure_id="QE_KILLED"),
        WalltimeStop(run),
        StoppedByUser(),
        ScfNotConverged(run),
        UnknownEnd(),
    ]


@dataclass
class QeKilled(Killed):
    """Killed from outside; an error box tells of an end of the code's own."""

    def find(self, attempt: Attempt) -> str | None:
        """Look for the signal where no box explains the end."""
        return None if error_box(attempt.stdout) else super().find(attempt)


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
    lines = (attempt.stdout.rstrip() or attempt.stderr.rstrip()).splitlines()
    return f"last line: {lines[-1].strip()[:200]}" if lines else "nothing was printed"
