"""Finishing launches: results first, then fireworks, then workflows; one or many at once.

The order of the writes, and what each can rely upon:

1. the launch gets its result. From here on nothing is lost: whoever comes next can do the rest;
2. the firework, provided that it still has this launch (the fence: rerun, defuse and lost-run
   detection take it away);
3. the workflow: without its lock where the end is quiet (see `quiet`), with it otherwise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fireworks.core.launchpad import LockedWorkflowError
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure, PyMongoError

from orionflow.launchers.pad.commit import LostLockError, commit, commit_together
from orionflow.launchers.pad.documents import FINISHED, LIVE, Doc, changes_graph, finish_launch
from orionflow.launchers.pad.errors import LaunchRefusedError
from orionflow.launchers.pad.graph import Graph
from orionflow.launchers.pad.quiet import QuietEnds
from orionflow.launchers.pad.views import load_views

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fireworks.core.firework import FWAction

    from orionflow.launchers.pad.launchpad import OrionLaunchPad

_TOO_LARGE = frozenset({10334, 17419, 17420})


@dataclass
class Outcome:
    """How a launch ended.

    Attributes
    ----------
    launch_id
        The launch.
    state
        COMPLETED or FIZZLED.
    action
        What its tasks returned.
    """

    launch_id: int
    state: str = "COMPLETED"
    action: FWAction | None = None
    fw_id: int = field(default=-1, repr=False)
    launch: Doc = field(default_factory=dict, repr=False)

    @property
    def known(self) -> Doc:
        """The launch as a refresh wants it."""
        return {"launch_id": self.launch_id, "state": self.state, "action": self.action,
                "time_end": self.launch.get("time_end")}


@dataclass
class Settled:
    """What became of outcomes.

    Attributes
    ----------
    done
        Launch ids whose results count.
    errors
        By launch id: refused launches, actions that can't be applied, workflows that stayed
        locked. The result of each is stored in its launch.
    """

    done: list[int] = field(default_factory=list)
    errors: dict[int, Exception] = field(default_factory=dict)


class Settler:
    """Settles the outcomes of launches for one LaunchPad object."""

    def __init__(self, pad: OrionLaunchPad) -> None:
        self.pad = pad
        self._quiet = QuietEnds(pad)

    def settle(self, outcomes: Sequence[Outcome]) -> Settled:
        """Store results and let the workflows go on."""
        result = Settled()
        self._identify(outcomes, result)
        todo = [o for o in outcomes if o.launch_id not in result.errors]
        todo = self._record(todo, result)
        done, loud = self._quiet.settle(todo)
        result.done += [o.launch_id for o in done]
        self._settle_locked(loud, result)
        for launch_id in result.done:
            self.pad.claims.pop(launch_id, None)
        return result

    # ------------------------------------------------------------------ 1. launches

    def _identify(self, outcomes: Iterable[Outcome], result: Settled) -> None:
        unknown: dict[int, Outcome] = {}
        for outcome in outcomes:
            claim = self.pad.claims.get(outcome.launch_id)
            if claim is not None and outcome.state == "COMPLETED":
                outcome.fw_id, outcome.launch = claim.fw_id, claim.launch
            else:  # a FIZZLED launch carries over its last checkpoint
                unknown[outcome.launch_id] = outcome
        for doc in self.pad.launches.find({"launch_id": {"$in": list(unknown)}},
                                          {"action": 0}) if unknown else ():
            outcome = unknown.pop(doc["launch_id"])
            outcome.fw_id, outcome.launch = doc["fw_id"], doc
        for launch_id in unknown:
            result.errors[launch_id] = ValueError(f"No Launch exists with {launch_id=}")

    def _record(self, outcomes: list[Outcome], result: Settled) -> list[Outcome]:
        """Write the results; return the outcomes that may go on."""
        if not outcomes:
            return []
        updates = []
        for outcome in outcomes:
            history = outcome.launch.get("state_history") or [{}]
            action = outcome.action.to_dict() if outcome.action else None
            fields, push = finish_launch(outcome.launch, outcome.state, action,
                                         checkpoint=history[-1].get("checkpoint"))
            outcome.launch = {**outcome.launch, **fields, "state_history": [
                *outcome.launch.get("state_history", []), push["state_history"]]}
            updates.append((outcome, fields, push))
        live = {"state": {"$in": list(LIVE)}}
        try:
            matched = self.pad.launches.bulk_write(
                [UpdateOne({"launch_id": o.launch_id, **live}, {"$set": f, "$push": p})
                 for o, f, p in updates], ordered=False).matched_count
        except (DocumentTooLarge, OperationFailure) as error:
            if not _too_large(error):
                raise
            matched = sum(self._record_large(o, f, p) for o, f, p in updates)
        if matched == len(outcomes):
            return outcomes
        return self._second_thoughts(updates, result)

    def _record_large(self, outcome: Outcome, fields: Doc, push: Doc) -> int:
        """Write one result, its action to GridFS when the document would be too large."""
        change = {"$set": fields, "$push": push}
        query = {"launch_id": outcome.launch_id,
                 "state": {"$in": [*LIVE, outcome.state]}}
        try:
            return int(self.pad.launches.update_one(query, change).matched_count)
        except (DocumentTooLarge, OperationFailure) as error:
            if not _too_large(error) or not fields.get("action"):
                raise
            if self.pad.gridfs_fallback is None:
                hint = "Set GRIDFS_FALLBACK_COLLECTION in FW_config.yaml to a value other than None"
                error.args = (f"{error.args[0]}. {hint}",)
                raise
        files = self.pad.gridfs_fallback
        for old in files.find({"metadata.launch_id": outcome.launch_id}):
            files.delete(old._id)  # noqa: SLF001  GridOut's public name for it is _id
        stored = files.put(json.dumps(fields["action"]), encoding="utf-8",
                           metadata={"launch_id": outcome.launch_id})
        self.pad.m_logger.warning(
            "The size of the launch document was too large. Saving the action in gridfs.")
        change["$set"] = {**fields, "action": {"gridfs_id": str(stored)}}
        return int(self.pad.launches.update_one(query, change).matched_count)

    def _second_thoughts(self, updates: list[tuple[Outcome, Doc, Doc]],
                         result: Settled) -> list[Outcome]:
        """Tell apart what was written, is written already, may be overwritten, or is refused."""
        ids = [o.launch_id for o, _, _ in updates]
        states = {d["launch_id"]: d["state"] for d in self.pad.launches.find(
            {"launch_id": {"$in": ids}}, {"launch_id": 1, "state": 1})}
        alive: set[int] = set()
        for fw in self.pad.fireworks.find(
                {"launches": {"$in": ids}, "state": {"$in": list(LIVE)}}, {"launches": 1}):
            alive |= set(fw["launches"])
        going_on = []
        for outcome, fields, push in updates:
            state = states.get(outcome.launch_id)
            if state != outcome.state and outcome.launch_id in alive:
                # Recorded, but not yet counted: by `recover_offline`, or by a Rocket whose
                # action turned out to be malformed.
                if outcome.action is None:
                    fields["action"] = None
                self.pad.launches.update_one({"launch_id": outcome.launch_id},
                                             {"$set": fields, "$push": push})
            elif state != outcome.state:
                result.errors[outcome.launch_id] = _refusal(outcome, f"the launch is {state}")
                continue
            elif outcome.launch_id in alive and fields.get("action"):
                self.pad.launches.update_one({"launch_id": outcome.launch_id, "action": None},
                                             {"$set": {"action": fields["action"]}})
            going_on.append(outcome)
        return going_on

    # ------------------------------------------------------------------ 3. under the lock

    def _settle_locked(self, outcomes: list[Outcome], result: Settled) -> None:
        pending = {o.fw_id: o for o in outcomes}
        clashing = [o for o in outcomes if pending[o.fw_id] is not o]
        while pending:
            try:
                docs = self.pad.locks.acquire_some(pending)
            except LostLockError:
                continue  # we slept while we took over another's lock
            except (LockedWorkflowError, ValueError) as error:
                for outcome in (*pending.values(), *clashing):
                    result.errors[outcome.launch_id] = error
                return
            try:
                self._settle_docs(docs, pending, result)
            except PyMongoError:
                for doc in docs:
                    self.pad.locks.abandon(doc)
                raise
        if clashing:
            self._settle_locked(clashing, result)

    def _settle_docs(self, docs: list[Doc], pending: dict[int, Outcome],
                     result: Settled) -> None:
        """Settle what has ended in these workflows, locked by us."""
        graphs, batches = [], []
        for doc in docs:
            here = [pending[i] for i in doc["nodes"] if i in pending]
            # One that adds fireworks may fail, and shall then take nobody with it.
            heavy = [o for o in here if changes_graph(o.action)]
            batch = heavy[:1] or here
            for outcome in batch:
                del pending[outcome.fw_id]
            graphs.append(Graph(self.pad, doc))
            batches.append(batch)
        load_views(self.pad, graphs, [
            i for g, b in zip(graphs, batches, strict=True)
            for o in b for i in (o.fw_id, *g.links.get(o.fw_id, ()))])
        good = [(g, b) for g, b in zip(graphs, batches, strict=True)
                if self._finish_all(g, b, result, pending)]
        self._commit(good, result, pending)

    def _finish_all(self, graph: Graph, batch: list[Outcome], result: Settled,
                    pending: dict[int, Outcome]) -> bool:
        """Work out one workflow; False when its actions can't be applied (now)."""
        try:
            for outcome in list(batch):
                try:
                    self._finish(graph, outcome)
                except LaunchRefusedError as error:
                    result.errors[outcome.launch_id] = error
                    batch.remove(outcome)
            if graph.grows:
                commit(graph)
        except PyMongoError:
            graph.forget_ids()
            raise
        except LostLockError:
            # The new fireworks are in no workflow. Start anew.
            self.pad.fireworks.delete_many({"fw_id": {"$in": graph.new_ids}})
            graph.forget_ids()
            pending.update({o.fw_id: o for o in batch})
            return False
        except Exception as error:  # noqa: BLE001  an action is a user's code: any error may come
            self.pad.locks.release(graph.doc)
            for outcome in batch:
                result.errors[outcome.launch_id] = error
            return False
        return True

    def _finish(self, graph: Graph, outcome: Outcome) -> None:
        view = graph.view(outcome.fw_id)
        if outcome.launch_id not in view.launches:
            raise _refusal(outcome, "the firework was rerun, and is "
                           f"{view.state} without this launch")
        if view.state not in LIVE and view.state != outcome.state:
            raise _refusal(outcome, f"the firework is {view.state}")
        graph.know(outcome.known)
        graph.refresh(outcome.fw_id)

    def _commit(self, good: list[tuple[Graph, list[Outcome]]], result: Settled,
                pending: dict[int, Outcome]) -> None:
        small = [(g, b) for g, b in good if not g.grows]
        try:
            commit_together(self.pad, [g for g, _ in small])
        except LostLockError:
            # Nothing wrong was written. Ask again, with new locks.
            pending.update({o.fw_id: o for _, b in small for o in b})
            good = [(g, b) for g, b in good if g.grows]
        for graph, batch in good:
            result.done += [o.launch_id for o in batch]
            self._quiet.learn(graph, batch)
        if settled := [o for _, batch in good for o in batch]:
            self._settle_duplicates(settled)

    def _settle_duplicates(self, batch: list[Outcome]) -> None:
        """Refresh the fireworks of other workflows that share one of these launches."""
        ids = {o.launch_id: o.fw_id for o in batch}
        self.pad.refresh_all(
            {"launches": {"$in": list(ids)}, "fw_id": {"$nin": list(ids.values())},
             "state": {"$nin": list(FINISHED)}})


def _too_large(error: Exception) -> bool:
    if isinstance(error, BulkWriteError):
        return any(e.get("code") in _TOO_LARGE for e in error.details.get("writeErrors", []))
    return isinstance(error, DocumentTooLarge) or getattr(error, "code", None) in _TOO_LARGE


def _refusal(outcome: Outcome, why: str) -> LaunchRefusedError:
    return LaunchRefusedError(
        f"launch {outcome.launch_id} may not end firework {outcome.fw_id} as {outcome.state}: "
        f"{why}", launch_id=outcome.launch_id, fw_id=outcome.fw_id,
        hint="its result is kept in the launch's document; this copy must stop")
