"""The SCF cycle of pw.x did not converge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.qe_output import line_with, scf_accuracies

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt


@dataclass
class ScfNotConverged:
    """More iterations while the accuracy falls, gentler mixing when it does not."""

    run: QeRun
    failure_id: str = "QE_SCF_NOT_CONVERGED"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the text."""
        return line_with(attempt.stdout, r"convergence NOT achieved after\s+\d+ iterations")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Continue or mix more gently."""
        found = self.run.input
        steps = found.number("electrons", "electron_maxstep", 100)
        cycles = scf_accuracies(attempt.stdout)
        last = cycles[-1] if cycles else []
        falling = len(last) < 4 or last[-1] < 0.3 * last[-4]  # noqa: PLR2004  10 in ~3 iterations is usual
        if falling:
            return self.run.edit(electrons={"electron_maxstep": int(max(3 * steps, 30))})
        beta = found.number("electrons", "mixing_beta", 0.7)
        if times >= 4 or beta < 0.05:  # noqa: PLR2004
            return None
        return self.run.edit(electrons={"mixing_beta": round(beta * 0.4, 3),
                                        "electron_maxstep": int(max(2 * steps, 50))})
