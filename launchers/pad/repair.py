"""Putting right what processes left that died between two writes.

Each half-done state has one meaning:

| left behind | meaning | remedy |
|---|---|---|
| a firework RUNNING or RESERVED, its launch does not exist | claimed, never started | READY |
| a firework RUNNING, its launch ended | result stored, not counted | refresh |
| firework and workflow document disagree | between two writes of a commit | refresh |
| a firework WAITING, its workflow says READY | submitted or set free by halves | refresh |
| a lock whose owner is gone | died inside | take over, then the above |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orionflow.launchers.pad.commit import commit
from orionflow.launchers.pad.documents import FINISHED, LIVE, Doc, as_time, now_text
from orionflow.launchers.pad.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orionflow.launchers.pad.launchpad import OrionLaunchPad

# Younger than this, s, it may be somebody at work.
GRACE = 15.0


@dataclass
class Repairs:
    """What a sweep put right, by firework id (locks: one firework of each workflow)."""

    locks: list[int] = field(default_factory=list)
    unstarted: list[int] = field(default_factory=list)
    uncounted: list[int] = field(default_factory=list)
    disagreeing: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything was wrong."""
        return bool(self.locks or self.unstarted or self.uncounted or self.disagreeing)


def sweep(pad: OrionLaunchPad, *, grace: float = GRACE, window: float = 900.0) -> Repairs:
    """Find and repair what is older than ``grace``; harmless at any time, from any process.

    Parameters
    ----------
    pad
        The LaunchPad.
    grace
        How long a process may take between two writes, s.
    window
        How far to look back for finished fireworks whose workflow does not know, s.
    """
    repairs = Repairs()
    for doc in pad.workflows.find({"locked": {"$exists": True}},
                                  {"locked": 1, "updated_on": 1, "nodes": {"$slice": 1}}):
        dead = pad.locks.dead_filter(doc)
        taken = pad.locks.take_over(dead) if dead else None
        if taken:
            pad.locks.release(taken)
            repairs.locks += doc["nodes"]
    _repair_live(pad, grace, repairs)
    _repair_finished(pad, grace, window, repairs)
    return repairs


def _repair_live(pad: OrionLaunchPad, grace: float, repairs: Repairs) -> None:
    old = datetime.now(UTC) - timedelta(seconds=grace)
    live = [fw for fw in pad.fireworks.find(
        {"state": {"$in": list(LIVE)}},
        {"fw_id": 1, "launches": 1, "updated_on": 1, "state": 1})
        if (as_time(fw["updated_on"]) or old) <= old]
    states = {d["launch_id"]: d for d in pad.launches.find(
        {"launch_id": {"$in": [i for fw in live for i in fw["launches"]]}},
        {"launch_id": 1, "state": 1, "time_end": 1})}
    for fw in live:
        launches = [states[i] for i in fw["launches"] if i in states]
        if not launches:
            if put_back_unstarted(pad, fw):
                repairs.unstarted.append(fw["fw_id"])
        elif all(d["state"] in FINISHED for d in launches) and all(
                (as_time(d.get("time_end")) or old) <= old for d in launches):
            pad._refresh_wf(fw["fw_id"])  # noqa: SLF001  FireWorks' name for it
            repairs.uncounted.append(fw["fw_id"])


def put_back_unstarted(pad: OrionLaunchPad, fw: Doc) -> bool:
    """Make READY a firework that was claimed by one who died before its launch existed."""
    with pad.locks.holding(fw["fw_id"]) as doc:
        done = pad.fireworks.update_one(
            {"fw_id": fw["fw_id"], "state": fw["state"], "launches": fw["launches"],
             "updated_on": fw["updated_on"]},
            {"$set": {"state": "READY", "launches": [], "updated_on": now_text()}}).modified_count
        if not done:
            pad.locks.release(doc)
            return False
        graph = Graph(pad, doc)
        graph.refresh(fw["fw_id"])
        commit(graph)
    return True


def _repair_finished(pad: OrionLaunchPad, grace: float, window: float, repairs: Repairs) -> None:
    now = datetime.now(UTC)
    since, until = now - timedelta(seconds=window), now - timedelta(seconds=grace)
    span: list[Doc] = [{"$gte": a, "$lte": b} for a, b in (
        (since, until), (since.isoformat(), until.isoformat()))]
    ended = {fw["fw_id"]: fw["state"] for fw in pad.fireworks.find(
        {"state": {"$in": list(FINISHED)}, "$or": [{"updated_on": s} for s in span]},
        {"fw_id": 1, "state": 1})}
    for wrong in [*_disagreeing(pad, ended), *_not_set_free(pad, since, until)]:
        pad._refresh_wf(wrong)  # noqa: SLF001  FireWorks' name for it
        repairs.disagreeing.append(wrong)


def _disagreeing(pad: OrionLaunchPad, ended: dict[int, str]) -> list[int]:
    """Return the finished fireworks that their workflows take for unfinished."""
    wrong: list[int] = []
    ids = list(ended)
    for begin in range(0, len(ids), 1000):
        part = ids[begin:begin + 1000]
        for doc in pad.workflows.find({"nodes": {"$in": part}, "locked": {"$exists": False}},
                                      {f"fw_states.{i}": 1 for i in part}):
            wrong += [int(i) for i, state in doc.get("fw_states", {}).items()
                      if state != ended[int(i)]]
    return wrong


def _not_set_free(pad: OrionLaunchPad, since: datetime, until: datetime) -> list[int]:
    """Return the fireworks that are READY for their workflow and WAITING for themselves."""
    ready = [int(i) for doc in pad.workflows.find(
        {"updated_on": {"$gte": since, "$lte": until}, "locked": {"$exists": False}},
        {"fw_states": 1}) for i, state in doc.get("fw_states", {}).items() if state == "READY"]
    wrong: list[int] = []
    for begin in range(0, len(ready), 10_000):
        part = ready[begin:begin + 10_000]
        wrong += [fw["fw_id"] for fw in pad.fireworks.find(
            {"fw_id": {"$in": part}, "state": "WAITING"}, {"fw_id": 1})]
    return wrong


def repair_workflow(pad: OrionLaunchPad, doc: Doc) -> list[int]:
    """Bring one workflow, locked by us, in line with its fireworks and launches.

    Returns
    -------
    list of int
        Fireworks that were refreshed.
    """
    graph = Graph(pad, doc)
    graph.load(graph.links)
    live = [v for v in graph.views.values() if v.state in LIVE]
    ended = _ended_launches(pad, [i for v in live for i in v.launches])
    suspects = [i for i, v in graph.views.items()
                if v.state != graph.states.get(i) or (v in live and ended & set(v.launches))]
    for fw_id in sorted(suspects):
        if graph.view(fw_id).launches or graph.view(fw_id).state not in LIVE:
            graph.refresh(fw_id)
    commit(graph, unlock=False)
    return suspects


def _ended_launches(pad: OrionLaunchPad, ids: Iterable[int]) -> set[Any]:
    return {d["launch_id"] for d in pad.launches.find(
        {"launch_id": {"$in": list(ids)}, "state": {"$in": list(FINISHED)}}, {"launch_id": 1})}
