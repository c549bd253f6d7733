"""The faults FireWorks loses jobs by, each provoked: nothing lost, nothing twice, no hand repair.

Those not here have their tests where the part is tested that survives them:

1. launcher killed in a job: test_launcher.py ``killed_launcher_leaves_no_orphan``, and in Slurm
   test_cron.py ``killed_launcher_in_slurm``; found by the others, though nobody calls recover:
   test_recovery.py ``looks_after_the_others``; by their silence alone: test_lease.py;
2. SIGTERM, scancel, end of the walltime: test_launcher.py ``a_signal_puts_the_job_back``,
   ``the_end_of_the_time``, test_cron.py ``scancel_puts_the_job_back``;
3. killed between claim and launch, 4. killed inside the workflow's lock: pad/test_killed.py and
   test_launcher.py ``killed_at_every_write``;
5. mongod killed and back, 6. away in a run, 7. and 8. at a job's end: test_outage.py;
9. away longer than anybody's patience, 10. away during a long job: here;
11. frozen, given away, awake again: here; cut off from MongoDB, alone: test_lease.py;
12. a bad node: here;
13. append_wf while jobs complete: pad/test_together.py ``append_while_jobs_complete``;
14. many launchers at once: pad/test_together.py ``eight_launchers``, and real ones here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import small_jobs
import yaml
from elsewhere import elsewhere
from fireworks import Firework, Workflow
from plain_tasks import Nap, Plain, Wait

from orionflow.launchers.deaths import Deaths
from orionflow.launchers.launchpad import open_launchpad
from orionflow.launchers.process_tree import descendants
from orionflow.launchers.project import LAUNCHPAD_FILE, init_project, project_environment
from orionflow.launchers.recovery import recover
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.services.mongod import Mongod
from orionflow.launchers.services.processes import ProcessIdentity, port_taken, wait_for
from orionflow.workflows.compile import submit
from orionflow.workflows.registry import get_recipe

pytestmark = [pytest.mark.needs_mongod, pytest.mark.usefixtures("importable")]
SPEC = {"_category": "compute"}
MOST = 120  # s: two minutes, on a machine however busy


def states(pad):
    return [fw["state"] for fw in pad.fireworks.find(sort=[("fw_id", 1)])]


def last_sign(pad):
    """When the running launch was heard of last, empty when none runs."""
    running = pad.launches.find_one({"state": "RUNNING"})
    return running and datetime.fromisoformat(str(
        running["state_history"][-1]["updated_on"])).replace(tzinfo=UTC).isoformat()


def completed(pad, fw_id):
    return pad.launches.count_documents({"fw_id": fw_id, "state": "COMPLETED"})


def test_frozen_launcher_that_wakes_after_its_job_was_given_away_stops_it(project, pad, marks,
                                                                          wait_until, request):
    (marks / "seconds").write_text("600")
    pad.add_wf(Firework([Nap(folder=str(marks))], spec=SPEC))
    frozen = elsewhere([Path(sys.executable).with_name("orionflow"), "launch"],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until((marks / "sleep_pid").exists, timeout=MOST)
    first = int((marks / "sleep_pid").read_text())
    (marks / "sleep_pid").unlink()
    everybody = [frozen.pid, *descendants(frozen.pid)]
    identities = [i for pid in everybody if (i := ProcessIdentity.of(pid)) is not None]
    request.addfinalizer(lambda: [i.signal(signal.SIGKILL) for i in identities])
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    deaths = Deaths(Scheduler(project), pad, lost_after=3.0)
    (step,) = recover(project, pad, deaths=deaths, patience=MOST)
    assert (step.what, step.fw_ids) == ("put back", [1])
    (marks / "seconds").write_text("0")
    code, out, err = small_jobs.run("orionflow", "launch", timeout=MOST)
    assert (code, states(pad)) == (0, ["COMPLETED"]), out + err
    for pid in reversed(everybody):
        os.kill(pid, signal.SIGCONT)
    _, err = frozen.communicate(timeout=MOST)
    assert frozen.returncode == 0, err
    assert not Path(f"/proc/{first}").exists()
    assert (marks / "ended").read_text() == "x"
    assert (states(pad), completed(pad, 1)) == (["COMPLETED"], 1)
    assert pad.launches.count_documents({}) == 2
    assert recover(project, pad) == []


def test_outage_longer_than_all_patience_costs_neither_short_nor_long_job(tmp_path, monkeypatch,
                                                                          wait_until, marks):
    """One job ends while MongoDB is away, one after it: fifteen times what pymongo waits for."""
    server = Mongod(tmp_path / "mongo", cache_gb=0.25)
    folder = tmp_path / "pro ject's"
    init_project(folder, machine="local", database=server.start())
    try:
        file = folder / LAUNCHPAD_FILE
        values = yaml.safe_load(file.read_text())
        values["mongoclient_kwargs"]["serverSelectionTimeoutMS"] = 1000
        file.write_text(yaml.safe_dump(values))
        for name, value in project_environment(folder).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(folder)
        with closing(open_launchpad(folder)) as pad:
            for name in ("short", "long"):
                (marks / name).mkdir()
                pad.add_wf(Firework([Wait(folder=str(marks / name))], spec=SPEC))
            process = small_jobs.command("orionflow", "launch", "--cores", 2)
            for name in ("short", "long"):
                wait_until((marks / name / "started").exists, timeout=MOST)
            status = server.status()
            os.kill(status.pid, signal.SIGKILL)
            assert wait_for(lambda: not port_taken(status.port), 10)
            away = time.monotonic()
            (marks / "short" / "go").touch()
            wait_until((marks / "short" / "ended").exists, timeout=MOST)
            time.sleep(max(0.0, away + 15 - time.monotonic()))
            assert process.poll() is None
            server.start()
            back = datetime.now(UTC).isoformat()
            wait_until(lambda: ("COMPLETED" in states(pad), states(pad)), timeout=MOST)
            # Its heart beats again, so that nobody takes it for lost.
            wait_until(lambda: (seen := last_sign(pad)) > back or not seen, timeout=MOST)
            assert recover(folder, pad) == []
            (marks / "long" / "go").touch()
            _, err = process.communicate(timeout=MOST)
            assert states(pad) == ["COMPLETED", "COMPLETED"], err
            assert pad.launches.count_documents({}) == 2
        for name in ("short", "long"):
            assert (marks / name / "ended").read_text() == "x"
    finally:
        server.stop()


@pytest.mark.needs_code("lmp")
def test_bad_node_fails_no_job_and_says_what_is_wrong(project, pad, tmp_path):
    """A node without mpirun; then the same project on a good one."""
    poor = tmp_path / "bin"
    poor.mkdir()
    for name in ("lmp", "sh", "env", "sleep"):
        (poor / name).symlink_to(shutil.which(name))
    (project / "machines").mkdir()
    profile = {"mpi": "mpirun", "cores_per_node": 2, "environment": {"PATH": str(poor)}}
    (project / "machines" / "poor.yaml").write_text(json.dumps(profile))
    flow = get_recipe("lammps.static")
    for _ in range(6):
        submit(flow.make("Si diamond 5.43", {"force_field": "Si.sw"}), resources={"ranks": 2})
    settings = {**os.environ, "ORIONFLOW_MACHINE": "poor"}
    code, out, err = small_jobs.run("orionflow", "launch", env=settings, timeout=MOST)
    assert code == 1, out + err
    assert "mpirun" in err
    assert states(pad) == ["READY"] * 6, err
    code, _, err = small_jobs.run("orionflow", "launch", timeout=MOST)
    assert (code, states(pad)) == (0, ["COMPLETED"] * 6), err
    assert [completed(pad, n) for n in range(1, 7)] == [1] * 6


def test_four_launchers_on_one_workflow_run_each_job_once(project, pad):
    jobs = [Firework([Plain(seconds=0.02)], spec=SPEC) for _ in range(62)]
    pad.add_wf(Workflow(jobs, {jobs[0]: jobs[1:-1], **{j: [jobs[-1]] for j in jobs[1:-1]}}))
    four = [small_jobs.command("orionflow", "launch", "--patience", 3) for _ in range(4)]
    for process in four:
        _, err = process.communicate(timeout=MOST)
        assert process.returncode == 0, err
    assert states(pad) == ["COMPLETED"] * 62
    assert pad.launches.count_documents({}) == 62
    wf = pad.workflows.find_one()
    assert (wf["state"], "locked" in wf) == ("COMPLETED", False)
    assert recover(project, pad) == []
