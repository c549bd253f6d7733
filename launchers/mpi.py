"""MPI start commands as argument lists; a job is never put together as a shell string."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orionflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orionflow.launchers.machine import MachineProfile
    from orionflow.launchers.resources import Resources


def mpi_command(profile: MachineProfile, resources: Resources,
                command: Sequence[str]) -> list[str]:
    """Return ``command`` under the machine's MPI launcher.

    Raises
    ------
    ConfigError
        More than one rank on a machine without MPI.
    """
    if profile.mpi == "mpirun":
        return ["mpirun", "-np", str(resources.ranks), *profile.mpi_options, *command]
    if profile.mpi == "srun":
        return ["srun", f"--nodes={resources.nodes}", f"--ntasks={resources.ranks}",
                f"--cpus-per-task={resources.threads}", *profile.mpi_options, *command]
    if resources.ranks > 1:
        raise ConfigError(
            f"{resources.ranks} ranks asked for, but machine {profile.name!r} has `mpi: none`",
            hint="set `mpi: mpirun` or `mpi: srun` in the machine profile",
        )
    return list(command)
