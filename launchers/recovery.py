"""Finish or undo what killed processes left half done, so that every job ends exactly once.

A job is taken from a launcher only when that launcher is known to be dead. Absence from squeue is
not knowledge: accounting, the process table of the same host, or a heartbeat long silent is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireworks.core.launchpad import LockedWorkflowError

from orionflow.errors import LaunchError
from orionflow.launchers.cancel import CANCEL_FIELD, CancelRequest, settle
from orionflow.launchers.deaths import LIKELY, Deaths, processes_of
from orionflow.launchers.identity import ENV_KEY, LauncherIdentity
from orionflow.launchers.jobs import failed_action
from orionflow.launchers.launchpad import SUBMITTING
from orionflow.launchers.pad import LaunchRefusedError
from orionflow.launchers.raw_action import read_action
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.services.processes import end_processes
from orionflow.launchers.settling import is_document_error
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
# So far back recovery looks for finished fireworks that their workflow does not know of, s.
SWEEP_WINDOW = 7 * 86400.0


@dataclass(frozen=True)
class Step:
    """One thing recovery did, or would do.

    Attributes
    ----------
    what
        ``settled``, ``cancelled``, ``put back``, ``gave up``, ``unreserved``, ``refreshed``,
        ``unlocked``, ``finished``, ``removed``, ``killed``.
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


