"""Which allocations the waiting work needs: pure, from what waits, what is there and the profile.

A job gets the first kind of allocation it fits in; that is made no larger than the jobs waiting for
it can use. A job that fits in none, but could run on the machine, gets one of its own size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orionflow.errors import InputError
from orionflow.launchers.packing import Need, Node, Room
from orionflow.launchers.sbatch import RESERVE_MARGIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orionflow.launchers.machine import MachineProfile
    from orionflow.launchers.resources import Resources

# Less work than this, for all its cores, is not worth another allocation, s.
_WORTH = 600.0


@dataclass(frozen=True)
class Shape:
    """An allocation.

    Attributes
    ----------
    name
        Of its kind in the machine profile.
    cores, memory, gpus
        On each node; memory in MiB, None when the profile does not say.
    walltime
        Seconds.
    partition, qos
        Of this kind; None: those of the machine.
    whole
        Nothing was taken off: the nodes are asked for as the profile has them.
    for_gpus
        Kept for jobs that use GPUs, unless nothing else holds a job.
    """

    name: str
    nodes: int
    cores: int
    memory: int | None
    gpus: int
    walltime: int
    partition: str | None = None
    qos: str | None = None
    whole: bool = True
    for_gpus: bool = False

    def holds(self, job: Resources) -> bool:
        """Whether a job can run in it."""
        return (job.nodes <= self.nodes and _cores(job) <= self.cores
                and (self.memory is None or (job.memory or 0) <= self.memory)
                and job.gpus <= self.gpus and job.walltime <= self.walltime)

    def describe(self) -> str:
        """Return its size in words."""
        gpus = f", {self.gpus} GPU(s)" if self.gpus else ""
        nodes = f"{self.nodes} nodes of " if self.nodes > 1 else ""
        return f"{nodes}{self.cores} core(s){gpus}, {self.walltime // 60} min"


@dataclass(frozen=True)
class Offer:
    """What is free in an allocation that is there.

    Attributes
    ----------
    room
        Its nodes.
    walltime
        Longest job that may start in it, s.
    takes
        So many jobs more; None: any number.
    """

    room: Room
    walltime: float = math.inf
    takes: int | None = None

    @classmethod
    def of(cls, shape: Shape) -> Offer:
        """Return all of an allocation that waits in the queue."""
        return cls(Room(Node(
            f"{shape.name}{i}", list(range(shape.cores)),
            None if shape.memory is None else float(shape.memory),
            list(range(shape.gpus))) for i in range(shape.nodes)), float(shape.walltime))


@dataclass(frozen=True)
class Group:
    """READY jobs that ask for the same.

    Attributes
    ----------
    count
        How many.
    priority
        The highest of them.
    first
        Id of the first of them.
    """

    job: Resources
    count: int
    priority: float = 0.0
    first: int = 0


@dataclass(frozen=True)
class Plan:
    """What to ask for.

    Attributes
    ----------
    wanted
        Allocations, most urgent first.
    possible
        READY jobs that some allocation can take.
    impossible
        Groups that none can, and why.
    """

    wanted: list[Shape]
    possible: int
    impossible: list[tuple[Group, str]]


def kinds(machine: MachineProfile) -> list[Shape]:
    """Return the kinds of allocation of a machine, smallest first."""
    base = machine.allocation
    found = [Shape("default", base.nodes, machine.cores, machine.memory_per_node,
                   machine.gpus_per_node, base.walltime)]
    found += [Shape(
        kind.name, kind.nodes, kind.cores_per_node or machine.cores,
        kind.memory_per_node or machine.memory_per_node,
        machine.gpus_per_node if kind.gpus_per_node is None else kind.gpus_per_node,
        kind.walltime or base.walltime, kind.partition, kind.qos,
        for_gpus=bool(kind.gpus_per_node)) for kind in base.classes]
    return sorted(found, key=lambda s: (s.for_gpus, s.nodes, s.cores, s.walltime, s.memory or 0))


def plan(machine: MachineProfile, groups: Sequence[Group], there: Sequence[Offer] = (), *,
         more_to_come: bool = False) -> Plan:
    """Return the allocations to ask for, without regard to how many may be in the queue.

    Parameters
    ----------
    machine
        The machine profile.
    groups
        What is READY.
    there
        Allocations that wait in the queue, and what is free in those that run.
    more_to_come
        Other jobs wait for these: the allocations are as long as the profile has them.
    """
    offered = kinds(machine)
    chosen: dict[Shape, list[Group]] = {}
    impossible: list[tuple[Group, str]] = []
    for group in groups:
        fitting = [s for s in offered if s.holds(group.job)]
        gpus = bool(group.job.gpus)
        kind = next((s for s in fitting if s.for_gpus == gpus), None) or next(iter(fitting), None)
        try:
            kind = kind or _own_shape(machine, group.job, offered)
        except InputError as error:
            impossible.append((group, error.message))
            continue
        chosen.setdefault(kind, []).append(group)
    possible = sum(g.count for members in chosen.values() for g in members)
    left = _covered(chosen, there)
    wanted: list[Shape] = []
    for kind, members in sorted(left.items(), key=lambda i: -max(
            (g.priority for g in i[1]), default=0.0)):
        wanted += _shapes(kind, members, more_to_come=more_to_come)
    return Plan(wanted, possible, impossible)


def _own_shape(machine: MachineProfile, job: Resources, offered: Sequence[Shape]) -> Shape:
    """Return an allocation for a job that is too big for the usual ones.

    Raises
    ------
    InputError
        The machine has no such thing.
    """
    machine.check(job)
    longest = machine.max_walltime or max(s.walltime for s in offered)
    if job.walltime > longest:
        raise InputError(f"walltime = {job.walltime}, but no allocation is longer than {longest} "
                         "s", hint="max_walltime in the machine profile allows longer ones")
    if _cores(job) > machine.cores:
        raise InputError(f"{_cores(job)} cores on a node, but machine {machine.name!r} has "
                         f"{machine.cores}", hint="ask for more nodes, or fewer ranks")
    # All cores of its nodes where it takes several: other jobs find room there.
    return Shape("own", job.nodes, machine.cores if job.nodes > 1 else _cores(job),
                 machine.memory_per_node if job.nodes > 1 else job.memory, job.gpus,
                 min(job.walltime + RESERVE_MARGIN, longest), whole=job.nodes > 1)


def _covered(chosen: dict[Shape, list[Group]], there: Iterable[Offer]) -> dict[Shape, list[Group]]:
    """Return what is left when allocations that are there have taken what they can."""
    order = sorted(((kind, i) for kind, members in chosen.items() for i in range(len(members))),
                   key=lambda at: (-chosen[at[0]][at[1]].priority, chosen[at[0]][at[1]].first))
    left = {kind: list(members) for kind, members in chosen.items()}
    for offer in there:
        room, takes = offer.room.copy(), offer.takes
        for kind, i in order:
            group = left[kind][i]
            taken = _taken(group, room, offer, takes)
            takes = None if takes is None else takes - taken
            left[kind][i] = replace(group, count=group.count - taken)
    return {kind: rest for kind, members in left.items()
            if (rest := [g for g in members if g.count])}


def _taken(group: Group, room: Room, offer: Offer, takes: int | None) -> int:
    """Return how many jobs an allocation takes, and mark their room as used."""
    if group.job.walltime > offer.walltime:
        return 0
    need = Need.of(0, group.job)
    # What is too short to be worth an allocation runs one after the other.
    each = max(1, int(min(_WORTH, offer.walltime) // group.job.walltime))
    most = group.count if takes is None else min(group.count, takes)
    taken = 0
    while taken < most and (place := room.place(need)) is not None:
        room.take(place)
        taken += each
    return min(taken, most)


def _shapes(kind: Shape, members: Sequence[Group], *, more_to_come: bool) -> list[Shape]:
    """Return as many allocations of a kind as jobs can run side by side, none larger than used."""
    cores = sum(g.count * g.job.nodes * _cores(g.job) for g in members)
    work = sum(g.count * g.job.nodes * _cores(g.job) * g.job.walltime for g in members)
    size = kind.nodes * kind.cores
    longest = max(g.job.walltime for g in members)
    # All at once, but not for a few minutes each.
    count = min(math.ceil(cores / size), max(1, math.ceil(work / (size * _WORTH))))
    if cores >= size:
        serial = count * size < cores
        shape = kind
    else:
        serial = False
        nodes = max(math.ceil(cores / kind.cores), *(g.job.nodes for g in members))
        each = kind.cores if nodes > 1 else cores
        memory = kind.memory
        if memory is not None and nodes == 1:
            share = math.ceil(memory * each / kind.cores)
            memory = min(memory, max(share, sum(g.count * (g.job.memory or 0) for g in members)))
        shape = replace(kind, nodes=nodes, cores=each, memory=memory,
                        whole=each == kind.cores)
    shape = replace(shape, gpus=min(kind.gpus, sum(g.count * g.job.gpus for g in members)))
    if not (more_to_come or serial):
        shape = replace(shape, walltime=min(kind.walltime, longest + RESERVE_MARGIN))
    return [shape] * count


def _cores(job: Resources) -> int:
    """Return the cores a job needs on each of its nodes."""
    return math.ceil(job.ranks / job.nodes) * job.threads
