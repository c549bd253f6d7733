"""Making a firework READY again whose launch came to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orionflow.launchers.pad.commit import commit
from orionflow.launchers.pad.documents import (
    LIVE,
    PUT_BACK,
    Doc,
    finish_launch,
    given_up,
    message_action,
)
from orionflow.launchers.pad.graph import Graph

if TYPE_CHECKING:
    from orionflow.launchers.pad.launchpad import OrionLaunchPad

_STATES = (*LIVE, "FIZZLED")


def put_back(pad: OrionLaunchPad, fw_id: int, launch_id: int, reason: str, *,
             spec: Doc | None, unless: str) -> bool:
    """Put a firework back (see OrionLaunchPad.put_back)."""
    mine = {"fw_id": fw_id, "launches": launch_id, "state": {"$in": list(_STATES)}}
    if pad.fireworks.find_one(mine, {"_id": 1}) is None:
        return False
    changes = [[path, value] for path, value in (spec or {}).items()]
    launch = pad.launches.find_one({"launch_id": launch_id})
    # First, and without the lock: should it not be had, or should we die, whoever refreshes does
    # the rest.
    if launch is not None and not given_up(launch) and not _give_up(
            pad, launch, message_action(reason, **{PUT_BACK: changes}), unless):
        return False
    with pad.locks.holding(fw_id) as doc:
        graph = Graph(pad, doc)
        view = graph.view(fw_id)
        asked = bool(unless) and pad.launches.find_one(
            {"launch_id": launch_id, unless: {"$exists": True}}, {"_id": 1}) is not None
        if not asked and view.state in _STATES and launch_id in view.launches:
            graph.put_back(fw_id, changes)
        commit(graph)
    if not asked:
        pad.claims.pop(launch_id, None)
    return not asked


def _give_up(pad: OrionLaunchPad, launch: Doc, action: Doc, unless: str) -> bool:
    """End a launch; False when it has ended already, or has the field ``unless``."""
    fields, push = finish_launch(launch, "FIZZLED", action)
    query: Doc = {"launch_id": launch["launch_id"], "state": {"$in": list(LIVE)}}
    if unless:
        query[unless] = {"$exists": False}
    return bool(pad.launches.update_one(query, {"$set": fields, "$push": push}).matched_count)
