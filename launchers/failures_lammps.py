"""The failures of LAMMPS."""

from __future__ import annotations

from orionflow.launchers.failure_mode import FailureMode

LAMMPS_FAILURES = (
    FailureMode(
        "LAMMPS_NOT_STARTED", "lmp", "the command, MPI or the site failed before LAMMPS began",
        transient=False, remedy=("once more, unchanged, if the site was only busy",),
        advice="run the command by hand; check modules, the executable and the number of ranks",
        source="",
    ),
    FailureMode(
        "LAMMPS_KILLED", "lmp", "a signal from outside ended LAMMPS", transient=True,
        remedy=("on from the newest complete restart file", "twice more, unchanged"),
        advice="look who killed it: out of memory, a node, a person; then run it again", source="",
    ),
    FailureMode(
        "LAMMPS_WALLTIME", "lmp", "the time was over before all steps were done", transient=True,
        remedy=("on from the newest complete restart file in the time that is left",
                "a later launch in the same folder goes on"),
        advice="ask for more walltime or more ranks", source="",
    ),
    FailureMode(
        "LAMMPS_LOST_ATOMS", "lmp", "atoms left the box or flew apart", transient=False,
        remedy=("half the time step, twice the steps",),
        advice="look at the start structure, the time step and the potential", source="",
    ),
    FailureMode(
        "LAMMPS_ERROR", "lmp", "LAMMPS refused the input", transient=False, remedy=(),
        advice="correct the input; the message names the command", source="",
    ),
    FailureMode(
        "LAMMPS_UNFINISHED", "lmp", "the output stops in the middle, without a message",
        transient=True, remedy=("once more, unchanged",),
        advice="look at the last lines of the output and of the error file", source="",
    ),
)
