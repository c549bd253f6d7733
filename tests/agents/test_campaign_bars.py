"""Campaigns under attack: races, kills at every database call, full budgets, failing work.

Short versions; ``CAMPAIGN_BARS=full`` runs the whole numbers (benchmarks/campaign_races.py).
The workflows are real ones in a real MongoDB. Where the science does not matter a job's end is
written by FireWorks' own LaunchPad without running LAMMPS; with live launchers LAMMPS runs.
"""

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fireworks import FWAction, FWorker
from killing import FORK, Killer, killed, side_by_side
from pymongo import monitoring

from orionflow.agents.campaign import Campaign, Campaigns, CampaignState
from orionflow.agents.records import CandidateState, Kind, budget_seconds
from orionflow.errors import PolicyError

pytestmark = [pytest.mark.needs_mongod, pytest.mark.filterwarnings("ignore::ResourceWarning")]
FULL = os.environ.get("CAMPAIGN_BARS") == "full"
DOCUMENT = """
name: copper
owner: ada
objectives: [{path: output.energy_per_atom}]
space: {variables: [{type: continuous, name: a, low: 3.3, high: 4.0}]}
recipe: lammps.static
mapping: {structure: "Cu fcc {a}", parameters: {force_field: Cu_mishin}}
proposer: {name: random, seed: 1}
batch_size: 3
budget: {core_hours: 100, core_hours_each: 0.02, evaluations: 1000}
stopping: {failure_rate: 0.9}
"""


def document(name="copper", *, budget=None, stopping=None, **changes):
    campaign = Campaign.from_yaml(DOCUMENT)
    return campaign.model_copy(update={
        "name": name, "budget": campaign.budget.model_copy(update=budget or {}),
        "stopping": campaign.stopping.model_copy(update=stopping or {}), **changes})


@pytest.fixture
def campaigns(project):
    with Campaigns(project) as found:
        found.ledger.prepare()
        yield found


def begin(campaigns, campaign):
    campaigns.ledger.create(campaign, who="test")
    campaigns.ledger.change_state(campaign.name, CampaignState.RUNNING, reason="", who="test")


class Worker:
    """Claims a job and ends it through FireWorks' LaunchPad, as a launcher would."""

    def __init__(self, campaigns, store):
        self.campaigns, self.pad, self.store = campaigns, campaigns.pad, store
        self.fworker = FWorker.from_file(str(campaigns.project / "my_fworker.yaml"))

    def work(self, details=None):
        """End one job: COMPLETED with its energy, or FIZZLED with the details of an error."""
        fw, launch_id = self.pad.checkout_fw(self.fworker, str(self.campaigns.project))
        if fw is None:
            return None
        if details is not None:
            stored = {"_message": "runtime error", "_exception": {"_stacktrace": "Error: it failed",
                                                                  "_details": details}}
            self.pad.complete_launch(launch_id, FWAction(stored_data=stored, exit=True), "FIZZLED")
            return fw.fw_id
        key = self.pad.workflows.find_one({"nodes": fw.fw_id})["metadata"]["submit_key"]
        name, seq = key.split(":")
        candidate = self.campaigns.view(name).candidates[int(seq)]
        self.store.docs_store.update([{
            "uuid": candidate.expects, "index": 1, "metadata": {"fw_id": fw.fw_id},
            "completed_at": datetime.now(UTC).isoformat(),
            "output": {"output": {"energy_per_atom": (candidate.point["a"] - 3.6)**2}},
        }], key=["uuid", "index"])
        self.pad.complete_launch(launch_id, FWAction(), "COMPLETED")
        return fw.fw_id


@pytest.fixture
def worker(campaigns, job_store):
    return Worker(campaigns, job_store)


def expect_each_once(campaigns, name, *, submitted=True):
    """Expect one workflow for each candidate, no stray firework, and a budget that holds."""
    view = campaigns.view(name)
    db = campaigns.pad.db
    keys = [f"{name}:{seq}" for seq in view.candidates]
    flows = list(db.workflows.find({"metadata.campaign": name}))
    if submitted:
        assert sorted(w["metadata"]["submit_key"] for w in flows) == sorted(keys)
        assert CandidateState.PROPOSED not in {c.state for c in view.candidates.values()}
    nodes = [n for w in flows for n in w["nodes"]]
    found = [fw["fw_id"] for fw in db.fireworks.find({"spec.campaign": name}, {"fw_id": 1})]
    assert sorted(nodes) == sorted(found)
    assert len({c.x_hash for c in view.candidates.values()}) == len(view.candidates)
    # No job may take a core-second that is not reserved.
    aside = {fw["fw_id"]: fw["spec"]["core_seconds"] for fw in db.fireworks.find(
        {"spec.campaign": name}, {"fw_id": 1, "spec.core_seconds": 1})}
    reserved = {f"{name}:{c.seq}": c.reserved for c in view.open}
    for wf in flows:
        most = sum(aside[i] for i in wf["nodes"])
        assert most <= reserved.get(wf["metadata"]["submit_key"], most)
    rows = list(campaigns.ledger.read(name))
    assert max(row["cum"] for row in rows) <= budget_seconds(view.campaign)
    assert rows[-1]["cum"] == view.spent + view.reserved
    assert campaigns.ledger.verify(name) == len(rows)
    for c in view.candidates.values():
        assert (c.values is not None) == (c.state is CandidateState.DONE)
    return view


