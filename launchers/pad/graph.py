"""One workflow in memory while it is locked: FireWorks' refresh, in linear time, on documents.

What may be written when
------------------------
- A firework that another process may claim (READY) is written only by single updates that name the
  state it must still be in.
- Everything else of a workflow changes only under its lock, by us and by stock FireWorks alike; or
  in one update of the workflow document that names all it relies upon (see `settle`).
- ``fw_states`` of the workflow document says whether an action has been applied: once it says
  COMPLETED, never again. What the action changes in other fireworks' specs is written before, in
  the same update that adds the launch to their ``settled``: whoever has to repeat the action skips
  those. That update also names the ``settled`` it relies upon, so one who lost his lock without
  knowing writes nothing.
- New fireworks are inserted as WAITING, which nobody claims; then the workflow document learns of
  them, with all their links, in one update; then they become READY. Who dies in between leaves
  either nothing but unreachable documents or a workflow that a refresh completes.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from fireworks.core import firework
from fireworks.core.firework import Firework, FWAction, Workflow
from fireworks.core.launchpad import get_action_from_gridfs
from fireworks.utilities.dict_mods import apply_mod

from orionflow.launchers.pad.documents import (
    FINISHED,
    HELD,
    LIVE,
    PUT_BACK,
    RANKS,
    plain,
    set_path,
)
from orionflow.launchers.pad.graph_writes import GraphWrites
from orionflow.launchers.pad.requests import CANCEL_FIELD, CANCELLED_KEY, CancelRequest
from orionflow.launchers.pad.views import View

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any


class Graph(GraphWrites):
    """A locked workflow, FireWorks' rules for it, and what is to be changed in it.

    Parameters
    ----------
    pad
        The LaunchPad.
    doc
        The workflow's document, with our lock.
    """

    # ------------------------------------------------------------------ FireWorks' refresh

    def refresh(self, fw_id: int) -> None:
        """Work out the state of a firework and, when it has finished, of those that wait for it."""
        todo = [fw_id]
        while todo:
            here = todo.pop()
            self._refresh_one(here, todo)

    def _refresh_one(self, fw_id: int, todo: list[int]) -> None:
        view = self.view(fw_id)
        if view.state in HELD:
            self._set_state(fw_id, view.state)
            return
        before = view.state
        applied = self.states.get(fw_id) == "COMPLETED"
        done = FINISHED if view.allows_fizzled else ("COMPLETED",)
        parents = self.parents.get(fw_id, ())
        action = None
        if any(self.states[p] not in done for p in parents):
            state = "WAITING"
        else:
            launch = self.launch_of(view)
            if launch and launch["state"] == "FIZZLED" and launch["action"] and (
                    PUT_BACK in launch["action"].stored_data):
                # Given up by one who died before he could make the firework READY.
                self.put_back(fw_id, launch["action"].stored_data[PUT_BACK],
                              launch.get(CANCEL_FIELD))
                return
            # Without a launch: being claimed now, or by one who died; a sweep tells them apart.
            claimed = view.state if view.state in LIVE else "READY"
            state = launch["state"] if launch else claimed
            action = launch["action"] if launch and state == "COMPLETED" else None
            if view.allows_fizzled and not view.told_of_fizzled:
                self._tell_of_fizzled(view, parents)
        changed = state != before or state != self.states.get(fw_id)
        self._set_state(fw_id, state)
        if not changed:
            return
        if state == "COMPLETED" and action is not None and not applied:
            self._apply(action, view)
        if state in FINISHED:
            kids = self.links[fw_id]
            self.load(kids)
            todo.extend(reversed(kids))

    def _tell_of_fizzled(self, view: View, parents: Collection[int]) -> None:
        self.load(parents)
        fizzled = [p for p in parents if self.view(p).state == "FIZZLED"]
        if not fizzled:
            return
        told = []
        for parent in fizzled:
            fw = self.pad.get_fw_by_id(parent).to_dict()
            fw["state"] = "FIZZLED"
            told.append(fw)
        self.spec(view.fw_id)["_fizzled_parents"] = told
        view.told_of_fizzled = True
        self._changed.add(view.fw_id)

    def _descendants(self, fw_id: int) -> list[int]:
        found: dict[int, None] = {}
        todo = list(reversed(self.links[fw_id]))
        while todo:
            here = todo.pop()
            if here not in found:
                found[here] = None
                todo.extend(reversed(self.links[here]))
        return list(found)

    def _apply(self, action: FWAction, view: View) -> None:
        """Apply what a finished firework asks for (Workflow.apply_action)."""
        fw_id = view.fw_id
        if action.update_spec or action.mod_spec:
            kids = self._descendants(fw_id) if action.propagate else list(self.links[fw_id])
            self._load_specs(kids)
            for kid in kids:
                self._modify(kid, action, view)
        self._defuse(action, fw_id)
        for wf in action.detours:
            self.append(_workflow(wf), [fw_id], [True], pull=False)
        for extra in action.append_wfs:
            parents = list(extra["parents"])
            self.append(_workflow(extra["workflow"]), [fw_id, *parents],
                        [extra["detour"]] + [False] * len(parents), pull=True)
        for wf in action.additions:
            self.append(_workflow(wf), [fw_id], [False], pull=False)

    def _defuse(self, action: FWAction, fw_id: int) -> None:
        if action.defuse_children:
            self.load(self.links[fw_id])
            for kid in self.links[fw_id]:
                self._set_state(kid, "DEFUSED")
        if action.defuse_workflow:
            self.load(self.links)
            for node in list(self.links):
                if self.view(node).state not in FINISHED:
                    self._set_state(node, "DEFUSED")

    def _modify(self, kid: int, action: FWAction, parent: View) -> None:
        child = self.view(kid)
        launch = parent.launches[-1] if parent.launches else None
        applied = self._settled_by.setdefault(kid, [])
        if launch is not None:
            applied.append(launch)
            if launch in child.settled:
                return  # done by one who died before he could record it in the workflow
        spec = self.spec(kid)
        spec.update(plain(action.update_spec))
        for mod in action.mod_spec:
            apply_mod(plain(mod), spec)
        child.allows_fizzled = bool(spec.get("_allow_fizzled_parents"))
        self._changed.add(kid)

    def append(self, new: Workflow, parents: list[int], detours: list[bool], *,
               pull: bool) -> None:
        """Append a workflow below fireworks of this one (Workflow.append_wf).

        Raises
        ------
        ValueError
            A detour around fireworks that are no longer WAITING, or ids that are not new.
        """
        self._renumber(new)
        self._check_append(new, parents, detours)
        roots = new.root_fw_ids
        leaves = set(new.leaf_fw_ids)
        inherited = [kid for parent, detour in zip(parents, detours, strict=True) if detour
                     for kid in self.links[parent] if kid >= 0]
        for fw in new:
            kids = list(inherited) if fw.fw_id in leaves else list(new.links[fw.fw_id])
            self.links[fw.fw_id] = kids
            self._new.append(fw.fw_id)
            # The state is worked out below; one set by hand (PAUSED, DEFUSED) is kept.
            self.views[fw.fw_id] = View(
                fw.fw_id, None, fw.state, [launch.launch_id for launch in fw.launches],
                bool(fw.spec.get("_allow_fizzled_parents")), "_fizzled_parents" in fw.spec, [],
                new=fw)
            self.states[fw.fw_id] = "WAITING"
            for kid in kids:
                self.parents.setdefault(kid, []).append(fw.fw_id)
                self._reparented.add(kid)
        for parent in parents:
            self.links[parent].extend(roots)
            self._relinked.add(parent)
            for root in roots:
                self.parents.setdefault(root, []).append(parent)
            if pull:
                self._pull(parent, [self.views[r] for r in roots])
        for fw in new:
            self.refresh(fw.fw_id)

    def _renumber(self, new: Workflow) -> None:
        """Change ids that other new fireworks of this workflow have: each process counts its own.

        The very same firework twice stays, and is refused.
        """
        clashing = [fw for fw in new if fw.fw_id < 0 and fw.fw_id in self.views
                    and self.views[fw.fw_id].new is not fw]
        if not clashing:
            return
        lowest = min(*self.links, *new.id_fw)
        ids = {fw.fw_id: lowest - n for n, fw in enumerate(clashing, start=1)}
        new._reassign_ids(ids)  # noqa: SLF001  the base class does the same
        for fw in clashing:
            fw.fw_id = ids[fw.fw_id]

    def _check_append(self, new: Workflow, parents: list[int], detours: list[bool]) -> None:
        for parent in parents:
            if parent not in self.links:
                raise ValueError(f"fw_id={parent} is not in workflow {self.doc['name']!r}")
        for parent, detour in zip(parents, detours, strict=True):
            if detour and any(i >= 0 and RANKS[self.states[i]] > RANKS["WAITING"]
                              for i in self.links[parent]):
                raise ValueError(f"fw_id={parent}: Detour option only works if all children of "
                                 "detours are not READY to run and have not already run")
        for fw in new:
            if fw.fw_id >= 0:
                raise ValueError(
                    f"FireWorks to add must use a negative fw_id! Got fw_id: {fw.fw_id}")
            if fw.fw_id in self.links:
                raise ValueError(
                    "Cannot use duplicated fw_ids when dynamically extending workflows!")

    def _pull(self, parent: int, roots: list[View]) -> None:
        """Give new fireworks what a finished parent passes to its children."""
        launch = self.launch_of(self.view(parent))
        # Stored, but not counted yet: it will reach them when it is.
        counted = self.states[parent] == "COMPLETED"
        if not counted or launch is None or not launch.get("action"):
            return
        for root in roots:
            if root.new is not None:
                root.new.spec.update(deepcopy(launch["action"].update_spec))
                for mod in launch["action"].mod_spec:
                    apply_mod(deepcopy(mod), root.new.spec)

    # ------------------------------------------------------------------ FireWorks' rerun

    def rerun(self, fw_id: int) -> None:
        """Archive the launches of a firework and of all that came after it (Workflow.rerun_fw)."""
        todo, first = [fw_id], True
        while todo:
            here = todo.pop()
            view = self.view(here)
            if view.state == "WAITING" and not first:
                continue
            first = False
            if view.state == "FIZZLED":
                self._exception_details(view)
            view.rerun = True
            self._set_state(here, "WAITING")
            self._changed.add(here)
            self._refresh_one(here, [])
            self.load(self.links[here])
            todo.extend(reversed(self.links[here]))

    def put_back(self, fw_id: int, changes: Iterable[Iterable[Any]], asked: Any = None) -> None:
        """Archive the launches of a firework, change entries of its spec, and let it run again.

        Unless somebody ``asked`` meanwhile (`CancelRequest.to_dict`) that it does not.
        """
        spec = self.spec(fw_id)
        for path, value in changes:
            set_path(spec, path, value)
        if asked is not None:
            spec[CANCELLED_KEY] = asked
        self.rerun(fw_id)
        becomes = "READY" if asked is None else CancelRequest.from_dict(asked).becomes
        if becomes != "READY":
            self._set_state(fw_id, becomes)

    def _exception_details(self, view: View) -> None:
        details = None
        if firework.EXCEPT_DETAILS_ON_RERUN and view.launches:
            last = self.pad.launches.find_one({"launch_id": view.launches[-1]}, {"action": 1})
            action = get_action_from_gridfs((last or {}).get("action"), self.pad.gridfs_fallback)
            stored = (action or {}).get("stored_data") or {}
            details = (stored.get("_exception") or {}).get("_details")
        spec = self.spec(view.fw_id)
        if details:
            spec["_exception_details"] = details
        else:
            spec.pop("_exception_details", None)

def _workflow(wf: Workflow | Firework) -> Workflow:
    return Workflow.from_firework(wf) if isinstance(wf, Firework) else wf
