"""Cancelling, pausing, resuming: jobs that wait, are reserved, run here, or under stock tools."""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fireworks import Firework, FWorker, LaunchPad, PyTask, ScriptTask, Workflow

from orionflow.analysis.story import job_story
from orionflow.errors import InputError, LaunchError, PolicyError
from orionflow.launchers import steer
from orionflow.launchers.cancel import CancelRequest, ask, requested, settle
from orionflow.launchers.identity import ENV_KEY, LauncherIdentity
from orionflow.launchers.pad import LaunchRefusedError, OrionLaunchPad
from orionflow.launchers.services.processes import ProcessIdentity
from orionflow.launchers.stock_processes import children_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.needs_mongod

LAUNCHER = """
import subprocess, sys, time
from fireworks import FWorker
from orionflow.launchers.cancel import requested, settle
from orionflow.launchers.identity import ENV_KEY, LauncherIdentity
from orionflow.launchers.pad import OrionLaunchPad

pad = OrionLaunchPad.from_file("my_launchpad.yaml")
worker = FWorker("w", env={ENV_KEY: LauncherIdentity.of_this_process().to_dict()})
claims = {c.launch_id: c for c in pad.claim(worker, sys.argv[1], limit=2)}
jobs = {i: subprocess.Popen(["sleep", "600"]) for i in claims}
print(*(f"{c.fw_id}:{jobs[i].pid}" for i, c in claims.items()), flush=True)
while jobs:
    pad.ping_launches(list(jobs))
    for launch_id, request in requested(pad, list(jobs)).items():
        job = jobs.pop(launch_id)
        job.kill()
        job.wait()
        settle(pad, claims[launch_id].fw_id, launch_id, request, sys.argv[1])
    time.sleep(0.1)
"""


@pytest.fixture
def pad(project: Path) -> Iterator[OrionLaunchPad]:
    pad = OrionLaunchPad.from_file(str(project / "my_launchpad.yaml"))
    # A reset would also compact the database, for two seconds.
    pad.fw_id_assigner.insert_one({"_id": -1, "next_fw_id": 1, "next_launch_id": 1})
    yield pad
    pad.connection.close()


def chain(pad: LaunchPad, length: int, *, campaign: str | None = None) -> list[int]:
    """Store a workflow of jobs that do nothing, one after the other; return their ids."""
    fws = [Firework([], name=f"job {n}", spec={"campaign": campaign} if campaign else {})
           for n in range(length)]
    links = {fws[n]: [fws[n + 1]] for n in range(length - 1)}
    pad.add_wf(Workflow(fws, links))
    return [fw.fw_id for fw in fws]


def states(pad: LaunchPad, ids: list[int]) -> list[str]:
    found = {fw["fw_id"]: fw["state"] for fw in pad.fireworks.find({"fw_id": {"$in": ids}})}
    return [found[i] for i in ids]


def agrees(pad: LaunchPad, fw_id: int) -> bool:
    """Whether a workflow says of its fireworks what they say, and is not locked."""
    wf = pad.workflows.find_one({"nodes": fw_id})
    told = {int(k): v for k, v in wf["fw_states"].items()}
    return "locked" not in wf and told == dict(zip(
        wf["nodes"], states(pad, wf["nodes"]), strict=True))


def claim(pad: OrionLaunchPad, fw_id: int, *, env: dict[str, Any] | None = None) -> Any:
    """Start a job, as far as the database sees it."""
    (found,) = pad.claim(FWorker("w", env=env), "/nowhere", limit=1, query={"fw_id": fw_id})
    return found


def wait_for_one(process: subprocess.Popen[str]) -> dict[int, int]:
    assert process.stdout is not None
    return {int(fw): int(pid) for fw, _, pid in (
        word.partition(":") for word in process.stdout.readline().split())}


@pytest.fixture
def launcher(project: Path) -> Iterator[tuple[subprocess.Popen[str], Callable[[], dict[int, int]]]]:
    """Return a process that runs two jobs as a launcher does, and what gives their processes."""
    started: list[subprocess.Popen[str]] = []

    def start() -> dict[int, int]:
        started.append(subprocess.Popen([sys.executable, "-c", LAUNCHER, str(project)],
                                        stdout=subprocess.PIPE, text=True, cwd=project,
                                        start_new_session=True))
        return wait_for_one(started[0])

    yield started, start  # type: ignore[misc]  # the list is filled by the call
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]  # a pipe was asked for


