"""MPI start commands as argument lists; a job is never put together as a shell string."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orionflow.errors import ConfigError
from orionflow.launchers.surroundings import MEMORY, NODES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orionflow.launchers.machine import MachineProfile
    from orionflow.launchers.resources import Resources


def mpi_command(profile: MachineProfile, resources: Resources, command: Sequence[str],
                environment: Mapping[str, str] | None = None) -> list[str]:
    """Return ``command`` under the machine's MPI launcher.

    Below our launcher, which starts several jobs in one allocation, it takes the nodes and the
    memory it was given. Its cores are kept apart by variables and bindings that it inherits
    (mpirun), or by Slurm (``srun --exact``).

    Parameters
    ----------
    profile
        The machine.
    resources
        What the job asks for.
    command
        The code with its arguments.
    environment
        Variables of the job; those of this process unless given.

    Raises
    ------
    ConfigError
        More than one rank on a machine without MPI.
    """
    env = os.environ if environment is None else environment
    nodes = [name for name in env.get(NODES, "").split(",") if name]
    if profile.mpi == "mpirun":
        hosts = ["--host", ",".join(_slots(nodes, resources.ranks))] if nodes else []
        return ["mpirun", "-np", str(resources.ranks), *hosts, *profile.mpi_options, *command]
    if profile.mpi == "srun":
        given = []
        if "ORIONFLOW_LAUNCH" in env:
            given = ["--exact"]
            if nodes:
                given.append(f"--nodelist={','.join(nodes)}")
            if memory := env.get(MEMORY):  # a step takes all there is otherwise
                given.append(f"--mem={memory}M")
        if resources.gpus:
            given.append(f"--gres=gpu:{resources.gpus}")
        return ["srun", f"--nodes={resources.nodes}", f"--ntasks={resources.ranks}",
                f"--cpus-per-task={resources.threads}", *given, *profile.mpi_options, *command]
    if resources.ranks > 1:
        raise ConfigError(
            f"{resources.ranks} ranks asked for, but machine {profile.name!r} has `mpi: none`",
            hint="set `mpi: mpirun` or `mpi: srun` in the machine profile",
        )
    return list(command)


def _slots(nodes: Sequence[str], ranks: int) -> list[str]:
    """Return ``host:ranks`` of each node, as even as can be."""
    least, more = divmod(ranks, len(nodes))
    return [f"{node}:{least + (i < more)}" for i, node in enumerate(nodes)]
