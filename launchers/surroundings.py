"""What a worker is told of its job, and by which variables the job learns what it was given."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any

from orionflow.launchers.cores import open_mpi_numbers

if TYPE_CHECKING:
    from orionflow.launchers.allocation import Allocation
    from orionflow.launchers.jobs import ClaimedJob
    from orionflow.launchers.launcher import Launcher
    from orionflow.launchers.machine import MachineProfile
    from orionflow.launchers.packing import Placement

CORES = "ORIONFLOW_CORES"
NODES = "ORIONFLOW_NODES"
MEMORY = "ORIONFLOW_MEMORY"
DEADLINE = "ORIONFLOW_DEADLINE"


def run_order(launcher: Launcher, job: ClaimedJob, placement: Placement,
              fworker: dict[str, Any], *, bound: bool) -> dict[str, Any]:
    """Return what a worker is told to run.

    Parameters
    ----------
    launcher
        Whose job it is.
    job, placement
        What it is, and what it was given.
    fworker
        Stored form of the worker's name, category and environment.
    bound
        As for `job_environment`.
    """
    cores = [c for s in placement if s.node == 0 for c in s.cores] if bound else []
    firework = {k: v for k, v in job.doc.items() if k != "_id"}
    return {
        "kind": "run", "launch_id": job.launch_id, "folder": job.folder,
        "fallback": str(launcher.folder / f"launch_{job.launch_id}"),
        "cores": cores, "fworker": fworker,
        "environment": job_environment(launcher.machine, launcher.allocation, job, placement,
                                       bound=bound),
        "firework": {**firework, "state": "RUNNING", "launches": [job.launch],
                     "archived_launches": []}}


def job_environment(machine: MachineProfile, allocation: Allocation, job: ClaimedJob,
                    placement: Placement, *, bound: bool) -> dict[str, str]:
    """Return the variables of one job.

    Parameters
    ----------
    machine, allocation
        Where it runs.
    job
        What it is.
    placement
        What it was given.
    bound
        Whether the numbers of cores are those of the kernel, and this job's alone.
    """
    values = {"ORIONFLOW_LAUNCH": str(job.launch_id)}
    if math.isfinite(job.ends):
        own_end = time.time() + job.time_left
        values[DEADLINE] = f"{min(own_end, allocation.deadline or own_end):.1f}"
    own = placement[0]
    here = len(placement) == 1 and own.node == 0
    cores = ",".join(map(str, own.cores))
    if allocation.nodes > 1:
        values[NODES] = ",".join(allocation.hosts[s.node] for s in placement)
    if allocation.memory is not None:
        values[MEMORY] = f"{own.memory:.0f}"
    if allocation.gpus:
        # Slurm may have given us others than the first ones.
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        named = len(given) == allocation.gpus and here
        values["CUDA_VISIBLE_DEVICES"] = ",".join(
            given[g] if named else str(g) for g in own.gpus)
    if here and bound:
        values[CORES] = cores
    if machine.mpi == "mpirun":
        # Open MPI binds the ranks of every mpirun to the same first cores, whatever cores mpirun
        # itself is bound to. Unbound ranks stay on those.
        numbers = open_mpi_numbers(own.cores) if here and bound else None
        if numbers is not None:
            values["OMPI_MCA_hwloc_base_cpu_set"] = ",".join(map(str, numbers))
        else:
            values["OMPI_MCA_hwloc_base_binding_policy"] = "none"
            values["PRTE_MCA_hwloc_default_binding_policy"] = "none"
    return values
