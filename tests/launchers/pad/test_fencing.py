"""Who lost its firework may not finish it."""

import pytest
from fireworks import FWAction, Workflow
from fireworks.core.launchpad import LockedWorkflowError
from pad_tools import WORKER, noop, problems, run_all, states

from orionflow.errors import OrionflowError
from orionflow.launchers.pad import LaunchRefusedError, Outcome, repair

pytestmark = pytest.mark.needs_mongod


def claim_first_of_two(pad):
    first, second = noop("first"), noop("second")
    pad.add_wf(Workflow([first, second], {first: [second]}))
    fw, launch_id = pad.checkout_fw(WORKER, "/nowhere")
    return fw.fw_id, launch_id


def lost(pad, fw_id, launch_id):
    pad.mark_fizzled(launch_id)


def rerun(pad, fw_id, launch_id):
    pad.rerun_fw(fw_id)


def rerun_and_claimed(pad, fw_id, launch_id):
    pad.rerun_fw(fw_id)
    pad.checkout_fw(WORKER, "/elsewhere")


def defused(pad, fw_id, launch_id):
    pad.defuse_fw(fw_id)


def workflow_defused(pad, fw_id, launch_id):
    pad.defuse_wf(fw_id)


def archived(pad, fw_id, launch_id):
    pad.archive_wf(fw_id)


def put_back(pad, fw_id, launch_id):
    assert pad.put_back(fw_id, launch_id, "walltime", spec={"_launch_dir": "/same"})


def deleted(pad, fw_id, launch_id):
    pad.delete_wf(fw_id)


TAKINGS = [lost, rerun, rerun_and_claimed, defused, workflow_defused, archived, put_back, deleted]


@pytest.mark.parametrize("by_stock", [False, True], ids=["ours", "stock"])
@pytest.mark.parametrize("take_away", TAKINGS)
def test_end_of_a_launch_without_firework_is_refused(pad, stock, take_away, by_stock):
    fw_id, launch_id = claim_first_of_two(pad)
    take_away(pad if take_away is put_back or not by_stock else stock, fw_id, launch_id)
    before = states(pad)
    with pytest.raises((LaunchRefusedError, ValueError)) as refusal:
        pad.complete_launch(launch_id, FWAction(update_spec={"late": True}), "COMPLETED")
    if take_away is not deleted:
        assert isinstance(refusal.value, OrionflowError)
        assert isinstance(refusal.value, LockedWorkflowError)  # a stock Rocket ends quietly
        assert (refusal.value.launch_id, refusal.value.fw_id) == (launch_id, fw_id)
    assert states(pad) == before
    assert not pad.fireworks.find_one({"spec.late": True})
    assert "locked" not in (pad.workflows.find_one() or {})


def test_refused_in_a_group_leaves_the_others_alone(pad):
    pad.bulk_add_wfs([noop("a"), noop("b"), noop("c")])
    claims = pad.claim(WORKER, "/nowhere", limit=3)
    pad.rerun_fw(claims[1].fw_id)
    done = pad.complete_launches([Outcome(c.launch_id, "COMPLETED", FWAction()) for c in claims])
    assert sorted(done.done) == [claims[0].launch_id, claims[2].launch_id]
    assert list(done.errors) == [claims[1].launch_id]
    assert states(pad)[claims[1].fw_id] == "READY"


def test_heartbeat_names_launches_that_must_stop(pad):
    pad.bulk_add_wfs([noop(), noop(), noop()])
    claims = pad.claim(WORKER, "/nowhere", limit=3)
    pad.rerun_fw(claims[0].fw_id)
    pad.defuse_fw(claims[2].fw_id)
    assert pad.ping_launches([c.launch_id for c in claims]) == {claims[0].launch_id,
                                                                 claims[2].launch_id}


def test_claim_under_way_is_left_alone_by_whoever_repairs_its_workflow(pad):
    """Its launch comes a moment later; READY again, it would run twice."""
    pad.add_wf(Workflow([noop(), noop()]))
    fw_id = min(pad.get_fw_ids())
    pad.fireworks.update_one({"fw_id": fw_id}, {"$set": {"state": "RUNNING", "launches": [99]}})
    with pad.locked(fw_id) as doc:
        repair.repair_workflow(pad, doc)
    assert states(pad)[fw_id] == "RUNNING"
    pad._refresh_wf(fw_id)
    assert states(pad)[fw_id] == "RUNNING"
    assert not pad.sweep()
    pad.sweep(grace=0.0)
    assert states(pad)[fw_id] == "READY"
    run_all(pad)
    assert problems(pad) == []


def test_same_end_told_twice_counts_once(pad):
    _, launch_id = claim_first_of_two(pad)
    action = FWAction(mod_spec=[{"_inc": {"count": 1}}])
    for _ in range(3):
        pad.complete_launch(launch_id, action, "COMPLETED")
        assert not pad.complete_launches([Outcome(launch_id, "COMPLETED", action)]).errors
    assert pad.fireworks.find_one({"name": "second"})["spec"]["count"] == 1
    run_all(pad)
    assert problems(pad) == []


def test_result_of_a_refused_launch_is_kept(pad):
    fw_id, launch_id = claim_first_of_two(pad)
    pad.rerun_fw(fw_id)
    with pytest.raises(LaunchRefusedError):
        pad.complete_launch(launch_id, FWAction(stored_data={"energy": -1.5}), "COMPLETED")
    assert pad.get_launch_by_id(launch_id).action.stored_data == {"energy": -1.5}


def test_action_that_cannot_be_applied_changes_nothing_and_can_be_fizzled(pad):
    fw_id, launch_id = claim_first_of_two(pad)
    wrong = noop("wrong")
    wrong.fw_id = 5  # FireWorks wants negative ids for new ones
    with pytest.raises(RuntimeError, match="negative fw_id"):
        pad.complete_launch(launch_id, FWAction(additions=[wrong]), "COMPLETED")
    assert states(pad)[fw_id] == "RUNNING"
    assert "locked" not in pad.workflows.find_one()
    pad.complete_launch(launch_id, FWAction(stored_data={"_message": "bad action"}), "FIZZLED")
    assert states(pad)[fw_id] == "FIZZLED"
    assert problems(pad) == []


def test_new_fireworks_of_two_processes_may_have_the_same_negative_ids(pad):
    """Each process counts its own; a repair may have to apply both at once."""
    first, second = noop("one"), noop("two")
    pad.add_wf(Workflow([first, second]))
    claims = pad.claim(WORKER, "/nowhere", limit=2)
    for claim in claims:
        added = noop(f"child of {claim.name}")
        added.fw_id = -1
        pad.launches.update_one(
            {"launch_id": claim.launch_id},
            {"$set": {"state": "COMPLETED", "action": FWAction(additions=[added]).to_dict()}})
    with pad.locked(claims[0].fw_id) as doc:
        repair.repair_workflow(pad, doc)
    assert len(run_all(pad)) == 2
    links = pad.workflows.find_one()["links"]
    names = {fw["fw_id"]: fw["name"] for fw in pad.fireworks.find()}
    assert {names[int(i)]: [names[k] for k in kids] for i, kids in links.items() if kids} == {
        "one": ["child of one"], "two": ["child of two"]}
