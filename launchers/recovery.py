"""Finish or undo what killed processes left half done, so that every job ends exactly once.

A job is taken from a launcher only when that launcher is known to be dead (`deaths`).
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireworks.core.launchpad import LockedWorkflowError

from orionflow.errors import LaunchError
from orionflow.launchers.ahead import AHEAD, UNSTARTED, unstarted
from orionflow.launchers.cancel import CANCEL_FIELD, CancelRequest, put_back, settle
from orionflow.launchers.deaths import LIKELY, Death, Deaths, launches_of
from orionflow.launchers.identity import ENV_KEY, LauncherIdentity
from orionflow.launchers.jobs import blame_surroundings, failed_action
from orionflow.launchers.launchpad import SUBMITTING
from orionflow.launchers.machine import load_machine
from orionflow.launchers.pad import LaunchRefusedError
from orionflow.launchers.raw_action import read_action
from orionflow.launchers.retry import FailureClass, FailureInfo, RetryPolicy, decide
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.services.processes import end_processes
from orionflow.launchers.settling import is_document_error
from orionflow.launchers.slurm import Fate
from orionflow.log import get_logger
from orionflow.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orionflow.launchers.launchpad import ProjectLaunchPad

log = get_logger(__name__)
# A firework without workflow is a submission in progress at first, s.
ORPHAN_AGE = 3600.0
# A lock without a name on it (stock tools) is stale when it has not moved for so long, s.
LOCK_AGE = 120.0
# So far back recovery looks for finished fireworks that their workflow does not know of, s.
SWEEP_WINDOW = 7 * 86400.0
# Pause between two looks at launchers that are silent, s.
_WATCH = 2.0


@dataclass(frozen=True)
class Step:
    """One thing recovery did, or would do.

    Attributes
    ----------
    what
        ``settled``, ``cancelled``, ``put back``, ``gave up``, ``unreserved``, ``refreshed``,
        ``unlocked``, ``finished``, ``removed``, ``killed``; ``left`` for what has to stay as it
        is.
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


