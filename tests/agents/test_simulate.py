"""Campaigns played on known results: a table computed with LAMMPS, and what chance does."""

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orionflow.agents.campaign_document import Campaign
from orionflow.agents.candidates import fill, number_text
from orionflow.agents.simulate import Known, read_table, simulate
from orionflow.agents.stopping import improvements
from orionflow.errors import InputError

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "data" / "campaigns" / "cu-ni.csv"


@pytest.fixture(scope="module")
def alloy():
    return Campaign.from_file(ROOT / "agents" / "templates" / "alloy.yaml")


@pytest.fixture(scope="module")
def table(alloy):
    return read_table(TABLE, alloy)


def test_table_agrees_with_the_mean_mass_of_an_atom(table):
    # Density times the volume of an atom is its mass, whatever the potential says; IUPAC 2021.
    for known in table[::37]:
        edge, density = known.values
        mass = density * edge**3 / 32 / 1.66053906892
        parts = known.point["alloy"]
        assert mass == pytest.approx((63.546 * parts["Cu"] + 58.6934 * parts["Ni"]) / 32, rel=1e-4)


def test_past_date_and_results_that_are_no_numbers(alloy, table, tmp_path):
    over = alloy.model_copy(update={
        "budget": alloy.budget.model_copy(update={"until": datetime(2020, 1, 1, tzinfo=UTC)})})
    some = sorted(table, key=lambda k: not alloy.reached(k.values))[:40]
    assert "until" not in simulate(over, some, seeds=1).ended
    head, first, *_ = TABLE.read_text().splitlines()
    column = head.split(",").index("density")
    cells = first.split(",")
    cells[column] = "nan"
    path = tmp_path / "known.csv"
    path.write_text(f"{head}\n{','.join(cells)}\n")
    with pytest.raises(InputError, match="line 2: an objective is not a finite number"):
        read_table(path, alloy)


def test_campaign_beats_chance_on_the_same_budget(alloy, table):
    found = simulate(alloy, table, seeds=5)
    assert found.found == 1.0
    assert found.random_found < 0.5
    assert found.interval[0] > 3.5
    assert found.ended == {"target_reached": 5}
    assert found.best[-1] < found.random_best[-1]
    assert found.best == sorted(found.best, reverse=True)
    # What is found is what the two measurements mean: mean mass 60.93 u, 17.2 of 32 atoms Ni.
    good = [k.point["alloy"]["Ni"] for k in table if alloy.reached(k.values)]
    mass = 9.20 * 3.53**3 / 4 / 1.66053906892
    assert good
    assert all(abs(n - 32 * (63.546 - mass) / (63.546 - 58.6934)) < 1 for n in good)


def test_chance_is_told_as_it_is(alloy, table):
    # Of N candidates, K of them good, the first good one comes after (N + 1) / (K + 1) on average.
    chosen = alloy.model_copy(update={
        "proposer": alloy.proposer.model_copy(update={"name": "random"})})
    found = simulate(chosen, table, seeds=3)
    expected = (found.candidates + 1) / (found.good + 1)
    mean = sum(found.random_after) / len(found.random_after)
    error = expected / math.sqrt(len(found.random_after))
    assert abs(mean - expected) < 4 * error
    assert found.acceleration < 3.5


@pytest.mark.parametrize(("text", "message"), [
    ("alloy.Cu,pressure,structure.lattice.a,density\n32,0,7,9\n", "line 2: there is no 'alloy.Ni'"),
    ("alloy.Cu,alloy.Ni,pressure,structure.lattice.a,density\n32,0,0,7,x\n", "line 2"),
    ("alloy.Cu,alloy.Ni,pressure,structure.lattice.a,density\n32,1,0,7,9\n", "adds up to 33"),
    ("alloy.Cu,alloy.Ni,pressure,structure.lattice.a,density\n32,0,0,7,9\n32,0,0,7,9\n",
     "line 3: the same candidate as line 2"),
])
def test_wrong_table_is_refused_with_its_line(alloy, tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(path, alloy)


def test_target_out_of_reach_is_refused(alloy, table):
    with pytest.raises(InputError, match="reaches the target"):
        simulate(alloy, [Known(k.point, [1.0, 1.0]) for k in table[:20]])


def test_point_becomes_a_structure_and_parameters(alloy):
    structure, parameters = fill(alloy, alloy.space.check(
        {"alloy": {"Cu": 15, "Ni": 17}, "pressure": 30000}))
    assert structure == "Cu15Ni17 fcc 3.57 random 7"
    assert parameters["pressure"] == 30000
    parts = alloy.model_copy(update={"mapping": alloy.mapping.model_copy(
        update={"structure": "Cu{alloy.Cu} x {pressure}", "variables": {}})})
    assert fill(parts, {"alloy": {"Cu": 15.0, "Ni": 17.0}, "pressure": 0.1 + 0.2})[0] == \
        "Cu15 x 0.3"
    assert [number_text(x) for x in (1e-5, -0.0, 2.5, 3, 1e21, "a", {"Cu": 0.0, "Ni": 4.0})] == [
        "0.00001", "0", "2.5", "3", "1000000000000000000000", "a", "Ni4"]


def test_small_steps_add_up_to_an_improvement(alloy):
    one = alloy.model_copy(update={
        "objectives": (alloy.objectives[0].model_copy(update={
            "goal": "minimize", "target": None, "scale": 1.0}),),
        "stopping": alloy.stopping.model_copy(update={"improvement": 0.25})})
    values = [[1.0], [0.9], [0.8], [0.7], [0.9], [0.6], [0.4]]
    assert improvements(one, values) == [True, False, False, True, False, False, True]
