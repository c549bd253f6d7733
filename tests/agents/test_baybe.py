"""BayBE as a proposer; what needs it installed (PyTorch, a gigabyte) is skipped without it."""

import importlib
import importlib.util

import pytest

from orionflow.agents.proposers import Trial, baybe, check_proposer, get_proposer
from orionflow.agents.space import Space, hash_point
from orionflow.agents.testfunctions import FUNCTIONS
from orionflow.errors import ConfigError, InputError

installed = pytest.mark.skipif(importlib.util.find_spec("baybe") is None,
                               reason="BayBE is not installed")
FREE = """
variables:
- {type: continuous, name: x, low: 0, high: 1}
- {type: mixture, name: m, parts: {Cu: [0, 1], Ni: [0, 1], Al: [0, 0.5]}}
- {type: categorical, name: c, choices: [a, b]}
- {type: integer, name: n, low: 1, high: 3}
"""


@pytest.mark.parametrize(("constraint", "words"), [
    ("{type: linear, weights: {x: 1, n: 1}, at_most: 2}", "linear"),
    ("{type: forbid, when: {x: {low: 0.2, high: 0.3}}}", "forbid"),
    ("{type: elements, mixture: m, at_most: 2}", "elements"),
    ("{type: charge_neutral, mixture: m}", "charge_neutral")])
def test_constraint_baybe_does_not_know_is_refused_by_name(constraint, words):
    space = Space.from_yaml(f"{FREE}constraints: [{constraint}]")
    with pytest.raises(InputError, match=f"does not know the constraint .*{words}"):
        baybe._task(space)


def test_too_many_combinations_are_refused_with_their_number():
    space = Space.from_yaml("variables: [{type: continuous, name: x, low: 0, high: 1}, "
                            "{type: integer, name: n, low: 1, high: 1000}]")
    with pytest.raises(InputError, match="1000 combinations of n are too many"):
        baybe._task(space)


def test_constraints_are_sorted_by_what_they_speak_of():
    space = Space.from_yaml(FREE + """constraints:
- {type: linear, weights: {x: 1, m.Cu: 1}, at_least: 0.5, at_most: 1.5}
- {type: forbid, when: {c: [a], n: [1, 2]}}
- {type: elements, mixture: m, at_least: 2}
""")
    task = baybe._task(space)
    assert [v.name for v in task.free] == ["x", "m"]
    assert task.fixed == [{"c": "a", "n": 3}, *({"c": "b", "n": n} for n in (1, 2, 3))]
    assert [(names, sign, round(bound, 5)) for names, sign, _, bound in task.linear] == [
        (["x", "m.Cu"], ">=", 0.5), (["x", "m.Cu"], "<=", 1.5)]


@pytest.mark.parametrize(("name", "package", "command"), [
    ("baybe", "baybe", "pip install 'orionflow[baybe]'"),
    ("bayesian", "sklearn", "pip install 'orionflow[agents]'")])
def test_missing_package_is_told_with_the_command_that_installs_it(monkeypatch, name, package,
                                                                   command):
    module = importlib.import_module(f"orionflow.agents.proposers.{name}")
    monkeypatch.setattr(module, "find_spec",
                        lambda asked: None if asked == package else importlib.util.find_spec(asked))
    with pytest.raises(ConfigError) as caught:
        check_proposer(name, FUNCTIONS["branin"].space)
    assert caught.match(name)
    assert command in caught.value.hint
    check_proposer("latin", FUNCTIONS["branin"].space)


def loss(point):
    return (point["x"] - 0.3)**2 + (point["c"] != "b") + 4 * (point["m"]["Cu"] - 0.5)**2


@installed
def test_points_are_new_feasible_repeatable_and_better_than_chance():
    space = Space.from_yaml("""
variables:
- {type: continuous, name: x, low: 0.01, high: 1, scale: log}
- {type: mixture, name: m, parts: {Cu: [0, 1], Ni: [0, 1], Al: [0, 0.5]}}
- {type: categorical, name: c, choices: [a, b], features_of: {a: [1.0, 2.0], b: [1.0, 3.0]}}
constraints: [{type: linear, weights: {m.Cu: 1.0, m.Ni: 1.0}, at_least: 0.6}]
""")
    propose = get_proposer("baybe")
    rows, pending = [], get_proposer("random")(space, [], [], 2, 9)
    while len(rows) < 10:
        points = propose(space, rows, pending, 2, 1)
        assert points == propose(space, rows, pending, 2, 1)
        assert all(space.check(p) == p for p in points)
        rows += [Trial(p, loss(p) if len(rows) != 2 else None) for p in points]
    assert len({hash_point(p) for p in (*pending, *(t.point for t in rows))}) == len(rows) + 2
    chance = min(loss(p) for p in get_proposer("random")(space, [], [], 10, 1))
    assert min(t.loss for t in rows if t.loss is not None) < chance


@installed
def test_finite_space_is_visited_once_and_then_empty():
    pool = [f"{{x: {x}, m: {{Cu: {n}, Ni: {4 - n}}}, c: {c}}}"
            for x in (0.1, 0.3, 0.9) for n in (0, 2) for c in "ab"]
    space = Space.from_yaml(f"""
variables:
- {{type: continuous, name: x, low: 0, high: 1}}
- {{type: mixture, name: m, parts: {{Cu: [0, 4], Ni: [0, 4]}}, total: 4, step: 1}}
- {{type: categorical, name: c, choices: [a, b]}}
pool: [{", ".join(pool)}]
""")
    rows = []
    for _ in range(4):
        points = get_proposer("baybe")(space, rows, [], 5, 0)
        rows += [Trial(p, loss(p)) for p in points]
    assert len({hash_point(t.point) for t in rows}) == len(rows) == 12
