"""Taking many fireworks out of the queue, or back into it, whatever workflows they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from orionflow.launchers.pad.commit import commit_together
from orionflow.launchers.pad.documents import Doc, now, now_text
from orionflow.launchers.pad.graph import Graph
from orionflow.launchers.pad.locks import held
from orionflow.launchers.pad.views import load_views

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orionflow.launchers.pad import OrionLaunchPad

#: States of fireworks that nobody has taken.
FREE = ("WAITING", "READY", "PAUSED")
_CHUNK = 2000


def hold(pad: OrionLaunchPad, fw_ids: Collection[int], state: str, *,
         states: Sequence[str] = FREE, spec: Doc | None = None,
         step: Callable[[int], object] | None = None) -> list[int]:
    """Give fireworks a state in which nobody takes them: DEFUSED or PAUSED.

    Parameters
    ----------
    pad
        The LaunchPad.
    fw_ids
        Fireworks of any workflows.
    state
        The state they get.
    states
        Only those in one of these; what is claimed in this moment is not touched.
    spec
        Entries set in their specs.
    step
        Called with the number of fireworks looked at since its last call.

    Returns
    -------
    list of int
        Ids of the fireworks changed.
    """
    changed: list[int] = []
    change = {"$set": {"state": state, **{f"spec.{k}": v for k, v in (spec or {}).items()}}}

    def work(docs: list[Doc], mine: list[int]) -> None:
        nodes = [i for doc in docs for i in doc["nodes"]]
        wanted = {"fw_id": {"$in": mine}, "state": {"$in": [s for s in states if s != state]}}
        before = [fw["fw_id"] for fw in pad.fireworks.find(wanted, {"_id": 0, "fw_id": 1})]
        change["$set"]["updated_on"] = now_text()
        pad.fireworks.update_many(wanted, change)
        there = {fw["fw_id"]: fw["state"] for fw in pad.fireworks.find(
            {"fw_id": {"$in": nodes}}, {"_id": 0, "fw_id": 1, "state": 1})}
        pad.workflows.bulk_write([_states(pad, doc, there) for doc in docs], ordered=False)
        changed.extend(i for i in before if there.get(i) == state)

    _with_locks(pad, fw_ids, work, step)
    return sorted(changed)


def wake(pad: OrionLaunchPad, fw_ids: Collection[int], *, old: str = "PAUSED",
         step: Callable[[int], object] | None = None) -> list[int]:
    """Wake fireworks that are PAUSED (or DEFUSED): READY again, or WAITING for their parents.

    Returns
    -------
    list of int
        Ids of the fireworks woken.
    """
    woken: list[int] = []

    def work(docs: list[Doc], mine: list[int]) -> None:
        graphs = [Graph(pad, doc) for doc in docs]
        load_views(pad, graphs, mine)
        for graph in graphs:
            asleep = [i for i, view in graph.views.items() if view.state == old]
            for i in asleep:
                graph.views[i].state = graph.states[i] = "WAITING"
            for i in asleep:
                graph.refresh(i)
                graph.mark(i)
            woken.extend(asleep)
        commit_together(pad, graphs)

    _with_locks(pad, fw_ids, work, step)
    return sorted(woken)


def _states(pad: OrionLaunchPad, doc: Doc, there: dict[int, str]) -> UpdateOne:
    """Return the update that copies the states of fireworks into their workflow and unlocks it."""
    graph = Graph(pad, doc)
    graph.states |= {i: there[i] for i in doc["nodes"] if i in there}
    return UpdateOne(held(doc), {
        "$set": {"fw_states": {str(i): s for i, s in graph.states.items()},
                 "state": graph.state(), "updated_on": now()},
        "$unset": {"locked": ""}})


def _with_locks(pad: OrionLaunchPad, fw_ids: Collection[int],
                work: Callable[[list[Doc], list[int]], None],
                step: Callable[[int], object] | None) -> None:
    """Call ``work`` with locked workflows, which it unlocks, and those fireworks that are theirs.

    Fireworks without a workflow are left out: a submission on its way, not ours to stop.
    """
    left = set(fw_ids)
    while left:
        part = sorted(left)[:_CHUNK]
        there = left & {i for doc in pad.workflows.find(
            {"nodes": {"$in": part}}, {"_id": 0, "nodes": 1}) for i in doc["nodes"]}
        left -= set(part) - there
        if not there:
            continue
        docs = pad.locks.acquire_some(there.intersection(part))
        mine = left & {i for doc in docs for i in doc["nodes"]}
        try:
            work(docs, sorted(mine))
        except PyMongoError:
            for doc in docs:
                pad.locks.abandon(doc)
            raise
        except BaseException:
            for doc in docs:
                pad.locks.release(doc)
            raise
        left -= mine
        if step is not None:
            step(len(mine))
