"""cron, stock qlaunch and Slurm together, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_jobs
import yaml

from orionflow.launchers.cron import (
    LOCK_FILE,
    STATE_FILE,
    STOP_FILE,
    CronReport,
    _Cron,
    cron_state,
    run_cron,
    sbatch_error,
    stamp,
)
from orionflow.launchers.deaths import Deaths
from orionflow.launchers.launchpad import open_launchpad
from orionflow.launchers.recovery import recover
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.slurm import Fate, SlurmJob
from orionflow.workflows.compile import submit

pytestmark = pytest.mark.usefixtures("importable")


@pytest.fixture
def pad(slurm_project):
    pad = open_launchpad(slurm_project)
    yield pad
    pad.connection.close()


def states(pad):
    return [fw["state"] for fw in pad.fireworks.find(sort=[("fw_id", 1)])]


def all_done(pad):
    return lambda: (set(states(pad)) == {"COMPLETED"}, states(pad))


def once_each(pad):
    done = [launch["fw_id"] for launch in pad.launches.find({"state": "COMPLETED"})]
    return len(done) == len(set(done)) and not pad.launches.count_documents({"state": "RUNNING"})


def test_sbatch_error_is_found_in_what_qlaunch_prints():
    # As printed by qlaunch of FireWorks 2.1.4 for a partition that does not exist.
    printed = """\
