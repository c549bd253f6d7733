"""The lock of a workflow: FireWorks' own field, with an owner, so that a dead one's can be broken.

FireWorks takes a workflow for locked when its document has a field ``locked``, whatever it holds.
Ours holds a token and the server's time. A writer checks the token in the very update that changes
the document, so one who slept through the loss of its lock writes nothing.
"""

from __future__ import annotations

import os
import random
import socket
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fireworks.core.launchpad import LockedWorkflowError, WFLock
from pymongo import ReturnDocument
from pymongo.errors import PyMongoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orionflow.launchers.pad.documents import Doc
    from orionflow.launchers.pad.launchpad import OrionLaunchPad

#: After this a lock of ours belongs to a dead process, s (server time).
LEASE = 60.0
#: A lock of stock FireWorks bears no time; it is dead when its workflow has not changed for this
#: long under somebody's eyes, s.
STOCK_LEASE = 90.0
_ADOPTION = 30.0
UNLOCKED: Doc = {"$exists": False}


def patience() -> tuple[float, bool]:
    """Return how long to wait for a lock, s, and whether to take it then by force.

    FireWorks' WFLOCK_EXPIRATION_SECS and WFLOCK_EXPIRATION_KILL, as its lock has them.
    """
    seconds, kill = WFLock.__init__.__defaults__
    return float(seconds), bool(kill)


