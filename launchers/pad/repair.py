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

from fireworks.core.launchpad import LockedWorkflowError
from pymongo.errors import PyMongoError

from orionflow.launchers.pad.commit import commit
from orionflow.launchers.pad.documents import (
    FINISHED,
    GRACE,
    LIVE,
    Doc,
    as_time,
    chunks,
    now_text,
)
from orionflow.launchers.pad.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orionflow.launchers.pad.launchpad import OrionLaunchPad

# As GRACE, for stock FireWorks, which waits half a minute for MongoDB between two of its writes and
# does not look again then.
STOCK_GRACE = 60.0


@dataclass
class Repairs:
    """What a sweep put right, by firework id (locks: one firework of each workflow)."""

    locks: list[int] = field(default_factory=list)
    unstarted: list[int] = field(default_factory=list)
    uncounted: list[int] = field(default_factory=list)
    disagreeing: list[int] = field(default_factory=list)
    orphans: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything was wrong."""
        return bool(self.locks or self.unstarted or self.uncounted or self.disagreeing
                    or self.orphans)


@dataclass
class Sweep:
    """What to look for.

    Attributes
    ----------
    grace
        How long a process of ours may take between two writes, s.
    stock_grace
        How long stock FireWorks may, s.
    window
        How far to look back for finished fireworks whose workflow does not know, s.
    orphan_age
        Age from which fireworks in no workflow are removed, s; None leaves them.
    dry_run
        Only find.
    """

    grace: float = GRACE
    stock_grace: float = STOCK_GRACE
    window: float = 900.0
    orphan_age: float | None = None
    dry_run: bool = False


def sweep(pad: OrionLaunchPad, what: Sweep) -> Repairs:
    """Find and repair what is older than ``grace``; harmless at any time, from any process."""
    repairs = Repairs()
    for doc in pad.workflows.find({"locked": {"$exists": True}},
                                  {"locked": 1, "updated_on": 1, "nodes": {"$slice": 1}}):
        dead = pad.locks.dead_filter(doc)
        if dead is None:
            continue
        if not what.dry_run:
            taken = pad.locks.take_over(dead)
            if taken is None:
                continue
            pad.locks.release(taken)
        repairs.locks += doc["nodes"]
    _repair_live(pad, what, repairs)
    _repair_finished(pad, what, repairs)
    if what.orphan_age is not None:
        _remove_orphans(pad, what, repairs)
    return repairs


def _repair_live(pad: OrionLaunchPad, what: Sweep, repairs: Repairs) -> None:
    now = datetime.now(UTC)
    old = now - timedelta(seconds=what.grace)
    very_old = now - timedelta(seconds=what.stock_grace)
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
            # We go straight from READY to RUNNING.
            if fw["state"] == "RESERVED" and (as_time(fw["updated_on"]) or old) > very_old:
                continue
            if what.dry_run or put_back_unstarted(pad, fw):
                repairs.unstarted.append(fw["fw_id"])
        elif all(d["state"] in FINISHED for d in launches) and all(
                (as_time(d.get("time_end")) or old) <= old for d in launches) and (
                what.dry_run or _refresh(pad, fw["fw_id"])):
            repairs.uncounted.append(fw["fw_id"])


def _refresh(pad: OrionLaunchPad, fw_id: int) -> bool:
    """Refresh a workflow; one that can't be (now, or here) is left as it is."""
    try:
        with pad._graph(fw_id) as graph:  # noqa: SLF001  a part of the same class
            graph.refresh(fw_id)
    except PyMongoError:
        raise
    except LockedWorkflowError:
        return False
    except Exception as error:  # noqa: BLE001  decoding an action may run any constructor
        pad.m_logger.warning("the end of firework %s can't be applied here (%s: %s); "
                             "recover where its job can be imported", fw_id,
                             type(error).__name__, error)
        return False
    return True


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