def test_cancel_campaign_defuses_all_that_waits_and_says_who(project: Path,
                                                             pad: OrionLaunchPad) -> None:
    first, second = chain(pad, 3, campaign="a"), chain(pad, 2, campaign="a")
    other = chain(pad, 2, campaign="b")
    report = steer.cancel(project, pad, steer.select(pad, campaign="a"), why="wrong cutoff")
    assert report.held == sorted([*first, *second])
    assert report.complete
    assert set(states(pad, [*first, *second])) == {"DEFUSED"}
    assert states(pad, other) == ["READY", "WAITING"]
    assert all(agrees(pad, i) for i in (first[0], second[0], other[0]))
    assert pad.workflows.find_one({"nodes": first[0]})["state"] == "DEFUSED"
    told = pad.fireworks.find_one({"fw_id": first[1]})["spec"]["_cancelled"]
    assert told["why"] == "wrong cutoff"
    assert told["who"].endswith(f"@{socket.gethostname()}")
    stock = LaunchPad.from_file(str(project / "my_launchpad.yaml"))
    assert stock.get_wf_by_fw_id(first[0]).state == "DEFUSED"
    stock.connection.close()


def test_cancel_one_tells_of_those_that_wait_for_it(project: Path, pad: OrionLaunchPad) -> None:
    ids = chain(pad, 3)
    report = steer.cancel(project, pad, steer.select(pad, fw_ids=[ids[0]]))
    assert (report.held, report.dependents) == ([ids[0]], 1)
    assert states(pad, ids) == ["DEFUSED", "WAITING", "WAITING"]


def test_pause_and_resume_bring_back_what_was(project: Path, pad: OrionLaunchPad) -> None:
    ids, alone = chain(pad, 3, campaign="a"), chain(pad, 1, campaign="a")
    steer.pause(project, pad, steer.select(pad, campaign="a"))
    assert set(states(pad, [*ids, *alone])) == {"PAUSED"}
    report = steer.resume(pad, steer.select(pad, campaign="a"))
    assert report.woken == sorted([*ids, *alone])
    assert states(pad, ids) == ["READY", "WAITING", "WAITING"]
    assert states(pad, alone) == ["READY"]
    assert agrees(pad, ids[0])
    steer.cancel(project, pad, steer.select(pad, workflows=[ids[1]]))
    assert not steer.resume(pad, steer.select(pad, campaign="a")).woken
    steer.resume(pad, steer.select(pad, campaign="a"), cancelled=True)
    assert states(pad, ids) == ["READY", "WAITING", "WAITING"]


def test_cancel_stops_one_running_job_and_leaves_its_neighbour(
        project: Path, pad: OrionLaunchPad, launcher: Any) -> None:
    one, two = chain(pad, 2), chain(pad, 1)
    processes = launcher[1]()
    mine, neighbour = processes[one[0]], processes[two[0]]
    began = time.monotonic()
    report = steer.cancel(project, pad, steer.select(pad, fw_ids=[one[0]]), why="typo")
    assert time.monotonic() - began < 15
    assert [(j.fw_id, j.before, j.after, j.what) for j in report.jobs] == [
        (one[0], "RUNNING", "DEFUSED", "stopped")]
    assert ProcessIdentity.of(mine) is None
    assert ProcessIdentity.of(neighbour) is not None
    assert states(pad, [*one, *two]) == ["DEFUSED", "WAITING", "RUNNING"]
    assert agrees(pad, one[0])
    launch = pad.launches.find_one({"fw_id": one[0]})
    assert launch["state"] == "FIZZLED"
    assert "typo" in launch["action"]["stored_data"]["_message"]
    fw = pad.get_fw_by_id(one[0])  # FireWorks itself can read it
    assert [i.launch_id for i in fw.archived_launches] == [launch["launch_id"]]


def test_cancel_restartable_puts_back_what_runs_and_leaves_what_waits(
        project: Path, pad: OrionLaunchPad, launcher: Any) -> None:
    ids = chain(pad, 2)
    launcher[1]()
    report = steer.cancel(project, pad, steer.select(pad, workflows=[ids[0]]), restartable=True)
    assert [(j.fw_id, j.after) for j in report.jobs] == [(ids[0], "READY")]
    assert states(pad, ids) == ["READY", "WAITING"]
    assert pad.fireworks.find_one({"fw_id": ids[0]})["spec"]["_launch_dir"] == str(project)
    (line,) = job_story(ids[0]).history
    assert f"stopped and put back by {getpass.getuser()}@{socket.gethostname()}" in line


