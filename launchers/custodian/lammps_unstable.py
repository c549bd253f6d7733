"""Simulations that fly apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian.lammps_timestep import shorten_timestep

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.rules import Attempt

HALVINGS = 4
_LOST = re.compile(r"Lost atoms: original (\d+) current (\d+)")


@dataclass
class LostAtoms:
    """Atoms left the box."""

    run: LammpsRun
    failure_id: str = "LAMMPS_LOST_ATOMS"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the error."""
        return next((e for e in self.run.output(attempt).errors if _LOST.search(e)), None)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Shorten the time step."""
        return shorten_timestep(self.run, self.run.output(attempt)) if times < HALVINGS else None
