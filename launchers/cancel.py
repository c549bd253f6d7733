"""Stopping a job that runs: a word in its launch asks, and whoever runs it stops and settles it.

The word is ``launches.<doc>.cancel``. A launcher asks for it in its heartbeat (`requested`), ends
the processes of that job alone, and writes what became of it (`settle`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orionflow.launchers.pad.documents import (
    LIVE,
    PUT_BACK,
    Doc,
    finish_launch,
    message_action,
    now_text,
)
from orionflow.launchers.pad.graph import Graph
from orionflow.launchers.pad.locks import held
from orionflow.launchers.pad.requests import CANCEL_FIELD, CANCELLED_KEY, CancelRequest

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from orionflow.launchers.pad import OrionLaunchPad

__all__ = ["CANCELLED_KEY", "CANCEL_FIELD", "CancelRequest", "ask", "put_back", "requested",
           "settle"]


def requested(pad: OrionLaunchPad, launch_ids: Collection[int]) -> dict[int, CancelRequest]:
    """Return those of these launches that are asked to stop; one query.

    Parameters
    ----------
    pad
        The LaunchPad.
    launch_ids
        Running launches of the caller.
    """
    found = pad.launches.find(
        {"launch_id": {"$in": list(launch_ids)}, CANCEL_FIELD: {"$exists": True}},
        {"_id": 0, "launch_id": 1, CANCEL_FIELD: 1}) if launch_ids else ()
    return {doc["launch_id"]: CancelRequest.from_dict(doc[CANCEL_FIELD]) for doc in found}


def ask(pad: OrionLaunchPad, launch_ids: Collection[int], request: CancelRequest) -> None:
    """Ask whoever runs these launches to stop them, or is about to put them back."""
    running = [{"state": "RUNNING"},
               {"state": "FIZZLED", f"action.stored_data.{PUT_BACK}": {"$exists": True}}]
    pad.launches.update_many({"launch_id": {"$in": list(launch_ids)}, "$or": running},
                             {"$set": {CANCEL_FIELD: request.to_dict()}})


def put_back(pad: OrionLaunchPad, fw_id: int, launch_id: int, reason: str, *,
             folder: str | Path, spec: Doc | None = None) -> tuple[str, str]:
    """Put a job back, unless somebody has asked meanwhile for it to stop: then as he wished.

    Parameters
    ----------
    pad
        The LaunchPad.
    fw_id, launch_id
        The firework and the launch that is given up; its processes must be gone.
    reason
        Why, for people.
    folder
        Where it ran; empty for one that never started.
    spec
        Entries set in the firework's spec if it is put back.

    Returns
    -------
    tuple of str
        State of the firework, empty when that launch is no longer its current one; and why.
    """
    if pad.put_back(fw_id, launch_id, reason, spec=spec, unless=CANCEL_FIELD):
        return "READY", reason
    request = requested(pad, [launch_id]).get(launch_id)
    if request is None:
        return "", reason
    # Or somebody has repaired the workflow, and done as was asked.
    held_now = {"fw_id": fw_id, "archived_launches": launch_id, "state": request.becomes}
    if settle(pad, fw_id, launch_id, request, folder) or (
            pad.fireworks.find_one(held_now, {"_id": 1})):
        return request.becomes, request.describe()
    return "", reason


def settle(pad: OrionLaunchPad, fw_id: int, launch_id: int, request: CancelRequest,
           folder: str | Path) -> bool:
    """Write that a launch was stopped as asked; its processes must be gone.

    What lies in its folder stays, and it goes on there if it is ever run again.

    Parameters
    ----------
    pad
        The LaunchPad.
    fw_id, launch_id
        The firework and the launch that was stopped.
    request
        Who asked, and what for.
    folder
        Where it ran; empty for one that never started.

    Returns
    -------
    bool
        False when that launch is no longer the firework's current one: nothing is changed.
    """
    spec: Doc = {CANCELLED_KEY: request.to_dict()}
    doc = pad.fireworks.find_one({"fw_id": fw_id}, {"spec._launch_dir": 1}) or {}
    if where := (doc.get("spec") or {}).get("_launch_dir") or str(folder):
        spec["_launch_dir"] = where
    if request.becomes == "READY":
        return pad.put_back(fw_id, launch_id, request.describe(), spec=spec)
    with pad.locks.holding(fw_id) as workflow:
        mine = {"fw_id": fw_id, "launches": launch_id, "state": {"$in": [*LIVE, "FIZZLED"]}}
        if pad.fireworks.find_one(mine, {"_id": 1}) is None:
            pad.locks.release(workflow)
            return False
        launch = pad.launches.find_one({"launch_id": launch_id}) or {}
        fields, push = finish_launch(launch, "FIZZLED", message_action(
            request.describe(), **{CANCELLED_KEY: request.to_dict()}))
        pad.launches.update_one({"launch_id": launch_id}, {"$set": fields, "$push": push})
        changes: Doc = {f"spec.{k}": {"$literal": v} for k, v in spec.items()}
        pad.fireworks.update_one(mine, [{"$set": {
            "archived_launches": {"$setUnion": [
                {"$ifNull": ["$archived_launches", []]}, "$launches"]},
            "launches": [], "state": request.becomes, "updated_on": now_text(), **changes}}])
        graph = Graph(pad, workflow)
        graph.states[fw_id] = request.becomes
        pad.workflows.update_one(held(workflow), {
            "$set": {f"fw_states.{fw_id}": request.becomes, "state": graph.state(),
                     "updated_on": datetime.now(UTC)},
            "$unset": {"locked": ""}})
    pad.claims.pop(launch_id, None)
    return True
