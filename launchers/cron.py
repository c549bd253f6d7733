"""What cron runs around `qlaunch`: recover, then the allocations that waiting work needs.

One at a time (a kernel lock that no kill leaves behind), never more than the queue cap, quiet,
and after a failed sbatch ever more rarely.
"""

from __future__ import annotations

import fcntl
import json
import logging
import logging.handlers
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pymongo.errors import PyMongoError

from orionflow.errors import (
    ConfigError,
    InputError,
    LaunchError,
    OrionflowError,
    database_reason,
)
from orionflow.launchers.demand import Group, Offer, Shape, kinds, plan
from orionflow.launchers.identity import LauncherIdentity
from orionflow.launchers.lease import LOST
from orionflow.launchers.machine import load_machine
from orionflow.launchers.packing import Node, Room
from orionflow.launchers.pad.documents import as_time
from orionflow.launchers.project import FWORKER_FILE, QADAPTER_FILE, project_environment
from orionflow.launchers.resources import Resources
from orionflow.launchers.sbatch import JOB_NAME, sized_qadapter
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.services.processes import read_state, write_private
from orionflow.launchers.slurm import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fireworks.core.fworker import FWorker

    from orionflow.launchers.launchpad import ProjectLaunchPad
    from orionflow.launchers.machine import MachineProfile
    from orionflow.launchers.slurm import SlurmJob

LOCK_FILE = "cron.lock"
STOP_FILE = "cron.stop"
STATE_FILE = "cron.json"
LOG_FILE = "log/cron.log"
_LOG_BYTES, _LOG_FILES = 2**20, 3
# Pause after the first failed submission and the longest one, s; it doubles in between.
_FIRST_PAUSE, _LONGEST_PAUSE = 120.0, 4 * 3600.0
_QLAUNCH_TIMEOUT = 300.0
# Where launchers tell what they do; one that was silent for longer counts for nothing, s.
LAUNCHERS = "orionflow_launchers"
_ALIVE = 60.0
# From the start of an allocation to the first word of its launcher, at most, s.
_STARTING = 120.0


@dataclass
class CronReport:
    """What one run of `orionflow cron` saw and did.

    Attributes
    ----------
    submitted
        Slurm ids of the allocations asked for.
    recovered
        What was put in order, one line each.
    ready
        READY jobs that an allocation of the profile can take; None: not looked at.
    queued
        Allocations of ours in the queue before.
    sizes
        Size of each allocation asked for, in words.
    impossible
        READY jobs that no allocation can take, and why, one line for each kind.
    news
        Those of them that no earlier run has told of.
    note
        Why nothing was submitted.
    problem
        What is wrong, empty when all is well.
    try_later
        The problem may pass by itself; nothing is printed for it.
    """

    submitted: list[str] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)
    ready: int | None = None
    queued: int | None = None
    sizes: list[str] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)
    news: list[str] = field(default_factory=list)
    note: str = ""
    problem: str = ""
    try_later: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def describe(self) -> str:
        """Return a few lines."""
        lines = [f"recovered: {line}" for line in self.recovered]
        if self.submitted:
            sizes = ", ".join(f"{n} x {size}" for size, n in Counter(self.sizes).items())
            lines.append(f"submitted Slurm job(s) {', '.join(self.submitted)} for {self.ready} "
                         f"READY job(s): {sizes}")
        lines += self.impossible
        if self.note:
            lines.append(self.note)
        if self.problem:
            lines.append(f"error: {self.problem}")
        return "\n".join(lines) or "nothing to do"


def run_cron(project: Path) -> CronReport:
    """Do once what cron does every few minutes.

    Parameters
    ----------
    project
        Project folder.

    Returns
    -------
    CronReport
        Also when something is wrong: cron has nobody to raise to.
    """
    state = project / ".orionflow"
    state.mkdir(parents=True, exist_ok=True)
    report = CronReport()
    with _only_one(state / LOCK_FILE) as alone, _log(state / LOG_FILE) as log:
        if not alone:
            report.problem, report.try_later = "another `orionflow cron` is running", True
            return report
        if (state / STOP_FILE).exists():
            report.note = f"{state / STOP_FILE} exists: nothing is done until it is removed"
        else:
            try:
                _Cron(project, report).run()
            except OrionflowError as error:
                report.problem, report.try_later = str(error), error.transient
            except PyMongoError as error:
                report.problem = f"MongoDB went away: {database_reason(error)[:200]}"
                report.try_later = True
        stamp(state / STATE_FILE, last_run=datetime.now(UTC).isoformat(), **report.to_dict())
        if report.submitted or report.recovered or report.problem:
            log.info("%s", report.describe().replace("\n", "; "))
    return report