def _remove_orphans(pad: OrionLaunchPad, what: Sweep, repairs: Repairs) -> None:
    """Remove fireworks that never got a workflow; they are WAITING, so nobody runs them."""
    before = datetime.now(UTC) - timedelta(seconds=what.orphan_age or 0.0)
    waiting = [fw["fw_id"] for fw in pad.fireworks.find(
        {"state": "WAITING", "launches": [], "created_on": {"$lt": before.isoformat()}},
        {"fw_id": 1})]
    for part in chunks(waiting):
        here = set(part)
        for wf in pad.workflows.find({"nodes": {"$in": part}}, {"nodes": 1}):
            here.difference_update(wf["nodes"])
        if here and not what.dry_run:
            pad.fireworks.delete_many({"fw_id": {"$in": list(here)}, "state": "WAITING"})
        repairs.orphans += sorted(here)


def _repair_finished(pad: OrionLaunchPad, what: Sweep, repairs: Repairs) -> None:
    now = datetime.now(UTC)
    since = now - timedelta(seconds=what.window)
    until = now - timedelta(seconds=what.grace)
    span: list[Doc] = [{"$gte": a, "$lte": b} for a, b in (
        (since, until), (since.isoformat(), until.isoformat()))]
    ended = {fw["fw_id"]: fw["state"] for fw in pad.fireworks.find(
        {"state": {"$in": list(FINISHED)}, "$or": [{"updated_on": s} for s in span]},
        {"fw_id": 1, "state": 1})}
    for wrong in [*_disagreeing(pad, ended), *_not_set_free(pad, since, until)]:
        if what.dry_run or _refresh(pad, wrong):
            repairs.disagreeing.append(wrong)


def _disagreeing(pad: OrionLaunchPad, ended: dict[int, str]) -> list[int]:
    """Return the finished fireworks that their workflows take for unfinished."""
    wrong: list[int] = []
    for part in chunks(list(ended), 1000):
        for doc in pad.workflows.find(
                # A workflow that has completed knows of every firework.
                {"nodes": {"$in": part}, "locked": {"$exists": False},
                 "state": {"$nin": ["COMPLETED", "ARCHIVED"]}},
                {f"fw_states.{i}": 1 for i in part}):
            wrong += [int(i) for i, state in doc.get("fw_states", {}).items()
                      if state != ended[int(i)]]
    return wrong


def _not_set_free(pad: OrionLaunchPad, since: datetime, until: datetime) -> list[int]:
    """Return the fireworks that are READY for their workflow and WAITING for themselves."""
    query = {"updated_on": {"$gte": since, "$lte": until}, "locked": {"$exists": False},
             "state": {"$nin": ["COMPLETED", "ARCHIVED"]}}
    ready = [int(i) for doc in pad.workflows.find(query, {"fw_states": 1})
             for i, state in doc.get("fw_states", {}).items() if state == "READY"]
    wrong: list[int] = []
    for part in chunks(ready):
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
    unreadable: set[int] = set()
    while True:
        graph = Graph(pad, doc)
        graph.load(graph.links)
        live = [v for v in graph.views.values() if v.state in LIVE]
        ended = _ended_launches(pad, [i for v in live for i in v.launches])
        suspects = [i for i, v in graph.views.items() if i not in unreadable and (
            v.state != graph.states.get(i) or (v in live and ended & set(v.launches)))]
        culprit = _refresh_all(graph, sorted(suspects))
        if culprit is None:
            commit(graph, unlock=False)
            return suspects
        unreadable.add(culprit)


def _refresh_all(graph: Graph, suspects: list[int]) -> int | None:
    """Refresh these fireworks; return one whose action can't be applied here, if there is one."""
    for fw_id in suspects:
        if graph.view(fw_id).launches or graph.view(fw_id).state not in LIVE:
            try:
                graph.refresh(fw_id)
            except PyMongoError:
                raise
            except Exception as error:  # noqa: BLE001  an action is a user's code
                graph.pad.m_logger.warning("the end of firework %s can't be applied here (%s: %s)",
                                           fw_id, type(error).__name__, error)
                return fw_id
    return None


def _ended_launches(pad: OrionLaunchPad, ids: Iterable[int]) -> set[Any]:
    return {d["launch_id"] for d in pad.launches.find(
        {"launch_id": {"$in": list(ids)}, "state": {"$in": list(FINISHED)}}, {"launch_id": 1})}
