"""Finish or undo what killed processes left half done, so that every job ends exactly once.

A job is taken from a launcher only when that launcher is known to be dead. Absence from squeue is
not knowledge: accounting, the process table of the same host, or a heartbeat long silent is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.errors import LaunchError
from orionflow.launchers.deaths import LIKELY, Deaths, processes_of
from orionflow.launchers.identity import ENV_KEY, LauncherIdentity
from orionflow.launchers.launchpad import CLAIM, SUBMITTING
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.services.processes import end_processes
from orionflow.launchers.slurm import Fate
from orionflow.log import get_logger
from orionflow.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orionflow.launchers.launchpad import Count, ProjectLaunchPad

log = get_logger(__name__)
# A firework without workflow is a submission in progress at first, s.
ORPHAN_AGE = 3600.0
# A lock without a name on it (stock tools) is stale when it has not moved for so long, s.
LOCK_AGE = 120.0


@dataclass(frozen=True)
class Step:
    """One thing recovery did, or would do.

    Attributes
    ----------
    what
        ``settled``, ``put back``, ``gave up``, ``unreserved``, ``refreshed``, ``unlocked``,
        ``finished``, ``removed``, ``killed``.
    """

    what: str
    fw_ids: list[int]
    why: str

    def describe(self) -> str:
        """Return one line."""
        ids = ", ".join(map(str, self.fw_ids))
        return f"{self.what}: firework{'s' if len(self.fw_ids) > 1 else ''} {ids}: {self.why}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"what": self.what, "fw_ids": self.fw_ids, "why": self.why}


def recover(project: Path, pad: ProjectLaunchPad, *, dry_run: bool = False) -> list[Step]:
    """Bring everything that dead processes left behind into order.

    Safe at any time, by any number of processes at once, beside running launchers.

    Parameters
    ----------
    project
        Project folder (for its Slurm and settings).
    pad
        Its open LaunchPad.
    dry_run
        Only say what would be done.

    Returns
    -------
    list of Step
        What was done, in order; empty when all was well.
    """
    return list(_Recovery(project, pad, dry_run=dry_run).steps())


def settle_launcher(pad: ProjectLaunchPad, identity: LauncherIdentity) -> list[Step]:
    """Give back all a launcher holds; it is dead, or this process between two jobs."""
    return list(_Recovery(None, pad, dry_run=False).settle(identity, "lost its database"))


class _Recovery:
    def __init__(self, project: Path | None, pad: ProjectLaunchPad, *, dry_run: bool) -> None:
        self.pad = pad
        self.dry_run = dry_run
        self.project = project
        self.scheduler = Scheduler(project)
        self.deaths = Deaths(self.scheduler)
        self.max_reruns = load_settings(project).max_reruns

    def steps(self) -> Iterator[Step]:
        yield from self._locks()
        yield from self._half_submitted()
        yield from self._orphans()
        yield from self._half_updated()
        yield from self._claims()
        yield from self._reservations()
        yield from self._running()

    def settle(self, identity: LauncherIdentity, why: str) -> Iterator[Step]:
        self.pad.workflows.update_many({"locked": identity.to_dict()}, {"$unset": {"locked": ""}})
        if released := self.pad.release_claims(identity):
            yield Step("unreserved", released, why)
        for launch in self.pad.launches.find(
                {"state": "RUNNING", f"fworker.env.{ENV_KEY}": identity.to_dict()}):
            yield from self._settle_launch(launch, why, counts="stopped")

    # -------------------------------------------------------------- workflows

    def _locks(self) -> Iterator[Step]:
        """Unlock workflows whose lock nobody holds any more."""
        now = datetime.now(UTC)
        fields = {"nodes": 1, "locked": 1, "lock_seen": 1}
        for wf in self.pad.workflows.find({"locked": {"$exists": True}}, fields):
            lock = {"_id": wf["_id"], "locked": wf["locked"]}
            owner = (LauncherIdentity.from_dict(wf["locked"])
                     if isinstance(wf["locked"], dict) else None)
            if owner is not None:
                if not (dead := self.deaths.dead(owner, None)):
                    continue
                why = f"locked by a process that is dead ({dead})"
            else:
                # Any update of the workflow replaces the document, and with it this mark.
                seen = wf.get("lock_seen")
                if seen is None:
                    if not self.dry_run:
                        self.pad.workflows.update_one(lock, {"$set": {"lock_seen": now}})
                    continue
                if (age := (now - _utc(seen)).total_seconds()) < LOCK_AGE:
                    continue
                lock["lock_seen"] = seen
                why = f"locked without a sign of life for {age:.0f} s"
            if not self.dry_run:
                self.pad.workflows.update_one(lock, {"$unset": {"locked": "", "lock_seen": ""}})
            yield Step("unlocked", [min(wf["nodes"])], why)
        if not self.dry_run:
            self.pad.workflows.update_many(
                {"locked": {"$exists": False}, "lock_seen": {"$exists": True}},
                {"$unset": {"lock_seen": ""}})

    def _half_submitted(self) -> Iterator[Step]:
        """Complete submissions that were killed after the workflow was stored."""
        for wf in self.pad.workflows.find({SUBMITTING: True}):
            if not self.dry_run:
                self.pad.finish_submission(wf)
            yield Step("finished", sorted(wf["nodes"]), "a submission that stopped half-way")

    def _orphans(self) -> Iterator[Step]:
        """Remove fireworks that never got a workflow; they are WAITING and nobody runs them."""
        before = (datetime.now(UTC) - timedelta(seconds=ORPHAN_AGE)).isoformat()
        found = [doc["fw_id"] for doc in self.pad.fireworks.aggregate([
            {"$match": {"state": "WAITING", "created_on": {"$lt": before}, "launches": []}},
            {"$lookup": {"from": "workflows", "localField": "fw_id", "foreignField": "nodes",
                         "as": "wf", "pipeline": [{"$project": {"_id": 1}}]}},
            {"$match": {"wf": []}},
            {"$project": {"fw_id": 1}},
        ])]
        if found:
            if not self.dry_run:
                self.pad.fireworks.delete_many({"fw_id": {"$in": found}, "state": "WAITING"})
            yield Step("removed", sorted(found), "left by a submission that was killed")

    def _half_updated(self) -> Iterator[Step]:
        """Carry on an update that was killed between the workflow and its fireworks."""
        pipeline = [
            {"$match": {"state": {"$in": ["RUNNING", "READY", "WAITING"]},
                        "locked": {"$exists": False}}},
            {"$lookup": {"from": "fireworks", "localField": "nodes", "foreignField": "fw_id",
                         "as": "fws", "pipeline": [
                             {"$match": {"state": {"$in": ["WAITING", "RUNNING"]}}},
                             {"$project": {"fw_id": 1, "state": 1, "launches": 1}}]}},
            {"$match": {"fws": {"$ne": []}}},
            {"$project": {"fw_states": 1, "fws": 1}},
        ]
        for wf in self.pad.workflows.aggregate(pipeline):
            for fw in wf["fws"]:
                told = wf["fw_states"].get(str(fw["fw_id"]))
                forward = (fw["state"], told) in {("WAITING", "READY"), ("RUNNING", "COMPLETED")}
                if not forward or (told == "COMPLETED" and not self._completed(fw)):
                    continue
                if self.dry_run or self._roll_forward(fw, told):
                    yield Step("refreshed", [fw["fw_id"]],
                               f"its workflow already has it as {told}")

    def _completed(self, fw: dict[str, Any]) -> bool:
        return self.pad.launches.find_one(
            {"launch_id": {"$in": fw["launches"]}, "state": "COMPLETED"}) is not None

    def _roll_forward(self, fw: dict[str, Any], told: str) -> bool:
        fw_id = fw["fw_id"]
        with self.pad.locked(fw_id):  # nobody is in the middle of it
            wf = self.pad.workflows.find_one({"nodes": fw_id}, {"fw_states": 1})
            if wf is None or wf["fw_states"].get(str(fw_id)) != told:
                return False
            done = self.pad.fireworks.update_one(
                {"fw_id": fw_id, "state": fw["state"]},
                {"$set": {"state": told, "updated_on": datetime.now(UTC)}})
        return bool(done.modified_count)

    # -------------------------------------------------------------- jobs

    def _claims(self) -> Iterator[Step]:
        """Free fireworks whose claimer died before there was a launch."""
        owners: dict[LauncherIdentity, list[int]] = {}
        for fw in self.pad.fireworks.find({"state": "RESERVED", CLAIM: {"$exists": True}},
                                          {"fw_id": 1, CLAIM: 1}):
            claim = {k: v for k, v in fw[CLAIM].items() if k != "at"}
            if (owner := LauncherIdentity.from_dict(claim)) is not None:
                owners.setdefault(owner, []).append(fw["fw_id"])
        for owner, fw_ids in owners.items():
            if not (dead := self.deaths.dead(owner, None)):
                continue
            freed = fw_ids if self.dry_run else self.pad.release_claims(owner)
            if freed:
                yield Step("unreserved", freed, f"claimed by a launcher that is dead ({dead})")

    def _reservations(self) -> Iterator[Step]:
        """Free fireworks that `qlaunch -r` reserved for a Slurm job that is gone."""
        before = datetime.now(UTC) - timedelta(seconds=LIKELY)
        for fw in self.pad.fireworks.find({"state": "RESERVED", CLAIM: {"$exists": False}},
                                          {"fw_id": 1, "launches": 1, "updated_on": 1}):
            launch = self.pad.launches.find_one(
                {"launch_id": {"$in": fw["launches"]}, "state": "RESERVED"})
            if launch is None:
                if _utc(fw.get("updated_on")) > before:
                    continue  # a stock launcher is between two of its writes
                why = "reserved by a process that never got to a launch"
                if not self.dry_run and not self._unreserve_bare(fw):
                    continue
            else:
                if not (gone := self._reservation_gone(launch, before)):
                    continue
                why = gone
                if not self.dry_run and not self.pad.put_back(
                        fw["fw_id"], launch["launch_id"], why):
                    continue
            yield Step("unreserved", [fw["fw_id"]], why)

    def _unreserve_bare(self, fw: dict[str, Any]) -> bool:
        done = self.pad.fireworks.update_one(
            {"fw_id": fw["fw_id"], "state": "RESERVED", "launches": fw["launches"],
             CLAIM: {"$exists": False}, "updated_on": fw.get("updated_on")},
            {"$set": {"state": "READY", "updated_on": datetime.now(UTC)}})
        if done.modified_count:
            self.pad.tell_workflow(fw["fw_id"], "READY")
        return bool(done.modified_count)

    def _reservation_gone(self, launch: dict[str, Any], before: datetime) -> str:
        job = next((h["reservation_id"] for h in launch["state_history"]
                    if h.get("reservation_id")), None)
        if job is None:
            since = _utc(launch["state_history"][-1].get("updated_on"))
            return "reserved, but never submitted to the queue" if since < before else ""
        try:
            over = self.scheduler.fate(str(job)) is Fate.OVER
        except LaunchError as error:
            log.warning("Slurm job %s: %s", job, error.message)
            return ""
        return f"Slurm job {job} is over" if over else ""

    def _running(self) -> Iterator[Step]:
        """Settle RUNNING fireworks whose launcher is dead, or whose launch has ended."""
        for fw in self.pad.fireworks.find({"state": "RUNNING"}, {"fw_id": 1, "launches": 1}):
            launch = self.pad.launches.find_one(
                {"launch_id": {"$in": fw["launches"]}}, sort=[("launch_id", -1)])
            if launch is None:
                continue
            if launch["state"] in {"COMPLETED", "FIZZLED"}:
                try:
                    yield from self._ended(launch)
                except ImportError as error:
                    log.warning("firework %d: its job can't be read here (%s); recover where it "
                                "can", fw["fw_id"], error)
                continue
            if launch["state"] != "RUNNING":
                continue
            owner = LauncherIdentity.from_dict(
                ((launch.get("fworker") or {}).get("env") or {}).get(ENV_KEY))
            if not (dead := self.deaths.dead(owner, _last_sign(launch), launch.get("host"))):
                continue
            if owner is not None and owner.alive_here() is False and not self.dry_run:
                yield from self._orphan_processes(owner, fw["fw_id"])
            yield from self._settle_launch(launch, f"its launcher is dead ({dead})", counts="lost")

    def _ended(self, launch: dict[str, Any]) -> Iterator[Step]:
        """Its launch has ended, the firework does not know it yet; or it learns it just now."""
        owner = LauncherIdentity.from_dict(
            ((launch.get("fworker") or {}).get("env") or {}).get(ENV_KEY))
        ended = _utc(launch["state_history"][-1].get("created_on"))
        quiet = (datetime.now(UTC) - ended).total_seconds() > LOCK_AGE
        if not (owner is not None and self.deaths.dead(owner, None)) and not quiet:
            return
        fw_id = launch["fw_id"]
        if not self.dry_run:
            if (launch.get("action") or {}).get("stored_data", {}).get("_put_back"):
                self.pad.put_back_in_folder(
                    fw_id, launch["launch_id"], launch["launch_dir"],
                    launch["action"]["stored_data"].get("_message", "put back"),
                    counts="stopped", most=self.max_reruns)
            else:
                self.pad._refresh_wf(fw_id)  # noqa: SLF001  ours
        yield Step("refreshed", [fw_id], f"its launch is {launch['state']}")

    def _settle_launch(self, launch: dict[str, Any], why: str, *,
                       counts: Count) -> Iterator[Step]:
        from fireworks.core.firework import FWAction

        from orionflow.launchers.rocket import read_spool

        fw_id, launch_id, folder = launch["fw_id"], launch["launch_id"], launch["launch_dir"]
        if spool := read_spool(Path(folder), launch_id, self.pad.name):
            if not self.dry_run:
                action = FWAction.from_dict(spool["action"]) if spool["action"] else None
                self.pad.complete_launch(launch_id, action, spool["state"])
            yield Step("settled", [fw_id], f"{why}; its result lay in {folder}")
            return
        if self.dry_run:
            yield Step("put back", [fw_id], why)
            return
        if self.pad.put_back_in_folder(fw_id, launch_id, folder, f"lost: {why}", counts=counts,
                                       most=self.max_reruns):
            yield Step("put back", [fw_id], why)
            return
        current = self.pad.fireworks.find_one({"fw_id": fw_id}, {"state": 1, "launches": 1})
        if current and current["state"] == "RUNNING" and launch_id in current["launches"]:
            message = f"lost {self.max_reruns + 1} times, last because {why}"
            self.pad.complete_launch(launch_id, FWAction(
                stored_data={"_message": message, "_exception": {
                    "_stacktrace": message, "_details": None}}, exit=True), "FIZZLED")
            yield Step("gave up", [fw_id], message)

    def _orphan_processes(self, owner: LauncherIdentity, fw_id: int) -> Iterator[Step]:
        """End what a dead launcher of this host left running."""
        orphans = processes_of(owner)
        if orphans:
            end_processes(orphans, patience=5.0)
            yield Step("killed", [fw_id],
                       f"{len(orphans)} process(es) outlived their launcher")


def _last_sign(launch: dict[str, Any]) -> datetime:
    last = launch["state_history"][-1]
    return _utc(last.get("updated_on") or last.get("created_on"))


def _utc(value: Any) -> datetime:
    """Return a stored date (FireWorks has strings and dates, with and without zone) as UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return datetime.now(UTC)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
