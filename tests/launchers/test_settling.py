"""Results and fireworks that can't be stored, or are gone: they must stop nobody else's."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fireworks import Firework, FWAction, ScriptTask, Workflow
from fireworks.core.fworker import FWorker
from pymongo.errors import AutoReconnect, OperationFailure

from orionflow.launchers import again, cancel, settling
from orionflow.launchers.jobs import ClaimedJob, Result
from orionflow.launchers.launchpad import open_launchpad
from orionflow.launchers.packing import Need
from orionflow.launchers.pad import locks
from orionflow.launchers.rocket import write_spool
from orionflow.launchers.services.processes import wait_for
from orionflow.launchers.settling import Desk
from orionflow.launchers.spending import grant
from orionflow.launchers.unheld import put_back_unheld

pytestmark = pytest.mark.needs_mongod


def add(pad, **spec):
    (fw_id,) = pad.add_wf(Firework([ScriptTask.from_str("true")], spec=spec)).values()
    return fw_id


def claim(pad, limit):
    here = str(Path.cwd())
    return [ClaimedJob(c.fw_id, c.launch_id, "", here, {"spec": c.spec}, c.launch, Need(c.fw_id))
            for c in pad.claim(FWorker(), here, limit=limit)]


def state(pad, fw_id):
    return pad.fireworks.find_one({"fw_id": fw_id})["state"]


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("stored", [nested(195), {"name": "\udc80"}], ids=["deep", "not UTF-8"])
def test_result_mongodb_never_takes_fizzles_its_job_alone(pad, stored):
    bad, good = add(pad, _priority=2), add(pad, _priority=1)
    first, second = claim(pad, 2)
    desk = Desk(pad)
    desk.add(Result(first, "COMPLETED", "", FWAction(stored_data=stored).to_dict()))
    desk.add(Result(second, "COMPLETED", "", FWAction().to_dict()))
    desk.settle()
    desk.settle()
    assert (state(pad, bad), state(pad, good)) == ("FIZZLED", "COMPLETED")
    assert not desk.pending
    assert not desk.away_since
    launch = pad.launches.find_one({"fw_id": bad})
    assert "can't be stored" in launch["action"]["stored_data"]["_message"]


def test_job_put_back_after_its_workflow_was_deleted_is_refused(pad):
    fw_id = add(pad)
    (job,) = claim(pad, 1)
    pad.delete_wf(fw_id)
    desk = Desk(pad)
    desk.add(Result(job, "READY", "stopped"))
    assert [v.state for v in desk.settle()] == ["refused"]
    assert not desk.pending


def test_malformed_trackers_fizzle_their_job_and_others_are_claimed(pad):
    bad, good = add(pad, _priority=1, _trackers=["x"]), add(pad)
    assert [job.fw_id for job in claim(pad, 2)] == [good]
    assert state(pad, bad) == "FIZZLED"


def lock(pad, fw_id):
    """As a process does that is then killed."""
    owner = {"token": "x", "by": {"host": "elsewhere", "pid": 1}, "at": datetime.now(UTC)}
    pad.workflows.update_one({"nodes": fw_id}, {"$set": {"locked": owner}})


def test_end_in_a_locked_workflow_is_set_aside_until_the_lock_is_dead(pad, monkeypatch):
    """Its launcher hears signals meanwhile, and others' ends are written."""
    monkeypatch.setattr(settling, "_LOCK_PAUSE", 0.0)
    one, two, other = (add(pad, _priority=p) for p in (3, 2, 1))
    first, second, third = claim(pad, 3)
    lock(pad, one)
    lock(pad, two)
    desk = Desk(pad)
    desk.add(Result(first, "COMPLETED", "", FWAction().to_dict()))
    desk.add(Result(second, "READY", "stopped", spec={"_launch_dir": "/same"}))
    desk.add(Result(third, "COMPLETED", "", FWAction().to_dict()))
    began = time.monotonic()
    assert [v.job for v in desk.settle()] == [third]
    assert desk.settle() == []
    assert time.monotonic() - began < 0.5 * locks.patience()[0]
    assert (state(pad, two), state(pad, other)) == ("RUNNING", "COMPLETED")
    assert pad.workflows.find_one({"nodes": one})["state"] == "RUNNING"
    # What is not counted yet is stored: should we die, a sweep does the rest.
    assert [pad.launches.find_one({"fw_id": i})["state"] for i in (one, two)] == [
        "COMPLETED", "FIZZLED"]
    assert desk.locked
    monkeypatch.setattr(locks, "LEASE", -60.0)
    assert {v.state for v in desk.settle()} | {v.state for v in desk.settle()} == {
        "COMPLETED", "READY"}
    assert (state(pad, one), state(pad, two)) == ("COMPLETED", "READY")
    assert not desk.busy
    assert pad.workflows.count_documents({"locked": {"$exists": True}}) == 0


@pytest.mark.parametrize("moment", ["before", "while it is locked"])
def test_job_asked_to_stop_just_before_it_is_put_back_does_not_run_again(pad, moment,
                                                                         monkeypatch):
    monkeypatch.setattr(settling, "_LOCK_PAUSE", 0.0)
    fw_id = add(pad)
    (job,) = claim(pad, 1)
    desk = Desk(pad)
    desk.add(Result(job, "READY", "time is over"))
    if moment != "before":
        lock(pad, fw_id)
        assert desk.settle() == []
    cancel.ask(pad, [job.launch_id], cancel.CancelRequest.now("ann", "wrong cell"))
    monkeypatch.setattr(locks, "LEASE", -60.0)
    (verdict,) = desk.settle()
    assert (verdict.state, state(pad, fw_id)) == ("DEFUSED", "DEFUSED")
    assert "ann" in verdict.reason


