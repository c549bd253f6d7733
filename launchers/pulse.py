"""The launcher's heartbeat: a thread that says what lives, and hears what shall stop.

It outlives outages of MongoDB; the launcher's loop is never held up by it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.errors import DuplicateKeyError, PyMongoError

from orionflow.errors import database_reason
from orionflow.launchers import cancel
from orionflow.launchers.jobs import Stop
from orionflow.launchers.lease import GIVEN_UP, Tether, clock
from orionflow.launchers.process_tree import memory_of
from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

log = get_logger(__name__)
COLLECTION = "orionflow_launchers"
BEAT = 4.0
# A question that MongoDB has not answered by then is asked again, s.
_ANSWER = 15.0
# Memory of jobs that asked for some is looked at this often, s.
_LOOK = 1.0
# A little more than asked is not worth a job.
_TOLERANCE = 1.05
_SLACK = 64.0


@dataclass(frozen=True)
class Watched:
    """A job whose memory is limited.

    Attributes
    ----------
    pids
        Gives its processes.
    most
        What it asked for, MiB.
    """

    launch_id: int
    most: int
    pids: Callable[[], list[int]]


@dataclass
class Vital:
    """What the pulse needs to know; the loop replaces it as a whole.

    Attributes
    ----------
    launches
        Launches of ours that have not ended.
    tracked
        Those with files FireWorks tracks.
    watched
        Those whose memory is limited.
    document
        Gives the launcher's own document; called in the thread.
    """

    launches: frozenset[int] = frozenset()
    tracked: frozenset[int] = frozenset()
    watched: tuple[Watched, ...] = ()
    document: Callable[[], dict[str, Any]] = field(default=dict)


class Pulse(threading.Thread):
    """Sends heartbeats until `end`.

    Parameters
    ----------
    pad
        The project's LaunchPad.
    wake
        Descriptor written to when there is news.
    tether
        Renews the lease on our jobs.

    Attributes
    ----------
    silent
        MongoDB did not answer last time.
    given_up
        Why others take us for dead; empty while they don't.
    """

    def __init__(self, pad: Any, wake: int, tether: Tether | None = None) -> None:
        super().__init__(name="orionflow-pulse", daemon=True)
        self.pad = pad
        self.wake = wake
        self.tether = tether or Tether()
        self.given_up = ""
        self.vital = Vital()
        self.news: queue.SimpleQueue[tuple[int, Stop]] = queue.SimpleQueue()
        self._over = threading.Event()
        self.silent = False
        self._untracked: set[int] = set()

    def start(self) -> None:
        """Begin; nothing has been claimed yet, so the lease begins now."""
        self.tether.heard(clock())
        super().start()

    def run(self) -> None:
        """Beat."""
        beaten = float("-inf")
        while not self._over.is_set():
            try:
                self._look_at_memory(self.vital)
                if time.monotonic() - beaten >= BEAT:
                    beaten = time.monotonic()
                    self.beat()
            except Exception:  # a thread that ended would leave all jobs for dead
                log.exception("a heartbeat failed; it goes on")
            self._over.wait(_LOOK)

    def end(self, document: dict[str, Any]) -> None:
        """Stop, and leave the last word in the launcher's document."""
        self._over.set()
        if self.is_alive():
            self.join(5.0)
        if not self.silent:
            with suppress(PyMongoError):  # its age tells it then
                self._write(document)

    def beat(self) -> None:
        """Say once what lives."""
        vital, began = self.vital, clock()
        try:
            with pymongo.timeout(_ANSWER):
                lost = self.pad.ping_launches(vital.launches) if vital.launches else set()
                for launch_id in vital.tracked - lost - self._untracked:
                    self._track(launch_id)
                requests = cancel.requested(self.pad, vital.launches)
                self._write(vital.document())
        except DuplicateKeyError:
            if not self._over.is_set():
                self._hear_of_death(vital.launches)
            return
        except PyMongoError as error:
            if not self.silent:
                log.warning("no heartbeat: %s", database_reason(error)[:200])
            self.silent = True
            self.tether.cut_off()
            return
        self.silent = False
        self.tether.heard(began)
        for launch_id in lost:
            self._tell(launch_id, Stop("lost", "its launch was given to another launcher"))
        for launch_id, request in requests.items():
            self._tell(launch_id, Stop("cancel", request.describe(), request))

    def _hear_of_death(self, launches: frozenset[int]) -> None:
        """Stop all: we were silent for so long that our jobs were given to others."""
        if not self.given_up:
            log.error("others took this launcher for dead, and its jobs: it ends")
        self.given_up = "it was silent for so long that its jobs were given to others"
        for launch_id in launches:
            self._tell(launch_id, Stop("lost", self.given_up))

    def _track(self, launch_id: int) -> None:
        try:
            self.pad.ping_launch(launch_id)
        except PyMongoError:
            raise
        except Exception as error:  # noqa: BLE001  a job's files may hold, and be, anything
            self._untracked.add(launch_id)
            log.warning("launch %d: the files it tracks can't be stored: %s", launch_id, error)

    def _look_at_memory(self, vital: Vital) -> None:
        for job in vital.watched:
            used = memory_of(job.pids())
            if used > _TOLERANCE * job.most + _SLACK:
                self._tell(job.launch_id, Stop(
                    "memory", f"it took {used:.0f} MiB of memory and had asked for {job.most}"))

    def _tell(self, launch_id: int, stop: Stop) -> None:
        if self._over.is_set():
            return  # nobody listens, and the descriptor may be another's by now
        self.news.put((launch_id, stop))
        with suppress(BlockingIOError):  # full of such bytes: it is awake
            os.write(self.wake, b"!")

    def _write(self, document: dict[str, Any]) -> None:
        if document:
            document["beat"] = datetime.now(UTC).isoformat(timespec="milliseconds")
            # Where we were given up, or have ended before this beat got through, this is a second
            # document of our name: refused.
            self.pad.db[COLLECTION].replace_one(
                {"_id": document["_id"], GIVEN_UP: {"$exists": False},
                 "ended": {"$exists": False}}, document, upsert=True)
