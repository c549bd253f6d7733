"""The campaign document: read strictly, losses as meant, states that can follow."""

from datetime import date

import pytest
import yaml

from orionflow.agents.campaign_document import (
    ENDED,
    Campaign,
    CampaignState,
    Objective,
    check_transition,
)
from orionflow.agents.records import budget_seconds
from orionflow.errors import InputError

TEXT = """
name: cu-ni-bulk
owner: ada
description: stiffest Cu-Ni alloy
objectives:
- {path: output.bulk_modulus, goal: maximize, target: 180, unit: GPa}
space:
  variables:
  - {type: mixture, name: alloy, parts: {Cu: [0, 1], Ni: [0, 1]}, step: 0.25}
  - {type: continuous, name: strain, low: -0.02, high: 0.02}
recipe: lammps.static
mapping:
  structure: Cu{alloy.Cu}Ni{alloy.Ni} fcc
  parameters: {force_field: CuNi.eam.alloy}
  variables: {strain: strain}
initial:
  points: 6
  given: [{alloy: {Cu: 1, Ni: 0}, strain: 0}]
proposer: {name: bayesian, seed: 7}
batch_size: 4
budget: {core_hours: 12, core_hours_each: 0.25, evaluations: 40, until: 2030-06-01}
stopping: {no_improvement_in: 10, improvement: 0.5}
approval_above: 2
"""


@pytest.fixture
def data():
    return yaml.safe_load(TEXT)


def test_yaml_read_back_gives_an_equal_campaign():
    campaign = Campaign.from_yaml(TEXT)
    assert Campaign.from_yaml(campaign.to_yaml()) == campaign
    assert campaign.budget.until == date(2030, 6, 1)


def test_file_is_named_in_its_errors(tmp_path):
    path = tmp_path / "a campaign's.yaml"
    path.write_text(TEXT.replace("batch_size: 4", "batch_size: four"))
    with pytest.raises(InputError, match=r"a campaign's.yaml: batch_size: .*not 'four'"):
        Campaign.from_file(path)
    with pytest.raises(InputError, match="can't read"):
        Campaign.from_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(("path", "value", "message"), [
    (["batchsize"], 3, "batchsize: unknown name .*did you mean 'batch_size'"),
    (["name"], "Cu Ni", "name: "),
    (["recipe"], "lammps.statik", "did you mean 'lammps.static'"),
    (["proposer", "name"], "baysian", "did you mean 'bayesian'"),
    (["proposer", "sede"], 1, "did you mean 'seed'"),
    (["objectives"], [], "at least 1"),
    (["objectives", 0, "goal"], "max", "'minimize', 'maximize' or 'match'"),
    (["objectives", 0, "goal"], "match", None),
    (["objectives", 0, "path"], "__class__[0]", "path"),
    (["space", "variables", 1, "hihg"], 1, "did you mean 'high'"),
    (["mapping", "variables"], {"strain": "strian"}, "did you mean 'strain'"),
    (["mapping", "variables"], {}, "'strain' changes nothing"),
    (["mapping", "structure"], "Cu fcc", "'alloy' changes nothing"),
    (["mapping", "structure"], "Cu{alloy.Zn}", "there is no variable 'alloy.Zn'"),
    (["mapping", "structure"], "Cu{alloy.Cu", "mapping.structure"),
    (["mapping", "parameters"], {"strain": 1}, "both fixed and varied"),
    (["initial", "given"], [{"alloy": {"Cu": 1}, "strain": 1}], "initial.given.0: strain = 1"),
    (["budget", "core_hours"], 0, "greater than 0"),
    (["budget", "core_hours"], 0.1, "do not suffice for one candidate"),
    (["budget", "until"], "tomorrow", "budget.until: should be .* a date such as 2030-06-01, not"),
    (["budget"], None, "budget"),
    (["stopping", "failure_rate"], 1.5, "less than or equal to 1"),
    (["combine"], "pareto", "at least two objectives"),
    (["batch_size"], "4", "valid integer"),
    (["batch_size"], True, "valid integer"),
])
def test_wrong_document_is_refused_with_place_and_valid_names(data, path, value, message):
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    if message is None:  # the target is there, so it is allowed
        Campaign.from_data(data)
        return
    with pytest.raises(InputError, match=message):
        Campaign.from_data(data)


