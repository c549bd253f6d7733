"""The updates that store what was changed in a workflow, each safe to be the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo import UpdateMany, UpdateOne

from orionflow.launchers.pad.documents import Doc, now, now_text
from orionflow.launchers.pad.graph_data import GraphData
from orionflow.launchers.pad.locks import held

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orionflow.launchers.pad.views import View

# Above this many changed entries the maps of a workflow are written whole: each dotted path is
# looked up by walking along its map.
_DOTTED = 40
# Launches remembered in a firework as applied. All but those of the last commit are history, unless
# somebody broke a lock by hand.
_SETTLED = 64


class GraphWrites(GraphData):
    """A workflow whose changes can be written."""

    @property
    def grows(self) -> bool:
        """Whether new fireworks are to be inserted."""
        return bool(self._new)

    def forget_ids(self) -> None:
        """Take the new fireworks' ids back, so that the same action can be applied once more."""
        for fw, old in self._numbered:
            fw.fw_id = old

    @property
    def new_ids(self) -> list[int]:
        """Ids of the new fireworks; negative until they are inserted."""
        return list(self._new)

    def insert_new(self) -> None:
        """Insert the new fireworks, as WAITING, and give them their ids."""
        fresh = sorted(self._new)
        first = self.pad.get_new_fw_id(quantity=len(fresh))
        ids = {old: first + n for n, old in enumerate(fresh)}
        docs = []
        for old in fresh:
            fw = self.views[old].new
            if fw is None:  # `_new` holds nothing else
                raise ValueError(f"no firework {old}")
            self._numbered.append((fw, old))
            fw.fw_id = ids[old]
            doc = fw.to_db_dict()
            if doc["state"] == "READY":
                doc["state"] = "WAITING"
            docs.append(doc)
        self.pad.fireworks.insert_many(docs)
        for old, new in ids.items():
            view = self.views.pop(old)
            view.fw_id = new
            view.stored_state = "WAITING" if view.state == "READY" else view.state
            view.new = None
            view.spec = None
            self.views[new] = view
            self.states[new] = self.states.pop(old)

        def renamed(group: Iterable[int]) -> list[int]:
            return [ids.get(i, i) for i in group]

        self.links = {ids.get(i, i): renamed(kids) for i, kids in self.links.items()}
        self.parents = {ids.get(i, i): renamed(ps) for i, ps in self.parents.items()}
        self._changed = set(renamed(self._changed))
        self._new = list(ids.values())

    def firework_updates(self) -> tuple[list[Any], list[Any]]:
        """Return the updates to make before and after that of the workflow document.

        The first touch nothing that can be claimed and can be made again; the second let others
        go on.
        """
        early: list[Any] = []
        late: list[Any] = []
        moves: dict[tuple[str, str], list[int]] = {}
        when = now_text()
        for fw_id in sorted(self._changed):
            view = self.views[fw_id]
            fields: Doc = {"updated_on": when}
            if view.spec is not None:
                fields["spec"] = view.spec
            if view.rerun:
                early.append(_archiving(fw_id, view.state, fields))
                continue
            if view.spec is not None:
                early.append(UpdateOne(*self._spec_update(view, fields)))
            if view.stored_state is None or view.state == view.stored_state:
                continue
            if view.launches:
                # The fence again: only while it has just these launches.
                late.append(UpdateOne(
                    {"fw_id": fw_id, "state": view.stored_state, "launches": view.launches},
                    {"$set": {"state": view.state, "updated_on": when}}))
            else:
                moves.setdefault((view.stored_state, view.state), []).append(fw_id)
        late += [UpdateMany({"fw_id": {"$in": ids}, "state": old, "launches": []},
                            {"$set": {"state": new, "updated_on": when}})
                 for (old, new), ids in moves.items()]
        return early, late

    def _spec_update(self, view: View, fields: Doc) -> tuple[Doc, Doc]:
        query: Doc = {"fw_id": view.fw_id}
        if applied := self._settled_by.get(view.fw_id):
            before = view.settled
            query["settled"] = before or {"$in": [None, []]}
            fields["settled"] = [
                *(i for n, i in enumerate(before) if n >= len(before) - _SETTLED or i in applied),
                *(i for i in applied if i not in before)]
        return query, {"$set": fields}

    def workflow_update(self, *, unlock: bool) -> UpdateOne:
        """Return the one update of the workflow document."""
        fields: Doc = {"state": self.state(), "updated_on": now()}
        changed = {i for i, s in self.states.items() if self._stored_states.get(i) != s}
        if len(changed) > _DOTTED or self._new or not self._stored_states:
            fields["fw_states"] = {str(i): s for i, s in self.states.items()}
        else:
            fields |= {f"fw_states.{i}": self.states[i] for i in changed}
        change: Doc = {"$set": fields}
        if len(self._new) + len(self._reparented) > _DOTTED:
            fields["links"] = {str(i): kids for i, kids in self.links.items()}
            fields["parent_links"] = {str(i): ps for i, ps in self.parents.items()}
            fields["nodes"] = list(self.links)
        elif self._new:
            for i in {*self._new, *self._relinked}:
                fields[f"links.{i}"] = self.links[i]
            for i in {*self._new, *self._reparented}:
                if self.parents.get(i):
                    fields[f"parent_links.{i}"] = self.parents[i]
            change["$push"] = {"nodes": {"$each": self._new}}
        if unlock:
            change["$unset"] = {"locked": ""}
        return UpdateOne(held(self.doc), change)


def _archiving(fw_id: int, state: str, fields: Doc) -> UpdateOne:
    """Return the update that moves all launches of a firework, whichever it has, to the archive."""
    literal = {name: {"$literal": value} for name, value in fields.items()}
    stages: list[Doc] = [{"$set": {
        "archived_launches": {"$setUnion": [
            {"$ifNull": ["$archived_launches", []]}, {"$ifNull": ["$launches", []]}]},
        "launches": [], "state": state, **literal}}]
    if "spec" in fields:
        # $set would merge the new spec into the old one.
        stages.insert(0, {"$unset": "spec"})
    return UpdateOne({"fw_id": fw_id}, stages)
