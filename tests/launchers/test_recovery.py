"""What killed processes of other tools leave behind, and what recovery makes of it."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from fireworks import Firework, FWAction, LaunchPad
from fireworks.core.fworker import FWorker
from jobflow import Flow
from jobflow.managers.fireworks import flow_to_workflow
from small_jobs import add

from orionflow.errors import LaunchError
from orionflow.launchers import recovery
from orionflow.launchers.cancel import CancelRequest, ask
from orionflow.launchers.identity import LauncherIdentity
from orionflow.launchers.patrol import Patrol, due
from orionflow.launchers.recovery import recover
from orionflow.launchers.rocket import write_spool
from orionflow.launchers.services.processes import ProcessIdentity

pytestmark = pytest.mark.needs_mongod


@pytest.fixture
def stock(project, pad):
    stock = LaunchPad.from_file(str(project / "my_launchpad.yaml"))
    # Not FireWorks' own tasks: to find those it imports its whole test suite.
    first = add(1, 2)
    pad.add_once(flow_to_workflow(Flow([first, add(first.output, 3)])))
    yield stock
    stock.connection.close()


def dead_launcher():
    """A process of this host that has ended."""
    process = subprocess.Popen(["sleep", "60"])
    me = LauncherIdentity.of_this_process()
    there = ProcessIdentity.of(process.pid)
    process.kill()
    process.wait()
    return LauncherIdentity(host=me.host, boot=me.boot, pid=there.pid, started=there.started,
                            pid_namespace=me.pid_namespace)


def long_ago(seconds):
    return datetime.now(UTC) - timedelta(seconds=seconds)


def test_identity_tells_living_from_dead_and_from_strangers():
    me = LauncherIdentity.of_this_process()
    assert me.alive_here() is True
    assert dead_launcher().alive_here() is False
    again = LauncherIdentity.from_dict(me.to_dict())
    assert again == me
    later = LauncherIdentity(**{**me.to_dict(), "started": me.started + 1})
    assert later.alive_here() is False  # the number was given to another process
    for field in ("host", "boot", "pid_namespace"):
        other = LauncherIdentity(**{**me.to_dict(), field: "other"})
        assert other.alive_here() is None
    assert LauncherIdentity.from_dict({"pid": 1}) is None
    assert LauncherIdentity.from_dict(None) is None


def test_nothing_is_done_when_all_is_well(project, pad, stock):
    assert recover(project, pad) == []


def test_a_lock_of_a_dead_process_is_taken_away_and_a_living_ones_not(project, pad, stock):
    def lock(owner):
        pad.workflows.update_one({}, {"$set": {
            "locked": {"token": "x", "by": owner.to_dict(), "at": datetime.now(UTC)}}})

    lock(pad.identity)
    assert recover(project, pad) == []
    lock(dead_launcher())
    (step,) = recover(project, pad)
    assert step.what == "unlocked"
    assert "locked" not in pad.workflows.find_one()


def test_a_nameless_lock_is_taken_away_only_after_two_minutes_without_change(project, pad, stock):
    pad.workflows.update_one({}, {"$set": {"locked": True}})
    assert recover(project, pad) == []
    assert recover(project, pad) == []
    pad.workflows.update_one({}, {"$set": {"lock_seen": long_ago(100)}})
    assert recover(project, pad) == []
    pad.workflows.update_one({}, {"$set": {"lock_seen": long_ago(130)}})
    (step,) = recover(project, pad)
    assert step.what == "unlocked"
    assert not {"locked", "lock_seen"} & set(pad.workflows.find_one())


def test_the_mark_of_a_lock_that_was_released_is_forgotten(project, pad, stock):
    pad.workflows.update_one({}, {"$set": {"locked": True}})
    recover(project, pad)
    pad.workflows.update_one({}, {"$unset": {"locked": ""}})
    recover(project, pad)
    assert "lock_seen" not in pad.workflows.find_one()


def test_a_claim_that_never_got_to_a_launch_is_freed(project, pad, stock):
    pad.fireworks.update_one({"fw_id": 1}, {"$set": {
        "state": "RUNNING", "launches": [99], "updated_on": long_ago(1).isoformat()}})
    assert recover(project, pad) == []
    pad.fireworks.update_one({"fw_id": 1}, {"$set": {"updated_on": long_ago(60).isoformat()}})
    (step,) = recover(project, pad)
    assert (step.what, step.fw_ids) == ("unreserved", [1])
    fw = pad.fireworks.find_one({"fw_id": 1})
    assert (fw["state"], fw["launches"]) == ("READY", [])


def test_a_stock_reservation_without_launch_is_freed_after_a_while(project, pad, stock):
    """What FireWorks leaves when it is killed between claim and launch; it never finds it."""
    pad.fireworks.update_one({"fw_id": 1}, {"$set": {"state": "RESERVED",
                                                     "updated_on": long_ago(30)}})
    assert stock.detect_unreserved(0) == []
    assert recover(project, pad) == []
    pad.fireworks.update_one({"fw_id": 1}, {"$set": {"updated_on": long_ago(1200)}})
    (step,) = recover(project, pad)
    assert step.what == "unreserved"
    assert pad.fireworks.find_one({"fw_id": 1})["state"] == "READY"


def test_a_launch_completed_behind_its_fireworks_back_is_carried_through(project, pad, stock):
    """Killed between the launch and the workflow: the children would wait for ever."""
    fw, launch_id = stock.checkout_fw(FWorker(), str(project))
    before = long_ago(600).isoformat()
    pad.launches.update_one({"launch_id": launch_id}, {
        "$set": {"state": "COMPLETED", "action": {
            "stored_data": {}, "exit": False, "update_spec": {}, "mod_spec": [],
            "additions": [], "detours": [], "defuse_children": False}},
        "$push": {"state_history": {"state": "COMPLETED", "created_on": before}}})
    assert fw.fw_id == 1
    assert pad.fireworks.find_one({"fw_id": 1})["state"] == "RUNNING"
    pad.fireworks.update_one({"fw_id": 1}, {"$set": {"updated_on": before}})
    (step,) = recover(project, pad)
    assert (step.what, step.fw_ids) == ("refreshed", [1])
    assert [f["state"] for f in pad.fireworks.find(sort=[("fw_id", 1)])] == ["COMPLETED", "READY"]


def test_a_stock_rlaunch_is_given_up_only_after_hours_of_silence(project, pad, stock):
    _, launch_id = stock.checkout_fw(FWorker(), str(project))
    for hours, lost in ((1, False), (5, True)):
        pad.launches.update_one({"launch_id": launch_id}, {"$set": {
            "state_history.0.updated_on": long_ago(3600 * hours).isoformat()}})
        steps = recover(project, pad)
        assert [s.what for s in steps] == (["put back"] if lost else [])
    assert pad.fireworks.find_one({"fw_id": 1})["state"] == "READY"


def test_fireworks_of_a_killed_submission_are_removed_after_an_hour(project, pad, stock):
    pad.fireworks.insert_one({"fw_id": 99, "state": "WAITING", "launches": [], "spec": {},
                              "archived_launches": [], "created_on": long_ago(60).isoformat()})
    assert recover(project, pad) == []
    pad.fireworks.update_one({"fw_id": 99},
                             {"$set": {"created_on": long_ago(4000).isoformat()}})
    (step,) = recover(project, pad)
    assert (step.what, step.fw_ids) == ("removed", [99])
    assert pad.fireworks.count_documents({}) == 2


def test_two_recoveries_put_a_job_back_once(project, pad, stock):
    owner = dead_launcher()
    worker = FWorker(env={"orionflow": owner.to_dict()})
    _, launch_id = stock.checkout_fw(worker, str(project))
    assert pad.put_back(1, launch_id, "first")
    assert not pad.put_back(1, launch_id, "second")
    assert pad.fireworks.find_one({"fw_id": 1})["archived_launches"] == [launch_id]


def test_a_job_that_was_to_be_cancelled_does_not_run_again(project, pad, stock):
    """Its launcher died before it read the request."""
    worker = FWorker(env={"orionflow": dead_launcher().to_dict()})
    _, launch_id = stock.checkout_fw(worker, str(project))
    ask(pad, [launch_id], CancelRequest.now("ann", "wrong cell"))
    (step,) = recover(project, pad)
    assert (step.what, step.fw_ids) == ("cancelled", [1])
    assert "ann" in step.why
    assert pad.fireworks.find_one({"fw_id": 1})["state"] == "DEFUSED"


def test_a_result_that_can_not_be_stored_stops_no_recovery(project, pad, stock):
    worker = FWorker(env={"orionflow": dead_launcher().to_dict()})
    _, launch_id = stock.checkout_fw(worker, str(project))
    # As earlier versions wrote it: JSON, and so whatever Python has.
    (project / "orionflow_settle.json").write_text(json.dumps({
        "launch_id": launch_id, "fw_id": 1, "state": "COMPLETED", "database": pad.name,
        "action": {**FWAction().to_dict(), "stored_data": {"n": 2**70}}}))
    recover(project, pad)
    assert pad.fireworks.find_one({"fw_id": 1})["state"] == "FIZZLED"
    assert not recover(project, pad)


def claimed(pad, project, owner, **spec):
    """Claim a job in the name of a launcher; return firework, launch and folder."""
    fw = Firework([], spec=spec)
    pad.add_wf(fw)
    folder = project / f"launch {fw.fw_id}"
    folder.mkdir()
    (claim,) = pad.claim(FWorker(env={"orionflow": owner.to_dict()}), str(folder), limit=1,
                         query={"fw_id": fw.fw_id})
    return fw.fw_id, claim.launch_id, folder


def test_recovery_decides_as_the_launcher_would_have(project, pad):
    def claim(**spec):
        return claimed(pad, project, dead_launcher(), **spec)

    def failed(job, kind, reason, **more):
        action = {**FWAction().to_dict(), "stored_data": {"_exception": {"_stacktrace": reason}}}
        write_spool(job[2], action, launch_id=job[1], fw_id=job[0], state="FIZZLED",
                    database=pad.name, failure={"kind": kind, "reason": reason, **more})

    never = claim(retry={"node": 0})
    counted = claim(_retries={"counts": {"node": 1}, "history": []}, _reruns=1)
    odd = claim(_retries={"counts": [3], "history": 7}, _launch_dir=["x"], retry=[1])
    mine, outside = claim(), claim()
    failed(mine, "user", "ValueError: this input can't be right")
    failed(outside, "infrastructure", "killed by SIGKILL", failure_id="QE_KILLED")
    steps = {step.fw_ids[0]: step for step in recover(project, pad)}
    told = {fw["fw_id"]: fw for fw in pad.fireworks.find()}
    assert {i: s.what for i, s in steps.items()} == {
        never[0]: "gave up", counted[0]: "put back", odd[0]: "put back", mine[0]: "settled",
        outside[0]: "put back"}
    assert "node may be retried 0 time(s)" in steps[never[0]].why
    ended = pad.launches.find_one({"launch_id": never[1]})["action"]["stored_data"]["_exception"]
    assert ended["_details"]["transient"]  # its input is not to blame
    spec = told[counted[0]]["spec"]
    assert (spec["_retries"]["counts"], spec["_reruns"]) == ({"node": 2}, 2)
    assert spec["_launch_dir"] == str(counted[2])
    assert told[odd[0]]["spec"]["_retries"]["counts"] == {"node": 1}
    assert told[mine[0]]["state"] == "FIZZLED"
    (entry,) = told[outside[0]]["spec"]["_retries"]["history"]
    assert (entry["class"], entry["failure_id"]) == ("infrastructure", "QE_KILLED")
    assert recover(project, pad) == []


def test_process_that_can_not_be_ended_keeps_its_own_job_alone(project, pad, monkeypatch):
    """One that hangs in the kernel may wake and write into its folder: it must not run twice."""
    owner = dead_launcher()
    stuck, free, other = (claimed(pad, project, who) for who in (
        owner, owner, dead_launcher()))
    hangs = subprocess.Popen(["sleep", "600"], env={
        "ORIONFLOW_LAUNCHER": owner.token, "ORIONFLOW_LAUNCH": str(stuck[1])})
    ends = recovery.end_processes

    def fails(processes, *, patience):
        raise LaunchError(f"processes {[p.pid for p in processes]} do not end")

    monkeypatch.setattr(recovery, "end_processes", fails)
    try:
        steps = {step.fw_ids[0]: step for step in recover(project, pad)}
        assert {i: s.what for i, s in steps.items()} == {
            stuck[0]: "left", free[0]: "put back", other[0]: "put back"}
        assert "must not run twice" in steps[stuck[0]].why
        assert pad.fireworks.find_one({"fw_id": stuck[0]})["state"] == "RUNNING"
        monkeypatch.setattr(recovery, "end_processes", ends)
        assert [s.what for s in recover(project, pad)] == ["killed", "put back"]
    finally:
        hangs.kill()
        hangs.wait()


def test_what_other_tools_wrote_wrongly_stops_no_recovery(project, pad, caplog):
    lost = claimed(pad, project, dead_launcher())
    for launches, history in (([], []), ("none", []), ([{}], [{}]), ([901], []), ([902], "x"),
                              ([903], [{"updated_on": "long ago"}])):
        number = pad.get_new_fw_id()
        pad.fireworks.insert_one({"fw_id": number, "state": "RUNNING", "launches": launches,
                                  "updated_on": datetime.now(UTC).isoformat(), "spec": 7})
        if launches and isinstance(launches[0], int):
            pad.launches.insert_one({"launch_id": launches[0], "fw_id": number, "fworker": "x",
                                     "state": "RUNNING", "state_history": history})
    (step,) = recover(project, pad)
    assert (step.what, step.fw_ids) == ("put back", [lost[0]])
    said = [r.getMessage() for r in caplog.records if "left as it is" in r.getMessage()]
    assert len(said) >= 4


def test_a_running_launcher_looks_after_the_others(project, pad, stock, wait_until):
    """Nobody calls `recover`: jobs at once, what else lies half done once a minute for all."""
    lost = claimed(pad, project, dead_launcher())
    pad.workflows.update_one({"nodes": 1}, {"$set": {"locked": {
        "token": "x", "by": dead_launcher().to_dict(), "at": datetime.now(UTC)}}})
    with Patrol(project, every=0.2), Patrol(project, every=0.2):
        wait_until(lambda: pad.fireworks.find_one({"fw_id": lost[0]})["state"] == "READY")
        wait_until(lambda: "locked" not in pad.workflows.find_one({"nodes": 1}))
        again = claimed(pad, project, dead_launcher())
        wait_until(lambda: pad.fireworks.find_one({"fw_id": again[0]})["state"] == "READY")
    assert not due(pad)
    assert due(pad, every=0.0)