def test_all_faults_are_told_at_once(data):
    data["batch_size"] = 0
    data["budget"]["evaluations"] = -1
    with pytest.raises(InputError, match=r"(?s)batch_size.*budget.evaluations|"
                       r"budget.evaluations.*batch_size"):
        Campaign.from_data(data)


@pytest.mark.parametrize(("goal", "value", "loss", "reached"), [
    ("minimize", -3.0, -3.0, True), ("minimize", 2.5, 2.5, False),
    ("maximize", 3.0, -3.0, True), ("maximize", 1.5, -1.5, False),
    ("match", 2.05, 0.05, True), ("match", 1.5, 0.5, False),
])
def test_goal_decides_loss_and_target(goal, value, loss, reached):
    objective = Objective(path="a", goal=goal, target=2.0, tolerance=0.1)
    assert objective.loss(value) == pytest.approx(loss)
    assert objective.reached(value) is reached


def test_target_is_never_reached_without_one():
    assert not Objective(path="a").reached(-1e9)


def test_value_is_read_from_a_result():
    objective = Objective(path="output.stress.0.1")
    assert objective.read({"output": {"stress": [[1.0, 2.5], [0, 0]]}}) == 2.5


@pytest.mark.parametrize("document", [
    {}, {"output": None}, {"output": {"energy": None}}, {"output": {"energy": "1"}},
    {"output": {"energy": float("nan")}}, {"output": {"energy": True}}, {"output": []},
])
def test_result_without_the_number_has_no_value(document):
    with pytest.raises(InputError, match=r"output\.energy"):
        Objective(path="output.energy").read(document)


def test_several_objectives_are_summed_by_weight_and_scale(data):
    data["objectives"] = [{"path": "a", "weight": 2.0, "scale": 10.0},
                          {"path": "b", "goal": "maximize"}]
    # 2 * 5 / 10 - 3
    assert Campaign.from_data(data).loss([5.0, 3.0]) == pytest.approx(-2.0)


def test_pareto_weights_differ_by_step_and_repeat(data):
    data["objectives"] = [{"path": "a"}, {"path": "b"}]
    data["combine"] = "pareto"
    campaign = Campaign.from_data(data)
    weights = [campaign.pareto_weights(step) for step in range(5)]
    assert weights == [campaign.pareto_weights(step) for step in range(5)]
    assert len({tuple(w) for w in weights}) == 5
    assert all(sum(w) == pytest.approx(1.0) for w in weights)
    # A point better in both has the smaller loss, whatever the weights.
    assert all(campaign.loss([1.0, 1.0], w) < campaign.loss([1.1, 1.2], w) for w in weights)


def test_ended_campaigns_stay_ended():
    assert {s.value for s in ENDED} == {"COMPLETED", "FAILED", "CANCELLED"}
    for old in ENDED:
        for new in CampaignState:
            with pytest.raises(InputError, match="has ended"):
                check_transition(old, new)


def test_paused_campaign_may_go_on():
    check_transition(CampaignState.RUNNING, CampaignState.PAUSED)
    check_transition(CampaignState.PAUSED, CampaignState.RUNNING)


@pytest.mark.parametrize(("each", "count"), [(0.07, 1), (0.07, 4), (0.29, 3), (0.87, 5)])
def test_a_budget_holds_as_many_candidates_as_it_says(data, each, count):
    data["budget"] |= {"core_hours_each": each, "core_hours": round(count * each, 2)}
    found = Campaign.from_data(data)
    assert budget_seconds(found) == count * found.reservation() == round(count * each * 3600)
