"""Which jobs to start now, and where: a pure function of what waits, what runs and what is free.

Of equal priority the widest come first where they fit, so that cores are drained for many of them
together instead of for each. Those that have waited a while go before them, in the order of their
arrival, by EASY backfill (D. Lifka, The ANL/IBM SP scheduling system, 1995,
doi:10.1007/3-540-60153-8_35): the first that must wait holds a reservation for the moment at which
enough will be free, and only those pass it that don't delay it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orionflow.launchers.resources import Resources

# A job may be passed by others of its priority for so long, s.
PATIENCE = 60.0
# Job and allocation state the memory in MiB; shares in proportion are no whole numbers.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Need:
    """What a waiting job asks for.

    Attributes
    ----------
    key
        Its name for the caller (firework id).
    nodes
        Nodes.
    cores
        Cores on each node.
    memory
        MiB on each node; None for a share in proportion to the cores.
    gpus
        GPUs on each node.
    seconds
        Longest time it is expected to run.
    priority
        The higher, the earlier.
    since
        When it was first seen waiting, unix time.
    """

    key: int
    nodes: int = 1
    cores: int = 1
    memory: int | None = None
    gpus: int = 0
    seconds: float = 3600.0
    priority: float = 0.0
    since: float = 0.0

    @classmethod
    def of(cls, key: int, resources: Resources, seconds: float | None = None) -> Need:
        """Return the need of a job; ``seconds`` where more is known than its walltime."""
        return cls(key=key, nodes=resources.nodes,
                   cores=math.ceil(resources.ranks / resources.nodes) * resources.threads,
                   memory=resources.memory, gpus=resources.gpus,
                   seconds=min(float(resources.walltime), seconds or math.inf))


@dataclass(frozen=True)
class Share:
    """What a job holds of one node; ``cores`` and ``gpus`` are numbers on that node."""

    node: int
    cores: tuple[int, ...]
    gpus: tuple[int, ...]
    memory: float


Placement = tuple[Share, ...]


@dataclass
class Node:
    """What is free on one node.

    Attributes
    ----------
    cores, gpus
        Free numbers.
    memory
        Free MiB, or None when it is not counted.
    """

    name: str
    cores: list[int]
    memory: float | None = None
    gpus: list[int] = field(default_factory=list)
    all_cores: int = 0
    all_memory: float = 0.0

    def __post_init__(self) -> None:
        self.all_cores = self.all_cores or len(self.cores)
        self.all_memory = self.all_memory or self.memory or 0.0

    def memory_of(self, need: Need) -> float:
        """Return what a job would take of this node's memory, MiB."""
        if need.memory is not None:
            return float(need.memory)
        return self.all_memory * need.cores / self.all_cores if self.all_cores else 0.0

    def fits(self, need: Need) -> bool:
        """Whether a job's part on one node is free here."""
        return (len(self.cores) >= need.cores and len(self.gpus) >= need.gpus and (
            self.memory is None or self.memory + _ROUNDING >= self.memory_of(need)))


