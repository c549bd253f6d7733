"""The ledger on a real MongoDB: races, kills at every call, budgets, and an unbroken chain."""

import os
import random
import signal
import time
from contextlib import suppress

import pytest
from killing import FORK, Killer, killed, side_by_side
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError

from orionflow.agents.campaign_document import Campaign, CampaignState
from orionflow.agents.ledger import COLLECTION, BehindError, Ledger
from orionflow.agents.proposers import get_proposer
from orionflow.agents.records import SETTLED, CandidateState, budget_seconds
from orionflow.errors import InputError, PolicyError, StoreError

pytestmark = pytest.mark.needs_mongod
DOCUMENT = """
name: alloy
owner: ada
objectives: [{path: output.energy_per_atom}]
space: {variables: [{type: continuous, name: x, low: 0, high: 1}]}
recipe: lammps.static
mapping: {structure: Si diamond 5.43, variables: {strain: x}}
proposer: {name: random, seed: 1}
budget: {core_hours: 10, core_hours_each: 0.5, evaluations: 1000}
"""


def document(**budget):
    campaign = Campaign.from_yaml(DOCUMENT)
    return campaign.model_copy(update={"budget": campaign.budget.model_copy(update=budget)})


def connect(access, **options):
    client = MongoClient(access.host, access.port, username=access.username,
                         password=access.password, authSource=access.auth_source or access.name,
                         **options)
    return client, client[access.name]


@pytest.fixture
def db(database):
    client, db = connect(database)
    Ledger(db).prepare()
    yield db
    client.close()


@pytest.fixture
def ledger(db):
    return Ledger(db)


def running(ledger, **budget):
    ledger.create(document(**budget), who="test")
    ledger.change_state("alloy", CampaignState.RUNNING, reason="start", who="test")
    return ledger.view("alloy")


# -------------------------------------------------------------- one advance, made for races

def advance(db, *, wanted):
    """Propose until ``wanted`` candidates are there, and store one workflow for each.

    Stands for the campaign's own step: the workflow is a document with a unique key, as a
    submission with a key is.
    """
    ledger = Ledger(db)
    while True:
        view = ledger.view("alloy")
        for candidate in view.open:
            if candidate.state is CandidateState.PROPOSED:
                key = f"alloy:{candidate.seq}"
                with suppress(DuplicateKeyError):
                    db.flows.insert_one({"_id": key, "x": candidate.point["x"]})
                ledger.submitted("alloy", candidate.seq, [candidate.seq], who="test")
        missing = wanted - len(view.candidates)
        if missing <= 0:
            return
        points = get_proposer("random")(view.campaign.space, view.trials(),
                                        [c.point for c in view.open], missing, 1)
        try:
            for point in points:
                ledger.propose(view, point, source="random", who="test")
        except BehindError:
            continue
        except PolicyError:
            return


def expect_each_once(db, count):
    ledger = Ledger(db)
    view = ledger.view("alloy")
    assert len(view.candidates) == count
    assert len({c.x_hash for c in view.candidates.values()}) == count
    assert {c.state for c in view.candidates.values()} == {CandidateState.SUBMITTED}
    flows = {f["_id"]: f["x"] for f in db.flows.find()}
    assert flows == {f"alloy:{c.seq}": c.point["x"] for c in view.candidates.values()}
    assert ledger.verify("alloy") == view.head + 1
    assert view.spent + view.reserved <= budget_seconds(view.campaign)


def _race(access, wanted, barrier, _number):
    client, db = connect(access)
    db.command("ping")
    for count in wanted:
        barrier.wait(30)
        advance(db, wanted=count)
    client.close()


@pytest.mark.parametrize(("writers", "races"), [(2, 40), (8, 5)])
def test_advances_at_once_propose_each_point_once(database, db, ledger, writers, races):
    running(ledger, core_hours=1000.0)
    side_by_side(writers, _race, database, [4 * (n + 1) for n in range(races)])
    expect_each_once(db, 4 * races)


def _advance_killed(access, commands, wanted):
    killer = Killer()
    _, db = connect(access, event_listeners=[killer])
    db.command("ping")
    killer.left = commands
    advance(db, wanted=wanted)


def test_killed_at_every_database_call_nothing_is_lost_or_doubled(database, db, ledger):
    running(ledger)
    commands = 0
    while True:
        was_killed = killed(_advance_killed, database, commands, 3)
        advance(db, wanted=3)
        expect_each_once(db, 3)
        if not was_killed:
            break
        commands += 1
        db.flows.drop()
        db[COLLECTION].delete_many({})
        running(ledger)
    # Per candidate: last row, insert, flow, three of `submitted`; and the reads of views.
    assert commands >= 3 * 6


