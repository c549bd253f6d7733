"""Launchers as real processes: killed, stopped, two at once, their database taken away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import small_jobs

from orionflow.launchers.identity import LauncherIdentity
from orionflow.launchers.recovery import recover
from orionflow.launchers.rocket import SPOOL_FILE
from orionflow.launchers.services.processes import ProcessIdentity
from orionflow.workflows.compile import submit

pytestmark = [pytest.mark.needs_mongod, pytest.mark.usefixtures("importable")]


def states(pad):
    return [fw["state"] for fw in pad.fireworks.find(sort=[("fw_id", 1)])]


def launch(*options, timeout=120):
    code, out, err = small_jobs.run("orionflow", "launch", *options, timeout=timeout)
    assert code == 0, err
    return out, err


def folders(pad, fw_id):
    fw = pad.fireworks.find_one({"fw_id": fw_id})
    ids = fw["launches"] + fw["archived_launches"]
    return {launch["launch_dir"] for launch in pad.launches.find({"launch_id": {"$in": ids}})}


def wait_started(marks, wait_until, times=1):
    file = marks / "started"
    wait_until(lambda: file.exists() and len(file.read_text().splitlines()) >= times, timeout=60)
    wait_until((marks / "sleep_pid").exists)
    return int((marks / "sleep_pid").read_text())


def let_time_pass(pad):
    """Make all changes two hours old: nobody is at work between two writes any more."""
    before = datetime.now(UTC) - timedelta(hours=2)
    for collection in (pad.fireworks, pad.launches):
        for field in ("created_on", "updated_on", "time_end"):
            collection.update_many({field: {"$gt": before.isoformat()}},
                                   {"$set": {field: before.isoformat()}})
    pad.workflows.update_many({}, {"$set": {"updated_on": before}})


def kill(process):
    process.kill()
    process.communicate()


# ------------------------------------------------------------------------------ ordinary life


def test_launch_runs_all_jobs_each_in_its_own_folder(project, pad):
    for n in range(3):
        submit(small_jobs.add(n, 1))
    out, _ = launch()
    assert "3 job(s) run: 3 completed" in out
    assert states(pad) == ["COMPLETED"] * 3
    made = [f for n in (1, 2, 3) for f in folders(pad, n)]
    assert len(set(made)) == 3
    assert all(Path(f).parent.name.startswith("block_") for f in made)
    assert all((Path(f) / "ran").read_text() == "x" for f in made)
    assert all(not (Path(f) / SPOOL_FILE).exists() for f in made)


def test_launch_writes_who_runs_it_into_the_launch_with_the_claim(project, pad):
    submit(small_jobs.add(1, 1))
    launch()
    who = LauncherIdentity.from_dict(pad.launches.find_one()["fworker"]["env"]["orionflow"])
    assert who.boot == ProcessIdentity.of(os.getpid()).boot
    assert who.alive_here() is False  # that launcher has ended


def test_a_failing_job_fizzles_and_the_next_one_runs(project, pad):
    submit(small_jobs.fails(), priority=2)
    submit(small_jobs.add(1, 1))
    out, err = launch()
    assert states(pad) == ["FIZZLED", "COMPLETED"]
    assert "this input can't be right" in err
    assert "1 completed, 1 fizzled" in out


def test_only_jobs_that_fit_are_taken_and_the_others_named(project, pad):
    submit(small_jobs.add(1, 1), resources={"ranks": 2})
    submit(small_jobs.add(1, 1), resources={"walltime": "02:00:00"})
    submit(small_jobs.add(1, 1), resources={"ranks": 1, "walltime": 30})
    out, _ = launch("--cores", 1, "--time", "00:01:00")
    assert states(pad) == ["READY", "READY", "COMPLETED"]
    assert "2 READY job(s) do not fit here" in out


def test_a_job_without_resources_is_taken_too(project, pad):
    from fireworks import Firework, LaunchPad, ScriptTask

    stock = LaunchPad.from_file(str(project / "my_launchpad.yaml"))
    stock.add_wf(Firework(ScriptTask.from_str("echo there > here"),
                          spec={"_category": "compute"}))
    stock.connection.close()
    launch()
    assert states(pad) == ["COMPLETED"]


def test_max_jobs_and_priority_are_obeyed(project, pad):
    for priority in (1, 3, 2):
        submit(small_jobs.add(1, 1), priority=priority)
    out, _ = launch("--max-jobs", 2)
    assert states(pad) == ["READY", "COMPLETED", "COMPLETED"]
    assert "2 job(s) asked for" in out


def test_patience_waits_for_work_that_comes_later(project, pad, wait_until):
    process = small_jobs.command("orionflow", "launch", "--patience", 60, "--max-jobs", 1)
    time.sleep(3)
    submit(small_jobs.add(1, 1))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert states(pad) == ["COMPLETED"]


def test_jobs_learn_their_resources_and_the_deadline(project, pad, job_store):
    submit(small_jobs.resources_seen(), resources={"ranks": 2, "walltime": 10})
    before = time.time()
    launch("--time", "00:01:00")
    output = job_store.query_one({})["output"]
    assert output["ranks"] == 2
    assert before < output["deadline"] < before + 90


def test_one_firework_alone_as_qlaunch_reserved_asks(project, pad):
    submit(small_jobs.add(1, 1))
    submit(small_jobs.add(2, 2))
    launch("--singleshot-if-reserved", "--fw_id", 2)
    assert states(pad) == ["READY", "COMPLETED"]


def test_a_store_in_memory_is_refused_at_the_start(project, pad):
    submit(small_jobs.add(1, 1))
    (project / "jobflow.yaml").write_text("JOB_STORE: {docs_store: {type: MemoryStore}}\n")
    code, _, err = small_jobs.run("orionflow", "launch")
    assert code == 1
    assert "store in memory" in err
    (project / "jobflow.yaml").unlink()
    code, _, err = small_jobs.run("orionflow", "launch")
    assert code == 1
    assert "no jobflow.yaml" in err
    assert states(pad) == ["READY"]


def test_stock_rlaunch_runs_one_of_our_jobs(project, pad, job_store):
    submit(small_jobs.add(20, 22), resources={"ranks": 2})
    code, out, err = small_jobs.run("rlaunch", "singleshot", cwd=project)
    assert code == 0, err
    assert states(pad) == ["COMPLETED"], out + err
    assert job_store.query_one({})["output"] == 42


# ------------------------------------------------------------------------------ stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_puts_the_job_back_and_it_continues_in_its_folder(number, project, pad, marks,
                                                                   wait_until):
    submit(small_jobs.nap(600, str(marks)))
    process = small_jobs.command("orionflow", "launch")
    sleep = wait_started(marks, wait_until)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "1 put back" in out
    assert states(pad) == ["READY"]
    assert not Path(f"/proc/{sleep}").exists()
    assert pad.launches.find_one()["state"] == "FIZZLED"
    spec = pad.fireworks.find_one()["spec"]
    assert {spec["_launch_dir"]} == folders(pad, 1)
    wf = pad.workflows.find_one()
    assert (wf["state"], wf["fw_states"]["1"]) == ("READY", "READY")
    assert "locked" not in wf


def test_the_end_of_the_time_stops_a_job_and_counts_as_a_rerun(project, pad, marks):
    submit(small_jobs.nap(600, str(marks)), resources={"walltime": 2})
    out, _ = launch("--time", "9")
    assert "1 put back" in out
    assert "time is over" in out
    assert pad.fireworks.find_one()["spec"]["_reruns"] == 1


def test_out_of_walltime_goes_on_in_the_same_folder_until_done(project, pad):
    submit(small_jobs.out_of_time(5))
    out, _ = launch()
    assert "6 job(s) run: 1 completed, 5 put back" in out
    assert states(pad) == ["COMPLETED"]
    (folder,) = folders(pad, 1)
    assert (Path(folder) / "attempts").read_text() == "xxxxx"
    fw = pad.fireworks.find_one()
    assert (len(fw["launches"]), len(fw["archived_launches"])) == (1, 5)
    assert fw["spec"]["_continued"] == 5


def test_a_job_that_fails_again_and_again_fizzles_after_max_reruns(project, pad):
    submit(small_jobs.out_of_time(99, "QE_KILLED"))
    launch()
    assert states(pad) == ["FIZZLED"]
    (folder,) = folders(pad, 1)
    assert len((Path(folder) / "attempts").read_text()) == 4  # once and three reruns


# ------------------------------------------------------------------------------ killed


def test_killed_launcher_leaves_no_orphan_and_its_job_is_done_once(project, pad, marks,
                                                                   wait_until):
    submit(small_jobs.nap(2, str(marks)), campaign="c")
    submit(small_jobs.add(1, 1))
    process = small_jobs.command("orionflow", "launch", "--cores", 1)
    sleep = wait_started(marks, wait_until)
    kill(process)
    wait_until(lambda: not Path(f"/proc/{sleep}").exists(), timeout=10)
    assert states(pad)[0] == "RUNNING"
    steps = recover(project, pad)
    assert [(s.what, s.fw_ids) for s in steps] == [("put back", [1])]
    assert states(pad)[0] == "READY"
    assert recover(project, pad) == []
    launch()
    assert states(pad) == ["COMPLETED", "COMPLETED"]
    assert (marks / "ended").read_text() == "x"
    started = [line.split(" ", 1)[1] for line in (marks / "started").read_text().splitlines()]
    assert len(started) == 2
    assert started[0] == started[1]  # in its old folder


def test_recovery_leaves_a_living_launcher_alone(project, pad, marks, wait_until):
    submit(small_jobs.nap(4, str(marks)))
    process = small_jobs.command("orionflow", "launch")
    wait_started(marks, wait_until)
    pad.launches.update_many({}, {"$set": {
        "state_history.0.updated_on": "2020-01-01T00:00:00+00:00"}})  # its heartbeat is lost
    assert recover(project, pad) == []
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert states(pad) == ["COMPLETED"]


def test_dry_run_says_what_it_would_do_and_does_nothing(project, pad, marks, wait_until):
    submit(small_jobs.nap(600, str(marks)))
    process = small_jobs.command("orionflow", "launch")
    wait_started(marks, wait_until)
    kill(process)
    code, out, _ = small_jobs.run("orionflow", "recover", "--dry-run", "-o", "json")
    assert code == 0
    (step,) = json.loads(out)
    assert (step["what"], step["fw_ids"]) == ("put back", [1])
    assert states(pad) == ["RUNNING"]


def test_a_lost_job_is_given_up_after_max_reruns(project, pad, marks, wait_until):
    submit(small_jobs.nap(600, str(marks)))
    pad.fireworks.update_one({}, {"$set": {"spec._reruns": 3}})
    process = small_jobs.command("orionflow", "launch")
    wait_started(marks, wait_until)
    kill(process)
    step = recover(project, pad)[-1]
    assert step.what == "gave up"
    assert states(pad) == ["FIZZLED"]
    assert "lost 4 times" in pad.launches.find_one()["action"]["stored_data"]["_message"]


def test_orphans_of_a_dead_launcher_are_killed(project, pad, marks, wait_until):
    """A process that escaped the death signal, as a job's own daemon would."""
    submit(small_jobs.nap(600, str(marks)))
    process = small_jobs.command("orionflow", "launch")
    sleep = wait_started(marks, wait_until)
    variables = Path(f"/proc/{sleep}/environ").read_text().split("\0")
    environment = dict(item.split("=", 1) for item in variables if item)
    orphan = subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True)
    kill(process)
    steps = recover(project, pad)
    assert [s.what for s in steps] == ["killed", "put back"]
    assert orphan.wait(10) == -signal.SIGTERM


