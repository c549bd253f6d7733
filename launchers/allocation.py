"""What the launcher may use: nodes, cores, memory, GPUs and the time until it ends."""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orionflow.errors import InputError, OrionflowError
from orionflow.launchers.packing import Node, Room
from orionflow.launchers.resources import Resources
from orionflow.launchers.sbatch import NOTICE
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.slurm import parse_cpus_per_node

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from orionflow.launchers.machine import MachineProfile

# A job may ask for as much time as an allocation has. The first minutes go to the start of the
# launcher: within them a job is measured against the whole.
START_GRACE = 300.0
# But with less than this part of its time it gets nowhere.
_LEAST_PART = 0.5
# Shares of memory are no whole numbers.
_ROUNDING = 0.01
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
    hosts
        Names of the nodes, the launcher's own first; empty when nobody asks.
    cores_of
        Cores of each node; all nodes have as many unless given.
    gpus
        GPUs on each node.
    """

    nodes: int
    cores: int
    memory: int | None
    started: float
    deadline: float | None
    slurm_job_id: str | None = None
    hosts: tuple[str, ...] = ()
    cores_of: tuple[int, ...] = ()
    gpus: int = 0

    @property
    def most_cores(self) -> int:
        """Cores of the largest node."""
        return max(self.cores_of) if self.cores_of else -(-self.cores // self.nodes)

    def room(self, own_cores: tuple[int, ...] = ()) -> Room:
        """Return all of it, free.

        Parameters
        ----------
        own_cores
            Numbers of the cores of the launcher's own node, as the kernel counts them; from zero
            unless given.
        """
        per_node = self.cores_of or (self.most_cores,) * self.nodes
        hosts = self.hosts or tuple(f"node{i}" for i in range(self.nodes))
        return Room(Node(
            name=host, cores=list(own_cores if own_cores and i == 0 else range(count)),
            memory=None if self.memory is None else float(self.memory),
            gpus=list(range(self.gpus))) for i, (host, count) in enumerate(
                zip(hosts, per_node, strict=True)))

    def time_for_a_job(self, now: float) -> float | None:
        """Return the longest walltime a job may ask for to be started now, s; None: any."""
        if self.deadline is None:
            return None
        left = max(self.deadline - now, 0.0)
        if now - self.started > START_GRACE:
            return left
        whole = self.deadline - self.started + (_LOST_AT_ENDS if self.slurm_job_id else 0.0)
        return min(whole, left / _LEAST_PART)

    def query(self, *, longest: float | None = None, room: Room | None = None) -> dict[str, Any]:
        """Return the MongoDB query for fireworks that fit; without resources they have defaults.

        Jobs added by other tools may hold odd values. They pass: whoever takes one finds out what
        is wrong, and says so.

        Parameters
        ----------
        longest
            Leave out what asks for more time, s.
        room
            What is free now; the whole allocation unless given.
        """
        nodes = (room or self.room()).nodes
        default = Resources()

        def asked(name: str) -> dict[str, Any]:
            return _number(f"$spec.resources.{name}", float(getattr(default, name) or 0))

        spread = {"$min": [{"$max": [{"$trunc": asked("nodes")}, 1]}, len(nodes)]}

        def there(free: Iterable[float]) -> dict[str, Any]:
            """Return what so many nodes have, each of them."""
            return {"$arrayElemAt": [sorted(free, reverse=True),
                                     {"$toInt": {"$subtract": [spread, 1]}}]}

        cores = {"$multiply": [{"$ceil": {"$divide": [asked("ranks"), spread]}},
                               asked("threads")]}
        limits: list[dict[str, Any]] = [
            {"$lte": [asked("nodes"), len(nodes)]},
            {"$lte": [cores, there(len(n.cores) for n in nodes)]},
            {"$lte": [asked("gpus"), there(len(n.gpus) for n in nodes)]},
        ]
        if self.memory is not None:
            share = min(n.all_memory / max(n.all_cores, 1) for n in nodes)
            limits.append({"$lte": [
                {"$cond": [{"$gt": ["$spec.resources.memory", None]}, asked("memory"),
                           {"$multiply": [cores, share]}]},
                {"$add": [there(n.memory or 0.0 for n in nodes), _ROUNDING]}]})
        if longest is not None:
            limits.append({"$lte": [asked("walltime"), int(longest)]})
        return {"$expr": {"$and": limits}}

    def describe(self) -> str:
        """Return one line for people."""
        end = "" if self.deadline is None else (
            f", until {time.strftime('%H:%M:%S', time.localtime(self.deadline))}")
        what = f"Slurm job {self.slurm_job_id}" if self.slurm_job_id else "this machine"
        gpus = f", {self.gpus} GPU(s) a node" if self.gpus else ""
        return f"{what}: {self.nodes} node(s), {self.cores} core(s){gpus}{end}"


def _number(field: str, default: float) -> dict[str, Any]:
    # $multiply fails the whole query on a string.
    return {"$convert": {"input": field, "to": "double", "onError": 0.0, "onNull": default}}


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
    gpus = profile.gpus_per_node
    if job_id:
        per_node = parse_cpus_per_node(env.get("SLURM_JOB_CPUS_PER_NODE", "1"))
        hosts = _hosts(env, len(per_node))
        end = _slurm_end(env, job_id, project)
        deadline = None if end is None else end - NOTICE - _MARGIN
        if (text := env.get("SLURM_MEM_PER_NODE", "")).isdigit() and int(text) > 0:
            memory = int(text)
        elif (text := env.get("SLURM_MEM_PER_CPU", "")).isdigit() and int(text) > 0:
            memory = int(text) * min(per_node)
        if (text := env.get("SLURM_GPUS_ON_NODE", "")).isdigit():
            gpus = int(text)
    else:
        per_node, hosts = [profile.cores], [socket.gethostname()]
        memory = memory or _physical_memory()
    there = sum(per_node)
    if cores is not None and not 1 <= cores <= there:
        raise InputError(f"cores = {cores}, but there are {there} here",
                         hint=f"give a number from 1 to {there}")
    if cores is not None:
        per_node, hosts = _first_cores(per_node, hosts, cores)
    if time_limit is not None:
        own = now + time_limit
        deadline = own if deadline is None else min(own, deadline)
    return Allocation(nodes=len(per_node), cores=sum(per_node), memory=memory, started=now,
                      deadline=deadline, slurm_job_id=job_id or None, hosts=tuple(hosts),
                      cores_of=tuple(per_node), gpus=gpus)


def expand_hosts(text: str) -> list[str]:
    """Return the names in Slurm's list of nodes: ``n[1-3,07],login`` means five.

    Parameters
    ----------
    text
        As in ``SLURM_JOB_NODELIST``.
    """
    names: list[str] = []
    for prefix, ranges, suffix in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\]([^,\[]*))?,?", text):
        if not ranges:
            names.append(prefix)
        for part in filter(None, ranges.split(",")):
            first, _, last = part.partition("-")
            width = len(first)
            names += [f"{prefix}{n:0{width}d}{suffix}"
                      for n in range(int(first), int(last or first) + 1)]
    return names


def _hosts(env: Mapping[str, str], count: int) -> list[str]:
    names = expand_hosts(env.get("SLURM_JOB_NODELIST", ""))
    if len(names) != count:
        return [f"node{i}" for i in range(count)]
    return names


def _first_cores(per_node: list[int], hosts: list[str],
                 cores: int) -> tuple[list[int], list[str]]:
    """Return the nodes that make up so many cores, the last perhaps not whole."""
    kept: list[int] = []
    for count in per_node:
        if (left := cores - sum(kept)) <= 0:
            break
        kept.append(min(count, left))
    return kept, hosts[:len(kept)]


def _physical_memory() -> int:
    """Return the memory of this machine, MiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20


def _slurm_end(env: Mapping[str, str], job_id: str, project: Path | None) -> float | None:
    if (text := env.get("SLURM_JOB_END_TIME", "")).isdigit():  # Slurm 22.11 and later
        return float(text)
    try:
        job = Scheduler(project).show(job_id)
    except OrionflowError:
        # Slurm still signals before the end; jobs are put back then.
        return None
    return None if job is None else job.end
