"""What cron runs around `qlaunch`: recover, then as many allocations as waiting work needs.

One at a time (a kernel lock that no kill leaves behind), never more than the queue cap, quiet,
and after a failed sbatch ever more rarely.
"""

from __future__ import annotations

import fcntl
import json
import logging
import logging.handlers
import os
import re
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.errors import ConfigError, LaunchError, OrionflowError
from orionflow.launchers.allocation import Allocation
from orionflow.launchers.machine import load_machine
from orionflow.launchers.project import FWORKER_FILE, QADAPTER_FILE, project_environment
from orionflow.launchers.sbatch import JOB_NAME
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.services.processes import read_state, write_private
from orionflow.launchers.slurm import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orionflow.launchers.launchpad import ProjectLaunchPad
    from orionflow.launchers.machine import MachineProfile

LOCK_FILE = "cron.lock"
STOP_FILE = "cron.stop"
STATE_FILE = "cron.json"
LOG_FILE = "log/cron.log"
_LOG_BYTES, _LOG_FILES = 2**20, 3
# Pause after the first failed submission and the longest one, s; it doubles in between.
_FIRST_PAUSE, _LONGEST_PAUSE = 120.0, 4 * 3600.0
_QLAUNCH_TIMEOUT = 300.0


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
            lines.append(f"submitted Slurm job(s) {', '.join(self.submitted)} for {self.ready} "
                         "READY job(s)")
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
        from orionflow.launchers.launchpad import open_launchpad
        from orionflow.launchers.recovery import recover

        with closing(open_launchpad(self.project)) as pad:
            self.report.recovered = [s.describe() for s in recover(self.project, pad)]
            ready = self._ready(pad)
        if self.machine.scheduler != "slurm":
            self.report.note = (f"machine {self.machine.name!r} has no queue; "
                                "`orionflow launch` runs the jobs")
            return
        self.report.ready = ready
        if not self.report.ready:
            self.report.note = "no READY job that an allocation can take"
            return
        wait = float(cron_state(self.project).get("not_before") or 0.0) - time.time()
        if wait > 0:
            self.report.note = f"waiting {wait:.0f} s more after a failed submission"
            return
        wanted = self._wanted()
        for _ in range(wanted):
            try:
                job_id = self._submit()
            except LaunchError as error:
                self._back_off(error)
                raise
            if job_id is None:
                break
            self.report.submitted.append(job_id)
        if wanted:
            stamp(self.state_file, failures=0, not_before=0.0, last_error="")
        else:
            self.report.note = (f"{self.report.queued} allocation(s) in the queue are enough "
                                f"(max_queued {self.machine.allocation.max_queued})")

    def _ready(self, pad: ProjectLaunchPad) -> int:
        """Count READY jobs that an allocation of the profile can take."""
        from fireworks.core.fworker import FWorker

        path = self.project / FWORKER_FILE
        worker = (FWorker.from_file(str(path)) if path.is_file()
                  else FWorker(self.machine.name, self.machine.category))
        now = time.time()
        asked = self.machine.allocation
        room = Allocation(
            nodes=asked.nodes, cores=asked.nodes * self.machine.cores,
            memory=self.machine.memory_per_node, started=now, deadline=now + asked.walltime)
        query = {"$and": [worker.query, room.query(now)], "state": "READY"}
        return int(pad.fireworks.count_documents(query))

    def _wanted(self) -> int:
        """Return how many allocations to ask for: those that wait will take READY jobs too."""
        mine = [job for job in self.scheduler.my_queue() if job.name == JOB_NAME]
        waiting = sum(job.fate is Fate.WAITING for job in mine)
        self.report.queued = len(mine)
        room = self.machine.allocation.max_queued - len(mine)
        return max(0, min(room, (self.report.ready or 0) - waiting))

    def _submit(self) -> str | None:
        """Submit one allocation through stock `qlaunch`; return its Slurm id.

        None when no READY job is left: launchers were faster.
        """
        if not (self.project / QADAPTER_FILE).is_file():
            raise ConfigError(f"no {QADAPTER_FILE} in {self.project}",
                              hint="`orionflow init` writes it")
        folder = _new_folder(self.project)
        qlaunch = Path(sys.executable).with_name("qlaunch")
        command = [str(qlaunch), "-c", str(self.project), "--launch_dir", str(folder),
                   "singleshot"]
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
            folder.rmdir()
            return None
        reason = sbatch_error(done.stdout)
        raise LaunchError(f"sbatch refused the allocation: {reason}", command=command,
                          code=done.returncode, stderr=reason,
                          hint=f"correct the machine profile or {QADAPTER_FILE}, see "
                          f"{folder / 'FW_submit.script'}; the next try waits longer each time")

    def _back_off(self, error: LaunchError) -> None:
        failures = int(cron_state(self.project).get("failures") or 0) + 1
        pause = min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE)
        stamp(self.state_file, failures=failures, not_before=time.time() + pause,
              last_error=error.message)


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