def test_cancel_restartable_stops_once_what_its_launcher_takes_again(
        project: Path, pad: OrionLaunchPad) -> None:
    (fw_id,) = chain(pad, 1)
    env = {ENV_KEY: LauncherIdentity.of_this_process().to_dict()}
    first = claim(pad, fw_id, env=env)

    def launcher_at_once(_: str) -> None:
        for launch_id, request in requested(pad, [first.launch_id]).items():
            if settle(pad, fw_id, launch_id, request, "/nowhere"):
                claim(pad, fw_id, env=env)

    report = steer.cancel(project, pad, steer.select(pad, fw_ids=[fw_id]), restartable=True,
                          tell=launcher_at_once)
    assert [(j.after, j.what) for j in report.jobs] == [("RUNNING", "stopped")]
    assert "runs again" in report.jobs[0].detail


def test_pause_lets_running_jobs_finish_unless_now(project: Path, pad: OrionLaunchPad,
                                                   launcher: Any) -> None:
    ids = chain(pad, 2)
    launcher[1]()
    report = steer.pause(project, pad, steer.select(pad, workflows=[ids[0]]))
    assert report.running == 1
    assert states(pad, ids) == ["RUNNING", "PAUSED"]
    steer.pause(project, pad, steer.select(pad, workflows=[ids[0]]), now=True)
    assert states(pad, ids) == ["PAUSED", "PAUSED"]
    steer.resume(pad, steer.select(pad, workflows=[ids[0]]))
    assert states(pad, ids) == ["READY", "WAITING"]


def test_cancel_tells_of_a_launcher_that_does_not_answer(project: Path,
                                                         pad: OrionLaunchPad) -> None:
    (fw_id,) = chain(pad, 1)
    here = LauncherIdentity.of_this_process()  # lives, and reads no request
    claim(pad, fw_id, env={ENV_KEY: here.to_dict()})
    lines: list[str] = []
    report = steer.cancel(project, pad, steer.select(pad, fw_ids=[fw_id]), patience=0.5,
                          tell=lines.append)
    assert not report.complete
    assert f"see process {os.getpid()} on {here.host}" in report.jobs[0].detail
    assert "1 running job(s)" in lines[0]
    assert states(pad, [fw_id]) == ["RUNNING"]


