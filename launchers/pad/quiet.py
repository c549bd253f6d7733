"""Ends that need no lock: one update of the workflow document that names all it relies upon.

Such an end does not finish the workflow and changes nothing in other fireworks, but may set some of
them free. What is known of each child of a job that ended:

- a *witness*, one other parent that has not finished: the child goes on waiting. A witness that has
  finished meanwhile makes the update match nothing, and another is looked for. So a child of 10,000
  parents costs each of them one comparison;
- or that all its parents have completed: the same update of the workflow makes it READY, then the
  child's own document becomes READY. Who dies in between leaves what a sweep puts right.

For the workflow itself the witness is a leaf that has not completed. A child that is set free, or
waits, is as good.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pymongo import UpdateMany, UpdateOne

from orionflow.launchers.pad.documents import (
    BIG,
    FINISHED,
    LIVE,
    Doc,
    changes_graph,
    now,
    now_text,
    touches_children,
)
from orionflow.launchers.pad.locks import UNLOCKED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orionflow.launchers.pad.graph import Graph
    from orionflow.launchers.pad.launchpad import OrionLaunchPad
    from orionflow.launchers.pad.settle import Outcome

# Between the fence and the update of the workflow; a longer pause means that this process slept,
# and that the fence must be asked again.
_FRESH = 1.0
# The date of last change of a big workflow is written this often, s: it is indexed, and to change
# it means to compare the whole list of fireworks with the index.
_DATE_EVERY = 5.0
_WITNESSES = 4096
# So many children of one group of ends, or parents of one child, are asked for by name.
_ASKED = 40


@dataclass
class Site:
    """A workflow some of whose fireworks have ended.

    Attributes
    ----------
    doc
        Part of the workflow document: ``_id``, ``size``, ``links`` of those that ended.
    outcomes
        What ended.
    free
        Children to be set free, each with all its parents.
    """

    doc: Doc
    outcomes: list[Outcome]
    free: dict[int, list[int]] = field(default_factory=dict)

    @property
    def single(self) -> bool:
        """Whether the workflow is one firework."""
        return bool(self.doc["size"] == 1)

    def children(self, outcome: Outcome) -> list[int]:
        """Return the children of one that ended."""
        kids: list[int] = self.doc["links"].get(str(outcome.fw_id), [])
        return kids

    def loud(self) -> bool:
        """Return whether something ended in a way that only the lock allows."""
        return not self.single and any(
            o.state != "COMPLETED" or (o.action is not None and o.action.defuse_workflow)
            or (touches_children(o.action) and bool(self.children(o))) for o in self.outcomes)


class QuietEnds:
    """Settles quiet ends for one LaunchPad object."""

    def __init__(self, pad: OrionLaunchPad) -> None:
        self.pad = pad
        self._witness: OrderedDict[tuple[Any, int | None], int] = OrderedDict()
        self._dated: dict[Any, float] = {}

    def settle(self, outcomes: list[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
        """Settle what needs no lock; return what is done, and the rest."""
        loud: list[Outcome] = []
        sites = self._sites(outcomes, loud)
        self._look_at_parents([s for s in sites if not s.single and not s.loud()])
        quiet: list[tuple[UpdateOne, Site]] = []
        for site in sites:
            update = self._update(site)
            if update is None:
                loud += site.outcomes
            else:
                quiet.append((update, site))
        if not quiet:
            return [], loud
        ends = [o for _, site in quiet for o in site.outcomes]
        begin = time.time(), time.monotonic()
        if not self._fence(ends) or _slept(begin):
            return [], loud + ends
        written = self.pad.workflows.bulk_write([u for u, _ in quiet], ordered=False)
        settled = written.matched_count == len(quiet)
        self._set_free([site for _, site in quiet], begin, sure=settled)
        return (ends, loud) if settled else ([], loud + ends)

    def learn(self, graph: Graph, outcomes: Iterable[Outcome]) -> None:
        """Remember witnesses for those who come after; chosen at random, so that they last."""
        wf_id = graph.doc["_id"]
        if len(graph.links) == 1:
            return
        kids = {k for o in outcomes for k in graph.links.get(o.fw_id, ())}
        crowds: dict[int | None, list[int]] = {
            kid: [p for p in graph.parents[kid] if graph.states.get(p) not in FINISHED]
            for kid in kids if kid in graph.parents}
        if any(not graph.links.get(o.fw_id) for o in outcomes):
            crowds[None] = [i for i, kids in graph.links.items()
                            if not kids and graph.states[i] != "COMPLETED"]
        for kid, crowd in crowds.items():
            if crowd:
                self._remember(wf_id, kid, random.choice(crowd))  # noqa: S311  any will do

    # ------------------------------------------------------------------ looking

    def _sites(self, outcomes: list[Outcome], loud: list[Outcome]) -> list[Site]:
        by_fw: dict[int, Outcome] = {}
        sites: dict[Any, Site] = {}
        for outcome in outcomes:
            claim = self.pad.claims.get(outcome.launch_id)
            if changes_graph(outcome.action):
                loud.append(outcome)
            elif claim is not None and claim.workflow is not None:
                doc = claim.workflow
                site = sites.setdefault(doc["_id"], Site({**doc, "links": {}}, []))
                site.doc["links"].update(doc["links"])
                site.outcomes.append(outcome)
            else:
                by_fw[outcome.fw_id] = outcome
        if by_fw:
            for doc in self.pad.workflows.find({"nodes": {"$in": list(by_fw)}}, site_of(by_fw)):
                site = sites.setdefault(doc["_id"], Site({**doc, "links": {}}, []))
                site.doc["links"].update(doc["links"])
                for key in doc["links"]:
                    if int(key) in by_fw:
                        site.outcomes.append(by_fw.pop(int(key)))
        loud += by_fw.values()
        return list(sites.values())

    def _look_at_parents(self, sites: list[Site]) -> None:
        """Find, for children without a witness, one, or that all their parents have completed."""
        asked: dict[Any, set[int]] = {}
        for site in sites:
            ended = {o.fw_id for o in site.outcomes}
            unknown = {k for o in site.outcomes for k in site.children(o)
                       if self._find_witness(site.doc["_id"], k, ended, o.fw_id) is None}
            if 0 < len(unknown) <= _ASKED:
                asked[site.doc["_id"]] = unknown
        if not asked:
            return
        parents = {doc["_id"]: {int(k): v for k, v in doc.get("parent_links", {}).items()}
                   for doc in self.pad.workflows.find(
                       {"_id": {"$in": list(asked)}},
                       {f"parent_links.{k}": 1 for kids in asked.values() for k in kids})}
        here = {s.doc["_id"]: s for s in sites}
        # At random, so that a witness lasts.
        others = {(wf_id, kid): [p for p in all_parents if not self._ended_in(here[wf_id], p)]
                  for wf_id, of in parents.items() for kid, all_parents in of.items()}
        drawn = {key: random.sample(ps, min(len(ps), _ASKED)) for key, ps in others.items()}
        wanted = {p for ps in drawn.values() for p in ps}
        states: dict[int, str] = {}
        if wanted:
            for doc in self.pad.workflows.find(
                    {"_id": {"$in": list(asked)}}, {f"fw_states.{p}": 1 for p in wanted}):
                states |= {int(k): v for k, v in doc.get("fw_states", {}).items()}
        for (wf_id, kid), ps in drawn.items():
            open_ones = [p for p in ps if states.get(p) not in FINISHED]
            if open_ones:
                self._remember(wf_id, kid, open_ones[0])
            elif len(ps) == len(others[wf_id, kid]) and all(
                    states[p] == "COMPLETED" for p in ps):
                here[wf_id].free[kid] = parents[wf_id][kid]

    @staticmethod
    def _ended_in(site: Site, fw_id: int) -> bool:
        return any(o.fw_id == fw_id for o in site.outcomes)

    def _remember(self, wf_id: object, kid: int | None, witness: int) -> None:
        self._witness[wf_id, kid] = witness
        while len(self._witness) > _WITNESSES:
            self._witness.popitem(last=False)

    def _find_witness(self, wf_id: object, kid: int | None, ended: set[int],
                      fw_id: int) -> int | None:
        """Return an unfinished parent of a child, or an unfinished leaf, that is not ending now."""
        key = (wf_id, kid)
        witness = self._witness.get(key)
        if witness is not None and witness not in ended:
            self._witness.move_to_end(key)
            return witness
        if witness == fw_id or witness in ended:
            self._witness.pop(key, None)
        return None

    # ------------------------------------------------------------------ writing

    def _fence(self, outcomes: list[Outcome]) -> bool:
        """Finish the fireworks that still have these launches; False when something is odd."""
        when, updates = now_text(), []
        for o in outcomes:
            owned = {"launches": o.launch_id, "state": {"$in": list(LIVE)}}
            updates += [
                # The only launch: with several, FireWorks decides by their ranks.
                UpdateOne({"fw_id": o.fw_id, **owned, "launches": [o.launch_id]},
                          {"$set": {"state": o.state, "updated_on": when}}),
                # Counts, and does not change, other fireworks with this launch: duplicates.
                UpdateMany(owned, {"$unset": {"_": ""}}),
            ]
        done = self.pad.fireworks.bulk_write(updates)
        return bool(done.modified_count == len(outcomes) == done.matched_count)

    def _update(self, site: Site) -> UpdateOne | None:
        """Return the one update that settles a site, or None when it needs the lock."""
        wf_id = site.doc["_id"]
        query: Doc = {"_id": wf_id, "locked": UNLOCKED}
        fields: Doc = {}
        if site.single:
            outcome = site.outcomes[0]
            query |= {"nodes": [outcome.fw_id], f"links.{outcome.fw_id}": []}
            fields["state"] = outcome.state
        else:
            query["state"] = {"$nin": ["READY", "RESERVED"]}
            for kid, parents in site.free.items():
                query |= {f"parent_links.{kid}": parents, f"fw_states.{kid}": "WAITING"}
                query |= {f"fw_states.{p}": "COMPLETED" for p in parents
                          if not self._ended_in(site, p)}
                fields[f"fw_states.{kid}"] = "READY"
            if site.loud() or not self._conditions(site, query):
                return None
        fields |= {f"fw_states.{o.fw_id}": o.state for o in site.outcomes}
        clock = time.monotonic()
        if site.doc["size"] <= BIG or clock - self._dated.get(wf_id, -_DATE_EVERY) >= _DATE_EVERY:
            fields["updated_on"] = now()
            if site.doc["size"] > BIG:
                self._dated[wf_id] = clock
        return UpdateOne(query, {"$set": fields})

    def _conditions(self, site: Site, query: Doc) -> bool:
        """Name children and witnesses; False when there is none for a child or the workflow."""
        wf_id = site.doc["_id"]
        ended = {o.fw_id for o in site.outcomes}
        for outcome in site.outcomes:
            kids = site.children(outcome)
            query[f"links.{outcome.fw_id}"] = kids
            waiting: list[int | None] = [k for k in kids if k not in site.free]
            if not kids:
                waiting = [None]
            for kid in waiting:
                witness = self._find_witness(wf_id, kid, ended, outcome.fw_id)
                if witness is None:
                    return False
                done = {"$nin": list(FINISHED) if kid is not None else ["COMPLETED"]}
                if query.setdefault(f"fw_states.{witness}", done) not in (done, "WAITING"):
                    return False  # it has completed, for another child
        return True

    def _set_free(self, sites: list[Site], begin: tuple[float, float], *, sure: bool) -> None:
        """Make READY the children that their workflows already have as READY."""
        kids = [kid for site in sites for kid in site.free]
        if not kids:
            return
        if sure and not _slept(begin):
            freed = self.pad.fireworks.update_many(
                {"fw_id": {"$in": kids}, "state": "WAITING", "launches": []},
                {"$set": {"state": "READY", "updated_on": now_text()}}).modified_count
            if freed == len(kids):
                return
        # Something came between: look again, with the lock.
        self.pad.refresh_all({"fw_id": {"$in": kids}, "state": "WAITING"})


def site_of(fw_ids: Iterable[int]) -> Doc:
    """Return the projection of a workflow that ends of these fireworks need."""
    return {"links": {str(i): 1 for i in fw_ids}, "size": {"$size": "$nodes"}, "state": 1}


def _slept(begin: tuple[float, float]) -> bool:
    return max(time.time() - begin[0], time.monotonic() - begin[1]) > _FRESH
