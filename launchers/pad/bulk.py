"""Whole workflows at once: defusing, pausing, archiving, listing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo import DESCENDING, UpdateMany

from orionflow.launchers.pad.commit import commit
from orionflow.launchers.pad.documents import CHUNK, Doc, chunks, now, now_text
from orionflow.launchers.pad.graph import Graph
from orionflow.launchers.pad.locks import held

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orionflow.launchers.pad.launchpad import OrionLaunchPad


def set_all(pad: OrionLaunchPad, fw_id: int, state: str, *, keep: Sequence[str],
            archive: Sequence[str]) -> int:
    """Give all fireworks of a workflow one state, under one lock.

    Parameters
    ----------
    pad, fw_id
        LaunchPad and a firework of the workflow.
    state
        DEFUSED, PAUSED or ARCHIVED.
    keep
        Fireworks in these states are left alone.
    archive
        Launches of fireworks in these states are archived: they lose their firework, and what
        they report later is refused.

    Returns
    -------
    int
        Fireworks changed.
    """
    with pad.locks.holding(fw_id) as doc:
        nodes, when = doc["nodes"], now_text()
        archiving = [{"$set": {
            "archived_launches": {"$setUnion": [
                {"$ifNull": ["$archived_launches", []]}, {"$ifNull": ["$launches", []]}]},
            "launches": [], "state": state, "updated_on": when}}]
        changed = 0
        for part in chunks(nodes):
            here: Doc = {"fw_id": {"$in": part}}
            # In this order: what is claimed between the two is archived.
            done = pad.fireworks.bulk_write([
                UpdateMany({**here, "state": {"$nin": [*keep, *archive, state]}},
                           {"$set": {"state": state, "updated_on": when}}),
                *([UpdateMany({**here, "state": {"$in": list(archive)}}, archiving)]
                  if archive else []),
            ])
            changed += done.modified_count
        _states_from_fireworks(pad, doc)
    return changed


def reignite(pad: OrionLaunchPad, fw_id: int, *, old: str) -> int:
    """Wake all fireworks of a workflow that are DEFUSED (or PAUSED): WAITING or READY again."""
    with pad.locks.holding(fw_id) as doc:
        graph = Graph(pad, doc)
        graph.load(graph.links)
        asleep = [i for i, v in graph.views.items() if v.state == old]
        for i in asleep:
            graph.views[i].state = "WAITING"
            graph.states[i] = "WAITING"
        for i in asleep:
            graph.refresh(i)
            graph.mark(i)
        commit(graph)
    return len(asleep)


def _states_from_fireworks(pad: OrionLaunchPad, doc: Doc) -> None:
    """Copy the states of the fireworks into their locked workflow, and unlock it."""
    graph = Graph(pad, doc)
    for part in chunks(doc["nodes"]):
        for fw in pad.fireworks.find({"fw_id": {"$in": part}}, {"fw_id": 1, "state": 1}):
            graph.states[fw["fw_id"]] = fw["state"]
    pad.workflows.update_one(held(doc), {
        "$set": {"fw_states": {str(i): s for i, s in graph.states.items()},
                 "state": graph.state(), "updated_on": now()},
        "$unset": {"locked": ""}})


def list_fireworks(pad: OrionLaunchPad, query: Doc | None, *, sort: list[tuple[str, int]] | None,
                   limit: int, spec: Iterable[str]) -> list[Doc]:
    """Return short descriptions of fireworks (see OrionLaunchPad.list_fireworks)."""
    fields: Doc = {"_id": 0, "fw_id": 1, "name": 1, "state": 1, "created_on": 1, "updated_on": 1,
                   "launches": 1}
    fields |= {f"spec.{name}": 1 for name in spec}
    found = list(pad.fireworks.find(query or {}, fields, sort=sort or [("fw_id", 1)], limit=limit,
                                    batch_size=CHUNK))
    last = [fw["launches"][-1] for fw in found if fw["launches"]]
    folders: dict[int, Any] = {}
    for part in chunks(last):
        folders |= {d["launch_id"]: d for d in pad.launches.find(
            {"launch_id": {"$in": part}},
            {"_id": 0, "launch_id": 1, "launch_dir": 1, "host": 1, "runtime_secs": 1},
            batch_size=CHUNK)}
    for fw in found:
        launch = folders.get(fw["launches"][-1], {}) if fw["launches"] else {}
        fw["launch_dir"] = launch.get("launch_dir")
        fw["host"] = launch.get("host")
        fw["runtime_secs"] = launch.get("runtime_secs")
    return found


def list_workflows(pad: OrionLaunchPad, query: Doc | None, *, limit: int) -> list[Doc]:
    """Return short descriptions of workflows, newest first: counts of states, first firework."""
    fields = {"_id": 0, "name": 1, "state": 1, "created_on": 1, "updated_on": 1, "metadata": 1,
              "fw_id": {"$min": "$nodes"}, "size": {"$size": "$nodes"}, "fw_states": 1}
    found = list(pad.workflows.find(query or {}, fields, sort=[("_id", DESCENDING)], limit=limit,
                                    batch_size=CHUNK))
    for wf in found:
        counts: dict[str, int] = {}
        for state in wf.pop("fw_states", {}).values():
            counts[state] = counts.get(state, 0) + 1
        wf["states"] = counts
    return found
