"""Engines as their users start them: stock `rlaunch`, `orionflow launch`, jobflow-remote's runner.

Every measure is of real processes. Round trips are counted by MongoDB itself, so that they hold for
all processes of an engine, whoever forks whom.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from orionflow.launchers.launchpad import open_launchpad
from orionflow.launchers.project import init_project, project_environment
from orionflow.launchers.services.mongod import Mongod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fireworks import Workflow
    from jobflow import Flow, Job

    from orionflow.launchers.launchpad import ProjectLaunchPad
    from orionflow.launchers.project import DatabaseAccess

HERE = Path(__file__).parent
STOCK = ("stock", "stock+j")  # stock+j: with journaled writes, which is our default
KINDS = (*STOCK, "orion")
SPEC = {"_category": "compute"}
# Not the work of a job: how a connection begins, lives and ends, and our own questions.
_CONNECTION = {"hello", "isMaster", "ismaster", "ping", "saslStart", "saslContinue", "endSessions",
               "serverStatus", "buildInfo", "createIndexes", "listIndexes", "getLog", "<UNKNOWN>"}


@dataclass(frozen=True)
class Cost:
    """What a run cost.

    Attributes
    ----------
    wall
        Seconds.
    cpu
        CPU seconds of all processes of the engine and of mongod.
    trips
        Database round trips.
    """

    wall: float
    cpu: float
    trips: float

    def per_job(self, start: Cost, jobs: int, wall: float) -> Cost:
        """Return the cost of each of the jobs this run had beyond the run ``start``.

        Parameters
        ----------
        wall
            Of each, s; see `pace`.
        """
        return Cost(wall, (self.cpu - start.cpu) / jobs, (self.trips - start.trips) / jobs)


class Rig:
    """A MongoDB, and a project for each engine.

    Parameters
    ----------
    folder
        Everything lies there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mongod = Mongod(folder / "mongo", cache_gb=2)
        self.mongod.start()
        self._count = 0

    def project(self, kind: str, access: DatabaseAccess | None = None) -> Path:
        """Return a new project with an empty database for one engine."""
        self._count += 1
        path = self.folder / f"{kind.replace('+', '-')}-{self._count}"
        database = access or self.mongod.access(path.name)
        init_project(path, machine="local", database=database)
        if kind == "stock":  # as `lpad init` leaves it
            file = path / "my_launchpad.yaml"
            values = yaml.safe_load(file.read_text())
            del values["mongoclient_kwargs"]
            file.write_text(yaml.safe_dump(values))
        with closing(open_launchpad(path)):
            return path

    def add(self, project: Path, workflows: list[Workflow]) -> None:
        """Store workflows, quickly."""
        with closing(open_launchpad(project)) as pad:
            pad.bulk_add_wfs(workflows)

    def trips(self) -> int:
        """Return how many commands MongoDB has served, those of connections aside."""
        with self.mongod.client() as client:
            told = client.admin.command("serverStatus")["metrics"]["commands"]
        return sum(int(v["total"]) for k, v in told.items()
                   if k not in _CONNECTION and isinstance(v, dict) and "total" in v)

    def cpu(self) -> float:
        """Return the CPU time of all children so far and of mongod, s."""
        pid = json.loads((self.mongod.folder / "server.json").read_text())["process"]["pid"]
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (used.ru_utime + used.ru_stime
                + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))

    def measure(self, command: list[str], project: Path) -> Cost:
        """Run a command to its end."""
        trips, cpu, begin = self.trips(), self.cpu(), time.perf_counter()
        run(command, project)
        return Cost(time.perf_counter() - begin, self.cpu() - cpu, self.trips() - trips)

    def launch(self, kind: str, project: Path, jobs: int = 0, cores: int = 1) -> Cost:
        """Have an engine run jobs: so many, or all there are."""
        return self.measure(launch_command(kind, jobs=jobs, cores=cores), project)


@contextmanager
def rig() -> Iterator[Rig]:
    """Give a rig; all of it is stopped and removed at the end."""
    logging.disable(logging.WARNING)
    # Ended from outside, it must not leave a mongod behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="orion-bench-", ignore_cleanup_errors=True) as folder:
        found = Rig(Path(folder))
        try:
            yield found
        finally:
            found.mongod.stop()


def launch_command(kind: str, *, jobs: int = 0, cores: int = 1) -> list[str]:
    """Return the command by which a user of this engine runs jobs."""
    if kind == "orion":
        limit = ["--max-jobs", str(jobs)] if jobs else []
        return [program("orionflow"), "launch", "--cores", str(cores), *limit]
    limit = ["--nlaunches", str(jobs)] if jobs else []
    return [program("rlaunch"), "-s", "rapidfire", *limit]


def program(name: str) -> str:
    """Return the path of a command of this virtual environment."""
    return str(Path(sys.executable).with_name(name))


def environment(project: Path) -> dict[str, str]:
    """Return the variables of a user's shell in a project."""
    return {**os.environ, **project_environment(project), "PYTHONPATH": str(HERE)}


def run(command: list[str], project: Path) -> str:
    """Run a command in a project and return what it printed; stop the benchmark if it fails."""
    done = subprocess.run(command, cwd=project, env=environment(project), text=True, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n"
                           f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def start(command: list[str], project: Path) -> subprocess.Popen[bytes]:
    """Start a command in a project; what it prints goes to a file there."""
    with (project / "launcher.out").open("ab") as out:
        return subprocess.Popen(command, cwd=project, env=environment(project), stdout=out,
                                stderr=out, stdin=subprocess.DEVNULL)


def check_done(project: Path, count: int) -> None:
    """Stop the benchmark unless so many fireworks are COMPLETED: a failed job is a quick one."""
    with closing(open_launchpad(project)) as pad:
        found = pad.fireworks.count_documents({"state": "COMPLETED"})
    if found != count:
        raise RuntimeError(f"{found} fireworks COMPLETED instead of {count} in {project}")


def pace(project: Path, first: int) -> float:
    """Return seconds from one end of a job to the next, the ``first`` jobs left out.

    As the launches tell: how long an engine takes to start differs too much between two runs.
    """
    with closing(open_launchpad(project)) as pad:
        ends = sorted(moment(la["time_end"]) for la in pad.launches.find(
            {"state": "COMPLETED"}, {"time_end": 1}))[max(first - 1, 0):]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def moment(value: str | datetime) -> float:
    """Return a stored date as seconds."""
    when = datetime.fromisoformat(value) if isinstance(value, str) else value
    return when.replace(tzinfo=when.tzinfo or UTC).timestamp()


def pytask() -> Workflow:
    """Return a workflow of one firework that does nothing."""
    from fireworks import Firework, PyTask, Workflow

    return Workflow([Firework([PyTask(func="builtins.abs", args=[1])], spec=dict(SPEC))])


def jobflow(flow: Flow | Job) -> Workflow:
    """Return the workflow of a jobflow flow, for workers of category `compute`."""
    from jobflow import Flow
    from jobflow.managers.fireworks import flow_to_workflow

    wf = flow_to_workflow(flow if isinstance(flow, Flow) else Flow([flow]))
    for fw in wf.fws:
        fw.spec.update(SPEC)
    return wf


def ratio(ours: float, theirs: float) -> float | None:
    """Return how many times more the other costs; None where nothing can be told."""
    return theirs / ours if ours > 0 else None


def opened(project: Path) -> closing[ProjectLaunchPad]:
    """Return the project's LaunchPad for a ``with``."""
    return closing(open_launchpad(project))
