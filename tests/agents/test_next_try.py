"""What another try of a candidate may take, what must be reserved for it, and what it counts."""

import pytest

from orionflow.agents.campaign_document import Campaign, CampaignState
from orionflow.agents.next_try import NextTry
from orionflow.agents.planning import check_share
from orionflow.agents.policy import AgentPolicy
from orionflow.agents.records import Candidate, CandidateState, View
from orionflow.agents.step import Step
from orionflow.analysis.outcomes import FailedJob, FailureKind, Fate
from orionflow.errors import PolicyError

CAMPAIGN = Campaign.from_yaml("""
name: alloy
owner: ada
objectives: [{path: b0}]
space: {variables: [{type: continuous, name: x, low: 0, high: 1}]}
recipe: lammps.static
mapping: {structure: Si diamond 5.43, variables: {strain: x}}
budget: {core_hours: 10, core_hours_each: 0.5, evaluations: 10}
approval_above: 0.6
""")


def candidate(reserved, **changes):
    return Candidate(2, {}, "", CandidateState.SUBMITTED, reserved, "grid",
                     first_reserved=reserved, **changes)


def failed(fw_id, kind=FailureKind.INFRASTRUCTURE, *, continued=False):
    return FailedJob(fw_id, "job", 10 + fw_id, None, kind, "", "it failed", continued=continued)


def test_a_failed_job_gets_a_whole_try_beside_what_it_has_taken():
    fate = Fate({1: "FIZZLED"}, {1: 30.2}, {1: 100}, [failed(1)])
    another = NextTry.of(candidate(100, each=100), fate, "lost")
    assert (another.launches, another.set_aside, another.reserved) == ([11], {1: 131}, 131)
    assert not another.continued


def test_what_was_stopped_before_it_got_anywhere_gets_as_much_again_and_what_did_a_try():
    used_up = {"states": {1: "FIZZLED"}, "spent": {1: 400.0}, "set_aside": {1: 400}}
    first = candidate(400, each=100)
    stuck = NextTry.of(first, Fate(**used_up, failed=[failed(1, FailureKind.UNFINISHED)]), "")
    assert (stuck.set_aside, stuck.continued) == ({1: 800}, False)
    further = NextTry.of(first, Fate(**used_up, failed=[
        failed(1, FailureKind.UNFINISHED, continued=True)]), "")
    assert (further.set_aside, further.continued) == ({1: 500}, True)


def test_what_finished_jobs_left_is_used_before_more_is_reserved():
    # Five jobs at most, 100 each: one is over, one failed, one waits, two are not made yet.
    fate = Fate({1: "COMPLETED", 2: "FIZZLED", 3: "WAITING"}, {1: 10.0, 2: 100.0, 3: 0.0},
                {1: 100, 2: 100, 3: 100}, [failed(2)])
    another = NextTry.of(candidate(500, each=100, jobs=5), fate, "")
    assert another.set_aside == {2: 200}
    assert another.reserved == 10 + 200 + 100 + 2 * 100
    # More that was reserved, and whose job was not told before a crash, stays reserved.
    told = candidate(510, each=100, jobs=5, set_aside={3: 150})
    assert NextTry.of(told, fate, "").reserved == 10 + 200 + 150 + 2 * 100


def test_a_candidate_of_an_older_version_gets_another_try_as_before():
    another = NextTry.of(candidate(100), Fate({1: "FIZZLED"}, {1: 30.0}, {}, [failed(1)]), "")
    assert (another.set_aside, another.reserved) == ({}, 130)


@pytest.mark.parametrize(("approved", "reserved", "beyond"), [
    (False, 2160, False), (False, 2161, True), (True, 9999, False)])
def test_more_than_anybody_agreed_to_is_not_reserved(approved, reserved, beyond):
    view = View(CAMPAIGN, CampaignState.RUNNING, "", 0, {})
    assert view.beyond_consent(candidate(1800, approved=approved), reserved) is beyond


@pytest.mark.parametrize("state", ["COMPLETED", "FIZZLED", "DEFUSED"])
def test_what_a_run_by_hand_took_is_written_down_even_if_it_gave_no_value(state):
    class Rows:
        def correct(self, *named, **said):
            said_all.append((named, said))
            return True

    said_all = []
    step = Step(Rows(), None, None, "alloy", "ada")
    late = candidate(100, spent=10, reason="hopeless: x")
    late.state = CandidateState.ABANDONED
    view = View(CAMPAIGN, CampaignState.RUNNING, "", 0, {2: late})
    assert step._correct_late(view, late, Fate({1: state}, {1: 70.0}, {}, []))
    (((_, number, settled), said),) = said_all
    assert (number, settled, said["core_seconds"]) == (2, CandidateState.ABANDONED, 70)
    assert "values" not in said
    assert not step._correct_late(view, late, Fate({1: state}, {1: 10.0}, {}, []))


def test_agents_share_of_a_campaign_counts_what_ended_by_what_it_took():
    taken = candidate(7200)
    taken.source, taken.state, taken.spent = "agent:bot", CandidateState.ABANDONED, 0
    view = View(CAMPAIGN, CampaignState.RUNNING, "", 0, {2: taken})
    policy = AgentPolicy(campaign_share=0.25)  # 9000 core-seconds
    check_share(view, "bot", 3600, policy, 0)
    with pytest.raises(PolicyError, match=r"may take 2\.5 core-hours"):
        check_share(view, "bot", 9001, policy, 0)
    taken.state = CandidateState.SUBMITTED
    with pytest.raises(PolicyError, match="and have 2"):
        check_share(view, "bot", 3600, policy, 0)
