"""Claiming fireworks: one by one as stock `checkout_fw` does, or many at once.

A claim is one update of the firework, from READY straight to RUNNING with the id of its launch;
the launch's document follows. Who dies in between leaves a firework whose launch does not exist,
which `repair` puts back. Launch ids come in blocks, so they cost no round trip.
"""

from __future__ import annotations

import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fireworks.core.firework import Firework, Launch, Tracker
from fireworks.core.launchpad import LockedWorkflowError
from fireworks.fw_config import SORT_FWS
from pymongo import ASCENDING, DESCENDING, ReturnDocument, UpdateOne
from pymongo.errors import PyMongoError

from orionflow.launchers.pad.commit import LostLockError
from orionflow.launchers.pad.documents import BIG, GRACE, LIVE, Doc, message_action, now, now_text
from orionflow.launchers.pad.locks import UNLOCKED
from orionflow.launchers.pad.quiet import site_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fireworks.core.fworker import FWorker

    from orionflow.launchers.pad.launchpad import OrionLaunchPad

_BLOCK = 64
_BLOCK_AGE = 20.0
# A write that was given up may be done so much later, s, when a frozen mongod goes on.
_LATE = 30.0
#: Part of a workflow's document that `settle` needs.
_SITE = {"nodes": {"$slice": 1}, "size": {"$size": "$nodes"}, "state": 1}


@dataclass
class Claim:
    """A launch of this process.

    Attributes
    ----------
    fw_id
        Its firework.
    launch
        The launch's document, as inserted.
    workflow
        ``_id``, ``size``, ``links`` (of this firework) and ``state`` of its workflow, if known.
    spec
        Spec of the firework as stored, not decoded; None for claims made by `checkout_fw`.
    name
        Name of the firework.
    """

    fw_id: int
    launch: Doc
    workflow: Doc | None = None
    spec: Doc | None = None
    name: str = ""

    @property
    def launch_id(self) -> int:
        """Id of the launch."""
        number: int = self.launch["launch_id"]
        return number


class LaunchIds:
    """Launch ids in blocks that grow with the demand, so that a single launch wastes none."""

    def __init__(self, pad: OrionLaunchPad) -> None:
        self.pad = pad
        self.forget()

    def forget(self) -> None:
        """Drop the block at hand; the counter has been reset."""
        self._free: list[int] = []
        self._size = 1
        self._taken = 0.0

    def take(self, count: int) -> list[int]:
        """Return that many ids nobody else gets."""
        now = time.monotonic()
        if len(self._free) < count:
            # A block left lying is small: few launches, or a process about to end.
            self._size = min(2 * self._size, _BLOCK) if now - self._taken < _BLOCK_AGE else 1
            size = max(count - len(self._free), self._size)
            first = self.pad.new_launch_ids(size)
            self._free += range(first, first + size)
            self._taken = now
        taken, self._free = self._free[:count], self._free[count:]
        return taken


def worker_query(query: Doc) -> Doc:
    """Return FWorker's query in a form that an index can answer.

    Its three alternatives (no ``_fworker``, None, this name) are one ``$in``: null matches a
    missing field.
    """
    query = dict(query)
    clauses = query.get("$or")
    names = [next(iter(c.values())) for c in clauses or ()
             if list(c) == ["spec._fworker"] and not isinstance(next(iter(c.values())), dict)]
    if clauses and len(clauses) == 3 and len(names) == 2 and {  # noqa: PLR2004  FWorker's three
            "spec._fworker": {"$exists": False}} in clauses:
        del query["$or"]
        query["spec._fworker"] = {"$in": names}
    return query


def sort_order() -> list[tuple[str, int]]:
    """Return the order in which READY fireworks are taken (FireWorks' SORT_FWS).

    FireWorks leaves the order within a priority open by default; here the oldest come first.
    """
    newest_first = SORT_FWS.upper() == "FILO"
    return [("spec._priority", DESCENDING), ("created_on", DESCENDING if newest_first
                                             else ASCENDING)]