def recover(project: Path, pad: ProjectLaunchPad, *, dry_run: bool = False,
            deaths: Deaths | None = None, lost_only: bool = False, patience: float = 0.0,
            tell: Callable[[str], object] | None = None) -> list[Step]:
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
    deaths
        What is known of launchers, kept from one call to the next by who calls often.
    lost_only
        Only look for jobs of dead launchers.
    patience
        Watch launchers that are silent for so long, s: one elsewhere is known to be dead only
        when its heart has stood still under our eyes.
    tell
        Called with a line on what is watched, about once a second.

    Returns
    -------
    list of Step
        What was done, in order; empty when all was well.
    """
    work = _Recovery(project, pad, dry_run=dry_run, deaths=deaths)
    steps = list(work.watch() if lost_only else work.steps())
    end = time.monotonic() + patience
    while work.deaths.suspects and (left := end - time.monotonic()) > 0:
        if tell is not None:
            tell(f"no sign of life from {', '.join(sorted(work.deaths.suspects))}; watching "
                 f"{left:.0f} s more")
        time.sleep(min(_WATCH, left))
        steps += work.watch()
    return steps


class _Recovery:
    def __init__(self, project: Path, pad: ProjectLaunchPad, *, dry_run: bool,
                 deaths: Deaths | None) -> None:
        self.pad = pad
        self.dry_run = dry_run
        self.deaths = deaths or Deaths(Scheduler(project), pad)
        self.scheduler = self.deaths.scheduler
        self.policy = RetryPolicy.of(load_settings(project), load_machine(project=project))
        self._stuck: set[int] = set()  # launches with a process that can't be ended
        self._ended: set[LauncherIdentity] = set()

    def steps(self) -> Iterator[Step]:
        self.deaths.look_again()
        yield from self._locks()
        yield from self._half_submitted()
        yield from self._half_written()
        yield from self._reservations()
        yield from self._running()

    def watch(self) -> list[Step]:
        """Look at running jobs alone."""
        self.deaths.look_again()
        return list(self._running())

    # -------------------------------------------------------------- workflows

    def _locks(self) -> Iterator[Step]:
        """Take over the locks of those who are known to be dead, and of stock tools that are."""
        now = datetime.now(UTC)
        fields = {"nodes": 1, "locked": 1, "lock_seen": 1}
        for wf in self.pad.workflows.find({"locked": {"$exists": True}}, fields):
            lock = {"_id": wf["_id"], "locked": wf["locked"]}
            if isinstance(wf["locked"], dict):
                owner = LauncherIdentity.from_dict(wf["locked"].get("by"))
                if owner is None or (death := self.deaths.death(owner, None)) is None:
                    continue  # its lease ends in a minute
                why = f"locked by a process that is dead ({death.why})"
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
            with _readable(fw):
                launch = self.pad.launches.find_one(
                    {"launch_id": {"$in": fw["launches"]}, "state": "RESERVED"})
                if launch is not None and (gone := self._reservation_gone(launch, before)) and (
                        self.dry_run
                        or self.pad.put_back(fw["fw_id"], launch["launch_id"], gone)):
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
        last: dict[Any, dict[str, Any]] = {}
        for fw in self.pad.fireworks.find({"state": "RUNNING"}, {"_id": 0, "fw_id": 1,
                                                                 "launches": 1}):
            with _readable(fw):
                last |= {max(fw["launches"]): fw} if fw["launches"] else {}
        for launch in list(self.pad.launches.find(
                {"launch_id": {"$in": list(last)}, "state": "RUNNING"}, _LAUNCH,
                sort=[("launch_id", 1)])):  # one that has ended is the sweep's business
            fw = last[launch["launch_id"]]
            with _readable(fw):
                owner = LauncherIdentity.of_launch(launch)
                death = self.deaths.death(owner, _last_sign(launch), launch.get("host"))
                if death is None or not (self.dry_run or self.deaths.declare(owner, death)):
                    continue
                try:
                    yield from self._settle_launch(launch, owner, death)
                except LockedWorkflowError as error:  # whoever comes next finds it again
                    log.warning("firework %d: %s", fw["fw_id"], error)

    def _settle_launch(self, launch: dict[str, Any], owner: LauncherIdentity | None,
                       death: Death) -> Iterator[Step]:
        from orionflow.launchers.rocket import read_spool

        fw_id, launch_id, folder = launch["fw_id"], launch["launch_id"], launch["launch_dir"]
        why = f"its launcher is dead ({death.why})"
        if owner is not None and not self.dry_run:
            yield from self._end_orphans(owner, fw_id)
            if launch_id in self._stuck:
                yield Step("left", [fw_id], f"{why}, but a process of it can't be ended, and it "
                           "must not run twice: it hangs in the kernel, see `ps -l`")
                return
        spool = read_spool(Path(folder), launch_id, self.pad.name)
        if spool and (spool["state"] == "COMPLETED" or not spool.get("failure")):
            if not self.dry_run:
                try:
                    self._store(launch_id, spool)
                except LaunchRefusedError:
                    return  # another recovery was faster
            yield Step("settled", [fw_id], f"{why}; its result lay in {folder}")
        elif CANCEL_FIELD in launch:
            request = CancelRequest.from_dict(launch[CANCEL_FIELD])
            if self.dry_run or settle(self.pad, fw_id, launch_id, request, folder):
                yield Step("cancelled", [fw_id], f"{why}; {request.describe()}")
        elif not spool and self._put_back_unstarted(launch, why):
            yield Step("put back", [fw_id], f"{why}, and had not started it")
        else:
            yield from self._try_again(launch, why, death, spool)

    def _put_back_unstarted(self, launch: dict[str, Any], why: str) -> bool:
        """Put a job back that never ran, which costs it no rerun; whether it was one."""
        fw_id, launch_id = launch["fw_id"], launch["launch_id"]
        fw = self.pad.fireworks.find_one({"fw_id": fw_id, "launches": launch_id}, _SPEC)
        never = None if fw is None else unstarted(launch, fw.get("spec") or {})
        return never is not None and (self.dry_run or self.pad.put_back(
            fw_id, launch_id, f"{why}, and had not started it", spec=never))

    def _try_again(self, launch: dict[str, Any], why: str, death: Death,
                   spool: dict[str, Any] | None) -> Iterator[Step]:
        """Decide about a job without a good result as its launcher would have done."""
        fw_id, launch_id, folder = launch["fw_id"], launch["launch_id"], launch["launch_dir"]
        fw = self.pad.fireworks.find_one({"fw_id": fw_id, "launches": launch_id}, _SPEC)
        if fw is None:
            return  # deleted, or another recovery was faster
        info = replace(death.failure, folder=folder, host=launch.get("host") or "")
        if info.kind is FailureClass.MEMORY and not self._alone(launch):
            # Whose memory it was nobody knows.
            info = replace(info, kind=FailureClass.INFRASTRUCTURE)
        action = failed_action(info.reason)
        if spool:  # it failed by itself, before its launcher died
            info, action = FailureInfo.from_dict(spool["failure"]), spool["action"]
        decision = decide(info, fw.get("spec") or {}, self.policy)
        message = f"{why}; {decision.reason}"
        if decision.put_back:
            state = "READY" if self.dry_run else put_back(
                self.pad, fw_id, launch_id, message, folder=folder, spec=decision.spec)[0]
            if state:  # another one: somebody has cancelled it in this moment
                yield Step("put back" if state == "READY" else "cancelled", [fw_id], why)
            return
        if not spool:
            action = failed_action(message)
        if info.kind not in {FailureClass.USER, FailureClass.UNKNOWN}:
            # The job did nothing wrong: who asks may give it another try.
            action = blame_surroundings(action, message)
        if not self.dry_run:
            try:
                self._store(launch_id, {"state": "FIZZLED", "action": action})
            except LaunchRefusedError:
                return
        yield Step("gave up" if not spool else "settled", [fw_id], message)

    def _alone(self, launch: dict[str, Any]) -> bool:
        """Whether no other job ran under the launcher of this one when it died."""
        path = f"fworker.env.{ENV_KEY}"
        who = launch["fworker"]["env"][ENV_KEY]
        return int(self.pad.launches.count_documents(
            {f"{path}.pid": who["pid"], f"{path}.started": who["started"],
             f"{path}.boot": who["boot"], "state": "RUNNING"})) <= 1

    def _store(self, launch_id: int, spool: dict[str, Any]) -> None:
        """Store a result that lay in a folder, or that it can't be stored."""
        try:
            self.pad.complete_launch(launch_id, read_action(spool["action"]), spool["state"])
        except Exception as error:
            # RuntimeError: the action can't be applied.
            if not (is_document_error(error) or isinstance(error, (
                    KeyError, TypeError, ValueError, AttributeError, RuntimeError))):
                raise
            message = f"its result can't be stored: {error}"[:1000]
            log.warning("launch %d: %s", launch_id, message)
            self.pad.complete_launch(
                launch_id, read_action(failed_action("its result can't be stored", message)),
                "FIZZLED")

    def _end_orphans(self, owner: LauncherIdentity, fw_id: int) -> Iterator[Step]:
        """End what a dead launcher of this host left running, once."""
        if owner in self._ended or owner.alive_here() is not False:
            return
        self._ended.add(owner)
        orphans = launches_of(owner)
        if not orphans:
            return
        try:
            end_processes(list(orphans), patience=5.0)
        except LaunchError as error:
            log.warning("left by the launcher %d on %s: %s", owner.pid, owner.host, error.message)
        # One that names no launch may belong to any.
        left = {launch for process, launch in orphans.items() if process.alive()}
        self._stuck |= {i for i in left if i is not None}
        if None in left:
            self._stuck |= {launch["launch_id"] for launch in self.pad.launches.find(
                {"state": "RUNNING"}, _LAUNCH) if LauncherIdentity.of_launch(launch) == owner}
        if gone := sum(not process.alive() for process in orphans):
            yield Step("killed", [fw_id], f"{gone} process(es) outlived their launcher")


_LAUNCH = {"_id": 0, "launch_id": 1, "fw_id": 1, "launch_dir": 1, "host": 1, "fworker.env": 1,
           "state_history": 1, CANCEL_FIELD: 1, AHEAD: 1}
_SPEC = {f"spec.{name}": 1 for name in (
    "resources", "retry", "_retries", "_reruns", "_continued", "_launch_dir", UNSTARTED)}


@contextmanager
def _readable(fw: dict[str, Any]) -> Iterator[None]:
    """Go on with the others where another tool has written something we can't read."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        log.warning("firework %s is left as it is: its documents are not as FireWorks writes them "
                    "(%s: %s)", fw.get("fw_id"), type(error).__name__, error)


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