2026-11-22 20:27:50,123 ERROR ----|vvv|----
2026-11-22 20:27:50,123 ERROR Error in job submission with SLURM file FW_submit.script and cmd=[]
2026-11-22 20:27:50,123 ERROR The error response reads: b'sbatch: error: invalid partition \
specified: nope\\nsbatch: error: Batch job submission failed: Invalid partition name specified\\n'
2026-11-22 20:27:50,123 ERROR ----|^^^|----
"""
    assert sbatch_error(printed) == (
        "sbatch: error: invalid partition specified: nope sbatch: error: Batch job submission "
        "failed: Invalid partition name specified")


@pytest.mark.needs_mongod
def test_cron_on_a_machine_without_queue_only_recovers(project):
    submit(small_jobs.add(1, 1))
    report = run_cron(project)
    assert report.problem == ""
    assert "has no queue" in report.note
    assert cron_state(project)["last_run"]


@pytest.mark.needs_mongod
@pytest.mark.parametrize(("job", "missing"), [("7", 0), ("8", 1)], ids=["runs", "is over"])
def test_cron_counts_launchers_in_allocations_asked_for_by_hand(project, job, missing):
    submit(small_jobs.add(1, 1))
    cron, wanted = _Cron(project, CronReport()), []
    cron.machine = cron.machine.model_copy(update={"scheduler": "slurm"})
    cron.scheduler = SimpleNamespace(my_queue=lambda: [SlurmJob("7", "RUNNING", name="mine")])
    cron._ask_for = wanted.extend
    with closing(open_launchpad(project)) as pad:
        pad.db["orionflow_launchers"].insert_one({
            "_id": "it", "slurm_job_id": job, "beat": datetime.now(UTC).isoformat(),
            "state": "running", "free": [{"cores": 64, "memory": None, "gpus": 0}]})
        cron._supply(pad)
    assert len(wanted) == missing


@pytest.mark.needs_mongod
def test_cron_exits_75_and_says_nothing_while_another_runs(project):
    import fcntl

    with (project / ".orionflow" / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, out, err = small_jobs.run("orionflow", "cron")
        assert (code, out, err) == (75, "", "")
    assert small_jobs.run("orionflow", "cron")[0] == 0  # the lock leaves nothing behind


@pytest.mark.needs_mongod
def test_cron_exits_75_and_says_nothing_while_mongodb_is_away(project):
    path = project / "my_launchpad.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**values, "port": 1, "mongoclient_kwargs": {
        "serverSelectionTimeoutMS": 500}}))
    code, out, err = small_jobs.run("orionflow", "cron")
    assert (code, out, err) == (75, "", "")
    assert "does not serve us" in cron_state(project)["problem"]
    assert "does not serve us" in (project / ".orionflow/log/cron.log").read_text()


@pytest.mark.needs_mongod
@pytest.mark.needs_slurm
class TestOnSlurm:
    def test_cron_submits_and_the_jobs_complete(self, pad, wait_until):
        for n in range(3):
            submit(small_jobs.add(n, 1), resources={"walltime": 60})
        code, out, err = small_jobs.run("orionflow", "cron", "-v")
        assert code == 0, err
        assert "submitted Slurm job(s)" in out
        wait_until(all_done(pad), timeout=120)
        assert once_each(pad)
        launch = pad.launches.find_one()
        assert "block_" in launch["launch_dir"]
        assert launch["fworker"]["env"]["orionflow"]["slurm_job_id"]

    def test_cron_is_silent_and_submits_nothing_without_work(self, slurm_project):
        assert small_jobs.run("orionflow", "cron") == (0, "", "")
        assert Scheduler(slurm_project).my_queue() == []

    def test_cron_keeps_to_the_queue_cap_and_to_the_number_of_jobs(self, slurm_project, marks):
        for _ in range(9):
            submit(small_jobs.nap(600, str(marks)))
        first = run_cron(slurm_project)
        assert len(first.submitted) == 4  # max_queued of the profile
        assert first.sizes == ["2 core(s), 60 min"] * 4  # a whole virtual node
        second = run_cron(slurm_project)
        assert second.submitted == []
        assert "are enough" in second.note

    def test_a_job_too_big_for_any_allocation_is_named_once(self, slurm_project):
        submit(small_jobs.add(1, 1), resources={"walltime": "20:00:00"})
        code, out, err = small_jobs.run("orionflow", "cron")
        assert (code, out) == (0, "")
        assert err.startswith("firework 1 can't run on machine 'private-slurm': walltime = 72000")
        assert small_jobs.run("orionflow", "cron") == (0, "", "")
        report = run_cron(slurm_project)
        assert (report.ready, report.submitted, len(report.impossible)) == (0, [], 1)

    def test_a_small_job_gets_a_small_allocation(self, slurm_project, marks):
        submit(small_jobs.nap(600, str(marks)), resources={"walltime": 600})
        report = run_cron(slurm_project)
        (job,) = report.submitted
        shown = subprocess.run([Scheduler(slurm_project).program("scontrol"), "-o", "show", "job",
                                job], capture_output=True, text=True, check=True).stdout
        assert "NumCPUs=1 " in shown
        assert "TimeLimit=00:13:00 " in shown
        assert run_cron(slurm_project).submitted == []  # it waits, or its launcher starts

    def test_stop_file_stops_it(self, slurm_project):
        submit(small_jobs.add(1, 1))
        (slurm_project / ".orionflow" / STOP_FILE).touch()
        report = run_cron(slurm_project)
        assert report.submitted == []
        assert STOP_FILE in report.note

    def test_failed_sbatch_is_told_in_its_own_words_and_tried_ever_more_rarely(
            self, slurm_project):
        path = slurm_project / "my_qadapter.yaml"
        values = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**values, "queue": "nope"}))
        submit(small_jobs.add(1, 1))
        code, out, err = small_jobs.run("orionflow", "cron")
        assert (code, out) == (1, "")
        assert "invalid partition specified: nope" in err
        assert cron_state(slurm_project)["failures"] == 1
        first = cron_state(slurm_project)["not_before"] - time.time()
        assert small_jobs.run("orionflow", "cron") == (0, "", "")
        state = slurm_project / ".orionflow" / STATE_FILE
        stamp(state, not_before=0)
        assert small_jobs.run("orionflow", "cron")[0] == 1
        second = cron_state(slurm_project)["not_before"] - time.time()
        assert cron_state(slurm_project)["failures"] == 2
        assert second > 1.8 * first
        path.write_text(yaml.safe_dump(values))
        stamp(state, not_before=0)
        assert small_jobs.run("orionflow", "cron")[0] == 0
        assert cron_state(slurm_project)["failures"] == 0

    def test_two_crons_at_once_submit_as_one(self, pad, wait_until):
        for n in range(2):
            submit(small_jobs.add(n, 1))
        both = [small_jobs.command("orionflow", "cron", "-v") for _ in range(2)]
        outputs = [p.communicate(timeout=60) for p in both]
        assert sorted(p.returncode for p in both) in ([0, 75], [0, 0]), outputs
        submitted = [j for out, _ in outputs for line in out.splitlines()
                     if line.startswith("submitted")
                     for j in line.split("job(s) ")[1].split(" for")[0].split(", ")]
        # One, when its launcher has run both jobs before the second is submitted; never more.
        assert 1 <= len(submitted) <= 2, outputs
        wait_until(all_done(pad), timeout=120)
        assert once_each(pad)

    def test_two_stock_qlaunch_at_once_run_every_job_once(self, slurm_project, pad, wait_until):
        for n in range(6):
            submit(small_jobs.add(n, 1))
        both = [small_jobs.command("qlaunch", "rapidfire", "-m", "4", "--nlaunches", "2",
                                   cwd=slurm_project) for _ in range(2)]
        wait_until(all_done(pad), timeout=120)
        for process in both:
            process.kill()
            process.communicate()
        assert once_each(pad)

    def test_stock_qlaunch_reserved_gives_a_job_its_own_allocation(self, slurm_project, pad,
                                                                  wait_until):
        submit(small_jobs.add(1, 1), resources={"ranks": 1, "walltime": 120})
        submit(small_jobs.add(2, 2))
        code, _, err = small_jobs.run("qlaunch", "-r", "singleshot", "-f", "1",
                                        cwd=slurm_project)
        assert code == 0, err
        script = (slurm_project / "FW_submit.script").read_text()
        assert "#SBATCH --ntasks=1\n" in script
        assert "#SBATCH --time=00:05:00\n" in script
        assert script.rstrip().endswith("--fw_id 1")
        wait_until(lambda: (states(pad)[0] == "COMPLETED", states(pad)), timeout=60)
        assert states(pad)[1] == "READY"

    def test_reservation_of_a_cancelled_slurm_job_is_freed(self, slurm_project, slurm, pad,
                                                          marks, wait_until):
        for _ in range(4):  # each takes a virtual node
            submit(small_jobs.nap(600, str(marks)), priority=5, resources={"ranks": 2})
        run_cron(slurm_project)
        wait_until(lambda: (states(pad) == ["RUNNING"] * 4, states(pad)), timeout=60)
        submit(small_jobs.add(1, 1))  # all nodes are busy: its Slurm job has to wait
        small_jobs.run("qlaunch", "-r", "singleshot", "-f", "5", cwd=slurm_project)
        assert states(pad)[4] == "RESERVED"
        assert recover(slurm_project, pad) == []
        slurm.cancel_jobs()
        wait_until(lambda: states(pad)[:4] == ["READY"] * 4, timeout=60)
        steps = recover(slurm_project, pad)
        assert [(s.what, s.fw_ids) for s in steps] == [("unreserved", [5])]
        assert states(pad)[4] == "READY"

    def test_scancel_puts_the_job_back_at_once(self, slurm_project, slurm, pad, marks,
                                               wait_until):
        submit(small_jobs.nap(600, str(marks)))
        run_cron(slurm_project)
        wait_until((marks / "sleep_pid").exists, timeout=60)
        slurm.cancel_jobs()
        wait_until(lambda: (states(pad) == ["READY"], states(pad)), timeout=40)
        pid = int((marks / "sleep_pid").read_text())
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), timeout=10)

    def test_killed_launcher_in_slurm_is_recovered_by_cron(self, slurm_project, pad, marks,
                                                          wait_until):
        submit(small_jobs.nap(3, str(marks)))
        run_cron(slurm_project)
        wait_until((marks / "sleep_pid").exists, timeout=60)
        owner = pad.launches.find_one()["fworker"]["env"]["orionflow"]
        os.kill(owner["pid"], signal.SIGKILL)
        (marks / "sleep_pid").unlink()
        wait_until(lambda: Scheduler(slurm_project).fate(owner["slurm_job_id"]) is Fate.OVER,
                   timeout=60)
        report = run_cron(slurm_project)
        assert any(line.startswith("put back: firework 1") for line in report.recovered)
        assert len(report.submitted) == 1
        wait_until(all_done(pad), timeout=90)
        assert once_each(pad)
        assert (marks / "ended").read_text() == "x"

    def test_launcher_of_another_host_is_dead_only_when_slurm_says_so(
            self, slurm_project, pad, marks, wait_until):
        """The launch is made to look as one of another host; squeue, sacct and silence decide."""
        submit(small_jobs.nap(600, str(marks)))
        run_cron(slurm_project)
        wait_until((marks / "sleep_pid").exists, timeout=60)
        where = "fworker.env.orionflow"
        pad.launches.update_one({}, {"$set": {f"{where}.host": "elsewhere"}})
        old = {"$set": {"state_history.0.updated_on": "2020-01-01T00:00:00+00:00"}}
        pad.launches.update_one({}, old)
        assert recover(slurm_project, pad) == []  # RUNNING in Slurm, however silent
        owner = pad.launches.find_one()["fworker"]["env"]["orionflow"]
        pad.launches.update_one({}, {"$set": {f"{where}.slurm_job_id": "987654"}})
        deaths = Deaths(Scheduler(slurm_project), pad, lost_after=5.0)
        # Unknown to Slurm is not over, and its heart beats.
        assert recover(slurm_project, pad, deaths=deaths, patience=10) == []
        os.kill(owner["pid"], signal.SIGSTOP)
        (step,) = recover(slurm_project, pad, deaths=deaths, patience=60)
        os.kill(owner["pid"], signal.SIGCONT)
        assert "Slurm has forgotten job 987654" in step.why