def cron_state(project: Path) -> dict[str, Any]:
    """Return what the last run left for people and `doctor`.

    Returns
    -------
    dict
        ``last_run`` (ISO time, UTC), the fields of `CronReport`, and after failed submissions
        ``failures`` (in a row), ``not_before`` (unix time), ``last_error``. Empty before the
        first run.
    """
    return read_state(project / ".orionflow" / STATE_FILE)


def stamp(path: Path, **values: Any) -> None:
    """Set values in the state file, leaving the others."""
    try:
        old = read_state(path)
    except LaunchError:
        old = {}  # cut by a full disk: it only holds what the next run finds out again
    write_private(path, json.dumps({**old, **values}, indent=1))


class _Cron:
    def __init__(self, project: Path, report: CronReport) -> None:
        self.project = project
        self.report = report
        self.machine: MachineProfile = load_machine(project=project)
        self.scheduler = Scheduler(project)
        self.state_file = project / ".orionflow" / STATE_FILE

    def run(self) -> None:
        from orionflow.launchers.deaths import Deaths
        from orionflow.launchers.launchpad import open_launchpad
        from orionflow.launchers.recovery import recover

        with closing(open_launchpad(self.project)) as pad:
            deaths = Deaths(self.scheduler, pad)
            self.report.recovered = [
                s.describe() for s in recover(self.project, pad, deaths=deaths)]
            self._supply(pad)
            if deaths.suspects:  # watched last: allocations need not wait for it
                self.report.recovered += [s.describe() for s in recover(
                    self.project, pad, deaths=deaths, lost_only=True, patience=LOST + 2.0)]

    def _supply(self, pad: ProjectLaunchPad) -> None:
        """Ask for the allocations that are missing."""
        if self.machine.scheduler != "slurm":
            self.report.note = (f"machine {self.machine.name!r} has no queue; "
                                "`orionflow launch` runs the jobs")
            return
        groups = self._groups(pad)
        queue = self.scheduler.my_queue()
        mine = [job for job in queue if job.name == JOB_NAME]
        # A launcher may as well run in an allocation that somebody has asked for by hand.
        there = self._there(pad, mine, {job.job_id for job in queue}) if groups else []
        # Its children, too, will want to run there.
        more = pad.workflows.find_one(
            {"state": {"$in": ["READY", "RUNNING", "RESERVED"]}, "nodes.1": {"$exists": True}},
            {"_id": 1}) is not None
        planned = plan(self.machine, groups, there, more_to_come=more)
        self._tell_impossible(planned.impossible)
        self.report.ready, self.report.queued = planned.possible, len(mine)
        if not planned.possible:
            self.report.note = "no READY job that an allocation can take"
            return
        wait = float(cron_state(self.project).get("not_before") or 0.0) - time.time()
        if wait > 0:
            self.report.note = f"waiting {wait:.0f} s more after a failed submission"
            return
        wanted = planned.wanted[:max(0, self.machine.allocation.max_queued - len(mine))]
        self._ask_for(wanted)
        if not wanted:
            self.report.note = (f"{len(mine)} allocation(s) in the queue are enough "
                                f"(max_queued {self.machine.allocation.max_queued})")

    def _ask_for(self, wanted: list[Shape]) -> None:
        known = dict(cron_state(self.project).get("allocations") or {})
        for shape in wanted:
            try:
                job_id = self._submit(shape)
            except LaunchError as error:
                self._back_off(error)
                raise
            if job_id is None:
                break
            self.report.submitted.append(job_id)
            self.report.sizes.append(shape.describe())
            known[job_id] = {**asdict(shape), "at": time.time()}
            stamp(self.state_file, allocations=known)
        if wanted:
            stamp(self.state_file, failures=0, not_before=0.0, last_error="")

    def _groups(self, pad: ProjectLaunchPad) -> list[Group]:
        """Return what is READY for workers of this project, grouped by what it asks for."""
        found = pad.fireworks.aggregate([
            {"$match": {**self._worker().query, "state": "READY"}},
            {"$group": {"_id": "$spec.resources", "count": {"$sum": 1},
                        "first": {"$min": "$fw_id"}, "priority": {"$max": "$spec._priority"}}},
            {"$sort": {"first": 1}}])
        groups = []
        for doc in found:
            priority = doc["priority"] if isinstance(doc["priority"], (int, float)) else 0.0
            try:
                groups.append(Group(Resources.parse(doc["_id"]), doc["count"], priority,
                                    doc["first"]))
            except InputError as error:  # of other tools; ours are checked at submission
                self._impossible(doc["count"], doc["first"], error.message)
        return groups

    def _worker(self) -> FWorker:
        """Return what launchers of this project are for FireWorks."""
        from fireworks.core.fworker import FWorker

        path = self.project / FWORKER_FILE
        return (FWorker.from_file(str(path)) if path.is_file()
                else FWorker(self.machine.name, self.machine.category))

    def _there(self, pad: ProjectLaunchPad, mine: list[SlurmJob], queued: set[str]
               ) -> list[Offer]:
        """Return allocations that will take READY jobs: those that wait, and what is free."""
        known = cron_state(self.project).get("allocations") or {}
        usual = kinds(self.machine)[0]
        now = time.time()
        told: set[str] = set()
        there = []
        ours = {"$or": [{"slurm_job_id": {"$in": list(queued)}},
                        {"ended": None}]}  # not all that ever were
        mine_only = self._worker().to_dict()
        for doc in pad.db[LAUNCHERS].find(ours, {"_id": 0, "jobs": 0}):
            told.add(str(doc.get("slurm_job_id")))
            beat = as_time(doc.get("beat"))
            alive = (not doc.get("ended") and beat and now - beat.timestamp() < _ALIVE
                     and not _is_gone(doc, queued))
            # One that drains takes no more, though it may run a job for hours.
            if alive and doc.get("state") not in {"draining", "unhealthy"} and (
                    offer := free_in(doc, now, mine_only)):
                there.append(offer)
        for job in mine:
            stored = known.get(job.job_id) or {}
            starting = now - float(stored.get("at") or 0.0) < _STARTING
            if job.fate is Fate.WAITING or (starting and job.job_id not in told):
                try:
                    shape = Shape(**{k: v for k, v in stored.items() if k != "at"})
                except TypeError:  # not of ours, or of another version
                    shape = usual
                there.append(Offer.of(shape))
        stamp(self.state_file, allocations={k: v for k, v in known.items() if k in queued})
        return there

    def _tell_impossible(self, impossible: list[tuple[Group, str]]) -> None:
        for group, why in impossible:
            self._impossible(group.count, group.first, why)
        told = cron_state(self.project).get("told") or []
        self.report.news = [line for line in self.report.impossible if line not in told]
        stamp(self.state_file, told=self.report.impossible)

    def _impossible(self, count: int, first: int, why: str) -> None:
        jobs = (f"firework {first}" if count == 1 else
                f"{count} fireworks, the first of them {first},")
        self.report.impossible.append(
            f"{jobs} can't run on machine {self.machine.name!r}: {why}")

    def _submit(self, shape: Shape) -> str | None:
        """Submit one allocation through stock `qlaunch`; return its Slurm id.

        None when no READY job is left: launchers were faster.
        """
        config = self._qadapter()
        folder = _new_folder(self.project)
        qlaunch = Path(sys.executable).with_name("qlaunch")
        adapter = folder / QADAPTER_FILE
        write_private(adapter, yaml.safe_dump(sized_qadapter(config, shape)))
        command = [str(qlaunch), "-c", str(self.project), "-q", str(adapter), "--launch_dir",
                   str(folder), "singleshot"]
        try:
            done = subprocess.run(
                command, cwd=self.project, env={**os.environ, **project_environment(self.project)},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=_QLAUNCH_TIMEOUT, check=False)
        except FileNotFoundError as error:
            raise LaunchError(f"no `qlaunch` beside {sys.executable}", command=command,
                              hint="install FireWorks there") from error
        except subprocess.TimeoutExpired as error:
            raise LaunchError(f"qlaunch did not end in {_QLAUNCH_TIMEOUT:.0f} s", command=command,
                              hint="is Slurm's controller running?", transient=True) from error
        # qlaunch exits with 0 also when sbatch has failed.
        if found := _JOB_ID.search(done.stdout):
            return found[1]
        if _NO_WORK in done.stdout:
            adapter.unlink()
            folder.rmdir()
            return None
        reason = sbatch_error(done.stdout)
        raise LaunchError(f"sbatch refused the allocation: {reason}", command=command,
                          code=done.returncode, stderr=reason,
                          hint=f"correct the machine profile or {QADAPTER_FILE}, see "
                          f"{folder / 'FW_submit.script'}; the next try waits longer each time")

    def _qadapter(self) -> dict[str, Any]:
        path = self.project / QADAPTER_FILE
        try:
            config = yaml.safe_load(path.read_text())
        except FileNotFoundError as error:
            raise ConfigError(f"no {QADAPTER_FILE} in {self.project}",
                              hint="`orionflow init` writes it") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {error}") from error
        if not isinstance(config, dict):
            raise ConfigError(f"{path} must hold `name: value` lines",
                              hint="`orionflow init --force` writes it anew")
        return config

    def _back_off(self, error: LaunchError) -> None:
        failures = int(cron_state(self.project).get("failures") or 0) + 1
        pause = min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE)
        stamp(self.state_file, failures=failures, not_before=time.time() + pause,
              last_error=error.message)


