"""A storm: short real jobs on a private Slurm, everything killed at random, nothing may be lost.

    python benchmarks/storm.py [--quick] [--jobs 2000] [--seconds 600] [--seed 1]

Allocations come from `orionflow cron`, as on a cluster. Launchers, workers and MPI ranks are
killed with SIGKILL, launchers are frozen, Slurm jobs cancelled, slurmd and mongod killed and
started again, and some jobs need far longer than an allocation lasts. Then the wind drops, cron
goes on, and what is left is judged. Exits with 1 when anything is wrong; the folder is kept then.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pymongo.errors import PyMongoError

HERE = Path(__file__).parent
sys.path.append(str(HERE))
from common import print_json, show  # noqa: E402
from storm_jobs import workflows  # noqa: E402
from storm_judge import Evidence  # noqa: E402

from orionflow.errors import OrionflowError  # noqa: E402
from orionflow.launchers.identity import ENV_KEY, LauncherIdentity  # noqa: E402
from orionflow.launchers.launchpad import open_launchpad  # noqa: E402
from orionflow.launchers.project import init_project, project_environment  # noqa: E402
from orionflow.launchers.sbatch import JOB_NAME, launch_line  # noqa: E402
from orionflow.launchers.scheduler import Scheduler  # noqa: E402
from orionflow.launchers.services.mongod import Mongod  # noqa: E402
from orionflow.launchers.services.processes import (  # noqa: E402
    ProcessIdentity,
    find_processes,
    port_taken,
    processes_with,
    wait_for,
)
from orionflow.launchers.services.slurm import PrivateSlurm, slurm_environment  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOWS = {"launcher": 4, "worker": 4, "rank": 3, "scancel": 2, "scancel -s KILL": 1, "slurmd": 1,
         "mongod": 1, "cron": 1, "freeze": 1}
ZYGOTE = "orionflow.launchers.zygote"
CODES = ("lmp", "mpirun", "orted", "sleep", "true")
_SHOWN = 30  # problems
DAEMONS = ("slurmd", "slurmstepd")


@dataclass(frozen=True)
class Plan:
    """How long and how hard.

    Attributes
    ----------
    jobs
        Fireworks to begin with.
    seconds
        The storm lasts so long, or until all is done.
    pause
        Mean time between two blows, s.
    patience
        After the storm all must have ended in so many seconds.
    cron
        Time between two runs of cron, s.
    launch_time
        Allocations end after so many seconds.
    long
        Seconds a long job takes.
    """

    jobs: int = 2000
    seconds: float = 600.0
    pause: float = 4.0
    patience: float = 600.0
    cron: float = 10.0
    launch_time: int = 60
    long: int = 80
    seed: int = 1


QUICK = Plan(jobs=50, seconds=25.0, pause=1.0, patience=400.0, cron=2.0, launch_time=30, long=35)


@dataclass
class Damage:
    """What a storm did, and what was wrong after it.

    Attributes
    ----------
    recovery
        Longest time between a launcher's death and the end of its launches, s.
    repeated
        Runs that were killed after their last line and before anybody knew.
    """

    blows: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    recovery: float = 0.0
    repeated: int = 0
    seconds: float = 0.0
    calm: float = 0.0


class Storm:
    """One storm over one project, with services of its own.

    Parameters
    ----------
    project
        Project whose machine is the private Slurm and whose database is that MongoDB.
    mongod, slurm
        What is killed and started again.
    plan
        How hard.
    """

    def __init__(self, project: Path, mongod: Mongod, slurm: PrivateSlurm, plan: Plan) -> None:
        self.project = project
        self.mongod = mongod
        self.slurm = slurm
        self.plan = plan
        self.rng = random.Random(plan.seed)  # noqa: S311  no secret
        self.effects = project / "effects"
        self.damage = Damage()
        self.environment = {**os.environ, **project_environment(project),
                            **slurm_environment(project), "PYTHONPATH": str(HERE)}
        self.layout = slurm.layout()
        self._crons: list[subprocess.Popen[bytes]] = []
        self._next_cron = 0.0
        self._dead: dict[int, float] = {}
        self._repairs: list[threading.Thread] = []
        self._frozen: list[tuple[float, ProcessIdentity]] = []

    def run(self) -> Damage:
        """Submit, torment, wait, judge."""
        self._shorten_allocations()
        with self._pad() as pad:
            wfs = workflows(self.plan.jobs, str(self.effects), self.rng, self.plan.long)
            pad.bulk_add_wfs(wfs)
            ids = pad.get_fw_ids()
            self._blow(pad)
            self._calm(pad)
            evidence = Evidence(pad, self.effects, ids)
            self.damage.problems += evidence.problems()
            self.damage.states = evidence.states()
            self.damage.repeated = evidence.repeated()
        return self.damage

    def _blow(self, pad: Any) -> None:
        while not self._of("launcher"):  # nothing to hit yet
            self._housekeeping()
            time.sleep(0.2)
        begin = time.monotonic()
        blow_at = begin + self.plan.pause
        deck: list[str] = []
        while time.monotonic() < begin + self.plan.seconds and not self._all_over(pad):
            self._housekeeping()
            if time.monotonic() > blow_at:
                # Cards, not dice: each kind comes in turn. One that hits nobody goes back.
                if not deck:
                    deck = [kind for kind, times in BLOWS.items() for _ in range(times)]
                    self.rng.shuffle(deck)
                kind = next((k for k in deck if self._strike(k)), None)
                if kind is not None:
                    deck.remove(kind)
                    self.damage.blows[kind] += 1
                    blow_at = time.monotonic() + self.rng.expovariate(1 / self.plan.pause)
            time.sleep(0.2)
        self.damage.seconds = time.monotonic() - begin

    # ------------------------------------------------------------------------ before and after

    def _shorten_allocations(self) -> None:
        path = self.project / "my_qadapter.yaml"
        values = yaml.safe_load(path.read_text())
        line = launch_line().replace("--patience 60", "--patience 3")
        values["rocket_launch"] = f"{line} --time {self.plan.launch_time}"
        path.write_text(yaml.safe_dump(values))

    def _calm(self, pad: Any) -> None:
        """Let everything come to an end, with nothing but cron's help."""
        begin = time.monotonic()
        self._thaw(everybody=True)
        for thread in self._repairs:
            thread.join()
        self.slurm.start()
        while not self._all_over(pad):
            self._housekeeping()
            if time.monotonic() > begin + self.plan.patience:
                self.damage.problems.append(
                    f"not at rest {self.plan.patience:.0f} s after the storm")
                break
            time.sleep(0.5)
        for process in self._crons:
            process.wait()
        if not wait_for(lambda: not self._queue(), 60):
            self.damage.problems.append(f"Slurm jobs go on: {self._queue()}")
        if not wait_for(lambda: not self._inside(), 20):
            named = [f"{p.pid} {_command(p.pid)[:100]}" for p in self._inside()]
            self.damage.problems.append(f"orphans: {named}")
        self.damage.calm = time.monotonic() - begin

    def _all_over(self, pad: Any) -> bool:
        alive = {"state": {"$in": ["READY", "RUNNING", "RESERVED"]}}
        with suppress(PyMongoError):
            self._watch(pad)
            return pad.fireworks.count_documents(alive) == 0
        return False

    def _watch(self, pad: Any) -> None:
        """Measure how long the launches of dead launchers stay RUNNING."""
        now = time.monotonic()
        running = {la["launch_id"]: la for la in pad.launches.find(
            {"state": "RUNNING"}, {"launch_id": 1, "fworker.env": 1})}
        for launch_id, launch in running.items():
            owner = LauncherIdentity.from_dict(
                ((launch.get("fworker") or {}).get("env") or {}).get(ENV_KEY))
            if owner is not None and owner.alive_here() is False:
                self._dead.setdefault(launch_id, now)
        for launch_id in list(self._dead):
            if launch_id not in running:
                self.damage.recovery = max(self.damage.recovery,
                                           now - self._dead.pop(launch_id))

    def _housekeeping(self) -> None:
        self._thaw()
        self._crons = [p for p in self._crons if p.poll() is None]
        if time.monotonic() > self._next_cron and len(self._crons) < 2:  # noqa: PLR2004  one may hang
            program = Path(sys.executable).with_name("orionflow")
            with (self.project / "cron.out").open("ab") as out:
                self._crons.append(subprocess.Popen(
                    [str(program), "cron", "-v"], cwd=self.project, env=self.environment,
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out))
            # A cron that was refused waits longer each time; its patience is not what is tested.
            (self.project / ".orionflow" / "cron.json").unlink(missing_ok=True)
            self._next_cron = time.monotonic() + self.plan.cron

    # ------------------------------------------------------------------------ blows

    def _strike(self, kind: str) -> bool:
        """Deal one blow; False when there was nothing to hit."""
        do: dict[str, Callable[[], bool]] = {
            "mongod": self._mongod, "slurmd": self._slurmd, "freeze": self._freeze,
            "scancel": self._scancel, "scancel -s KILL": lambda: self._scancel("-s", "KILL", "-f"),
            "cron": lambda: self._kill([ProcessIdentity.of(p.pid) for p in self._crons]),
            "launcher": lambda: self._kill(self._of("launcher")),
            "worker": lambda: self._kill(self._of("worker")),
            "rank": lambda: self._kill(self._of("rank")),
        }
        return do[kind]()

    def _kill(self, victims: list[ProcessIdentity | None]) -> bool:
        there = [v for v in victims if v is not None]
        if there:
            self.rng.choice(there).signal(signal.SIGKILL)
        return bool(there)

    def _freeze(self) -> bool:
        if there := self._of("launcher"):
            victim = self.rng.choice(there)
            victim.signal(signal.SIGSTOP)
            self._frozen.append((time.monotonic() + self.rng.uniform(2, 15), victim))
        return bool(there)

    def _thaw(self, *, everybody: bool = False) -> None:
        for end, process in list(self._frozen):
            if everybody or time.monotonic() > end:
                process.signal(signal.SIGCONT)
                self._frozen.remove((end, process))

    def _scancel(self, *options: str) -> bool:
        jobs = self._queue()
        if jobs:
            scancel = Scheduler(self.project).program("scancel")
            subprocess.run([scancel, *options, self.rng.choice(jobs)], check=False,
                           capture_output=True)
        return bool(jobs)

    def _slurmd(self) -> bool:
        if self.layout is None:
            return False
        node = self.rng.choice(self.layout.node_names)
        there = find_processes("-f", self.layout.conf, "-N", node)
        for process in there:
            process.signal(signal.SIGKILL)
        pause = self.rng.uniform(1, 6)

        def repair() -> None:
            time.sleep(pause)
            for _ in range(5):
                with suppress(OrionflowError):
                    self.slurm.start()
                    return

        self._repairs.append(threading.Thread(target=repair))
        self._repairs[-1].start()
        return bool(there)

    def _mongod(self) -> bool:
        status = self.mongod.status()
        if status.pid is None:
            return False
        os.kill(status.pid, signal.SIGKILL)
        time.sleep(self.rng.choice((0.0, 0.0, 2.0, min(15.0, self.plan.seconds / 8))))
        wait_for(lambda: not port_taken(status.port or 0), 10)
        self.mongod.start()
        return True

    # ------------------------------------------------------------------------ looking

    @contextmanager
    def _pad(self) -> Iterator[Any]:
        pad = open_launchpad(self.project)
        try:
            yield pad
        finally:
            pad.close()

    def _queue(self) -> list[str]:
        with suppress(OrionflowError):
            return sorted(job.job_id for job in Scheduler(self.project).my_queue()
                          if job.name == JOB_NAME)
        return []

    def _inside(self) -> list[ProcessIdentity]:
        """Return what runs inside Slurm jobs, or was started there."""
        conf = self.layout.conf if self.layout else ""
        found = processes_with(f"SLURM_CONF={conf}", "SLURM_JOB_ID")
        return sorted((p for name, some in found.items() if name not in DAEMONS for p in some),
                      key=lambda p: p.pid)

    def _of(self, kind: str) -> list[ProcessIdentity | None]:
        return [p for p in self._inside() if _kind(p.pid) == kind]