# ---------------------------------------------------------------------------------- races

def _race(project, names, barrier, number):
    with Campaigns(project) as campaigns:
        for name in names:
            barrier.wait(120)
            campaigns.advance(name, f"racer {number}")


@pytest.mark.parametrize(("advancers", "races"), [(2, 1000 if FULL else 8),
                                                  (8, 20 if FULL else 2)])
def test_advances_at_once_make_each_workflow_once(campaigns, project, advancers, races):
    names = [f"race{n}" for n in range(races)]
    for name in names:
        begin(campaigns, document(name))
    campaigns.advance(names[0], "first")  # imports, before forking
    side_by_side(advancers, _race, project, names, timeout=60 + 10 * races)
    for name in names:
        assert len(expect_each_once(campaigns, name).candidates) == 3


# ---------------------------------------------------------------------------------- kills

def _advance_killed(project, name, commands):
    killer = Killer()
    monitoring.register(killer)
    with Campaigns(project) as campaigns:
        killer.left = commands
        campaigns.advance(name, "victim")


TRANSIENT = {"error": "CodeError", "message": "QE_KILLED: a signal", "failure_id": "QE_KILLED",
             "transient": True}


def test_killed_at_database_calls_each_candidate_is_one_workflow(campaigns, project, worker,
                                                                 record_property):
    begin(campaigns, document("warm"))
    campaigns.advance("warm", "first")
    campaigns.cancel("warm", "test")
    # Every call in the full version; else each sixteenth, from a random start.
    step = 1 if FULL else 16
    commands, was_killed = (0 if FULL else random.randrange(step)), True  # noqa: S311  a start
    while was_killed:
        name = f"kill{commands}"
        begin(campaigns, document(name, retries=1))
        was_killed = killed(_advance_killed, project, name, commands)
        campaigns.advance(name, "rescuer")
        assert len(expect_each_once(campaigns, name).candidates) == 3
        done = [worker.work(), worker.work({**TRANSIENT, "used_up": True}), worker.work()]
        assert None not in done
        was_killed = killed(_advance_killed, project, name, commands) or was_killed
        campaigns.advance(name, "rescuer")
        view = expect_each_once(campaigns, name)
        states = [c.state for c in view.candidates.values()]
        assert states.count(CandidateState.DONE) == 2
        assert len(view.open) == 3  # the one tried again, and two new ones
        (retried,) = [c for c in view.candidates.values() if c.retried]
        assert len(retried.retried) == 1
        more = campaigns.pad.fireworks.find_one({"fw_id": done[1]})["spec"]["core_seconds"]
        assert retried.each < more <= retried.reserved
        ready = campaigns.pad.fireworks.count_documents({"spec.campaign": name, "state": "READY"})
        assert ready == 3
        campaigns.cancel(name, "test")
        assert not campaigns.view(name).open
        assert not campaigns.pad.fireworks.count_documents(
            {"spec.campaign": name, "state": {"$in": ["READY", "WAITING", "RUNNING"]}})
        commands += step
    record_property("database_calls", commands)
    assert commands > 40


def _advance_for_ever(project, name):
    with Campaigns(project) as campaigns:
        while True:
            campaigns.advance(name, "victim")


