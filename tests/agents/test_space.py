"""Search spaces: read strictly, points in one form, to the unit cube and back."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orionflow.agents.space import Space, hash_point
from orionflow.errors import InputError

EVERYTHING = """
variables:
- {type: continuous, name: temperature, low: 300, high: 900, unit: K}
- {type: continuous, name: pressure, low: 1.0e-3, high: 10, scale: log}
- {type: continuous, name: dial, low: 0, high: 1, step: 0.1}
- {type: integer, name: layers, low: 1, high: 4}
- {type: categorical, name: lattice, choices: [fcc, bcc, hcp]}
- {type: categorical, name: solvent, choices: [water, ether], features_of: {water: [78.4],
   ether: [4.3]}}
- {type: mixture, name: alloy, parts: {Cu: [0, 1], Ni: [0.1, 0.5], Al: [0, 0.3]}, step: 0.05}
- {type: mixture, name: blend, parts: {a: [0, 60], b: [10, 100], c: [0, 50]}, total: 100}
constraints:
- {type: linear, weights: {layers: 1, alloy.Cu: 2}, at_most: 5}
- {type: forbid, when: {lattice: [bcc], temperature: {low: 300, high: 600}}}
- {type: elements, mixture: alloy, at_least: 2}
"""
N = "{type: integer, name: n, low: 0, high: 3}"
C = "{type: categorical, name: c, choices: [a, b]}"
POINT = {"temperature": 700, "pressure": 0.1, "dial": 0.3, "layers": 2, "lattice": "fcc",
         "solvent": "ether", "alloy": {"Cu": 0.75, "Ni": 0.25},
         "blend": {"a": 20, "b": 30, "c": 50}}


@pytest.fixture(scope="module")
def space():
    return Space.from_yaml(EVERYTHING)


def units(space, count=200, seed=0):
    return np.random.default_rng(seed).random((count, space.dimension))


def test_yaml_read_back_gives_an_equal_space(space):
    assert Space.from_yaml(space.to_yaml()) == space


def test_decoded_points_are_canonical_and_within_bounds(space):
    for point in space.decode(units(space)):
        if space.feasible(point):
            assert space.check(point) == point  # check refuses whatever is out of bounds
        assert sum(point["alloy"].values()) == pytest.approx(1.0, abs=1e-8)
        assert sum(point["blend"].values()) == pytest.approx(100.0, abs=1e-6)


def test_encode_leads_back_to_the_same_point(space):
    points = space.decode(units(space))
    for before, after in zip(points, space.decode(space.encode(points)), strict=True):
        for name, value in before.items():
            if isinstance(value, str):
                assert after[name] == value
            else:
                # Numbers are kept to ten digits, amounts to nine decimals.
                assert after[name] == pytest.approx(value, rel=1e-7, abs=1e-7)


def test_features_lie_in_the_unit_cube(space):
    features = space.features(units(space))
    assert features.min() >= -1e-12
    assert features.max() <= 1 + 1e-12  # rounding of shares


def test_uniform_coordinates_give_a_uniform_simplex():
    space = Space.from_yaml("variables: [{type: mixture, name: m, parts: {a: [0, 1], b: [0, 1], "
                            "c: [0, 1]}}]")
    amounts = np.array([list(p["m"].values()) for p in space.decode(units(space, 20_000))])
    # Uniform on the triangle: each amount has mean 1/3 and variance 1/18.
    assert amounts.mean(axis=0) == pytest.approx(1 / 3, abs=0.01)
    assert amounts.var(axis=0) == pytest.approx(1 / 18, rel=0.05)


def test_equal_points_written_differently_have_one_hash(space):
    other = dict(reversed(POINT.items())) | {
        "temperature": 700.0000000001, "alloy": {"Ni": 0.25, "Cu": 0.75, "Al": 0}, "dial": 0.1 * 3}
    assert space.x_hash(other) == space.x_hash(POINT)


def test_different_points_have_different_hashes(space):
    points = [space.check(p) for p in space.decode(units(space, 500)) if space.feasible(p)]
    assert len({hash_point(p) for p in points}) == len(points)


def test_hash_is_the_same_in_another_process(space):
    code = ("import sys, json; from orionflow.agents.space import Space; "
            "print(Space.from_yaml(sys.argv[1]).x_hash(json.loads(sys.argv[2])))")
    run = subprocess.run([sys.executable, "-c", code, EVERYTHING, json.dumps(POINT)], text=True,
                         capture_output=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert run.stdout.strip() == space.x_hash(POINT)


@pytest.mark.parametrize(("change", "message"), [
    ({"temperature": 1000}, "temperature = 1000 is outside"),
    ({"temperature": "700"}, "temperature = '700' is not a number"),
    ({"temperature": float("nan")}, "not a number"),
    ({"temperature": True}, "not a number"),
    ({"dial": 0.35}, "dial = 0.35"),
    ({"layers": 2.5}, "layers = 2.5"),
    ({"lattice": "fc"}, "did you mean 'fcc'"),
    ({"alloy": {"Cu": 0.7, "Ni": 0.2}}, "adds up to 0.9"),
    ({"alloy": {"Cu": 0.72, "Ni": 0.28}}, "not a multiple"),
    ({"alloy": {"Cu": 0.5, "Ni": 0.2, "Zn": 0.3}}, "no part 'Zn'"),
    ({"alloy": 0.5}, "is not a mixture"),
    ({"layers": 4}, "breaks the constraint"),
    ({"lattice": "bcc", "temperature": 400}, "breaks the constraint"),
    ({"temprature": 700}, "did you mean 'temperature'"),
])
def test_wrong_point_is_refused_by_name(space, change, message):
    with pytest.raises(InputError, match=message):
        space.check(POINT | change)


def test_missing_value_is_named(space):
    with pytest.raises(InputError, match="has no layers"):
        space.check({k: v for k, v in POINT.items() if k != "layers"})


@pytest.mark.parametrize(("text", "message"), [
    ("variables: []", "at least 1"),
    ("variables: [{name: x, low: 0, high: 1}]", "needs a `type`"),
    ("variables: [{type: continous, name: x}]", "continuous"),
    ("variables: [{type: continuous, name: x, low: 0, high: 1, lwo: 2}]", "did you mean 'low'"),
    ("variables: [{type: continuous, name: x, low: 0}]", "high: is missing"),
    ("variables: [{type: continuous, name: x, low: 1, high: 1}]", "must be below"),
    ("variables: [{type: continuous, name: x, low: 0, high: '1'}]", "valid number"),
    ("variables: [{type: continuous, name: x, low: 0, high: .inf}]", "finite"),
    ("variables: [{type: continuous, name: x, low: 0, high: 1, scale: log}]", "low > 0"),
    ("variables: [{type: integer, name: n, low: 0, high: 1.5}]", "integer"),
    ("variables: [{type: categorical, name: c, choices: [a, a]}]", "twice"),
    ("variables: [{type: categorical, name: c, choices: [a, b], features_of: {a: [1]}}]",
     "differ in b"),
    ("variables: [{type: mixture, name: m, parts: {a: [0, 0.3], b: [0, 0.4]}}]", "add up"),
    ("variables: [{type: mixture, name: m, parts: {a: [0, 1], b: [0, 1]}, step: 0.3}]",
     "not a multiple"),
    (f"variables: [{N}, {N}]", "same name"),
    (f"variables: [{N}]\nconstraints: [{{type: linear, weights: {{m: 1}}, at_most: 2}}]",
     "there is no 'm'"),
    (f"variables: [{C}]\nconstraints: [{{type: linear, weights: {{c: 1}}, at_most: 2}}]",
     "can't judge"),
    (f"variables: [{N}]\npool: [{{n: 1}}, {{n: 1.0}}]", "the same candidate"),
    (f"variables: [{N}]\npool: [{{n: 9}}]", "pool.0: n = 9"),
    (f"variables: [{N}]\nvariables: []", "given twice"),
    ("variables: [", "not YAML"),
    ("variables: [{type: mixture, name: m, parts: {a: [0, 1], b: [0, 1]}, step: 1.0e-9}]",
     "finer than total"),
    ("variables: [{type: continuous, name: x, low: 0, high: 1, step: 1.0e-20}]", "too fine"),
])
def test_wrong_space_is_refused_with_its_place(text, message):
    with pytest.raises(InputError, match=message):
        Space.from_yaml(text)


def test_stepped_mixture_holds_every_composition_once():
    space = Space.from_yaml("variables: [{type: mixture, name: m, parts: {a: [0, 1], b: [0, 1], "
                            "c: [0, 1]}, step: 0.1}]")
    # Ways to put ten atoms into three kinds: (12 over 2).
    assert space.size == 66
    assert len({hash_point(p) for p in space.candidates()}) == 66
    drawn = {hash_point(p) for p in space.decode(units(space, 5000))}
    assert drawn == {hash_point(p) for p in space.candidates()}


def test_charge_neutral_keeps_compounds_that_exist():
    space = Space.from_yaml("""