KILLED_AT_CALL = """
import os, sys
from pathlib import Path
project = Path(sys.argv[1])
os.environ.update(ORIONFLOW_PROJECT=str(project), JOBFLOW_CONFIG_FILE=str(project / "jobflow.yaml"),
                  FW_CONFIG_FILE=str(project / "FW_config.yaml"))
os.chdir(project)
from pymongo import monitoring
import small_jobs, signal
from jobflow.managers import fireworks
from orionflow.launchers import crew, launchpad, recovery, rocket, worker, workers, zygote
from orionflow.launchers.launcher import Launcher, LaunchOptions

class Forked:
    # A zygote that has paid the imports already: they would take most of this test.
    def __init__(self, sock, environment):
        self.pid, self.code = os.fork(), None
        if self.pid == 0:
            Killer.last = 0
            for fd in range(3, 256):  # a program of its own would have none of them
                if fd != sock.fileno():
                    try:
                        os.close(fd)
                    except OSError:
                        pass
            os.environ.update(environment)
            zygote.main(sock.fileno())
            os._exit(0)
    def poll(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = status if pid else None
        return self.code
    def wait(self, timeout=None):
        if self.code is None:
            self.code = os.waitpid(self.pid, 0)[1]
        return self.code
    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

workers.start_zygote = Forked

WRITES = {"insert", "update", "delete", "findAndModify"}
OURS = {"fireworks", "workflows", "launches", "fw_id_assigner"}

class Killer(monitoring.CommandListener):
    calls, last = 0, 0
    def started(self, event):
        name = event.command_name
        if name in WRITES and event.command[name] in OURS:
            Killer.calls += 1
            if Killer.calls == Killer.last:
                os.kill(os.getpid(), signal.SIGKILL)
    def succeeded(self, event): pass
    def failed(self, event): pass

monitoring.register(Killer())
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        # Launchers of its own name: one that is dead for the next.
        Killer.last = int(line)
        most = 1 if Killer.last < 10**6 else None
        Launcher(project, LaunchOptions(max_jobs=most), project / "block_x").run()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else "survived", flush=True)
"""