def _loop(access, wanted):
    _, db = connect(access)
    for count in range(1, wanted + 1):
        advance(db, wanted=count)
    os._exit(0)


def test_killed_at_random_moments_nothing_is_lost_or_doubled(database, db, ledger):
    running(ledger, core_hours=1000.0)
    rng = random.Random(3)  # noqa: S311  moments, not secrets
    kills = 0
    for _ in range(25):
        children = [FORK.Process(target=_loop, args=(database, 60)) for _ in range(2)]
        for child in children:
            child.start()
        time.sleep(rng.uniform(0.02, 0.2))
        for child in children:
            if child.is_alive():
                child.kill()
            child.join(30)
            kills += child.exitcode == -signal.SIGKILL
    assert kills >= 10
    advance(db, wanted=60)
    expect_each_once(db, 60)


# ------------------------------------------------------------------------------- budget

def _spend(access, barrier, seed):
    client, db = connect(access)
    ledger, rng = Ledger(db), random.Random(seed)  # noqa: S311  costs, not secrets
    barrier.wait(30)
    tries = 0
    while tries < 15:
        view = ledger.view("alloy")
        if view.open and rng.random() < 0.4:
            chosen = rng.choice(view.open)
            ledger.settle("alloy", chosen.seq, rng.choice([CandidateState.FAILED,
                                                           CandidateState.ABANDONED]),
                          core_seconds=rng.randint(0, chosen.reserved), who="test")
        try:
            ledger.propose(view, {"x": rng.random()}, source="user", who="test",
                           core_seconds=rng.randint(1, 900))
        except BehindError:
            continue
        except PolicyError:
            pass
        tries += 1
    client.close()


def test_eight_writers_never_exceed_the_budget(database, db, ledger):
    running(ledger, core_hours=5.0)
    side_by_side(8, _spend, database)
    rows = list(ledger.read("alloy"))
    assert max(row["cum"] for row in rows) <= 5 * 3600
    assert max(row["cum"] for row in rows) > 4 * 3600  # they did come near it
    view = ledger.view("alloy")
    assert view.spent + view.reserved == rows[-1]["cum"]
    assert ledger.verify("alloy") == len(rows)


def test_budget_is_refused_exactly_at_the_cap(ledger):
    view = running(ledger, core_hours=1.0, core_hours_each=0.25)
    for n in range(4):
        ledger.propose(view, {"x": n / 10}, source="user", who="test")
    with pytest.raises(PolicyError, match="exceed 3600") as caught:
        ledger.propose(view, {"x": 0.9}, source="user", who="test", core_seconds=1)
    assert caught.value.allowed == 0
    first = min(view.candidates)
    ledger.settle("alloy", first, CandidateState.DONE, core_seconds=100, values=[1.0], who="test")
    assert ledger.view("alloy").left == 800
    assert ledger.propose(ledger.view("alloy"), {"x": 0.9}, source="user", who="test",
                          core_seconds=800)


def test_number_of_evaluations_is_a_limit(ledger):
    view = running(ledger, evaluations=2)
    ledger.propose(view, {"x": 0.1}, source="user", who="test")
    ledger.propose(view, {"x": 0.2}, source="user", who="test")
    with pytest.raises(PolicyError, match="2 evaluations"):
        ledger.propose(view, {"x": 0.3}, source="user", who="test")


# ----------------------------------------------------------------------------- the story

def test_candidate_s_life_is_told_by_rows_that_stay(ledger):
    view = running(ledger)
    seq = ledger.propose(view, {"x": 0.25}, source="bayesian", who="cron", flow='{"jobs": []}',
                         why={"seed": 1})
    ledger.submitted("alloy", seq, [7, 8], who="cron")
    before = list(ledger.read("alloy"))
    assert ledger.settle("alloy", seq, CandidateState.DONE, core_seconds=60, values=[-3.5],
                         result="uuid", who="cron")
    assert ledger.correct("alloy", seq, CandidateState.DONE, core_seconds=90, values=[-3.5],
                          result="uuid", key="sacct", who="cron")
    rows = list(ledger.read("alloy"))
    assert rows[:len(before)] == before
    assert [r["kind"] for r in rows] == ["campaign", "state", "candidate", "submitted",
                                         "settled", "corrected"]
    view = ledger.view("alloy")
    candidate = view.candidates[seq]
    assert (candidate.state, candidate.values, candidate.spent) == ("DONE", [-3.5], 90)
    assert candidate.fw_ids == [7, 8]
    assert ledger.flow("alloy", seq) == '{"jobs": []}'
    assert (view.spent, view.reserved, rows[-1]["cum"]) == (90, 0, 90)
    assert [(t.point, t.loss) for t in view.trials()] == [({"x": 0.25}, -3.5)]
    assert view.best() is candidate


