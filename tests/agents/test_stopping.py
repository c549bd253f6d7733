"""Stopping rules and status: pure functions of a ledger's view."""

from datetime import UTC, datetime, timedelta

import pytest

from orionflow.agents.campaign_document import Campaign, CampaignState
from orionflow.agents.records import Candidate, CandidateState, View
from orionflow.agents.status import status_of
from orionflow.agents.stopping import decide, end_of, exhausted, front

DOCUMENT = """
name: two
owner: ada
objectives: [{path: density}, {path: volume, goal: maximize}]
combine: pareto
space: {variables: [{type: continuous, name: x, low: 0, high: 1}]}
recipe: lammps.static
mapping: {structure: Si diamond 5.43, variables: {strain: x}}
budget: {core_hours: 1, core_hours_each: 0.1, evaluations: 20, until: 2030-06-01}
stopping: {no_improvement_in: 2, failure_rate: 0.5, failure_rate_after: 4}
"""
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def view(*results, open_=0):
    """Return a running campaign with these results, None for a failure, and open candidates."""
    found = View(Campaign.from_yaml(DOCUMENT), CampaignState.RUNNING, "", 0, {},
                 started_at=NOW.isoformat())
    for n, values in enumerate([*results, *[...] * open_], 1):
        settled = values is not ...
        state = (CandidateState.SUBMITTED if not settled else
                 CandidateState.DONE if values else CandidateState.ABANDONED)
        found.candidates[n] = Candidate(
            n, {"x": n / 100}, str(n), state, 360, "user", spent=180 if settled else 0,
            values=values if settled else None, settled_in=n if settled else None,
            reason="hopeless: it failed" if values is None else "",
            settled_at=(NOW + n * timedelta(hours=1)).isoformat() if settled else "",
            first_reserved=360)
        found.head = n
    return found


def test_after_its_date_a_campaign_waits_for_work_and_not_for_consent():
    over = datetime(2030, 6, 2, tzinfo=UTC)
    found = view([1.0, 1.0], open_=1)
    assert decide(found, over) is None
    found.campaign = found.campaign.model_copy(update={"approval_above": 0.05})
    found.candidates[2].state = CandidateState.PROPOSED
    assert decide(found, NOW) is None
    assert decide(found, over)[1].startswith("until")


def test_front_holds_what_nothing_betters_in_all():
    found = view([1.0, 5.0], [2.0, 7.0], [2.0, 6.0], [3.0, 7.0])
    assert front(found.campaign, [c.values for c in found.done()]) == [0, 1]
    assert [b.candidate for b in status_of(found).front] == [1, 2]


@pytest.mark.parametrize(("results", "state", "reason"), [
    ([[1.0, 5.0], [2.0, 7.0]], None, ""),
    ([[1.0, 5.0], [2.0, 5.0], [1.5, 4.0]], "COMPLETED", "no_improvement_in: none of the last 2"),
    ([[1.0, 5.0], [2.0, 5.0], [0.5, 4.0]], None, ""),
    ([None, None, None], None, ""),  # too few to judge
    ([None, None, None, [1.0, 1.0]], "FAILED", "failure_rate: 3 of 4"),
    ([None, None, [1.0, 1.0], [0.5, 2.0]], None, ""),
])
def test_rules_end_a_campaign_as_they_say(results, state, reason):
    verdict = decide(view(*results), NOW)
    assert (verdict is None) == (state is None)
    if verdict:
        assert verdict[0] == state
        assert verdict[1].startswith(reason)


def test_used_up_budget_ends_it_only_when_nothing_runs():
    falling = [[1.0 - n / 100, 1.0] for n in range(19)]
    found = view(*falling)
    assert decide(found, NOW)[1].startswith("budget: 0.05 core-hours are left of 1")
    found = view(*falling[:18], open_=1)
    assert exhausted(found, NOW)
    assert decide(found, NOW) is None
    late = datetime(2030, 6, 2, tzinfo=UTC)
    assert decide(view([1.0, 1.0]), late)[1].startswith("until: 2030-06-01T23:59")
    assert decide(view([1.0, 1.0]), late - timedelta(minutes=1)) is None
    assert end_of(datetime(2030, 1, 1)) == NOW  # noqa: DTZ001  without a zone: UTC


def test_status_predicts_the_end_from_the_pace():
    found = view([1.0, 1.0], None, [0.5, 2.0], open_=1)
    status = status_of(found, NOW + timedelta(hours=3))
    # 180 s of 3600 each, one result an hour: 0.75 core-hours left hold 15 more, beside one open.
    assert (status.spent, status.reserved, status.left) == (0.15, 0.1, 0.75)
    finish = datetime.fromisoformat(status.predicted_finish)
    assert finish == NOW + timedelta(hours=3 + 16)
    assert (status.done, status.failed, status.open) == (2, 1, 1)
    assert status.failures == [{"reason": "hopeless: it failed", "count": 1, "candidates": [2]}]
    assert status.best.candidate == 3
