"""What the launcher takes: claims the READY jobs its packing has chosen."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orionflow.errors import InputError
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
        self._last_name = datetime.min.replace(tzinfo=UTC)
        self._chosen: dict[int, tuple[dict[str, Any], Need, Placement | None, str]] = {}
        self._seen = self._candidates = 0
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
        longest = self.allocation.time_for_a_job(now)
        self.reserved = None

        def choose(docs: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return self._choose(docs, room, running, now, longest, limit, ahead)

        query = self.allocation.query(now, timed=False)
        self._candidates = max(_FEW, 2 * (min(limit, room.free_cores) + ahead))
        while True:
            found = self._claim(choose, query, limit + ahead)
            if found or self._seen < self._candidates:
                return found
            if self._candidates < _MANY:
                self._candidates = _MANY
            elif longest is not None and "walltime" not in str(query):
                # Long jobs hide short ones behind them.
                query = self.allocation.query(now)
            else:
                return found

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
        job = "$spec._tasks.job.function"
        found = self.pad.fireworks.aggregate([
            {"$match": wanted}, {"$limit": _PEEK},
            {"$project": {"m": {"$concatArrays": [{"$ifNull": [f"{job}.@module", []]}, {
                "$ifNull": [f"{job}.@bound.@module", []]}]}}},
            {"$unwind": "$m"}, {"$group": {"_id": "$m"}}])
        return sorted(doc["_id"] for doc in found if isinstance(doc["_id"], str))

    # ------------------------------------------------------------------------ helpers

    def _claim(self, choose: Callable[[list[dict[str, Any]]], Sequence[dict[str, Any]]],
               query: dict[str, Any], limit: int) -> list[ClaimedJob]:
        self._chosen.clear()
        claims: list[Claim] = self.pad.claim(
            self.fworker, self._folder_for, limit=limit, query=query, choose=choose,
            candidates=self._candidates, host=self.host, ip=self.ip)
        return [self._job(claim, *self._chosen[claim.fw_id]) for claim in claims]

    def _choose(self, docs: list[dict[str, Any]], room: Room,  # noqa: PLR0917  a closure's arguments
                running: Sequence[Running], now: float, longest: float | None, limit: int,
                ahead: int) -> list[dict[str, Any]]:
        self._seen = len(docs)
        self._since = {doc["fw_id"]: self._since.get(doc["fw_id"], now) for doc in docs[:_FEW]}
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
                                     since=self._since.get(need.key, now)))
        planned = plan(needs, room, running, now, longest=longest,
                       deadline=self.allocation.deadline)
        self.reserved = planned.reserved
        starts = planned.starts[:limit]
        for start in starts:
            doc = by_id[start.need.key]
            self._chosen[start.need.key] = (doc, start.need, start.placement, "")
        chosen = [by_id[start.need.key] for start in starts]
        if ahead > 0 and (planned.reserved is None or _small(planned.reserved[0])):
            started = {start.need.key for start in planned.starts}
            small = [n for n in needs if n.key not in started and _small(n)
                     and (longest is None or n.seconds <= longest)][:ahead]
            for need in small:
                self._chosen[need.key] = (by_id[need.key], need, None, "")
                chosen.append(by_id[need.key])
        return [*odd[:limit], *chosen]

    def _need(self, doc: dict[str, Any]) -> tuple[Need, str]:
        fw_id = doc["fw_id"]
        try:
            resources = Resources.parse(doc["spec"].get("resources"))
        except InputError as error:
            return Need(fw_id), error.message
        if time.monotonic() - self._learned_at > _LEARNED:
            self._learned.clear()
            self._learned_at = time.monotonic()
        if fw_id not in self._learned:
            self._learned[fw_id] = self.seconds(doc)
        return Need.of(fw_id, resources, self._learned[fw_id]), ""

    def _job(self, claim: Claim, doc: dict[str, Any], need: Need,
             placement: Placement | None, problem: str) -> ClaimedJob:
        launch = {k: v for k, v in claim.launch.items() if k != "_id"}
        return ClaimedJob(
            fw_id=claim.fw_id, launch_id=claim.launch_id, name=doc.get("name", ""),
            folder=launch["launch_dir"], doc=doc, launch=launch, need=need,
            placement=placement, problem=problem)

    def _folder_for(self, doc: dict[str, Any]) -> str:
        own = doc["spec"].get("_launch_dir")
        if isinstance(own, str) and own:
            return os.path.abspath(os.path.expandvars(own))  # noqa: PTH100  Rocket's own expansion
        return str(self.new_folder())

    def new_folder(self) -> Path:
        """Make a folder for a job; where it can't be made, the job finds out why."""
        while True:
            now = max(datetime.now(UTC), self._last_name + timedelta(microseconds=1))
            self._last_name = now
            path = self.folder / f"launcher_{now.strftime(_FOLDER_DATE)}"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                path.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                log.warning("can't make %s: %s", path, error)
            return path


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
