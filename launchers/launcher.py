"""The process inside an allocation: claim jobs that fit, run them side by side, settle them.

It imports no recipe: jobs run in warm worker processes (`workers`, `worker`). Here is the loop;
what to start is decided in `packing`, what is claimed in `intake`, what is written in `settling`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orionflow.errors import LaunchError
from orionflow.launchers.allocation import Allocation, read_allocation
from orionflow.launchers.identity import ENV_KEY
from orionflow.launchers.lease import LEASE, Tether, safe_without_database
from orionflow.launchers.machine import load_machine
from orionflow.launchers.project import FWORKER_FILE, project_environment
from orionflow.launchers.scheduler import Scheduler
from orionflow.log import get_logger
from orionflow.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from orionflow.launchers.crew import Crew
    from orionflow.launchers.launchpad import ProjectLaunchPad

log = get_logger(__name__)
# Longest time one question to MongoDB may hold up the loop, s; what it does not take waits.
_TIMEOUT = 5.0
# A mongod that hangs is given up after so long, s; what it was told it may still do.
_ANSWER = 20.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


@dataclass(frozen=True)
class LaunchOptions:
    """What the user of `orionflow launch` may ask for.

    Attributes
    ----------
    max_jobs
        End after so many jobs; None: no limit.
    patience
        Wait so long for new work while none is READY, s.
    time_limit
        End after so many seconds.
    cores
        Use only so many cores.
    parallel
        Run at most so many jobs at once.
    fw_id
        Run this firework alone (`qlaunch -r`).
    """

    max_jobs: int | None = None
    patience: float = 0.0
    time_limit: int | None = None
    cores: int | None = None
    parallel: int | None = None
    fw_id: int | None = None


@dataclass
class LaunchReport:
    """What a launcher did: jobs by final state, and why it ended."""

    states: Counter[str] = field(default_factory=Counter)
    fw_ids: list[int] = field(default_factory=list)
    ended: str = ""

    def describe(self) -> str:
        """Return one line."""
        names = {"COMPLETED": "completed", "FIZZLED": "fizzled", "READY": "put back",
                 "DEFUSED": "cancelled", "PAUSED": "paused", "refused": "refused"}
        counts = ", ".join(f"{self.states[s]} {n}" for s, n in names.items() if self.states[s])
        run = f"{sum(self.states.values())} job(s) run"
        return f"{run}{': ' if counts else ''}{counts} ({self.ended})"


class Launcher:
    """Runs the jobs of one project in one allocation.

    Parameters
    ----------
    project
        Project folder.
    options
        Limits.
    folder
        Where the folders of jobs are made; the current folder unless given.
    """

    def __init__(self, project: Path, options: LaunchOptions, folder: Path | None = None) -> None:
        self.project = project
        self.options = options
        self.settings = load_settings(project)
        self.machine = load_machine(project=project)
        self.allocation: Allocation = read_allocation(
            self.machine, project, time_limit=options.time_limit, cores=options.cores)
        self.folder = (folder or Path.cwd()).absolute()
        self.report = LaunchReport()
        self.pad: ProjectLaunchPad

    def run(self) -> LaunchReport:
        """Run jobs until none fits, the time is over or a signal comes.

        Returns
        -------
        LaunchReport
            Jobs by final state.

        Raises
        ------
        ConfigError
            The JobStore is not one that lasts, or a file of the project is wrong.
        StoreError
            MongoDB can't be reached at the start.
        LaunchError
            This node can't run jobs.
        """
        from orionflow.launchers.cores import CoreLease
        from orionflow.launchers.crew import Crew
        from orionflow.launchers.identity import LauncherIdentity
        from orionflow.launchers.launchpad import open_launchpad
        from orionflow.launchers.patrol import Patrol
        from orionflow.launchers.pulse import COLLECTION
        from orionflow.launchers.recovery import recover
        from orionflow.launchers.workers import WorkerPool

        identity = LauncherIdentity.of_this_process()
        self._export(identity.token)
        pool = WorkerPool({"project": str(self.project)}, dict(os.environ))
        pool.start()  # its imports take a second; meanwhile we look around
        lease = CoreLease.take(self._own_cores(), exclusive=self._knows_its_cores())
        crew: Crew | None = None
        try:
            with contextlib.redirect_stdout(sys.stderr):  # FireWorks' log keeps it for ever
                self.pad = open_launchpad(self.project, timeout=_TIMEOUT, answer=_ANSWER)
            pool.setup["database"] = self.pad.name
            # Of an earlier launcher in this process (a notebook): its end is not ours.
            self.pad.db[COLLECTION].delete_one({"_id": identity.token})
            log.info("%s", self.allocation.describe())
            with Signals() as signals, contextlib.redirect_stdout(sys.stderr):
                for step in recover(self.project, self.pad):
                    log.info("recovered: %s", step.describe())
                crew = Crew(self, pool, lease, signals)
                try:
                    if self._has_work(crew):
                        pool.preload(crew.intake.modules())
                        pool.wait_ready()
                        with Patrol(self.project):
                            crew.work()
                finally:
                    pool.close()
                    crew.end()
        finally:
            pool.close()
            lease.release()
            if hasattr(self, "pad"):
                self.pad.close()
        if crew is not None and crew.unfit:
            raise LaunchError(f"this node can't run jobs: {crew.unfit}",
                              hint=f"what ran here was put back; repair {socket.gethostname()}, "
                              "or leave it out (`exclude_nodes` in my_qadapter.yaml)")
        return self.report

    def fworker(self) -> Any:
        """Return what FireWorks calls a worker: name, category, query, and who we are."""
        from fireworks.core.fworker import FWorker

        path = self.project / FWORKER_FILE
        base = (FWorker.from_file(str(path)) if path.is_file()
                else FWorker(self.machine.name, self.machine.category))
        env = {**base.env, ENV_KEY: replace(self.pad.identity, lease=LEASE).to_dict()}
        own = base._query  # noqa: SLF001  its `query` has category and name mixed in already
        return FWorker(base.name, base.category, own, env)

    def describe(self) -> dict[str, Any]:
        """Return the lasting part of this launcher's document in `orionflow_launchers`."""
        there = self.allocation
        who = self.pad.identity
        return {"_id": who.token, "identity": who.to_dict(), "host": who.host,
                "project": str(self.project), "slurm_job_id": there.slurm_job_id,
                "nodes": there.nodes, "cores": there.cores, "memory": there.memory,
                "started": datetime.fromtimestamp(there.started, UTC).isoformat(
                    timespec="seconds"),
                "deadline": there.deadline}

    def tether(self, renew: Callable[[float], None]) -> Tether:
        """Return what renews the lease on the jobs; ``renew`` tells who holds them."""
        address, owner = (str(self.pad.host), self.pad.port), self.pad.identity
        return Tether(renew, lambda: safe_without_database(
            self.project, address, owner, Scheduler(self.project)), LEASE)

    # ------------------------------------------------------------------------ helpers

    def _has_work(self, crew: Crew) -> bool:
        """Whether there is something to begin with, or to wait for."""
        if self.options.patience or self.options.fw_id is not None or crew.intake.ready_left():
            return True
        self.report.ended = "no READY job left"
        return False

    def _export(self, token: str) -> None:
        """Set the variables by which jobs find the project, and jobflow its store."""
        os.environ.update(project_environment(self.project))
        os.environ["ORIONFLOW_LAUNCHER"] = token
        if self.allocation.deadline is not None:
            os.environ["ORIONFLOW_DEADLINE"] = f"{self.allocation.deadline:.0f}"
        else:
            os.environ.pop("ORIONFLOW_DEADLINE", None)

    def _own_cores(self) -> int:
        return self.allocation.cores_of[0] if self.allocation.cores_of else self.allocation.cores

    def _knows_its_cores(self) -> bool:
        """Whether the cores this process may run on are those it was given.

        Slurm that does not confine jobs gives out numbers, not cores.
        """
        if self.allocation.slurm_job_id is None:
            return True
        given = os.environ.get("SLURM_CPUS_ON_NODE", "")
        return given.isdigit() and len(os.sched_getaffinity(0)) == int(given)


class Signals:
    """While it lasts, signals are noted, and a descriptor can be read when one came."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self.fd, self.alarm = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self.alarm, False)

    def __enter__(self) -> Self:
        self._old = {n: signal.signal(n, self._note) for n in _STOP_SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self.alarm, warn_on_full_buffer=False)
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self.alarm)

    def drain(self) -> None:
        """Forget what woke us."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.came.append(number)