def test_same_thing_said_twice_is_one_row(ledger):
    view = running(ledger)
    seq = ledger.propose(view, {"x": 0.25}, source="user", who="test")
    assert ledger.propose(view, {"x": 0.25}, source="user", who="test") is None
    for _ in range(2):
        ledger.submitted("alloy", seq, [7], who="test")
    done = [ledger.settle("alloy", seq, CandidateState.DONE, core_seconds=1, values=[1.0],
                          who="test") for _ in range(2)]
    late = ledger.settle("alloy", seq, CandidateState.FAILED, core_seconds=5, who="test")
    corrected = [ledger.correct("alloy", seq, CandidateState.ABANDONED, core_seconds=2,
                                key="a", who="test") for _ in range(2)]
    assert (done, late, corrected) == ([True, False], False, [True, False])
    assert ledger.view("alloy").head == 5
    assert not ledger.create(document(), who="test")
    assert not ledger.change_state("alloy", CampaignState.RUNNING, reason="", who="test")
    assert ledger.view("alloy").head == 5


def test_failed_candidate_has_no_value(ledger):
    view = running(ledger)
    one = ledger.propose(view, {"x": 0.1}, source="user", who="test")
    two = ledger.propose(view, {"x": 0.2}, source="user", who="test")
    ledger.settle("alloy", one, CandidateState.DONE, core_seconds=1, values=[-9.0], who="test")
    with pytest.raises(InputError, match="values belong to DONE"):
        ledger.settle("alloy", two, CandidateState.FAILED, core_seconds=1, values=[-9.0],
                      who="test")
    with pytest.raises(InputError, match="values belong to DONE"):
        ledger.settle("alloy", two, CandidateState.DONE, core_seconds=1, who="test")
    ledger.settle("alloy", two, CandidateState.FAILED, core_seconds=1, who="test")
    assert [t.loss for t in ledger.view("alloy").trials()] == [-9.0, None]


def test_what_does_not_fit_is_refused_by_name(ledger):
    with pytest.raises(InputError, match="no campaign 'aloy'"):
        ledger.view("aloy")
    ledger.create(document(), who="test")
    with pytest.raises(InputError, match="is DRAFT"):
        ledger.propose(ledger.view("alloy"), {"x": 0.1}, source="user", who="test")
    with pytest.raises(InputError, match="another campaign is called 'alloy'"):
        ledger.create(document(evaluations=5), who="test")
    with pytest.raises(InputError, match="DRAFT can't become PAUSED"):
        ledger.change_state("alloy", CampaignState.PAUSED, reason="", who="test")
    ledger.change_state("alloy", CampaignState.RUNNING, reason="", who="test")
    with pytest.raises(InputError, match="no variable 'y'"):
        ledger.propose(ledger.view("alloy"), {"y": 0.1}, source="user", who="test")
    with pytest.raises(InputError, match="no candidate 99"):
        ledger.settle("alloy", 99, CandidateState.FAILED, core_seconds=1, who="test")
    ledger.change_state("alloy", CampaignState.CANCELLED, reason="enough", who="ada")
    with pytest.raises(InputError, match="it has ended"):
        ledger.change_state("alloy", CampaignState.RUNNING, reason="", who="test")


def test_proposal_on_an_old_view_is_refused(ledger):
    old = running(ledger)
    fresh = ledger.view("alloy")
    ledger.propose(fresh, {"x": 0.1}, source="user", who="test")
    with pytest.raises(BehindError):
        ledger.propose(old, {"x": 0.2}, source="user", who="test")


@pytest.mark.parametrize("edit", [
    lambda rows: rows.update_one({"seq": 2}, {"$set": {"body.point.x": 0.5}}),
    lambda rows: rows.update_one({"seq": 3}, {"$set": {"cost": 0}}),
    lambda rows: rows.delete_one({"seq": 2}),
])
def test_edited_ledger_is_found_out(ledger, edit):
    view = running(ledger)
    for n in range(3):
        ledger.propose(view, {"x": n / 10}, source="user", who="test")
    assert ledger.verify("alloy") == 5
    edit(ledger.rows)
    with pytest.raises(StoreError, match="row 'alloy:"):
        ledger.verify("alloy")


def test_settled_states_cover_all_ends():
    assert frozenset(CandidateState) - {"PROPOSED", "SUBMITTED"} == SETTLED