def test_cancel_settles_for_a_dead_launcher_and_ends_its_orphans(
        project: Path, pad: OrionLaunchPad) -> None:
    (fw_id,) = chain(pad, 1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    dead = LauncherIdentity.from_dict(
        {**LauncherIdentity.of_this_process().to_dict(), "pid": child.pid, "started": 1})
    assert dead is not None
    orphan = subprocess.Popen(["sleep", "600"],
                              env={**os.environ, "ORIONFLOW_LAUNCHER": dead.token})
    try:
        claim(pad, fw_id, env={ENV_KEY: dead.to_dict()})
        report = steer.cancel(project, pad, steer.select(pad, fw_ids=[fw_id]), patience=5)
        assert orphan.wait(timeout=20) < 0
        assert report.jobs[0].what == "stopped"
        assert states(pad, [fw_id]) == ["DEFUSED"]
    finally:
        for process in (child, orphan):
            process.kill()
            process.wait()


def test_cancel_goes_on_beside_what_it_can_not_read_or_end(
        project: Path, pad: OrionLaunchPad, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = LauncherIdentity.from_dict(
        {**LauncherIdentity.of_this_process().to_dict(), "started": 1})
    assert dead is not None
    stuck, odd, waits = (chain(pad, 1)[0] for _ in range(3))
    hangs = subprocess.Popen(["sleep", "600"], env={"ORIONFLOW_LAUNCHER": dead.token})

    def fails(processes: list[ProcessIdentity], *, patience: float) -> None:
        raise LaunchError(f"processes {[p.pid for p in processes]} do not end in {patience}")

    monkeypatch.setattr(steer, "end_processes", fails)
    try:
        claim(pad, stuck, env={ENV_KEY: dead.to_dict()})
        claim(pad, odd)
        pad.launches.update_one({"fw_id": odd}, {"$set": {"state_history": 3, "fworker": 3}})
        pad.fireworks.update_one({"fw_id": odd}, {"$unset": {"name": ""}})
        report = steer.cancel(project, pad, steer.select(pad, fw_ids=[stuck, odd, waits]))
    finally:
        hangs.kill()
        hangs.wait()
    assert report.held == [waits]
    assert not report.complete
    told = {job.fw_id: job.detail for job in report.jobs}
    assert f"processes [{hangs.pid}] do not end" in told[stuck]
    assert "not as FireWorks writes them" in told[odd]
    assert states(pad, [stuck, odd]) == ["RUNNING", "RUNNING"]


def test_settle_refuses_a_launch_that_lost_its_job(pad: OrionLaunchPad) -> None:
    (fw_id,) = chain(pad, 1)
    first = claim(pad, fw_id)
    request = CancelRequest.now("ann", "typo")
    ask(pad, [first.launch_id], request)
    assert requested(pad, [first.launch_id, 999]) == {first.launch_id: request}
    assert settle(pad, fw_id, first.launch_id, request, "/nowhere")
    assert not settle(pad, fw_id, first.launch_id, request, "/nowhere")
    with pytest.raises(LaunchRefusedError):
        pad.complete_launch(first.launch_id)
    assert states(pad, [fw_id]) == ["DEFUSED"]


def test_cancel_ends_what_stock_rlaunch_runs_on_this_host(
        project: Path, pad: OrionLaunchPad, wait_until: Callable[..., Any]) -> None:
    (mine,) = pad.add_wf(Firework(ScriptTask.from_str("sleep 600"),
                                  spec={"_priority": 2, "_category": "compute"})).values()
    (after,) = pad.add_wf(Firework(PyTask(func="math.sqrt", args=[4]),
                                   spec={"_priority": 1, "_category": "compute"})).values()
    rlaunch = subprocess.Popen(
        [Path(sys.executable).with_name("rlaunch"), "rapidfire"], cwd=project,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        def sleeping() -> object:
            launch = pad.launches.find_one({"fw_id": mine})
            return launch and children_in(launch["launch_dir"])[1]

        wait_until(sleeping, timeout=60)
        report = steer.cancel(project, pad, steer.select(pad, fw_ids=[mine]))
        assert (report.jobs[0].what, report.jobs[0].after) == ("stopped", "DEFUSED")
        assert "process(es) of stock rlaunch ended" in report.jobs[0].detail
        assert rlaunch.wait(timeout=60) == 0  # it went on with the next job
        assert states(pad, [mine, after]) == ["DEFUSED", "COMPLETED"]
    finally:
        if rlaunch.poll() is None:
            os.killpg(rlaunch.pid, signal.SIGKILL)
            rlaunch.wait()


@pytest.mark.needs_slurm
def test_cancel_frees_reservations_and_cancels_their_slurm_jobs(
        slurm_project: Path, pad: OrionLaunchPad) -> None:
    (fw_id,) = chain(pad, 1)
    scheduler = steer.Scheduler(slurm_project)
    done = subprocess.run(
        [scheduler.program("sbatch"), "--parsable", "--hold", "--wrap", "true"],
        capture_output=True, text=True, check=True, cwd=slurm_project)
    job = done.stdout.strip()
    fw, launch_id = pad.reserve_fw(FWorker("w"), str(slurm_project), fw_id=fw_id)
    assert fw is not None
    pad.set_reservation_id(launch_id, job)
    report = steer.cancel(slurm_project, pad, steer.select(pad, fw_ids=[fw_id]))
    assert (report.jobs[0].what, report.jobs[0].after) == ("unreserved", "DEFUSED")
    assert job not in [j.job_id for j in scheduler.my_queue()]
    assert states(pad, [fw_id]) == ["DEFUSED"]


def test_select_names_what_is_missing(pad: OrionLaunchPad) -> None:
    ids = chain(pad, 2)
    assert [fw["fw_id"] for fw in steer.select(pad, query={"name": "job 1"})] == [ids[1]]
    with pytest.raises(InputError, match="no firework 99"):
        steer.select(pad, fw_ids=[ids[0], 99])
    with pytest.raises(InputError, match="campaign 'x'"):
        steer.select(pad, campaign="x")
    with pytest.raises(PolicyError, match=r"\$where"):
        steer.select(pad, query={"$or": [{"$where": "sleep(1)"}]})