class _Recovery:
    def __init__(self, project: Path, pad: ProjectLaunchPad, *, dry_run: bool) -> None:
        self.pad = pad
        self.dry_run = dry_run
        self.scheduler = Scheduler(project)
        self.deaths = Deaths(self.scheduler)
        self.max_reruns = load_settings(project).max_reruns

    def steps(self) -> Iterator[Step]:
        yield from self._locks()
        yield from self._half_submitted()
        yield from self._half_written()
        yield from self._reservations()
        yield from self._running()

    # -------------------------------------------------------------- workflows

    def _locks(self) -> Iterator[Step]:
        """Take over the locks of those who are known to be dead, and of stock tools that are."""
        now = datetime.now(UTC)
        fields = {"nodes": 1, "locked": 1, "lock_seen": 1}
        for wf in self.pad.workflows.find({"locked": {"$exists": True}}, fields):
            lock = {"_id": wf["_id"], "locked": wf["locked"]}
            if isinstance(wf["locked"], dict):
                owner = LauncherIdentity.from_dict(wf["locked"].get("by"))
                if owner is None or not (dead := self.deaths.dead(owner, None)):
                    continue  # its lease ends in a minute
                why = f"locked by a process that is dead ({dead})"
            else:
                # Stock FireWorks replaces the document, and with it this mark.
                seen = wf.get("lock_seen")
                if seen is None:
                    if not self.dry_run:
                        self.pad.workflows.update_one(lock, {"$set": {"lock_seen": now}})
                    continue
                if (age := (now - _utc(seen)).total_seconds()) < LOCK_AGE:
                    continue
                lock["lock_seen"] = seen
                why = f"locked without a sign of life for {age:.0f} s"
            if self.dry_run or self._unlock(lock):
                yield Step("unlocked", [min(wf["nodes"])], why)
        if not self.dry_run:
            self.pad.workflows.update_many(
                {"locked": {"$exists": False}, "lock_seen": {"$exists": True}},
                {"$unset": {"lock_seen": ""}})

    def _unlock(self, lock: dict[str, Any]) -> bool:
        taken = self.pad.locks.take_over(lock)
        if taken is not None:
            self.pad.locks.release(taken)
        return taken is not None

    def _half_submitted(self) -> Iterator[Step]:
        """Complete submissions that were killed after the workflow was stored."""
        for wf in self.pad.workflows.find({SUBMITTING: True}):
            if not self.dry_run:
                self.pad.finish_submission(wf)
            yield Step("finished", sorted(wf["nodes"]), "a submission that stopped half-way")

    def _half_written(self) -> Iterator[Step]:
        """Have the LaunchPad repair what anybody left between two of its writes."""
        done = self.pad.sweep(window=SWEEP_WINDOW, orphan_age=ORPHAN_AGE, dry_run=self.dry_run)
        for what, fw_ids, why in (
                ("unlocked", done.locks, "locked by a process that is gone"),
                ("unreserved", done.unstarted, "claimed by a process that never started it"),
                ("refreshed", done.uncounted, "its launch has ended"),
                ("refreshed", done.disagreeing, "its workflow had another state"),
                ("removed", done.orphans, "left by a submission that was killed")):
            if fw_ids:
                yield Step(what, fw_ids, why)

    # -------------------------------------------------------------- jobs

    def _reservations(self) -> Iterator[Step]:
        """Free fireworks that `qlaunch -r` reserved for a Slurm job that is gone."""
        before = datetime.now(UTC) - timedelta(seconds=LIKELY)
        for fw in self.pad.fireworks.find({"state": "RESERVED"}, {"fw_id": 1, "launches": 1}):
            launch = self.pad.launches.find_one(
                {"launch_id": {"$in": fw["launches"]}, "state": "RESERVED"})
            if launch is not None and (gone := self._reservation_gone(launch, before)) and (
                    self.dry_run or self.pad.put_back(fw["fw_id"], launch["launch_id"], gone)):
                yield Step("unreserved", [fw["fw_id"]], gone)

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
        """Settle RUNNING fireworks whose launcher is dead."""
        for fw in self.pad.fireworks.find({"state": "RUNNING"}, {"fw_id": 1, "launches": 1}):
            launch = self.pad.launches.find_one(
                {"launch_id": {"$in": fw["launches"]}}, sort=[("launch_id", -1)])
            if launch is None or launch["state"] != "RUNNING":
                continue  # the sweep's business
            owner = LauncherIdentity.from_dict(
                ((launch.get("fworker") or {}).get("env") or {}).get(ENV_KEY))
            if not (dead := self.deaths.dead(owner, _last_sign(launch), launch.get("host"))):
                continue
            if owner is not None and owner.alive_here() is False and not self.dry_run:
                yield from self._orphan_processes(owner, fw["fw_id"])
            try:
                yield from self._settle_launch(launch, f"its launcher is dead ({dead})",
                                               counts="lost")
            except LockedWorkflowError as error:  # whoever comes next finds it again
                log.warning("firework %d: %s", fw["fw_id"], error)

    def _settle_launch(self, launch: dict[str, Any], why: str, *,
                       counts: Count) -> Iterator[Step]:
        from fireworks.core.firework import FWAction

        from orionflow.launchers.rocket import read_spool

        fw_id, launch_id, folder = launch["fw_id"], launch["launch_id"], launch["launch_dir"]
        if spool := read_spool(Path(folder), launch_id, self.pad.name):
            if not self.dry_run:
                try:
                    self._store(launch_id, spool)
                except LaunchRefusedError:
                    return  # another recovery was faster
            yield Step("settled", [fw_id], f"{why}; its result lay in {folder}")
            return
        if CANCEL_FIELD in launch:
            request = CancelRequest.from_dict(launch[CANCEL_FIELD])
            if self.dry_run or settle(self.pad, fw_id, launch_id, request, folder):
                yield Step("cancelled", [fw_id], f"{why}; {request.describe()}")
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
                    "_stacktrace": message,
                    # The job did nothing wrong: who asks may give it another try.
                    "_details": {"message": message, "transient": True}}}, exit=True), "FIZZLED")
            yield Step("gave up", [fw_id], message)

    def _store(self, launch_id: int, spool: dict[str, Any]) -> None:
        """Store a result that lay in a folder, or that it can't be stored."""
        try:
            self.pad.complete_launch(launch_id, read_action(spool["action"]), spool["state"])
        except Exception as error:
            # RuntimeError: the action can't be applied.
            if not (is_document_error(error) or isinstance(
                    error, (KeyError, TypeError, RuntimeError))):
                raise
            message = f"its result can't be stored: {error}"[:1000]
            log.warning("launch %d: %s", launch_id, message)
            self.pad.complete_launch(
                launch_id, read_action(failed_action("its result can't be stored", message)),
                "FIZZLED")

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