def test_killed_at_every_write_of_a_launch_the_workflow_still_ends_right(project, pad):
    """SIGKILL before the n-th write of a job that replaces itself, for every n; then recovery."""
    worker = subprocess.Popen([sys.executable, "-c", KILLED_AT_CALL, str(project)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)

    def tell(number):
        worker.stdin.write(f"{number}\n")
        worker.stdin.flush()
        return worker.stdout.readline().strip()

    assert worker.stdout.readline() == "ready\n"
    kills = 0
    for number in range(1, 80):
        for collection in (pad.fireworks, pad.launches, pad.workflows):
            collection.delete_many({})
        submit(small_jobs.replaces())
        verdict = tell(number)
        let_time_pass(pad)
        recover(project, pad)
        for _ in range(4):
            if set(states(pad)) == {"COMPLETED"}:
                break
            tell(10**6)
        where = f"killed before write {number}"
        wf = pad.workflows.find_one()
        assert states(pad) == ["COMPLETED"] * 4, where
        assert sorted(wf["nodes"]) == sorted(f["fw_id"] for f in pad.fireworks.find()), where
        assert (wf["state"], set(wf["fw_states"].values())) == ("COMPLETED", {"COMPLETED"}), where
        assert pad.workflows.count_documents({}) == 1
        for fw in pad.fireworks.find():
            done = pad.launches.count_documents({"fw_id": fw["fw_id"], "state": "COMPLETED"})
            assert done == 1, where
        assert pad.launches.count_documents({"state": "RUNNING"}) == 0, where
        if verdict == "survived":
            break
        kills += 1
    worker.stdin.close()
    worker.wait(10)
    assert verdict == "survived"
    assert kills > 10


# ------------------------------------------------------------------------------ two at once


def test_two_launchers_and_a_killed_third_run_every_job_once(project, pad, wait_until):
    for n in range(24):
        submit(small_jobs.add(n, 1))
    three = [small_jobs.command("orionflow", "launch") for _ in range(3)]
    wait_until(lambda: pad.fireworks.count_documents({"state": "COMPLETED"}) > 2, timeout=60)
    three[0].kill()
    for process in three:
        process.communicate(timeout=120)
    let_time_pass(pad)
    recover(project, pad)
    launch()
    assert states(pad) == ["COMPLETED"] * 24
    for n in range(1, 25):
        assert pad.launches.count_documents({"fw_id": n, "state": "COMPLETED"}) == 1
    assert pad.launches.count_documents({"state": "RUNNING"}) == 0


# ------------------------------------------------------------------------------ stock lpad


def test_stock_lpad_works_on_what_we_store(project, pad):
    submit(small_jobs.replaces(), key="k")
    submit(small_jobs.fails())
    launch()
    submit(small_jobs.add(1, 1))
    for words in (("get_fws",), ("get_fws", "-d", "all"), ("get_wflows", "-d", "more"),
                  ("get_wflows", "-t"), ("report",), ("detect_lostruns",), ("detect_unreserved",)):
        code, out, err = small_jobs.run("lpad", *words, cwd=project)
        assert code == 0, (words, err)
        assert out.strip(), words
    code, _, err = small_jobs.run("lpad", "rerun_fws", "-s", "FIZZLED", cwd=project)
    assert code == 0, err
    assert pad.fireworks.count_documents({"state": "READY"}) == 2
    code, _, err = small_jobs.run("lpad", "defuse_wflows", "-i", "1", cwd=project)
    assert code == 0, err
    assert pad.workflows.find_one({"nodes": 1})["state"] in {"DEFUSED", "COMPLETED"}
