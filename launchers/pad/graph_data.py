"""A locked workflow in memory: its document, and as much of its fireworks as was asked for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fireworks.core.firework import Firework, FWAction
from fireworks.core.launchpad import get_action_from_gridfs

from orionflow.launchers.pad.documents import Doc, representative, workflow_state
from orionflow.launchers.pad.views import View, load_views

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from orionflow.launchers.pad.launchpad import OrionLaunchPad


class GraphData:
    """What is known of a workflow, and where it differs from what is stored.

    Parameters
    ----------
    pad
        The LaunchPad.
    doc
        The workflow's document, with our lock.
    """

    def __init__(self, pad: OrionLaunchPad, doc: Doc) -> None:
        self.pad = pad
        self.doc = doc
        self.begun = time.monotonic(), time.time()
        self.links: dict[int, list[int]] = {int(k): list(v) for k, v in doc["links"].items()}
        self.parents: dict[int, list[int]] = {}
        for parent, kids in self.links.items():
            for kid in kids:
                self.parents.setdefault(kid, []).append(parent)
        for i in self.parents:
            self.links.setdefault(i, [])
        self.views: dict[int, View] = {}
        stored = doc.get("fw_states")
        if stored is None:  # written by a FireWorks older than this field
            stored = {str(f["fw_id"]): f["state"] for f in pad.fireworks.find(
                {"fw_id": {"$in": doc["nodes"]}}, {"fw_id": 1, "state": 1})}
        self.states: dict[int, str] = {int(k): v for k, v in stored.items()}
        self._stored_states = dict(self.states) if "fw_states" in doc else {}
        self._relinked: set[int] = set()
        self._reparented: set[int] = set()
        self._changed: set[int] = set()
        self._settled_by: dict[int, list[int]] = {}
        self._new: list[int] = []
        self._known: dict[int, Doc] = {}
        self._numbered: list[tuple[Firework, int]] = []

    def load(self, ids: Iterable[int]) -> None:
        """Load the views of fireworks that are not there yet."""
        load_views(self.pad, [self], ids)

    def view(self, fw_id: int) -> View:
        """Return what is known of a firework."""
        if fw_id not in self.views:
            self.load([fw_id])
        try:
            return self.views[fw_id]
        except KeyError:
            raise ValueError(f"No Firework exists with id: {fw_id}") from None

    def spec(self, fw_id: int) -> Doc:
        """Return the spec of a firework, to be changed."""
        view = self.view(fw_id)
        if view.new is not None:
            spec: Doc = view.new.spec
            return spec
        if view.spec is None:
            doc = self.pad.fireworks.find_one({"fw_id": fw_id}, {"spec": 1})
            view.spec = doc["spec"] if doc else {}
        return view.spec

    def _load_specs(self, ids: Collection[int]) -> None:
        self.load(ids)
        wanted = [i for i in ids if i >= 0 and self.view(i).spec is None]
        for doc in self.pad.fireworks.find({"fw_id": {"$in": wanted}}, {"fw_id": 1, "spec": 1}):
            self.views[doc["fw_id"]].spec = doc["spec"]

    def know(self, launch: Doc) -> None:
        """Use this launch rather than load it (it has ``launch_id``, ``state``, ``action``)."""
        self._known[launch["launch_id"]] = launch

    def launch_of(self, view: View) -> Doc | None:
        """Return the launch that decides about a firework, with its action as FWAction."""
        if not view.launches or view.rerun:
            return None
        if len(view.launches) == 1 and view.launches[0] in self._known:
            return self._known[view.launches[0]]
        docs = list(self.pad.launches.find(
            {"launch_id": {"$in": view.launches}}, {"state_history": 0, "trackers": 0}))
        best = representative(docs)
        if best is not None and not isinstance(best.get("action"), FWAction):
            best["action"] = self._decode(best.get("action"))
        return best

    def _decode(self, action: Doc | None) -> FWAction | None:
        action = get_action_from_gridfs(action, self.pad.gridfs_fallback)
        return FWAction.from_dict(action) if action else None

    def state(self) -> str:
        """Return the workflow's state."""
        return workflow_state(self.links, self.states, self._allowing)

    def _allowing(self, ids: set[int]) -> set[int]:
        self.load(ids)
        return {i for i in ids if self.view(i).allows_fizzled}

    def _set_state(self, fw_id: int, state: str) -> None:
        view = self.view(fw_id)
        if view.state != state or view.stored_state != state:
            self._changed.add(fw_id)
        view.state = state
        if view.new is not None:
            view.new.state = state
        self.states[fw_id] = state

    def mark(self, fw_id: int) -> None:
        """Write the state of a firework, though a refresh did not change it."""
        self._changed.add(fw_id)