@dataclass
class Locks:
    """Locks on workflows, taken by one LaunchPad object.

    Attributes
    ----------
    pad
        The LaunchPad.
    repair
        Called with a workflow whose lock was broken, while we hold it.
    """

    pad: OrionLaunchPad
    repair: Callable[[Doc], object]
    owner: Doc = field(default_factory=lambda: {"host": socket.gethostname(), "pid": os.getpid()})
    _seen: dict[Any, tuple[object, object, float]] = field(default_factory=dict)
    # Locks met after our patience was over, and fireworks in no workflow, since when.
    _stuck: dict[Any, tuple[object, object, float]] = field(default_factory=dict)
    _homeless_since: dict[int, float] = field(default_factory=dict)
    _abandoned: set[str] = field(default_factory=set)
    _until: float | None = None

    @contextmanager
    def hurried(self, seconds: float) -> Iterator[None]:
        """While it lasts, wait for locks no longer than that in all: there is other work to do.

        A lock that can't be had is refused, as after FireWorks' own patience. Whoever asks again
        later gets it when its owner has let it go, or must be dead.
        """
        before, self._until = self._until, time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = before

    def _new(self) -> tuple[str, Doc]:
        token = uuid.uuid4().hex
        lock = {"$set": {"locked.token": token, "locked.by": self.owner},
                "$currentDate": {"locked.at": True}}
        return token, lock

    def acquire(self, fw_id: int) -> Doc:
        """Lock the workflow of a firework and return its document; waits its turn.

        Raises
        ------
        LockedWorkflowError
            Somebody else held it all the time FireWorks' configuration allows for waiting.
        ValueError
            There is no workflow with this firework.
        """
        docs = self.acquire_some([fw_id])
        return next(iter(docs))

    def acquire_some(self, fw_ids: Iterable[int]) -> list[Doc]:
        """Lock at least one, and as many as are free, of the workflows of these fireworks."""
        wanted = list(fw_ids)
        seconds, kill = patience()
        begin = time.monotonic()
        end, pause, tries = begin + seconds, 0.002, 0
        hurried = self._until is not None and self._until < end
        if self._until is not None:
            end = min(end, self._until)
        while True:
            if docs := self._try(wanted):
                return docs
            tries += 1
            late = time.monotonic() > end
            if (tries % 8 == 1 or late) and self._homeless(wanted):
                raise ValueError(f"Could not find workflow in database: {wanted[0]}")
            if (tries % 8 == 0 or self._abandoned or late) and (
                    doc := self._break_dead(wanted, after=seconds if kill and late else None,
                                            since=None if hurried else begin)):
                return [doc]
            if late:
                raise LockedWorkflowError(f"Could not get workflow - LOCKED: {wanted[0]}")
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  only spreads the load
            pause = min(1.5 * pause, 0.15)

    def _homeless(self, wanted: list[int]) -> bool:
        """Return whether fireworks belong to no workflow, and will not soon.

        Stock FireWorks makes new fireworks READY before their workflow knows them.
        """
        if self.pad.workflows.find_one({"nodes": {"$in": wanted}}, {"_id": 1}) is not None:
            self._homeless_since.clear()
            return False
        now = time.monotonic()
        since = self._homeless_since.setdefault(wanted[0], now)
        return now - since > _ADOPTION or self.pad.fireworks.find_one(
            {"fw_id": {"$in": wanted}}, {"_id": 1}) is None

    def _try(self, wanted: list[int]) -> list[Doc]:
        token, lock = self._new()
        # Should the answer be lost, the lock is ours and nobody knows.
        self._abandoned.add(token)
        docs: list[Doc] = []
        if len(wanted) == 1:
            doc = self.pad.workflows.find_one_and_update(
                {"nodes": wanted[0], "locked": UNLOCKED}, lock,
                return_document=ReturnDocument.AFTER)
            docs = [doc] if doc else []
        elif self.pad.workflows.update_many(
                {"nodes": {"$in": wanted}, "locked": UNLOCKED}, lock).matched_count:
            docs = list(self.pad.workflows.find(
                {"nodes": {"$in": wanted}, "locked.token": token}))
        self._abandoned.discard(token)
        return docs

    def _break_dead(self, wanted: list[int], *, after: float | None,
                    since: float | None) -> Doc | None:
        """Take over the first lock whose owner must be dead, and repair what it left.

        Parameters
        ----------
        after
            FireWorks' configuration has locks taken by force that are so old, s.
        since
            We have waited from this moment on; None: as long as we have met the same lock.
        """
        for doc in self.pad.workflows.find(
                {"nodes": {"$in": wanted}, "locked": {"$exists": True}},
                {"locked": 1, "updated_on": 1}):
            dead = self.dead_filter(doc)
            if after is not None and self._met(doc, since) >= after:
                dead = {"_id": doc["_id"], "locked": doc["locked"]}
            if dead and (taken := self.take_over(dead)):
                return taken
        return None

    def _met(self, doc: Doc, since: float | None) -> float:
        """Return for how long a lock has been in our way, s."""
        now = time.monotonic()
        if since is not None:
            return now - since
        same = (doc["locked"], doc.get("updated_on"))
        before = self._stuck.get(doc["_id"])
        if before is None or before[:2] != same:
            self._stuck[doc["_id"]] = (*same, now)
            return 0.0
        return now - before[2]

    def dead_filter(self, doc: Doc) -> Doc | None:
        """Return the query that matches a workflow while its lock is this dead one, or None."""
        lock = doc["locked"]
        same: Doc = {"_id": doc["_id"], "locked": lock}
        if isinstance(lock, dict) and lock.get("token") in self._abandoned:
            return same
        if isinstance(lock, dict) and "at" in lock:
            old = {"$lt": ["$locked.at", {"$subtract": ["$$NOW", int(LEASE * 1000)]}]}
            return {**same, "$expr": old}
        seen = (lock, doc.get("updated_on"))
        before = self._seen.get(doc["_id"])
        if before is None or before[:2] != seen:
            self._seen[doc["_id"]] = (*seen, time.monotonic())
            return None
        if time.monotonic() - before[2] < STOCK_LEASE:
            return None
        return {**same, "updated_on": doc.get("updated_on")}

    def take_over(self, dead: Doc) -> Doc | None:
        """Lock a workflow whose lock is dead, repair it, and return it as it is then."""
        token, _ = self._new()
        self._abandoned.add(token)
        lock = {"$set": {"locked": {"token": token, "by": self.owner}}}
        doc = self.pad.workflows.find_one_and_update(
            dead, lock, return_document=ReturnDocument.AFTER)
        if doc is None:
            self._abandoned.discard(token)
            return None
        self.pad.workflows.update_one({"_id": doc["_id"], "locked.token": token},
                                      {"$currentDate": {"locked.at": True}})
        self._seen.pop(doc["_id"], None)
        self._stuck.pop(doc["_id"], None)
        if isinstance(dead["locked"], dict):
            self._abandoned.discard(dead["locked"].get("token", ""))
        self.pad.m_logger.warning(
            "took over the lock of workflow %r (firework %s); its owner is gone",
            doc.get("name"), next(iter(doc.get("nodes") or ["?"])))
        self.repair(doc)
        now: Doc | None = self.pad.workflows.find_one({"_id": doc["_id"], "locked.token": token})
        self._abandoned.discard(token)
        return now

    @contextmanager
    def holding(self, fw_id: int) -> Iterator[Doc]:
        """Lock a workflow; whoever uses this unlocks it, unless an error ends it."""
        doc = self.acquire(fw_id)
        try:
            yield doc
        except PyMongoError:
            self.abandon(doc)
            raise
        except BaseException:
            self.release(doc)
            raise

    def abandon(self, doc: Doc) -> None:
        """Let a lock be broken at once when its workflow is next wanted: the database went away."""
        self._abandoned.add(doc["locked"]["token"])

    def release(self, doc: Doc) -> None:
        """Unlock a workflow, if the lock is still ours."""
        self.pad.workflows.update_one(held(doc), {"$unset": {"locked": ""}})


def held(doc: Doc) -> Doc:
    """Return the query that matches a workflow while our lock on it holds."""
    return {"_id": doc["_id"], "locked.token": doc["locked"]["token"]}
