"""Results and fireworks that can't be stored, or are gone: they must stop nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest
from fireworks import Firework, FWAction, ScriptTask
from fireworks.core.fworker import FWorker

from orionflow.launchers.jobs import ClaimedJob, Result
from orionflow.launchers.launchpad import open_launchpad
from orionflow.launchers.packing import Need
from orionflow.launchers.settling import Desk

pytestmark = pytest.mark.needs_mongod


@pytest.fixture
def pad(project):
    pad = open_launchpad(project)
    yield pad
    pad.close()


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