def free_in(doc: Mapping[str, Any], now: float, worker: Mapping[str, Any]) -> Offer | None:
    """Return what a launcher can still take; None when that is nothing.

    Parameters
    ----------
    doc
        Its document.
    now
        Unix time.
    worker
        FireWorks' worker whose jobs wait: launchers of another kind don't take them.
    """
    theirs = doc.get("worker") or {}
    if any(theirs.get(k) != worker.get(k) for k in ("category", "query") if k in theirs):
        return None
    nodes, takes, longest = doc.get("free"), doc.get("takes"), doc.get("longest")
    if nodes is None:  # of an earlier version: all its free cores as one node
        free = int(doc.get("cores") or 0) - int(doc.get("busy") or 0)
        nodes = [{"cores": free}]
        longest = doc["deadline"] - now if doc.get("deadline") else None
    room = Room(Node(str(i), list(range(max(0, node["cores"]))), node.get("memory"),
                     list(range(node.get("gpus") or 0)), node.get("all_cores") or 0,
                     node.get("all_memory") or 0.0) for i, node in enumerate(nodes))
    if not room.free_cores or takes == 0:
        return None
    return Offer(room, math.inf if longest is None else float(longest), takes)


def _is_gone(doc: Mapping[str, Any], queued: set[str]) -> bool:
    """Whether a launcher is dead, or its allocation over, however fresh its last heartbeat."""
    owner = LauncherIdentity.from_dict(doc.get("identity"))
    return (owner is not None and owner.alive_here() is False) or (
        doc.get("slurm_job_id") is not None and doc["slurm_job_id"] not in queued)