def _kind(pid: int) -> str:
    """Return what a process inside a Slurm job is: launcher, worker, rank or something else."""
    command = _command(pid)
    words = command.split("\0")
    if ZYGOTE in words:
        return "worker"  # or the zygote itself
    if any(w.endswith("/orionflow") for w in words[:3]) and "launch" in words:
        return "launcher"
    return "rank" if Path(words[0]).name in CODES else ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def prepare(folder: Path) -> tuple[Path, Mongod, PrivateSlurm]:
    """Start services in a folder and make a project on them."""
    mongod = Mongod(folder / "mongo", cache_gb=0.5)
    slurm = PrivateSlurm(folder / "slurm")
    project = folder / "pro ject's"
    init_project(project, machine="local", database=mongod.start())
    (project / ".orionflow" / "slurm").symlink_to(slurm.folder)
    slurm.start(nodes=4, cpus=2)
    init_project(project, machine="private-slurm")
    os.environ.update({**project_environment(project), **slurm_environment(project)})
    return project, mongod, slurm


def report(plan: Plan, damage: Damage) -> None:
    """Print what happened."""
    show(f"Blows in {damage.seconds:.0f} s (seed {plan.seed})", ["what", "times"],
         [[kind, damage.blows[kind]] for kind in BLOWS])
    show("After it", ["what", "count"], [
        *([f"fireworks {s}", n] for s, n in sorted(damage.states.items())),
        ["runs repeated after their last line", damage.repeated],
        ["longest recovery of a dead launcher's jobs, s", round(damage.recovery, 1)],
        ["until all was at rest, s", round(damage.calm, 1)],
        ["problems", len(damage.problems)]])
    for line in damage.problems[:_SHOWN]:
        print("PROBLEM", line)


def main() -> int:
    """Run one storm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50 jobs, 25 s")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int)
    options = vars(parser.parse_args())
    base = QUICK if options.pop("quick") else Plan()
    plan = Plan(**{**vars(base), **{k: v for k, v in options.items() if v is not None}})
    folder = Path(tempfile.mkdtemp(prefix="orion-storm-"))
    project, mongod, slurm = prepare(folder)
    try:
        damage = Storm(project, mongod, slurm, plan).run()
    finally:
        slurm.stop()
        mongod.stop()
    report(plan, damage)
    print_json("storm", {**vars(plan), **vars(damage), "problems": damage.problems[:_SHOWN]})
    if damage.problems:
        print(f"kept for a look: {folder}", file=sys.stderr)
        return 1
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
