"""Failures of LAMMPS in the order in which they are looked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian.common import LauncherFailed
from orionflow.launchers.custodian.lammps_unstable import LostAtoms
from orionflow.launchers.custodian.lammps_walltime import KilledLammps, Walltime

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.rules import Attempt, Rule


@dataclass
class UnknownError:
    """Any other ERROR: the user's to correct."""

    run: LammpsRun
    failure_id: str = "LAMMPS_ERROR"

    def find(self, attempt: Attempt) -> str | None:
        """Return the message and the command it belongs to."""
        found = self.run.output(attempt)
        if not found.errors:
            return None
        return found.errors[0] + (f" (command: {found.last_command})" if found.last_command else "")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Nothing: it would fail the same way."""
        return None


@dataclass
class Unfinished:
    """LAMMPS did not end by itself and nothing says why."""

    run: LammpsRun
    failure_id: str = "LAMMPS_UNFINISHED"

    def find(self, attempt: Attempt) -> str | None:
        """Return the last line of an output without an end."""
        if self.run.complete(attempt):
            return None
        lines = (attempt.stderr.strip() or attempt.stdout.strip()).splitlines()
        return f"return code {attempt.returncode}, last line: {lines[-1] if lines else '(none)'}"

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Run it once more."""
        return [] if times < 1 else None


def lammps_rules(run: LammpsRun) -> list[Rule]:
    """Return the rules for one LAMMPS run, in order."""
    return [
        LauncherFailed("LAMMPS (", failure_id="LAMMPS_NOT_STARTED"),
        KilledLammps(run=run),
        Walltime(run),
        LostAtoms(run),
        UnknownError(run),
        Unfinished(run),
    ]