class Room:
    """What is free in an allocation."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = list(nodes)

    @property
    def free_cores(self) -> int:
        """Free cores over all nodes."""
        return sum(len(n.cores) for n in self.nodes)

    def copy(self) -> Room:
        """Return another that can be changed without changing this one."""
        return Room(Node(n.name, list(n.cores), n.memory, list(n.gpus), n.all_cores, n.all_memory)
                    for n in self.nodes)

    def place(self, need: Need) -> Placement | None:
        """Return where a job can start now; None when it can't. Takes nothing yet.

        Nodes that are fullest already come first, so that whole nodes stay free for others.
        """
        fitting = [i for i, node in enumerate(self.nodes) if node.fits(need)]
        if len(fitting) < need.nodes:
            return None
        fitting.sort(key=lambda i: (len(self.nodes[i].cores), i))
        return tuple(Share(i, _neighbours(self.nodes[i].cores, need.cores),
                           tuple(self.nodes[i].gpus[:need.gpus]),
                           self.nodes[i].memory_of(need))
                     for i in sorted(fitting[:need.nodes]))

    def take(self, placement: Placement) -> None:
        """Mark a place as used."""
        for share in placement:
            node = self.nodes[share.node]
            node.cores = [c for c in node.cores if c not in share.cores]
            node.gpus = [g for g in node.gpus if g not in share.gpus]
            if node.memory is not None:
                node.memory -= share.memory

    def give(self, placement: Placement) -> None:
        """Mark a place as free again."""
        for share in placement:
            node = self.nodes[share.node]
            node.cores = sorted({*node.cores, *share.cores})
            node.gpus = sorted({*node.gpus, *share.gpus})
            if node.memory is not None:
                node.memory += share.memory


@dataclass(frozen=True)
class Running:
    """A job that holds a place until about ``end`` (unix time)."""

    end: float
    placement: Placement


@dataclass(frozen=True)
class Start:
    """A job that shall start now."""

    need: Need
    placement: Placement


@dataclass(frozen=True)
class Plan:
    """What to do now.

    Attributes
    ----------
    starts
        Jobs to start, in order.
    reserved
        Job for which room is being kept, and from when on (unix time).
    """

    starts: list[Start]
    reserved: tuple[Need, float] | None = None


def plan(needs: Sequence[Need], room: Room, running: Sequence[Running], now: float, *,
         longest: float | None = None, deadline: float | None = None) -> Plan:
    """Return which jobs start now.

    Parameters
    ----------
    needs
        Waiting jobs, in the order of their priority and arrival.
    room
        What is free; not changed.
    running
        What runs.
    now
        Unix time.
    longest
        A job may be started now that runs at most so many seconds; None: any.
    deadline
        Unix time at which all must have ended; None: never.
    """
    room = room.copy()
    running = sorted(running, key=lambda r: r.end)
    starts: list[Start] = []
    reserved: tuple[Need, float] | None = None
    for need in sorted(needs, key=lambda n: _urgency(n, now)):
        place = room.place(need)
        if place is None:
            if reserved is None and _must_not_wait(need, now, deadline):
                when = _earliest(need, room, running, now)
                if when is not None and (deadline is None or when + need.seconds <= deadline):
                    reserved = (need, when)
            continue
        if longest is not None and need.seconds > longest:
            continue
        room.take(place)
        if reserved is not None and now + need.seconds > reserved[1] and not _keeps(
                reserved, room, running):
            room.give(place)
            continue
        starts.append(Start(need, place))
        running = sorted([*running, Running(now + need.seconds, place)], key=lambda r: r.end)
    return Plan(starts, reserved)


def _urgency(need: Need, now: float) -> tuple[float, float]:
    late = now - need.since > PATIENCE
    return -need.priority, -math.inf if late else -need.nodes * need.cores


def _must_not_wait(need: Need, now: float, deadline: float | None) -> bool:
    """Whether room must be kept for it from now on."""
    return now - need.since > PATIENCE or (
        deadline is not None and now + PATIENCE + need.seconds > deadline)


def _earliest(need: Need, room: Room, running: Sequence[Running], now: float) -> float | None:
    """Return when a job that must wait can start, None when it fits nowhere here."""
    trial = room.copy()
    for one in running:
        trial.give(one.placement)
        if trial.place(need) is not None:
            return max(one.end, now)
    return None


def _keeps(reserved: tuple[Need, float], room: Room, running: Sequence[Running]) -> bool:
    """Whether the reserved job can still start in time."""
    trial = room.copy()
    for one in running:
        if one.end <= reserved[1]:
            trial.give(one.placement)
    return trial.place(reserved[0]) is not None


def _neighbours(free: Sequence[int], count: int) -> tuple[int, ...]:
    """Return that many free cores, side by side where there are such (they share caches)."""
    for i in range(len(free) - count + 1):
        if free[i + count - 1] - free[i] == count - 1:
            return tuple(free[i:i + count])
    return tuple(free[:count])
