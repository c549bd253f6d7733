"""Stopping a job that runs: a word in its launch asks, and whoever runs it stops and settles it.

The word is ``launches.<doc>.cancel``. A launcher asks for it in its heartbeat (`requested`), ends
the processes of that job alone, and writes what became of it (`settle`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from orionflow.launchers.pad.documents import LIVE, Doc, finish_launch, message_action, now_text
from orionflow.launchers.pad.graph import Graph
from orionflow.launchers.pad.locks import held

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from orionflow.launchers.pad import OrionLaunchPad

CANCEL_FIELD = "cancel"
CANCELLED_KEY = "_cancelled"


@dataclass(frozen=True)
class CancelRequest:
    """Who wants a job to stop, when, and why.

    Attributes
    ----------
    restartable
        It becomes READY again and goes on in its folder, instead of DEFUSED.
    pause
        It becomes PAUSED, and goes on in its folder when it is resumed.
    """

    who: str
    why: str
    at: str
    restartable: bool = False
    pause: bool = False

    @classmethod
    def now(cls, who: str, why: str, *, restartable: bool = False,
            pause: bool = False) -> CancelRequest:
        """Return a request made at this moment."""
        return cls(who, why, datetime.now(UTC).isoformat(timespec="seconds"),
                   restartable=restartable, pause=pause)

    @classmethod
    def from_dict(cls, data: Any) -> CancelRequest:
        """Return what ``to_dict`` wrote; what anybody else wrote means: stop."""
        data = data if isinstance(data, dict) else {}
        return cls(str(data.get("who", "somebody")), str(data.get("why", "")),
                   str(data.get("at", "")), restartable=data.get("restartable") is True,
                   pause=data.get("pause") is True)

    def to_dict(self) -> Doc:
        """Return plain values for a document."""
        return asdict(self)

    @property
    def becomes(self) -> Literal["DEFUSED", "READY", "PAUSED"]:
        """State of the firework afterwards."""
        return "PAUSED" if self.pause else "READY" if self.restartable else "DEFUSED"

    def describe(self) -> str:
        """Return one line."""
        what = {"PAUSED": "paused", "READY": "stopped and put back",
                "DEFUSED": "cancelled"}[self.becomes]
        return f"{what} by {self.who}" + (f": {self.why}" if self.why else "")


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
    """Ask whoever runs these launches to stop them."""
    pad.launches.update_many({"launch_id": {"$in": list(launch_ids)}, "state": "RUNNING"},
                             {"$set": {CANCEL_FIELD: request.to_dict()}})


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
