"""Falling, sloshing and stuck SCF cycles are told apart."""

from __future__ import annotations

import re

import pytest

from orionflow.launchers.custodian.qe_scf import (
    ScfNotConverged,
    heal_scf,
    steps_needed,
    trend,
)
from orionflow.launchers.qe_output import scf_accuracies

# Captured with pw.x 6.7: 12 layers of Al (mixing_beta 0.9), 4 atoms of Al with fixed occupations.
SLAB = [2.635, 1108.5, 150.5, 15.93, 138.0, 2.312, 8.099, 0.866, 0.655, 0.457, 0.222, 0.176,
        0.329, 0.0529, 0.187, 0.351, 0.115, 0.0772, 0.231, 0.0742]


def test_steady_fall_is_falling():
    assert trend([10.0**-n for n in range(8)]) == "falling"


def test_few_iterations_are_given_time():
    assert trend([0.06, 0.002]) == "falling"


def test_constant_is_stuck():
    assert trend([1.0, 0.1, 0.01, *[0.00123] * 6]) == "stuck"


def test_slab_of_metal_sloshes():
    assert trend(SLAB) == "sloshing"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_numbers_that_are_none_slosh(bad):
    assert trend([1.0, 0.1, 0.01, bad, 1e-3, 1e-4]) == "sloshing"


def test_steps_follow_the_slope():
    assert steps_needed([1e-1, 1e-2, 1e-3, 1e-4], 1e-8) == 4
    assert steps_needed([1e-4, 1e-3, 1e-2], 1e-8) is None


def test_captured_metal_sloshes(captured):
    text = captured("QE_METAL_AS_INSULATOR").attempt.stdout
    (cycle,) = scf_accuracies(text)
    assert len(cycle) == len(re.findall(r"iteration #", text))
    assert trend(cycle) == "sloshing"


def test_short_memory_of_the_mixing_is_lengthened(captured):
    # Without it a slab of aluminium still sloshed after 160 iterations with mixing_beta 0.3.
    case = captured("QE_METAL_AS_INSULATOR")
    case.run.edit(electrons={"mixing_ndim": 1})
    changes = heal_scf(ScfNotConverged(case.run), case.attempt)
    assert changes is not None
    assert "mixing_ndim: 1 -> 8" in changes
