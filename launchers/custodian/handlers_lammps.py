"""Failures of LAMMPS in the order in which they are looked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_input as given
from orionflow.launchers.custodian import lammps_minimize as minimum
from orionflow.launchers.custodian import lammps_silent as silent
from orionflow.launchers.custodian.common import LauncherFailed
from orionflow.launchers.custodian.lammps_job import STOP_FILE
from orionflow.launchers.custodian.lammps_pressure import TILTED, Barostat
from orionflow.launchers.custodian.lammps_unstable import (
    BoundaryLost,
    Ladder,
    NotANumber,
    Stretched,
    Unstable,
)
from orionflow.launchers.custodian.lammps_walltime import (
    FrozenLammps,
    InPart,
    KilledLammps,
    Walltime,
)
from orionflow.launchers.custodian.rules import read_text
from orionflow.launchers.custodian.watch import FROZEN_ID

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.rules import Attempt, Rule

_OUTSIDE = "atoms lie outside the box or the box is wrong: correct the start structure"
_BONDS = ("bonds are longer at the start than their potential allows: push the chains apart first, "
          "or correct the bond list and the image flags of the data file")


@dataclass
class Stopped:
    """A file ``STOP`` asked LAMMPS to end."""

    run: LammpsRun
    failure_id: str = "LAMMPS_STOPPED"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the file and the message of `fix halt`."""
        if not (attempt.folder / STOP_FILE).exists():
            return None
        return next((r.halted for r in self.run.output(attempt).runs if r.halted), None)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Stop, as asked."""
        return None


@dataclass
class NotStarted(LauncherFailed):
    """Nothing on the screen, and not because the screen was switched off either."""

    run: LammpsRun | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for a launcher's complaint where neither screen nor log was begun."""
        if self.run is not None and read_text(attempt.folder / self.run.job.log).startswith(
                self.begun):
            return None
        return super().find(attempt)


@dataclass
class Quit:
    """The script itself ended the run with an exit code that says failure: `quit 1`."""

    run: LammpsRun
    failure_id: str = "LAMMPS_QUIT"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for a `quit` with a code where LAMMPS ended early and without an error."""
        output = self.run.output(attempt)
        if not attempt.returncode or output.errors or output.ended or not output.started:
            return None
        command = next((q for q in self.run.quits() if q not in {"quit", "quit 0"}), None)
        if command is None:
            return None
        lines = [line.strip() for line in attempt.stdout.splitlines() if line.strip()]
        self.advice = (f"the input's own test failed: look for the condition before {command!r}, "
                       "and at the last lines LAMMPS printed")
        return f"return code {attempt.returncode} by {command!r}, last line: {lines[-1]}"

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Nothing: it would end the same way."""
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
    """Return the rules for one LAMMPS run, in order.

    Launcher or killed, walltime, files and resources, messages of LAMMPS from the most special
    to the most general, an output without an end, and last what LAMMPS calls a success.
    """
    ladder = Ladder(run)

    def unstable(failure_id: str, pattern: str, *, start_first: bool = False,
                 stop_at_start: str = "") -> Unstable:
        return Unstable(run, ladder, failure_id, pattern, start_first=start_first,
                        stop_at_start=stop_at_start)

    killed, stopped = KilledLammps(run=run), Walltime(run)
    exploded = Barostat(run, ladder, "LAMMPS_BOX_EXPLODED")
    # Orders matter below; these don't, and a part that something stopped is asked them, too.
    silent_failures: list[Rule] = [
        NotANumber(run, ladder), silent.AbsurdEnergy(run, ladder), silent.AtomsGone(run, ladder),
        Stretched(run, ladder), minimum.MinimizeSteps(run), minimum.LineSearch(run),
        minimum.EnergyTolerance(run), silent.DangerousBuilds(run, ladder),
        silent.EnergyDrift(run),
    ]
    in_a_part: list[Rule] = [silent.ZeroTemperature(run), exploded, *silent_failures]

    return [
        NotStarted("LAMMPS (", failure_id="LAMMPS_NOT_STARTED", run=run),
        given.OutOfMemory(run),
        given.DiskFull(run),
        *(InPart(rule, (killed, stopped)) for rule in in_a_part),
        killed,
        Stopped(run),
        stopped,
        given.BrokenRestart(run),
        given.NeighbourOverflow(run, ladder),
        given.SmallBox(run),
        silent.ZeroTemperature(run),
        Barostat(run, ladder, "LAMMPS_BOX_TILTED", TILTED),
        exploded,
        unstable("LAMMPS_BOND_MISSING",
                 r"(?:Bond|Angle|Dihedral|Improper|Shake|Rattle|SHAKE|RATTLE).*atoms? .*missing"),
        unstable("LAMMPS_FENE", r"Bad FENE bond", stop_at_start=_BONDS),
        unstable("LAMMPS_KSPACE_RANGE", r"Out of range atoms - cannot compute",
                 stop_at_start=_OUTSIDE),
        BoundaryLost(run, ladder),
        unstable("LAMMPS_LOST_ATOMS", r"Lost atoms: original \d+ current \d+"),
        unstable("LAMMPS_NON_NUMERIC", r"Non-numeric|simulation unstable", start_first=True),
        unstable("LAMMPS_UNSTABLE",
                 r"Shake determinant|Too many neighbor bins|Domain too large for neighbor bins|"
                 r"(?:Pair distance|Bond length) [<>]|outside surface of region|"
                 r"Particle on or inside fix wall|Too many timesteps|box has flipped",
                 stop_at_start=_OUTSIDE),
        given.Refused(run),
        given.Crashed(run, ladder),
        FrozenLammps("LAMMPS_FROZEN", run, in_a_part),
        FrozenLammps(FROZEN_ID, run, in_a_part),
        Quit(run),
        Unfinished(run),
        silent.StepsMissing(run),
        *silent_failures,
    ]
