"""Campaigns on a real MongoDB, with real launchers and LAMMPS: from document to their own end."""

from pathlib import Path

import pytest

from orionflow.agents.campaign import Campaign, Campaigns
from orionflow.errors import InputError, PolicyError
from orionflow.launchers.run_state import read_state

DOCUMENT = """
name: copper
owner: ada
objectives: [{path: output.energy_per_atom, unit: eV}]
space: {variables: [{type: continuous, name: a, low: 3.3, high: 4.0, unit: Å}]}
recipe: lammps.static
mapping: {structure: "Cu fcc {a}", parameters: {force_field: Cu_mishin}}
initial: {points: 4}
proposer: {name: bayesian, seed: 3}
batch_size: 4
budget: {core_hours: 1, core_hours_each: 0.02, evaluations: 12}
stopping: {no_improvement_in: 4, improvement: 1.0e-4}
"""


def document(**changes):
    return Campaign.from_yaml(DOCUMENT).model_copy(update=changes)


@pytest.fixture
def campaigns(project):
    with Campaigns(project) as found:
        yield found


def launch(project, **options):
    from orionflow.launchers.launcher import Launcher, LaunchOptions

    return Launcher(project, LaunchOptions(**options), project / "block").run()


@pytest.mark.needs_mongod
@pytest.mark.needs_code("lmp")
def test_campaign_ends_by_its_own_rule_at_the_known_optimum(campaigns, project):
    assert campaigns.create(document(), "ada")
    assert not campaigns.create(document(), "ada")
    campaigns.start("copper", "ada")
    for _ in range(12):
        report = campaigns.advance("copper", "ada")
        if report.state != "RUNNING":
            break
        launch(project)
    status = campaigns.status("copper")
    assert status.state == "COMPLETED"
    assert status.reason.startswith(("no_improvement_in", "budget: all 12"))
    # Mishin et al. 2001, doi:10.1103/PhysRevB.63.224106: 3.615 Å, -3.54 eV.
    assert status.best.point["a"] == pytest.approx(3.615, abs=0.02)
    assert status.best.values["output.energy_per_atom"] == pytest.approx(-3.54, abs=0.001)
    assert 0 < status.best.sigma["output.energy_per_atom"] < 0.01
    assert 0 < status.spent < status.core_hours
    assert status.reserved == 0
    assert campaigns.ledger.verify("copper") > 12


@pytest.mark.needs_mongod
def test_costly_candidates_wait_for_consent_and_a_cancelled_campaign_leaves_nothing(campaigns):
    campaigns.create(document(approval_above=0.01, batch_size=2), "ada")
    with pytest.raises(InputError, match="is a DRAFT"):
        campaigns.resume("copper", "ada")
    campaigns.start("copper", "ada")
    report = campaigns.advance("copper", "ada")
    assert (len(report.proposed), report.submitted) == (2, [])
    assert report.awaiting_approval == report.proposed
    assert campaigns.pad.fireworks.count_documents({}) == 0
    assert campaigns.advance("copper", "ada").idle  # they are the batch
    assert campaigns.status("copper").awaiting_approval == report.proposed
    assert "consent" in campaigns.status("copper").next
    first = report.proposed[0]
    assert campaigns.approve("copper", "boss", [first]) == [first]
    assert campaigns.approve("copper", "boss", [first]) == []
    assert campaigns.advance("copper", "ada").submitted == [first]
    campaigns.cancel("copper", "ada", "enough")
    status = campaigns.status("copper")
    assert (status.state, status.reason, status.open, status.reserved) == (
        "CANCELLED", "enough", 0, 0)
    assert {fw["state"] for fw in campaigns.pad.fireworks.find()} == {"DEFUSED"}
    assert "never submitted" in str(status.failures)


@pytest.mark.needs_mongod
def test_points_of_people_count_once_and_a_pause_stops_proposals(campaigns):
    campaigns.create(document(batch_size=2), "ada")
    campaigns.start("copper", "ada")
    numbers = campaigns.add_points("copper", [{"a": 3.6}, {"a": 3.7}], "user", "eve")
    assert campaigns.add_points("copper", [{"a": 3.7}, {"a": 3.6}], "user", "eve") == numbers[::-1]
    with pytest.raises(InputError, match="outside"):
        campaigns.add_points("copper", [{"a": 3.5}, {"a": 9.0}], "user", "eve")
    assert len(campaigns.view("copper").candidates) == 2
    campaigns.pause("copper", "ada", "maintenance")
    assert campaigns.advance("copper", "cron").idle
    campaigns.resume("copper", "ada")
    assert campaigns.advance("copper", "cron").submitted == numbers
    view = campaigns.view("copper")
    assert [c.source for c in view.candidates.values()] == ["user", "user"]
    with pytest.raises(PolicyError, match="12 evaluations"):
        campaigns.add_points("copper", [{"a": 3.4 + n / 100} for n in range(11)], "user", "eve")


