"""Worker processes: what one job does, no other one feels."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import hostile_jobs
import pytest
import small_jobs
from fireworks import FWorker

from orionflow.launchers import crew, pulse, stopping
from orionflow.launchers.launcher import Launcher, LaunchOptions
from orionflow.workflows.compile import submit

pytestmark = [pytest.mark.needs_mongod, pytest.mark.usefixtures("importable")]


@pytest.fixture(autouse=True)
def _own_cores(monkeypatch, tmp_path):
    # Locks of cores of this test's own: other launchers run on this machine.
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def state(pad, fw_id):
    return pad.fireworks.find_one({"fw_id": fw_id})["state"]


def output(job_store, name):
    return job_store.query_one({"name": name})["output"]


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def message(pad, fw_id):
    launch = pad.launches.find_one({"fw_id": fw_id}, sort=[("launch_id", -1)])
    return launch["action"]["stored_data"]["_exception"]["_stacktrace"]


def test_hostile_jobs_fail_clearly_and_harm_nobody(project, pad, job_store):
    """One core, so that one worker gets one after the other as far as it survives."""
    jobs = [hostile_jobs.vanish(), hostile_jobs.crash(), hostile_jobs.spoil(),
            hostile_jobs.surroundings(), hostile_jobs.leave_behind(),
            hostile_jobs.fork_and_return(), hostile_jobs.print_much(20), small_jobs.add(1, 1)]
    for job in jobs:
        submit(job)
    pad.fireworks.insert_one({**_stranger(pad, 101), "spec": {"_category": "compute"}})
    pad.fireworks.insert_one({**_stranger(pad, 102), "spec": {
        "_category": "compute", "_tasks": [], "resources": {"ranks": "many"}}})
    pad.fireworks.insert_one({**_stranger(pad, 103), "spec": {
        "_category": "unheard of", "_tasks": []}})
    pad.fireworks.insert_one({**_stranger(pad, 104), "spec": {
        "_category": "compute", "_tasks": [], "resources": {"ranks": 100000}}})
    ours = [pad.fireworks.find_one({"fw_id": i})["spec"] for i in (8, 1)]
    for fw_id, spec in _malformed(*ours).items():
        pad.fireworks.insert_one({**_stranger(pad, fw_id), "spec": spec})
    pad.fireworks.update_one({"fw_id": 211}, {"$unset": {"launches": ""}})
    pad.fireworks.insert_one({**_stranger(pad, 300), "state": "COMPLETED", "spec": {
        "_tasks": [{"job": {"function": 1, "function_args": 7, "function_kwargs": [7]}}]}})
    pad.launches.insert_one({"launch_id": 300, "fw_id": 300, "state": "COMPLETED",
                             "time_end": "2026-01-01T00:00:00+00:00", "runtime_secs": 1.0})
    code, out, err = small_jobs.run("orionflow", "launch", "--cores", 1)
    assert code == 0, err
    assert "1 READY job(s) do not fit here" in out
    strangers = pad.fireworks.find({"fw_id": {"$gt": 200, "$lt": 300}})
    assert {fw["fw_id"]: fw["state"] for fw in strangers} == {
        **dict.fromkeys(range(201, 209), "FIZZLED"), 209: "COMPLETED", 210: "COMPLETED",
        211: "FIZZLED"}, err
    found = {fw["fw_id"]: fw["state"] for fw in pad.fireworks.find({"fw_id": {"$lt": 200}})}
    assert found == {1: "FIZZLED", 2: "FIZZLED", **dict.fromkeys(range(3, 9), "COMPLETED"),
                     101: "FIZZLED", 102: "FIZZLED", 103: "READY", 104: "READY"}, err
    assert "code 3" in message(pad, 1)
    assert "SIGSEGV" in message(pad, 2)
    assert "_tasks" in message(pad, 101)
    assert "ranks = 'many'" in message(pad, 102)
    seen = output(job_store, "surroundings")
    assert seen["pid"] == output(job_store, "spoil")  # a warm worker, used again
    assert (seen["spoilt"], seen["path"], seen["sys_path"], seen["ignored"]) == (
        None, True, False, False)
    assert seen["umask"] == 0o022
    assert seen["stdout"]
    assert seen["filter"] != "error"
    folder = pad.launches.find_one({"fw_id": 7})["launch_dir"]
    assert (Path(folder) / "FW_job.out").stat().st_size > 20 * 2**20
    assert len(err) < 2**20
    assert all(gone(pid) for pid in output(job_store, "leave_behind"))


def _malformed(good, vanishing):
    """Specs that others made of two of ours."""
    (task,) = good["_tasks"]

    def job(**changes):
        return {**good, "_tasks": [{**task, "job": {**task["job"], **changes}}]}

    return {
        201: job(function_args=7), 202: job(function_kwargs=[7]), 203: {**good, "_tasks": {"a": 1}},
        204: {**good, "_trackers": [7]}, 205: [good],
        206: {**good, "resources": {"memory": "9" * 400 + "GB"}},
        207: {**vanishing, "_retries": {"counts": 5, "history": 5}, "_reruns": "many",
              "_launch_dir": "", "retry": 7},
        208: {**good, "_launch_dir": 7},
        209: {**good, "_priority": "high", "tags": 7, "campaign": [7]},
        211: {**good, "_priority": 9},
        210: {**good, "_trackers": [{"filename": ".", "nlines": 3}]}}


def _stranger(pad, fw_id):
    """A firework added by other tools, with its workflow."""
    now = "2026-01-01T00:00:00+00:00"
    pad.workflows.insert_one({
        "nodes": [fw_id], "links": {str(fw_id): []}, "parent_links": {}, "name": "stranger",
        "metadata": {}, "state": "READY", "fw_states": {str(fw_id): "READY"}, "created_on": now,
        "updated_on": now})
    return {"fw_id": fw_id, "state": "READY", "name": "stranger", "launches": [],
            "archived_launches": [], "created_on": now, "updated_on": now}


def test_a_job_that_ignores_every_signal_is_killed_with_what_it_started(
        project, pad, tmp_path, wait_until):
    submit(hostile_jobs.never_end(str(tmp_path)))
    process = small_jobs.command("orionflow", "launch")
    wait_until((tmp_path / "child").exists, timeout=60)
    child = int((tmp_path / "child").read_text())
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)  # the second is for impatience
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "1 put back" in out
    assert state(pad, 1) == "READY"
    assert gone(child)


def test_a_job_is_cancelled_and_its_neighbour_goes_on(project, pad, tmp_path, wait_until):
    from orionflow.launchers.cancel import CancelRequest, ask

    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        submit(small_jobs.nap(15 if folder.name == "b" else 600, str(folder)))
    process = small_jobs.command("orionflow", "launch")
    wait_until(lambda: all((f / "sleep_pid").exists() for f in folders), timeout=60)
    sleep = int((folders[0] / "sleep_pid").read_text())
    doc = pad.db["orionflow_launchers"].find_one()
    assert (doc["cores"], doc.get("ended")) == (2, None)
    launch = pad.launches.find_one({"fw_id": 1})["launch_id"]
    ask(pad, [launch], CancelRequest.now("anne", "wrong cell"))
    asked = time.monotonic()
    wait_until(lambda: gone(sleep), timeout=30)
    assert time.monotonic() - asked < 15
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "1 completed, 1 cancelled" in out
    assert [state(pad, i) for i in (1, 2)] == ["DEFUSED", "COMPLETED"]
    assert pad.fireworks.find_one({"fw_id": 1})["spec"]["_cancelled"]["who"] == "anne"
    doc = pad.db["orionflow_launchers"].find_one()
    assert (doc["state"], doc["counts"]["COMPLETED"], doc["jobs"]) == ("ended", 1, [])


def test_a_job_that_takes_more_memory_than_it_asked_for_is_ended(project, pad):
    submit(hostile_jobs.eat(4000), resources={"memory": 500})
    pad.fireworks.update_one({}, {"$set": {"spec.retry": {"memory": 0}}})
    code, _, err = small_jobs.run("orionflow", "launch")
    assert code == 0, err
    assert state(pad, 1) == "FIZZLED"
    assert "had asked for 500" in message(pad, 1)


@pytest.mark.needs_code("mpirun")
def test_two_mpi_jobs_never_share_a_core(project, pad, job_store, tmp_path):
    for _ in range(2):
        submit(hostile_jobs.affinity(4, str(tmp_path)))
    profile = project / "machines" / "local.yaml"
    profile.parent.mkdir()
    profile.write_text("scheduler: none\nmpi: mpirun\ncores_per_node: 2\n")
    code, _, err = small_jobs.run("orionflow", "launch")
    assert code == 0, err
    bound = [doc["output"] for doc in job_store.query({"name": "affinity"})]
    assert sorted(bound) == [[c] for c in sorted(os.sched_getaffinity(0))[:2]]
    ranks = [f.read_text().split()[-1] for f in tmp_path.glob("rank_*")]
    assert sorted(ranks) == sorted(str(c) for (c,) in bound)


def test_killed_workers_and_zygote_cost_one_more_run_each(project, pad, tmp_path, wait_until):
    for n in range(2):
        (tmp_path / str(n)).mkdir()
        submit(small_jobs.nap(3, str(tmp_path / str(n))))
    process = small_jobs.command("orionflow", "launch")
    wait_until((tmp_path / "0" / "started").exists, timeout=60)
    worker = int((tmp_path / "0" / "started").read_text().split()[0])
    zygote = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len((tmp_path / "0" / "started").read_text().splitlines()) == 2, timeout=60)
    wait_until((tmp_path / "1" / "started").exists, timeout=60)
    os.kill(zygote, signal.SIGKILL)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert [state(pad, i) for i in (1, 2)] == ["COMPLETED", "COMPLETED"], err
    for n in (1, 2):
        assert pad.launches.count_documents({"fw_id": n, "state": "COMPLETED"}) == 1
    assert pad.launches.count_documents({"state": "RUNNING"}) == 0


def test_a_process_that_hangs_after_its_result_is_killed_and_the_result_counts(
        project, pad, monkeypatch):
    monkeypatch.setattr(stopping, "_KILL_ENDED", 1.0)
    monkeypatch.setattr(crew, "_UNHELD_EVERY", 0.1)
    submit(hostile_jobs.hang_afterwards())
    # A claim of this very process that MongoDB carried out late: it knows nothing of it.
    submit(small_jobs.add(1, 1))
    worker = FWorker(env={"orionflow": pad.identity.to_dict()})
    _, launch_id = pad.checkout_fw(worker, str(project), fw_id=2)
    pad.launches.update_one({"launch_id": launch_id}, {"$set": {
        "time_start": "2026-01-01T00:00:00+00:00"}})
    Launcher(project, LaunchOptions(cores=1)).run()
    assert [state(pad, i) for i in (1, 2)] == ["COMPLETED", "COMPLETED"]
    assert pad.launches.count_documents({}) == 3
    assert pad.launches.find_one({"launch_id": launch_id})["state"] == "FIZZLED"
    # Another launcher in the same process is not taken for the one that has ended.
    monkeypatch.setattr(pulse, "BEAT", 0.1)
    monkeypatch.setattr(pulse, "_LOOK", 0.1)
    submit(small_jobs.nap(1.0, str(project)))
    report = Launcher(project, LaunchOptions(cores=1)).run()
    assert dict(report.states) == {"COMPLETED": 1}, report.ended
