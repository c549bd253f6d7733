"""Boxes that tilt or explode under a barostat."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_edit as edit
from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.lammps_unstable import began_calmly, starts_badly

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.lammps_output import LammpsOutput
    from orionflow.launchers.custodian.lammps_script import Script
    from orionflow.launchers.custodian.lammps_unstable import Ladder
    from orionflow.launchers.custodian.rules import Attempt

TILTED = r"has tilted box too far"
GROWTH = 8.0
_TOO_LARGE = r"Too many neighbor bins|Domain too large for neighbor bins|Non-numeric box"
_FOLLOWS = _TOO_LARGE + r"|Non-numeric|Lost atoms|Out of range atoms"


@dataclass
class Barostat:
    """A barostat that moves the box faster than the atoms can follow.

    Attributes
    ----------
    pattern
        Message; empty for what only a monitor or the table of volumes shows.
    """

    run: LammpsRun
    ladder: Ladder
    failure_id: str
    pattern: str = ""
    advice: str | None = None
    _eased: bool = False
    _nvt: bool = False

    def find(self, attempt: Attempt) -> str | None:
        """Look for the message, or for a volume that changed many times over."""
        output = self.run.output(attempt)
        if self.pattern:
            return next((e for e in output.errors if re.search(self.pattern, e)), None)
        script = self.run.script
        if not has_barostat(script):
            return None
        hasty = not starts_badly(output) and not self._eased and hasty_barostat(script)
        pattern = _FOLLOWS if hasty else _TOO_LARGE
        moved = any(len(r.rows) > 1 for r in output.runs)
        line = next((e for e in output.errors if re.search(pattern, e)), None)
        if line and (moved or hasty):
            return line
        for block in self.run.whole(attempt)[1].runs:
            line = exploded(block.column("Volume"))
            if line and not block.minimize:
                return line
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Damp the barostat over 1000 steps; then constant volume first; then as unstable."""
        output = self.run.output(attempt)
        script = self.run.script
        last = next((r for r in reversed(output.runs) if r.timestep), None)
        timestep = last.timestep if last else None
        begun = self.run.begin_again()
        start = next((r.first_step for r in output.runs if not r.minimize), None)
        if self.run.begun_at is not None:
            start = self.run.begun_at
        changes: list[str] = []
        if not self._eased:
            self._eased = True
            changes = edit.slow_barostat(script, timestep or model.timestep(script))
        if not changes and not self.pattern and _expands(script, output):
            self.advice = ("the box grows at usual temperatures and with a slow barostat: at this "
                           "temperature and pressure the substance is a gas, or the pressure is "
                           "in other units than meant; if meant, start from the box of the gas")
            return None
        if not changes and not self._nvt:
            self._nvt = True
            changes = edit.nvt_first(script, start)
        changes = changes or self.ladder.climb(attempt) or []
        return [*begun, *changes] if changes else None


def _expands(script: Script, output: LammpsOutput) -> bool:
    """Whether a box grew for want of pressure, not because the atoms flew apart."""
    volumes = [v for r in output.runs if not r.minimize for v in r.column("Volume")]
    return len(volumes) > 1 and volumes[-1] > volumes[0] and began_calmly(script, output)


def exploded(volumes: list[float]) -> str | None:
    """Return what is wrong with the volumes of a run, or None."""
    if len(volumes) < 2 or volumes[0] <= 0:  # noqa: PLR2004
        return None
    worst = max(volumes, key=lambda v: max(v / volumes[0], volumes[0] / v if v > 0 else GROWTH))
    ratio = worst / volumes[0]
    if 1 / GROWTH < ratio < GROWTH:
        return None
    return f"Volume {volumes[0]:g} -> {worst:g}"


def has_barostat(script: Script) -> bool:
    """Whether a fix moves the box."""
    return any(len(c.args) > 2 and c.args[2].split("/")[0] in {"npt", "nph", "press"}  # noqa: PLR2004
               for c in script.all("fix"))


def hasty_barostat(script: Script) -> bool:
    """Whether a barostat is damped over less than a hundred time steps."""
    return bool(edit.slow_barostat(script.copy(), model.timestep(script), 100))