def test_job_put_back_while_its_campaign_withdraws_it_does_not_run_again(pad, monkeypatch):
    fw_id = add(pad)
    (job,) = claim(pad, 1)
    defuse = again._defuse_idle

    def defuse_then_put_back(*arguments):
        done = defuse(*arguments)
        pad.put_back(fw_id, job.launch_id, "time is over")
        return done

    monkeypatch.setattr(again, "_defuse_idle", defuse_then_put_back)
    assert again.withdraw(pad, [fw_id], stop_running=True, who="ann") == [fw_id]
    assert state(pad, fw_id) == "DEFUSED"


def test_result_that_makes_its_child_too_large_fails_alone(pad):
    """It would be taken for an outage of MongoDB, for ever."""
    first = Firework([ScriptTask.from_str("true")])
    child = Firework([ScriptTask.from_str("true")], spec={"large": "x" * 9_000_000})
    pad.add_wf(Workflow([first, child], {first: [child]}))
    good = add(pad)
    big, other = claim(pad, 2)
    desk = Desk(pad)
    desk.add(Result(big, "COMPLETED", "", FWAction(update_spec={"y": "y" * 9_000_000}).to_dict()))
    desk.add(Result(other, "COMPLETED", "", FWAction().to_dict()))
    desk.settle()
    desk.settle()
    assert (state(pad, big.fw_id), state(pad, good)) == ("FIZZLED", "COMPLETED")
    assert not desk.busy
    assert not desk.away_since


def test_claim_the_launcher_knows_nothing_of_is_put_back_once_it_is_old(pad):
    old, young, held, stopped, rerun = (add(pad, _priority=5 - n) for n in range(5))
    worker = FWorker(env={"orionflow": pad.identity.to_dict()})
    launches = {c.fw_id: c.launch_id for c in pad.claim(worker, "/nowhere", limit=5)}
    pad.launches.update_many({"fw_id": {"$ne": young}},
                             {"$set": {"time_start": "2026-01-01T00:00:00+00:00"}})
    cancel.ask(pad, [launches[stopped]], cancel.CancelRequest.now("ann", "wrong cell"))
    pad.rerun_fw(rerun)
    assert set(put_back_unheld(pad, [launches[held]])) == {old, stopped}
    assert [state(pad, i) for i in (old, young, held, stopped, rerun)] == [
        "READY", "RUNNING", "RUNNING", "DEFUSED", "READY"]
    running = {d["fw_id"] for d in pad.launches.find({"state": "RUNNING"})}
    assert running == {young, held}


def test_mongod_that_hangs_is_an_outage_and_does_not_hold_up_the_launcher(project, pad, mongod):
    """It is stopped: connections stand, nothing is answered."""
    fw_id = add(pad)
    with closing(open_launchpad(project, answer=1.0)) as impatient:
        (job,) = claim(impatient, 1)
        desk = Desk(impatient)
        desk.add(Result(job, "COMPLETED", "", FWAction().to_dict()))
        pid = mongod.status().pid
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert desk.settle() == []
            assert time.monotonic() - began < 15
            assert desk.away_since is not None
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: desk.settle(last=True) or state(pad, fw_id) == "COMPLETED", timeout=20)
    assert (state(pad, fw_id), desk.busy) == ("COMPLETED", False)


def test_what_was_written_before_an_outage_is_told(pad, monkeypatch):
    for _ in range(2):
        add(pad)
    desk, jobs, put_back = Desk(pad), claim(pad, 2), cancel.put_back
    for job in jobs:
        desk.add(Result(job, "READY", "again"))

    def away(*_args, **_options):
        raise AutoReconnect("gone")

    def once(*args, **options):
        monkeypatch.setattr(cancel, "put_back", away)
        return put_back(*args, **options)

    monkeypatch.setattr(cancel, "put_back", once)
    assert [v.job for v in desk.settle()] == jobs[:1]
    assert [r.job for r in desk.pending] == jobs[1:]


def test_unanswered_claim_in_a_workflow_that_was_deleted_stops_nobody(pad, monkeypatch):
    add(pad)
    (job,) = claim(pad, 1)
    pad.workflows.delete_many({})
    pad._claimer._doubtful[job.launch_id] = None
    monkeypatch.setattr(locks, "_ADOPTION", -1.0)
    assert pad.give_back_unacknowledged() == []


def test_job_whose_share_mongodb_refuses_to_note_is_put_back(pad, monkeypatch):
    add(pad, core_seconds=1000)
    (job,) = claim(pad, 1)

    def full(*_args):
        raise OperationFailure("no space left", 14031)

    monkeypatch.setattr(pad.launches, "update_one", full)
    told = grant(pad, job)
    assert (told.job, told.state) == (job, "READY")


def test_result_of_an_earlier_launcher_in_this_process_is_stored(pad, tmp_path):
    """It ended while MongoDB was away (a notebook); the next one has the same name."""
    fw_id = add(pad)
    worker = FWorker(env={"orionflow": pad.identity.to_dict()})
    (one,) = pad.claim(worker, str(tmp_path))
    write_spool(tmp_path, FWAction({"x": 1}).to_dict(), launch_id=one.launch_id, fw_id=fw_id,
                state="COMPLETED", database=pad.name)
    pad.launches.update_one({}, {"$set": {"time_start": "2026-01-01T00:00:00+00:00"}})
    assert put_back_unheld(pad, []) == []
    assert state(pad, fw_id) == "COMPLETED"
    assert pad.launches.find_one()["action"]["stored_data"] == {"x": 1}
