"""Errors keep their fields through pickle (children of the launcher send them) and FireWorks."""

import pickle

import pytest

from orionflow import errors

CASES = [
    errors.OrionflowError("a", hint="b", transient=True),
    errors.ConfigError("a", hint="b"),
    errors.InputError("a"),
    errors.LaunchError("a", command=["sbatch", "x y"], code=1, stderr="no", hint="b"),
    errors.CodeError("a", failure_id="QE_WALLTIME", folder="/scratch/x", transient=True),
    errors.OutputError("a", path="pw.xml", line=3, expected="a number"),
    errors.StoreError("a", hint="orionflow db start"),
    errors.PolicyError("a", rule="cap", asked=5, allowed=3),
]


@pytest.mark.parametrize("error", CASES, ids=lambda e: type(e).__name__)
def test_pickle_keeps_all_fields(error):
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert type(copy) is type(error)
    assert copy.__dict__ == error.__dict__
    assert str(copy) == str(error)


@pytest.mark.parametrize(("kind", "base"), [
    (errors.ConfigError, ValueError), (errors.InputError, ValueError),
    (errors.LaunchError, RuntimeError), (errors.CodeError, RuntimeError),
    (errors.OutputError, ValueError), (errors.StoreError, ConnectionError),
    (errors.PolicyError, PermissionError),
])
def test_error_is_also_the_builtin_a_caller_expects(kind, base):
    assert issubclass(kind, base)
    assert issubclass(kind, errors.OrionflowError)


def test_hint_is_shown_on_its_own_line():
    assert str(errors.InputError("no Xx.UPF", hint="copy it")) == "no Xx.UPF\n  -> copy it"


def test_dict_for_fireworks_holds_plain_values_only():
    stored = CASES[3].to_dict()
    assert stored["error"] == "LaunchError"
    assert all(v is None or isinstance(v, (bool, int, float, str)) for v in stored.values())
