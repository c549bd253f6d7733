"""What all launchers of a project do at this moment, as their heartbeats tell it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.errors import LaunchError
from orionflow.launchers.identity import LauncherIdentity
from orionflow.launchers.machine import load_machine
from orionflow.launchers.pad.documents import as_time
from orionflow.launchers.progress import last_line
from orionflow.launchers.sbatch import JOB_NAME
from orionflow.launchers.scheduler import Scheduler

if TYPE_CHECKING:
    from fireworks.core.launchpad import LaunchPad

COLLECTION = "orionflow_launchers"
STATES = ("READY", "WAITING", "RESERVED", "RUNNING", "PAUSED", "COMPLETED", "FIZZLED", "DEFUSED")
# Heartbeats come every few seconds; after so many without one a launcher is called silent, and
# later it is left out.
SILENT = 30.0
FORGOTTEN = 3600.0
# Jobs that no living launcher tells of are listed up to this many.
_MOST = 50


@dataclass(frozen=True)
class JobStatus:
    """A job that runs.

    Attributes
    ----------
    seconds
        Since its start.
    line
        Last energy or step in its output.
    host
        Where, when its launcher does not tell (stock `rlaunch`).
    """

    fw_id: int
    name: str
    cores: int
    seconds: float
    folder: str
    line: str = ""
    host: str = ""


@dataclass(frozen=True)
class LauncherStatus:
    """A launcher.

    Attributes
    ----------
    state
        ``starting``, ``running``, ``draining``, ``unhealthy``; ``silent`` without heartbeat,
        ``dead`` when its process is known to be gone.
    note
        Why it is unhealthy, or what it waits for.
    silent
        Seconds since its last heartbeat.
    left
        Seconds until its allocation ends; None: no end.
    counts
        Jobs that ended in it, by what became of them.
    """

    host: str
    slurm_job_id: str | None
    state: str
    note: str
    nodes: int
    cores: int
    busy: int
    silent: float
    left: float | None
    counts: dict[str, int]
    jobs: list[JobStatus]


@dataclass
class Status:
    """A project at one moment.

    Attributes
    ----------
    states
        Number of fireworks in each state.
    allocations
        Slurm jobs of ours, by Slurm's state; None without a queue.
    elsewhere
        Jobs that run without one of our launchers, or whose launcher is gone.
    hint
        What to do next, when nothing happens by itself.
    problem
        What could not be asked.
    """

    launchers: list[LauncherStatus] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    allocations: dict[str, int] | None = None
    elsewhere: list[JobStatus] = field(default_factory=list)
    hint: str = ""
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class StatusReader:
    """Reads the status of a project again and again.

    Parameters
    ----------
    project
        Project folder.
    pad
        Its open LaunchPad.
    slurm_every
        Ask Slurm at most so often, s.
    """

    def __init__(self, project: Path, pad: LaunchPad, *, slurm_every: float = 10.0) -> None:
        self.pad = pad
        self.machine = load_machine(project=project)
        self.scheduler = Scheduler(project)
        self.slurm_every = slurm_every
        self._asked = float("-inf")
        self._allocations: dict[str, int] | None = None
        self._problem = ""

    def read(self) -> Status:
        """Return what is known now."""
        status = Status()
        told: set[int] = set()
        now = time.time()
        for doc in self.pad.db[COLLECTION].find(
                {"$or": [{"ended": {"$exists": False}}, {"ended": None}]}, sort=[("started", 1)]):
            launcher = _launcher(doc, now)
            if launcher is None:
                continue
            status.launchers.append(launcher)
            if launcher.state != "dead":
                told |= {job["launch_id"] for job in doc.get("jobs") or ()}
        status.states = {state: n for state in STATES if (
            n := self.pad.fireworks.count_documents({"state": state}))}
        status.elsewhere = self._elsewhere(told)
        self._ask_slurm()
        status.allocations, status.problem = self._allocations, self._problem
        status.hint = self._hint(status)
        return status

    def _elsewhere(self, told: set[int]) -> list[JobStatus]:
        launches = list(self.pad.launches.find(
            {"state": "RUNNING", "launch_id": {"$nin": list(told)}},
            {"_id": 0, "launch_id": 1, "fw_id": 1, "launch_dir": 1, "host": 1, "time_start": 1,
             "state_history": 1}, limit=_MOST))
        fws = {fw["fw_id"]: fw for fw in self.pad.fireworks.find(
            {"fw_id": {"$in": [i["fw_id"] for i in launches]}, "state": "RUNNING"},
            {"_id": 0, "fw_id": 1, "name": 1, "spec.resources": 1, "launches": 1})}
        found = []
        for launch in launches:
            fw = fws.get(launch["fw_id"])
            if fw is None or launch["launch_id"] not in _list(fw.get("launches")):
                continue
            asked = _dict(_dict(fw.get("spec")).get("resources"))
            folder = str(launch.get("launch_dir") or "")
            found.append(JobStatus(
                fw["fw_id"], str(fw.get("name") or ""),
                _int(asked.get("ranks")) * _int(asked.get("threads")), _since(launch), folder,
                _line(folder, ""), str(launch.get("host") or "")))
        return found

    def _ask_slurm(self) -> None:
        now = time.monotonic()
        if self.machine.scheduler != "slurm" or now - self._asked < self.slurm_every:
            return
        self._asked = now
        try:
            jobs = self.scheduler.my_queue()
        except LaunchError as error:
            self._problem = error.message
            return
        self._problem = ""
        self._allocations = {}
        for job in jobs:
            if job.name == JOB_NAME:
                self._allocations[job.state] = self._allocations.get(job.state, 0) + 1

    def _hint(self, status: Status) -> str:
        ready = status.states.get("READY", 0)
        slurm = self.machine.scheduler == "slurm"
        idle = f"no launcher runs, {ready} job(s) are READY: "
        told = (
            (any(i.state == "dead" for i in status.launchers),
             "a launcher has died: `orionflow recover`, cron or another one puts its jobs back"),
            (bool(status.launchers or status.elsewhere), ""),
            (sum((status.allocations or {}).values()) > 0,
             "the allocations wait for Slurm: `squeue --me --start` tells how long"),
            (ready > 0, idle + ("`orionflow cron` asks Slurm for allocations" if slurm
                                else "`orionflow launch` runs them here")),
            ("RESERVED" in status.states,
             "jobs are reserved by `qlaunch -r` and wait for their own allocation"),
            ("PAUSED" in status.states, "the rest is paused: `orionflow resume` lets it go on"),
            ("WAITING" in status.states,
             "what is left waits for jobs that failed or were cancelled; see `orionflow show`"),
        )
        return next((text for holds, text in told if holds),
                    "nothing to run: `orionflow submit` adds work")


def _launcher(doc: dict[str, Any], now: float) -> LauncherStatus | None:
    """Return a launcher from its document; None when it has been silent for very long."""
    beat = as_time(doc.get("beat")) or as_time(doc.get("started"))
    silent = max(0.0, now - beat.timestamp()) if beat else FORGOTTEN
    identity = LauncherIdentity.from_dict(doc.get("identity"))
    state = str(doc.get("state", "running"))
    if silent > SILENT:
        state = "silent"
        if identity is not None and identity.alive_here() is False:
            state = "dead"
        if silent > FORGOTTEN:
            return None
    deadline = doc.get("deadline")
    jobs = [JobStatus(
        fw_id=int(job["fw_id"]), name=str(job.get("name", "")), cores=_int(job.get("cores")),
        seconds=max(0.0, now - began.timestamp()) if (began := as_time(job.get("since"))) else 0.0,
        folder=str(job.get("folder", "")), line=_line(job.get("folder"), job.get("line")),
    ) for job in doc.get("jobs") or ()]
    return LauncherStatus(
        host=str(doc.get("host", "")), slurm_job_id=doc.get("slurm_job_id"), state=state,
        note=str(doc.get("note") or ""), nodes=_int(doc.get("nodes")),
        cores=_int(doc.get("cores")), busy=_int(doc.get("busy", 0)), silent=silent,
        left=None if deadline is None else max(0.0, float(deadline) - now),
        counts=dict(doc.get("counts") or {}), jobs=jobs)


def _line(folder: Any, told: Any) -> str:
    """Return the last energy or step: from the folder where it can be seen, else as told."""
    if folder:
        try:
            seen = last_line(Path(str(folder)))
        except OSError:
            seen = ""
        if seen:
            return seen
    return str(told or "")


def _since(launch: dict[str, Any]) -> float:
    """Return the seconds since a launch began; 0 where it does not tell."""
    first = next(iter(_list(launch.get("state_history"))), None)
    try:
        began = as_time(launch.get("time_start") or _dict(first).get("created_on"))
    except ValueError:  # a date of another tool
        began = None
    return (datetime.now(UTC) - began).total_seconds() if began else 0.0


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: Any) -> int:
    return value if isinstance(value, int) else 1