variables:
- {type: mixture, name: f, parts: {Li: [0, 4], Fe: [0, 4], O: [0, 4]}, total: 4, step: 1}
constraints:
- {type: charge_neutral, mixture: f, oxidation_states: {Fe: [2, 3]}}
- {type: elements, mixture: f, at_least: 2}
""")
    found = {tuple(int(a) for a in p["f"].values()) for p in space.candidates()}
    # LiFeO2, and Fe2O2 with iron(II); no LiFe... alloy, no Li2O2 or Li3O.
    assert found == {(1, 1, 2), (0, 2, 2)}


def test_pool_admits_only_its_candidates():
    space = Space.from_yaml("variables: [{type: integer, name: n, low: 0, high: 9}]\n"
                            "pool: [{n: 2}, {n: 5}]")
    assert space.check({"n": 5}) == {"n": 5}
    with pytest.raises(InputError, match="not in the pool"):
        space.check({"n": 3})


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.floats(0.05, 0.3))
@settings(max_examples=200, deadline=None)
def test_mixture_with_any_bounds_keeps_sum_and_bounds(unit, low):
    high = 1 - 2 * low + 1e-3
    space = Space.from_data({"variables": [{
        "type": "mixture", "name": "m",
        "parts": {"a": [low, high], "b": [low / 2, high], "c": [low, high]}}]})
    point = space.decode(np.array([unit]))[0]
    assert space.check(point) == point
