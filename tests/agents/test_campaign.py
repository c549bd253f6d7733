"""Campaigns on a real MongoDB, with real launchers and LAMMPS: from document to their own end."""

import pytest

from orionflow.agents.campaign import Campaign, Campaigns

DOCUMENT = """
name: copper
owner: ada
objectives: [{path: output.energy_per_atom, unit: eV}]
space: {variables: [{type: continuous, name: a, low: 3.3, high: 4.0, unit: Å}]}
recipe: lammps.static
mapping: {structure: "Cu fcc {a}", parameters: {force_field: Cu_mishin}}
initial: {points: 4}
proposer: {name: bayesian, seed: 3}
batch_size: 2
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
    assert 0 < status.spent < status.core_hours
    assert status.reserved == 0
    assert campaigns.ledger.verify("copper") > 12