_JOB_ID = re.compile(r"submission was successful and job_id is (\d+)")
_NO_WORK = "No jobs exist in the LaunchPad for submission to queue"
_RESPONSE = re.compile(r"The error response reads: b(['\"])(.*?)\1\s*$", re.MULTILINE)


def sbatch_error(output: str) -> str:
    """Return sbatch's own words from what `qlaunch` printed, else its last lines.

    Parameters
    ----------
    output
        Standard output and error of `qlaunch`, which prints bytes as Python does.
    """
    if found := _RESPONSE.search(output):
        text = found[2].encode("latin-1", "replace").decode("unicode_escape")
        return " ".join(text.split())
    return " | ".join(output.strip().splitlines()[-3:]) or "qlaunch said nothing"


def _new_folder(project: Path) -> Path:
    now = datetime.now(UTC)
    block = project / f"block_{now.strftime('%Y-%m-%d')}"
    folder = block / f"launcher_{now.strftime('%Y-%m-%d-%H-%M-%S-%f')}"
    folder.mkdir(parents=True)
    return folder


@contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _log(path: Path) -> Iterator[logging.Logger]:
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.Logger("orionflow.cron.file")  # noqa: LOG001  its own, not in the tree
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES,
                                                   backupCount=_LOG_FILES)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        handler.close()