@pytest.mark.needs_code("lmp")
def test_killed_at_random_with_live_launchers_each_job_runs_once(campaigns, project):
    kills, evaluations = (500, 150) if FULL else (10, 6)
    begin(campaigns, document(batch_size=4, budget={"evaluations": evaluations,
                                                   "core_hours": 0.02 * evaluations}))
    campaigns.advance("copper", "first")
    orionflow = Path(sys.executable).with_name("orionflow")
    log = project / "launchers.log"
    with log.open("wb") as stream:
        launchers = [subprocess.Popen([orionflow, "launch", "--patience", "600"], cwd=project,
                                      stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
                     for _ in range(2)]
    rng = random.Random(5)  # noqa: S311  moments, not secrets
    count = 0
    try:
        while count < kills or campaigns.view("copper").state is CampaignState.RUNNING:
            children = [FORK.Process(target=_advance_for_ever, args=(project, "copper"))
                        for _ in range(2)]
            for child in children:
                child.start()
            time.sleep(rng.uniform(0.02, 0.5))
            for child in children:
                child.kill()
                child.join(30)
                count += child.exitcode == -signal.SIGKILL
            assert [p.poll() for p in launchers] == [None, None], log.read_text()[-5000:]
            campaigns.advance("copper", "rescuer")
            assert count < 40 * kills
    finally:
        for process in launchers:
            process.terminate()
            process.wait(60)
    view = expect_each_once(campaigns, "copper")
    assert view.state is CampaignState.COMPLETED
    assert len(view.candidates) == evaluations
    assert {c.state for c in view.candidates.values()} == {CandidateState.DONE}
    assert campaigns.pad.launches.count_documents(
        {"granted.cores": 1, "granted.seconds": 72.0}) == evaluations
    assert campaigns.pad.launches.count_documents({}) == evaluations
    assert campaigns.advance("copper", "again").idle


# ----------------------------------------------------------------------- budget, failures

def _spend(project, barrier, seed):
    from orionflow.analysis.store import open_store

    rng = random.Random(seed)  # noqa: S311  choices, not secrets
    with Campaigns(project) as campaigns:
        worker = Worker(campaigns, open_store(project))
        barrier.wait(120)
        for _ in range(40 if FULL else 4):
            campaigns.advance("copper", f"advancer {seed}")
            worker.work(TRANSIENT if rng.random() < 0.2 else None)
            try:
                campaigns.add_points("copper", [{"a": rng.uniform(3.3, 4.0)}], "user", f"{seed}")
            except PolicyError:
                continue


def test_eight_advancers_and_users_never_exceed_the_budget(campaigns, project):
    # A hundred are wanted at once; nine fit.
    begin(campaigns, document(batch_size=100, budget={"core_hours": 0.19}))
    campaigns.check(document())  # imports, before forking
    side_by_side(8, _spend, project, timeout=600)
    campaigns.advance("copper", "last")
    view = expect_each_once(campaigns, "copper")
    assert len(view.open) >= 6
    assert view.left < view.campaign.reservation()
    assert len(view.candidates) > 9


def test_campaign_ends_by_its_rule_though_a_third_of_the_work_fails(campaigns, worker):
    count, batch = (200, 40) if FULL else (24, 7)
    rng = random.Random(11)  # noqa: S311  failures, not secrets
    kinds = [TRANSIENT,
             {"error": "CodeError", "message": "QE_SCF_NOT_CONVERGED: too slow",
              "failure_id": "QE_SCF_NOT_CONVERGED", "transient": False},
             {"error": "CodeError", "message": "LAMMPS_WALLTIME: over",
              "failure_id": "LAMMPS_WALLTIME", "transient": True},
             None]
    begin(campaigns, document(batch_size=batch, retries=2, budget={"evaluations": count}))
    for _ in range(20 * count):
        report = campaigns.advance("copper", "test")
        if report.state != "RUNNING":
            break
        while True:
            bad = rng.random() < 0.3
            details = rng.choice(kinds) if bad else None
            if worker.work(details if not bad or details else {"error": "ValueError",
                                                               "message": "bad input"}) is None:
                break
    view = expect_each_once(campaigns, "copper")
    assert view.state is CampaignState.COMPLETED
    assert view.reason.startswith("budget: all")
    failed = [c for c in view.candidates.values() if c.state is not CandidateState.DONE]
    assert failed
    assert len(failed) < count / 2
    assert all(c.values is None and c.result is None for c in failed)
    assert max(len(c.retried) for c in view.candidates.values()) <= 2
    retried = [c for c in view.candidates.values() if c.retried]
    assert any(c.state is CandidateState.DONE for c in retried)  # a new try did help
    reasons = {c.reason.split(":")[0] for c in failed}
    assert reasons <= {"infrastructure", "unconverged", "hopeless"}
    assert {"unconverged", "hopeless"} <= reasons


# ---------------------------------------------------------------------------------- speed

def _timed(project, queue):
    with Campaigns(project) as campaigns:
        begun = time.process_time()
        report = campaigns.advance("copper", "test")
        queue.put((time.process_time() - begun, len(report.submitted)))
    os._exit(0)


def test_advance_on_a_thousand_rows_takes_seconds(campaigns, project, record_property):
    campaign = document(batch_size=2, proposer=document().proposer.model_copy(
        update={"name": "bayesian"}))
    begin(campaigns, campaign)
    ledger, rng = campaigns.ledger, random.Random(2)  # noqa: S311  points, not secrets
    last = ledger.rows.find_one({"campaign": "copper"}, sort=[("seq", -1)])
    for n in range(500):
        point = campaign.space.check({"a": rng.uniform(3.3, 4.0)})
        last = ledger._insert("copper", last, Kind.CANDIDATE, {
            "point": point, "x_hash": campaign.space.x_hash(point), "source": "user",
            "flow": None, "expects": None, "refused": "", "why": {}, "data_upto": last["seq"]},
            who="test", cost=72, evaluations=1, once=f"x:{n}")
        last = ledger._insert("copper", last, Kind.SETTLED, {
            "candidate": last["seq"], "state": "DONE", "core_seconds": 10,
            "values": [(point["a"] - 3.6)**2], "result": "x", "reason": ""}, who="test",
            cost=10 - 72, once=f"settled:{last['seq']}")
    campaigns.check(document())
    queue = FORK.Queue()
    child = FORK.Process(target=_timed, args=(project, queue))
    child.start()
    seconds, submitted = queue.get(timeout=300)
    child.join(60)
    record_property("process_seconds", seconds)
    assert submitted == 2
    assert len(list(ledger.read("copper"))) > 1000
    assert seconds < 5


