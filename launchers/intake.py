"""What the launcher takes: claims the READY jobs its packing has chosen."""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orionflow.errors import InputError
from orionflow.launchers.ahead import AHEAD
from orionflow.launchers.jobs import ClaimedJob
from orionflow.launchers.packing import Need, Placement, Room, Running, plan
from orionflow.launchers.resources import Resources
from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fireworks.core.fworker import FWorker

    from orionflow.launchers.allocation import Allocation
    from orionflow.launchers.pad.claim import Claim

log = get_logger(__name__)
_FOLDER_DATE = "%Y-%m-%d-%H-%M-%S-%f"
# So many READY jobs are looked at, the most urgent first; more while cores stay free.
_FEW, _MANY = 16, 256
# Of so many waiting jobs the modules are imported in advance.
_PEEK = 300
# A learned run time is good for so long, s.
_LEARNED = 60.0


@dataclass
class _Look:
    """One look at what is READY; ``urgent`` collects those that would start were there room."""

    room: Room
    running: Sequence[Running]
    now: float
    longest: float | None
    limit: int
    ahead: int
    urgent: list[Need] = field(default_factory=list)


class Intake:
    """Claims jobs for one launcher.

    Parameters
    ----------
    pad
        The project's LaunchPad.
    fworker
        Name, category and query of this worker; its identity is in the environment.
    allocation
        What there is.
    folder
        Where the folders of jobs are made.
    seconds
        Learned run time of a firework (its document), None where nothing is known.

    Attributes
    ----------
    reserved
        Job for which room is being kept, and from when on (unix time).
    missed
        The last look found something to claim, and others were quicker or it made no sense.
    """

    def __init__(self, pad: Any, fworker: FWorker, allocation: Allocation, folder: Path,
                 seconds: Callable[[dict[str, Any]], float | None]) -> None:
        self.pad = pad
        self.fworker = fworker
        self.allocation = allocation
        self.folder = folder
        self.seconds = seconds
        self.host = socket.gethostname()
        self.ip = _address(self.host)
        self.reserved: tuple[Need, float] | None = None
        # The last folder that was made.
        self._made = ""
        self._last_name = datetime.min.replace(tzinfo=UTC)
        self._chosen: dict[int, tuple[dict[str, Any], Need, Placement | None, str]] = {}
        self._seen = 0
        self.missed = False
        self._learned: dict[int, float | None] = {}
        self._learned_at = float("-inf")
        self._since: dict[int, float] = {}

    def take(self, room: Room, running: Sequence[Running], *, limit: int,
             ahead: int = 0) -> list[ClaimedJob]:
        """Claim what can start now.

        Parameters
        ----------
        room
            What is free; the caller marks what it starts.
        running
            What runs.
        limit
            Most jobs to claim.
        ahead
            Claim so many short ones more, to start when others end.

        Returns
        -------
        list of ClaimedJob
            Those with a placement start now. One with a ``problem`` can't run anywhere.

        Raises
        ------
        pymongo.errors.ConnectionFailure
            MongoDB went away; something may have been claimed.
        """
        now = time.time()
        look = _Look(room, running, now, self.allocation.time_for_a_job(now), limit, ahead)
        old, self._since = self._since, {}
        few = max(_FEW, 2 * (min(limit, room.free_cores) + ahead))
        found = self._claim(look, self.allocation.query(), few, old)
        if found or self.missed or self._seen < few:
            return found
        if look.longest is not None and not look.urgent:
            # Long jobs hide short ones behind them.
            found = self._claim(look, self.allocation.query(longest=look.longest), few, old)
            if found or self.missed:
                return found
        # What must wait for room hides what would fit now.
        here = room if room.free_cores else None
        found = self._claim(look, self.allocation.query(room=here), _MANY)
        if found or self.missed or self._seen < _MANY:
            return found
        most = math.inf if look.longest is None else look.longest
        if self.reserved is not None:
            most = min(most, self.reserved[1] - now)
        if most == math.inf:
            return found
        return self._claim(look, self.allocation.query(longest=most, room=here), _MANY)

    def take_one(self, fw_id: int, room: Room) -> ClaimedJob | None:
        """Claim this firework, READY or reserved for us by `qlaunch`."""
        doc = self.pad.fireworks.find_one({"fw_id": fw_id})
        if doc is None:
            return None
        folder = self._folder_for(doc)
        fw, launch_id = self.pad.checkout_fw(self.fworker, folder, fw_id=fw_id, host=self.host,
                                             ip=self.ip)
        if fw is None:
            return None
        need, problem = self._need(doc)
        job = self._job(self.pad.claims[launch_id], doc, need, None, problem)
        job.placement = room.place(need)
        if job.placement is None:
            job.problem = job.problem or "its resources do not fit here"
        return job

    def ready_left(self) -> int:
        """Return how many READY jobs match this worker, fit or not (at most 1000)."""
        return int(self.pad.fireworks.count_documents(
            {**self.fworker.query, "state": "READY"}, limit=1000))

    def modules(self) -> list[str]:
        """Return the modules the jobs to come are made of."""
        wanted = {**self.fworker.query, "state": {"$in": ["READY", "WAITING"]}}
        function = "$spec._tasks.job.function"
        names = [{"$cond": [{"$isArray": name}, name, []]} for name in (
            f"{function}.@module", f"{function}.@bound.@module")]
        found = self.pad.fireworks.aggregate([
            {"$match": wanted}, {"$limit": _PEEK}, {"$project": {"m": {"$concatArrays": names}}},
            {"$unwind": "$m"}, {"$group": {"_id": "$m"}}])
        return sorted(doc["_id"] for doc in found if isinstance(doc["_id"], str))

    # ------------------------------------------------------------------------ helpers

    def _claim(self, look: _Look, query: dict[str, Any], candidates: int,
               since: dict[int, float] | None = None) -> list[ClaimedJob]:
        """Claim the best of so many candidates.

        Parameters
        ----------
        since
            When the most urgent were first seen waiting; given where these are looked at.
        """
        def choose(docs: list[dict[str, Any]]) -> list[dict[str, Any]]:
            self._seen = len(docs)
            if since is not None:
                self._since |= {d["fw_id"]: since.get(d["fw_id"], look.now) for d in docs[:_FEW]}
            chosen = self._choose(docs, look, urgent=since is not None)
            self.missed = bool(chosen)
            return chosen

        self._chosen.clear()
        self.missed = False
        claims: list[Claim] = self.pad.claim(
            self.fworker, self._folder_for, limit=look.limit + look.ahead, query=query,
            choose=choose, candidates=candidates, mark=self._mark, host=self.host, ip=self.ip)
        self.missed = self.missed and not claims
        return [self._job(claim, *self._chosen[claim.fw_id]) for claim in claims]

    def _choose(self, docs: list[dict[str, Any]], look: _Look, *,
                urgent: bool) -> list[dict[str, Any]]:
        by_id = {doc["fw_id"]: doc for doc in docs}
        needs: list[Need] = []
        odd: list[dict[str, Any]] = []
        for doc in docs:
            need, problem = self._need(doc)
            if problem:
                odd.append(doc)
                self._chosen[doc["fw_id"]] = (doc, need, None, problem)
            else:
                needs.append(replace(need, priority=_priority(doc),
                                     since=self._since.get(need.key, look.now)))
        waiting = [n for n in look.urgent if n.key not in by_id]
        planned = plan([*waiting, *needs], look.room, look.running, look.now,
                       longest=look.longest, deadline=self.allocation.deadline)
        self.reserved = planned.reserved
        starts = [s for s in planned.starts if s.need.key in by_id][:look.limit]
        started = {start.need.key for start in planned.starts}
        if urgent:
            look.urgent += [n for n in needs[:_FEW] if n.key not in started and (
                look.longest is None or n.seconds <= look.longest)]
        for start in starts:
            doc = by_id[start.need.key]
            self._chosen[start.need.key] = (doc, start.need, start.placement, "")
        chosen = [by_id[start.need.key] for start in starts]
        if look.ahead > 0 and (planned.reserved is None or _small(planned.reserved[0])):
            small = [n for n in needs if n.key not in started and _small(n)
                     and (look.longest is None or n.seconds <= look.longest)][:look.ahead]
            for need in small:
                self._chosen[need.key] = (by_id[need.key], need, None, "")
                chosen.append(by_id[need.key])
        return [*odd[:look.limit], *chosen]

    def _need(self, doc: dict[str, Any]) -> tuple[Need, str]:
        fw_id = doc["fw_id"]
        try:
            need = Need.of(fw_id, Resources.parse(doc["spec"].get("resources")))
        except InputError as error:
            return Need(fw_id), error.message
        except (AttributeError, ArithmeticError) as error:  # no mapping; more than can be
            return Need(fw_id), f"its spec is malformed: {error}"
        if time.monotonic() - self._learned_at > _LEARNED:
            self._learned.clear()
            self._learned_at = time.monotonic()
        if fw_id not in self._learned:
            self._learned[fw_id] = self.seconds(doc)
        learned = self._learned[fw_id] or math.inf
        return replace(need, seconds=min(need.seconds, learned)), ""

    def _job(self, claim: Claim, doc: dict[str, Any], need: Need,
             placement: Placement | None, problem: str) -> ClaimedJob:
        launch = {k: v for k, v in claim.launch.items() if k != "_id"}
        return ClaimedJob(
            fw_id=claim.fw_id, launch_id=claim.launch_id, name=doc.get("name", ""),
            folder=launch["launch_dir"], doc=doc, launch=launch, need=need,
            placement=placement, problem=problem)

    def _folder_for(self, doc: dict[str, Any]) -> str:
        own = _own_folder(doc)
        if own:
            return os.path.abspath(os.path.expandvars(own))  # noqa: PTH100  Rocket's own expansion
        if self._is_ahead(doc):
            # Made when the job starts: no other launcher claims the same one at the same moment.
            return f"{self._new_name()}-{doc['fw_id']}"
        return str(self.new_folder())

    def _is_ahead(self, doc: dict[str, Any]) -> bool:
        """Whether a job is claimed ahead of its turn, to start in a folder of its own."""
        _, _, placement, problem = self._chosen.get(doc["fw_id"], (doc, None, None, "alone"))
        return placement is None and not problem and bool(self._made)

    def _mark(self, doc: dict[str, Any]) -> dict[str, Any]:
        return {AHEAD: self._made} if self._is_ahead(doc) and not _own_folder(doc) else {}

    def _new_name(self) -> Path:
        now = max(datetime.now(UTC), self._last_name + timedelta(microseconds=1))
        self._last_name = now
        return self.folder / f"launcher_{now.strftime(_FOLDER_DATE)}"

    def new_folder(self) -> Path:
        """Make a folder for a job; where it can't be made, the job finds out why."""
        while True:
            path = self._new_name()
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                path.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                log.warning("can't make %s: %s", path, error)
            else:
                self._made = str(path)
            return path


def _own_folder(doc: dict[str, Any]) -> str:
    own = doc["spec"].get("_launch_dir") if isinstance(doc["spec"], dict) else None
    return own if isinstance(own, str) else ""


def _priority(doc: dict[str, Any]) -> float:
    value = doc["spec"].get("_priority")
    return float(value) if isinstance(value, int | float) else 0.0


def _small(need: Need) -> bool:
    return need.nodes == need.cores == 1 and not need.gpus


def _address(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError:  # a host that does not know its own name
        return ""