@pytest.mark.needs_mongod
def test_point_without_a_workflow_is_a_failure_and_blocks_nothing(campaigns):
    # A lattice constant of 0.66 Å leaves no room for an atom.
    space = Campaign.from_yaml(DOCUMENT.replace("low: 3.3", "low: 0.65")).space
    campaigns.create(document(space=space), "ada")
    campaigns.start("copper", "ada")
    (bad,) = campaigns.add_points("copper", [{"a": 0.66}], "user", "eve")
    report = campaigns.advance("copper", "ada")
    assert [c["candidate"] for c in report.collected] == [bad]
    assert len(report.submitted) == 4
    view = campaigns.view("copper")
    assert view.candidates[bad].values is None
    assert "almost no volume" in view.candidates[bad].reason
    assert view.spent == 0


@pytest.mark.needs_mongod
@pytest.mark.needs_code("lmp")
def test_failed_candidate_run_again_by_hand_gets_its_value(campaigns, project):
    campaigns.create(document(batch_size=1), "ada")
    campaigns.start("copper", "ada")
    (seq,) = campaigns.advance("copper", "ada").submitted
    pad = campaigns.pad
    (fw_id,) = campaigns.view("copper").candidates[seq].fw_ids
    pad.fireworks.update_one({"fw_id": fw_id}, {"$set": {
        "state": "FIZZLED", "spec._exception_details": {"_stacktrace": "ImportError: no module"}}})
    (settled,) = campaigns.advance("copper", "ada").collected
    assert (settled["state"], settled["values"]) == ("ABANDONED", None)
    assert settled["reason"] == "hopeless: ImportError: no module"
    campaigns.pause("copper", "ada")
    pad.fireworks.update_many({"state": "READY"}, {"$set": {"state": "DEFUSED"}})
    pad.rerun_fw(fw_id)
    launch(project, max_jobs=1)
    (corrected,) = [c for c in campaigns.advance("copper", "ada").collected
                    if c["candidate"] == seq]
    assert corrected["state"] == "DONE"
    assert corrected["values"] == [pytest.approx(campaigns.status("copper").best.values[
        "output.energy_per_atom"])]
    assert corrected["core_seconds"] > 0


@pytest.mark.needs_mongod
@pytest.mark.needs_code("lmp")
def test_no_more_is_burnt_than_was_reserved_however_long_a_job_would_take(campaigns, project):
    # Days of dynamics; a try of ten seconds is reserved, and fifteen are all there are.
    campaigns.create(Campaign.from_yaml("""
        name: long
        owner: ada
        objectives: [{path: steps}]
        space: {variables: [{type: continuous, name: t, low: 300, high: 900}]}
        recipe: lammps.nvt
        mapping:
          structure: Cu32 fcc 3.615 random 1
          parameters: {force_field: Cu_mishin, nsteps: 100000000}
          variables: {temperature: t}
        proposer: {name: random}
        budget: {core_hours: 0.0042, evaluations: 5}
        resources: {walltime: 10}
        """), "ada")
    campaigns.start("long", "ada")
    campaigns.advance("long", "ada")
    launch(project)
    (settled,) = campaigns.advance("long", "ada").collected
    assert (settled["state"], settled["values"]) == ("FAILED", None)
    assert settled["reason"].startswith("unfinished: the 0.00278 core-hours set aside for it")
    assert "no budget for another try" in settled["reason"]
    status = campaigns.status("long")
    assert (status.state, status.reason[:7]) == ("COMPLETED", "budget:")
    # By the clock of the code itself: it ran in earnest, and ended in time.
    last = campaigns.pad.launches.find_one({"granted.seconds": {"$gt": 0}})
    record = read_state(Path(last["launch_dir"])).record
    assert 0 < record.core_seconds < settled["core_seconds"] <= 10


@pytest.mark.needs_mongod
def test_nonsense_is_refused_before_anything_is_stored(project):
    for changes, message in (
            ({"recipe": "lammps.static", "objectives": (document().objectives[0].model_copy(
                update={"path": "b0"}),)}, "no 'b0'"),
            ({"mapping": document().mapping.model_copy(update={
                "parameters": {"force_field": "Cu_mishi"}})}, "Cu_mishi"),
            ({"resources": document().resources.model_copy(update={"ranks": 10_000})}, "10000"),
    ):
        with Campaigns(project, launchpad=_NoPad()) as campaigns, \
                pytest.raises(InputError, match=message):
            campaigns.check(document(**changes))


class _NoPad:
    """Stands where no database may be touched."""

    class db:  # noqa: N801  as pymongo calls it
        @staticmethod
        def get_collection(*_, **__):
            return None
