"""What the launcher may use: nodes, cores, memory and the time until it ends."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orionflow.errors import InputError, OrionflowError
from orionflow.launchers.resources import Resources
from orionflow.launchers.sbatch import NOTICE
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.slurm import parse_cpus_per_node

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orionflow.launchers.machine import MachineProfile

# A job may ask for as much time as an allocation has. The first minutes go to the start of the
# launcher: within them a job is measured against the whole.
START_GRACE = 300.0
# Codes end by themselves so many seconds before Slurm's notice.
_MARGIN = 10.0
# What a Slurm allocation loses at both ends, the start of Python included.
_LOST_AT_ENDS = NOTICE + _MARGIN + 30.0


@dataclass(frozen=True)
class Allocation:
    """Nodes and time the launcher has.

    Attributes
    ----------
    cores
        All cores, over all nodes.
    memory
        MiB on each node, or None when not known.
    started
        Unix time from which the length is counted.
    deadline
        Unix time at which jobs must have ended, or None without an end.
    slurm_job_id
        The Slurm job, or None on a machine without queue.
    """

    nodes: int
    cores: int
    memory: int | None
    started: float
    deadline: float | None
    slurm_job_id: str | None = None

    def time_for_a_job(self, now: float) -> float | None:
        """Return the longest walltime a job may ask for to be started now, s; None: any."""
        if self.deadline is None:
            return None
        left = self.deadline - now
        if left <= 0 or now - self.started > START_GRACE:
            return max(left, 0.0)
        return self.deadline - self.started + (_LOST_AT_ENDS if self.slurm_job_id else 0.0)

    def query(self, now: float) -> dict[str, Any]:
        """Return the MongoDB query for fireworks that fit; without resources they have defaults.

        Parameters
        ----------
        now
            Unix time.
        """
        default = Resources()

        def asked(name: str) -> dict[str, Any]:
            # Jobs added by other tools may hold no resources, or odd ones: those never fit.
            return {"$ifNull": [f"$spec.resources.{name}", getattr(default, name) or 0]}

        limits: list[dict[str, Any]] = [
            {"$lte": [asked("nodes"), self.nodes]},
            {"$lte": [{"$multiply": [_number(asked("ranks")), _number(asked("threads"))]},
                      self.cores]},
        ]
        if self.memory is not None:
            limits.append({"$lte": [asked("memory"), self.memory]})
        longest = self.time_for_a_job(now)
        if longest is not None:
            limits.append({"$lte": [asked("walltime"), int(longest)]})
        return {"$expr": {"$and": limits}}

    def describe(self) -> str:
        """Return one line for people."""
        end = "" if self.deadline is None else (
            f", until {time.strftime('%H:%M:%S', time.localtime(self.deadline))}")
        what = f"Slurm job {self.slurm_job_id}" if self.slurm_job_id else "this machine"
        return f"{what}: {self.nodes} node(s), {self.cores} core(s){end}"


def _number(value: dict[str, Any]) -> dict[str, Any]:
    # $multiply fails the whole query on a string; an odd value must only not fit.
    return {"$convert": {"input": value, "to": "double", "onError": 1e18, "onNull": 1.0}}


def read_allocation(profile: MachineProfile, project: Path | None = None, *,
                    time_limit: int | None = None, cores: int | None = None,
                    environment: Mapping[str, str] | None = None) -> Allocation:
    """Return what this process may use, as Slurm or the machine has it.

    Parameters
    ----------
    profile
        The machine.
    project
        For its private Slurm.
    time_limit
        End after so many seconds at the latest.
    cores
        Use only so many cores.
    environment
        Variables; the process's own unless given.

    Raises
    ------
    InputError
        A limit is not positive, or there are fewer cores.
    """
    env = os.environ if environment is None else environment
    now = time.time()
    if time_limit is not None and time_limit <= 0:
        raise InputError(f"time = {time_limit} s", hint="give a positive time, such as 02:00:00")
    job_id = env.get("SLURM_JOB_ID")
    deadline: float | None = None
    memory = profile.memory_per_node
    if job_id:
        per_node = parse_cpus_per_node(env.get("SLURM_JOB_CPUS_PER_NODE", "1"))
        nodes, there = len(per_node), sum(per_node)
        end = _slurm_end(env, job_id, project)
        deadline = None if end is None else end - NOTICE - _MARGIN
        if (text := env.get("SLURM_MEM_PER_NODE", "")).isdigit() and int(text) > 0:
            memory = int(text)
    else:
        nodes, there = 1, profile.cores
    if cores is not None and not 1 <= cores <= there:
        raise InputError(f"cores = {cores}, but there are {there} here",
                         hint=f"give a number from 1 to {there}")
    if time_limit is not None:
        own = now + time_limit
        deadline = own if deadline is None else min(own, deadline)
    return Allocation(nodes=nodes, cores=cores or there, memory=memory, started=now,
                      deadline=deadline, slurm_job_id=job_id or None)


def _slurm_end(env: Mapping[str, str], job_id: str, project: Path | None) -> float | None:
    if (text := env.get("SLURM_JOB_END_TIME", "")).isdigit():  # Slurm 22.11 and later
        return float(text)
    try:
        job = Scheduler(project).show(job_id)
    except OrionflowError:
        # Slurm still signals before the end; jobs are put back then.
        return None
    return None if job is None else job.end