class Claimer:
    """Claims fireworks for one LaunchPad object."""

    def __init__(self, pad: OrionLaunchPad) -> None:
        self.pad = pad
        self.ids = LaunchIds(pad)
        self._in_big = False
        # Launch ids of claims under way; those of which no answer came remain, with the time at
        # which they were first looked for.
        self._doubtful: dict[int, float | None] = {}

    def give_back(self) -> list[int]:
        """Put back what claims took whose answer never came; return the fireworks.

        What MongoDB had not yet done when we looked, it may do later: we look twice.
        """
        now = time.monotonic()
        due = {i for i, looked in self._doubtful.items() if looked is None or now - looked > _LATE}
        if not due:
            return []
        back, locked = [], set()
        for fw in list(self.pad.fireworks.find(
                {"launches": {"$in": list(due)}, "state": {"$in": list(LIVE)}},
                {"fw_id": 1, "launches": 1})):
            for launch_id in due.intersection(fw["launches"]):
                try:
                    if self.pad.put_back(fw["fw_id"], launch_id,
                                         "MongoDB went away during its claim"):
                        back.append(fw["fw_id"])
                except (LockedWorkflowError, LostLockError):
                    locked.add(launch_id)
                except ValueError as error:  # its workflow was deleted
                    self.pad.m_logger.info("fw_id=%s: %s", fw["fw_id"], error)
        for launch_id in due - locked:
            if self._doubtful[launch_id] is None:
                self._doubtful[launch_id] = now
            else:
                del self._doubtful[launch_id]
        return back

    # ------------------------------------------------------------------ one, as stock does

    def checkout(self, fworker: FWorker, launch_dir: str, *, fw_id: int | None, host: str | None,
                 ip: str | None, state: str) -> tuple[Firework, int] | tuple[None, None]:
        """Claim the next firework and decode it (LaunchPad.checkout_fw)."""
        pad = self.pad
        self.give_back()
        while True:
            begin = time.time(), time.monotonic()
            doc, launch_id = self._claim_next(fworker, fw_id, state)
            if doc is None:
                return None, None
            plain_claim = not doc["launches"] and "_dupefinder" not in doc["spec"]
            if plain_claim:
                fw = self._decode(doc)
            else:
                # It was reserved, or may be a duplicate. Back to where stock FireWorks takes over.
                pad.fireworks.update_one(
                    {"fw_id": doc["fw_id"], "launches": launch_id},
                    {"$set": {"state": "RESERVED"}, "$pull": {"launches": launch_id}})
                fw = self._stock_candidate(doc["fw_id"])
            if fw is None:
                self._doubtful.pop(launch_id, None)
                if fw_id:
                    return None, None
                continue
            trackers = self._trackers_of(fw.fw_id, fw.spec)
            if trackers is None:
                self._doubtful.pop(launch_id, None)
                if fw_id:
                    return None, None
                continue
            launch = self._launch_of(fw, fworker, launch_dir, host=host, ip=ip, state=state,
                                     launch_id=launch_id, trackers=trackers)
            self._store_launch(fw, launch, fresh=plain_claim)
            lost = self._lost_meanwhile([launch.launch_id], begin)
            self._doubtful.pop(launch_id, None)
            if not lost:
                return fw, launch.launch_id
            if fw_id:
                return None, None

    def _claim_next(self, fworker: FWorker, fw_id: int | None,
                    state: str) -> tuple[Doc | None, int]:
        query = ({"fw_id": fw_id, "state": {"$in": ["READY", "RESERVED"]}} if fw_id
                 else {**worker_query(fworker.query), "state": "READY"})
        (launch_id,) = self.ids.take(1)
        self._doubtful[launch_id] = None
        doc = self.pad.fireworks.find_one_and_update(
            query, {"$set": {"state": state, "updated_on": now_text()},
                    "$push": {"launches": launch_id}}, sort=sort_order())
        if doc is None:
            self._doubtful.pop(launch_id, None)
            self.ids._free.insert(0, launch_id)  # noqa: SLF001  unused
        return doc, launch_id

    def _lost_meanwhile(self, launch_ids: list[int], begin: tuple[float, float]) -> set[int]:
        """Return the launches whose fireworks were given away while we stored the launches.

        That takes long only when MongoDB was away; a sweep then takes us for dead.
        """
        if max(time.time() - begin[0], time.monotonic() - begin[1]) < GRACE / 3:
            return set()
        kept = {i for fw in self.pad.fireworks.find(
            {"launches": {"$in": launch_ids}, "state": {"$in": list(LIVE)}}, {"launches": 1})
            for i in fw["launches"]}
        lost = set(launch_ids) - kept
        if lost:
            self.pad.launches.update_many(
                {"launch_id": {"$in": list(lost)}, "state": {"$in": list(LIVE)}},
                {"$set": {"state": "FIZZLED", "action": message_action(
                    "its firework was given away before it could start")}})
            for launch_id in lost:
                self.pad.claims.pop(launch_id, None)
        return lost

    def _decode(self, doc: Doc) -> Firework | None:
        archived = list(self.pad.launches.find(
            {"launch_id": {"$in": doc["archived_launches"]}})) if doc["archived_launches"] else []
        try:
            fw = Firework.from_dict({**doc, "launches": [], "archived_launches": []})
            fw.archived_launches = [self.pad.decode_launch(a) for a in archived]
        except PyMongoError:
            raise
        except Exception:  # noqa: BLE001  any import or any constructor may fail
            self._undecodable(doc["fw_id"])
            return None
        return fw

    def _undecodable(self, fw_id: int) -> None:
        """Mark a firework FIZZLED that can't be turned into objects, as stock does."""
        pad = self.pad
        pad.m_logger.warning(
            "Failed to deserialize FireWork with fw_id=%s; marking as FIZZLED and continuing.",
            fw_id)
        details = {"_message": "FireWork failed to deserialize",
                   "_stacktrace": traceback.format_exc()}
        # A pipeline: its spec may be no mapping.
        pad.fireworks.update_one({"fw_id": fw_id}, [{"$set": {
            "state": "FIZZLED", "updated_on": now_text(), "launches": [],
            "spec._exception_details": {"$literal": details}}}])
        with suppress(ValueError):  # it has no workflow (yet)
            pad.record_state(fw_id)

    def _stock_candidate(self, fw_id: int) -> Firework | None:
        """Load a RESERVED firework with its launches; None when it is a duplicate."""
        pad = self.pad
        try:
            fw = pad.get_fw_by_id(fw_id)
            unique = pad._check_fw_for_uniqueness(fw)  # noqa: SLF001  FireWorks' name
        except PyMongoError:
            raise
        except Exception:  # noqa: BLE001  any import, constructor or dupefinder may fail
            self._undecodable(fw_id)
            return None
        return fw if unique else None

    def _trackers_of(self, fw_id: int, spec: Any) -> list[Tracker] | None:
        """Return the trackers a spec names; None, and it is FIZZLED, where they make no sense."""
        try:
            return [Tracker.from_dict(t) for t in spec.get("_trackers", [])]
        except Exception:  # noqa: BLE001  a user's spec: it must not stop others
            self._undecodable(fw_id)
            return None

    def _launch_of(self, fw: Firework, fworker: FWorker, launch_dir: str, *, host: str | None,
                   ip: str | None, state: str, launch_id: int,
                   trackers: list[Tracker]) -> Launch:
        reserved = next((old for old in fw.launches if old.state == "RESERVED"), None)
        launch = Launch(
            state, launch_dir, fworker, host, ip, trackers=trackers,
            state_history=reserved.state_history if reserved else None,
            launch_id=reserved.launch_id if reserved else launch_id, fw_id=fw.fw_id)
        if reserved:
            fw.launches = [launch if old.launch_id == launch.launch_id else old
                           for old in fw.launches]
        else:
            fw.launches.append(launch)
        fw.state = state
        return launch

    def _store_launch(self, fw: Firework, launch: Launch, *, fresh: bool) -> None:
        pad = self.pad
        doc = launch.to_db_dict()
        if fresh:
            pad.launches.insert_one(doc)
        else:
            pad.launches.replace_one({"launch_id": launch.launch_id}, doc, upsert=True)
            pad.fireworks.update_one(
                {"fw_id": fw.fw_id, "state": "RESERVED"},
                {"$set": {"state": launch.state, "updated_on": now_text(),
                          "launches": [old.launch_id for old in fw.launches]}})
        claim = Claim(fw.fw_id, doc, self.note_running(fw.fw_id, launch.state), name=fw.name)
        pad.claims[launch.launch_id] = claim
        if not fresh and launch.state == "RUNNING":
            self._start_duplicates(launch.launch_id)

    def _start_duplicates(self, launch_id: int) -> None:
        waiting = ["WAITING", "READY", "RESERVED", "FIZZLED"]
        self.pad.refresh_all({"launches": launch_id, "state": {"$in": waiting}})

    def note_running(self, fw_id: int, state: str, patience: float = 1.0) -> Doc | None:
        """Write a claim into the workflow's document; return the part of it that `settle` needs.

        In a big workflow only the workflow's own state is written, and that once: what its
        ``fw_states`` say of a firework between READY and its end decides nothing.
        """
        part = {**_SITE, f"links.{fw_id}": 1}
        moved = ["READY", "RESERVED"] if state == "RUNNING" else ["READY"]
        started = {"$cond": [{"$in": ["$state", moved]}, state, "$state"]}
        end, pause = time.monotonic() + patience, 0.0
        while True:
            doc: Doc | None
            # Jobs of a workflow come one after the other: ask first where the last was big.
            if not self._in_big:
                doc = self.pad.workflows.find_one_and_update(
                    {"nodes": fw_id, f"nodes.{BIG}": {"$exists": False}, "locked": UNLOCKED},
                    [{"$set": {f"fw_states.{fw_id}": state, "state": started,
                               "updated_on": now()}}],
                    projection=part, return_document=ReturnDocument.AFTER)
                if doc is not None:
                    return doc
            doc = self.pad.workflows.find_one({"nodes": fw_id}, {**part, "locked": 1})
            if doc is None:
                return None
            was_big, self._in_big = self._in_big, doc["size"] > BIG
            if self._in_big:
                self.note_big([doc["_id"]], doc["state"])
                return doc
            if was_big:
                continue
            if time.monotonic() > end:  # it is locked, and nobody relies upon the note
                return doc
            pause = pause * 2 or 0.002
            time.sleep(pause)

    def note_big(self, wf_ids: list[Any], state: str) -> None:
        """Make big workflows RUNNING."""
        if state in {"READY", "RESERVED"}:
            self.pad.workflows.update_many(
                {"_id": {"$in": wf_ids}, "state": {"$in": ["READY", "RESERVED"]},
                 "locked": UNLOCKED},
                {"$set": {"state": "RUNNING", "updated_on": now()}})

    # ------------------------------------------------------------------ many

    def claim(self, fworker: FWorker, launch_dir: str | Callable[[Doc], str], *, limit: int,
              query: Doc | None, choose: Callable[[list[Doc]], Sequence[Doc]] | None,
              candidates: int, mark: Callable[[Doc], Doc] | None, host: str | None,
              ip: str | None) -> list[Claim]:
        """Claim up to ``limit`` fireworks, not decoded (see OrionLaunchPad.claim)."""
        self.give_back()
        wanted: Doc = {**worker_query(fworker.query), "state": "READY"}
        if query:
            wanted = {"$and": [wanted, query]}
        found = list(self.pad.fireworks.find(wanted, sort=sort_order(),
                                             limit=max(limit, candidates)))
        chosen = list(choose(found) if choose else found)[:limit]
        if not chosen:
            return []
        claims: list[Doc] = []
        odd: list[Doc] = []
        for doc in chosen:
            if not isinstance(doc.get("launches"), list):  # not written by any FireWorks
                self._undecodable(doc["fw_id"])
                continue
            plain = not doc["launches"] and (
                not isinstance(doc["spec"], dict) or "_dupefinder" not in doc["spec"])
            (claims if plain else odd).append(doc)
        taken = self._claim_plain(claims, fworker, launch_dir, mark=mark, host=host, ip=ip)
        for doc in odd:
            folder = launch_dir if isinstance(launch_dir, str) else launch_dir(doc)
            fw, launch_id = self.checkout(fworker, folder, fw_id=doc["fw_id"], host=host, ip=ip,
                                          state="RUNNING")
            if fw is not None and launch_id is not None:
                claim = self.pad.claims[launch_id]
                claim.spec = doc["spec"]
                taken.append(claim)
        return taken

    def _claim_plain(self, docs: list[Doc], fworker: FWorker,
                     launch_dir: str | Callable[[Doc], str], *,
                     mark: Callable[[Doc], Doc] | None, host: str | None,
                     ip: str | None) -> list[Claim]:
        if not docs:
            return []
        pad, when, begin = self.pad, now_text(), (time.time(), time.monotonic())
        by_id = dict(zip(self.ids.take(len(docs)), docs, strict=True))
        updates = [UpdateOne({"fw_id": d["fw_id"], "state": "READY", "launches": []},
                             {"$set": {"state": "RUNNING", "updated_on": when,
                                       "launches": [launch_id]}})
                   for launch_id, d in by_id.items()]
        ids = list(by_id)
        self._doubtful |= dict.fromkeys(ids)
        got = pad.fireworks.bulk_write(updates, ordered=False).modified_count
        if got < len(docs):
            mine = {i for fw in pad.fireworks.find(
                {"launches": {"$in": list(by_id)}, "state": {"$in": list(LIVE)}},
                {"launches": 1}) for i in fw["launches"]}
            by_id = {i: d for i, d in by_id.items() if i in mine}
        claims = []
        for launch_id, doc in by_id.items():
            trackers = self._trackers_of(doc["fw_id"], doc["spec"])
            if trackers is None:
                continue
            folder = launch_dir if isinstance(launch_dir, str) else launch_dir(doc)
            launch = Launch("RUNNING", folder, fworker, host, ip, trackers=trackers,
                            launch_id=launch_id, fw_id=doc["fw_id"])
            claims.append(Claim(
                doc["fw_id"], {**launch.to_db_dict(), **(mark(doc) if mark else {})},
                spec=doc["spec"], name=doc.get("name", "")))
        if claims:
            pad.launches.insert_many([c.launch for c in claims], ordered=False)
            self._note_many(claims)
            pad.claims.update({c.launch_id: c for c in claims})
        lost = self._lost_meanwhile([c.launch_id for c in claims], begin)
        for launch_id in ids:
            del self._doubtful[launch_id]
        return [c for c in claims if c.launch_id not in lost]

    def _note_many(self, claims: list[Claim]) -> None:
        """Write claims into their workflows' documents, where these are small."""
        if len(claims) == 1:  # in one round trip instead of two
            claims[0].workflow = self.note_running(claims[0].fw_id, "RUNNING", patience=0.0)
            return
        by_fw = {c.fw_id: c for c in claims}
        updates, big = [], []
        for doc in self.pad.workflows.find({"nodes": {"$in": list(by_fw)}}, site_of(by_fw)):
            here = [by_fw[int(i)] for i in doc["links"] if int(i) in by_fw]
            for claim in here:
                claim.workflow = doc
            if doc["size"] > BIG:
                big.append(doc)
                continue
            # A note nobody relies upon is not worth waiting for a lock.
            updates.append(UpdateOne({"_id": doc["_id"], "locked": UNLOCKED}, [{"$set": {
                **{f"fw_states.{c.fw_id}": "RUNNING" for c in here}, "updated_on": now(),
                "state": {"$cond": [{"$in": ["$state", ["READY", "RESERVED"]]},
                                    "RUNNING", "$state"]}}}]))
        for doc in big:
            self.note_big([doc["_id"]], doc["state"])
        if updates:
            self.pad.workflows.bulk_write(updates, ordered=False)
