"""pw.x tells what it needs without doing the work."""

from __future__ import annotations

import pytest

from orionflow.errors import LaunchError
from orionflow.launchers.estimate_qe import estimate

pytestmark = pytest.mark.needs_code("pw.x")


def test_estimate_is_that_of_the_code(inputs):
    inputs.silicon()
    found = estimate(["pw.x", "-in", "pw.in"], inputs.folder, "pw.in")
    assert found.kpoints == 2  # the Chadi-Cohen points of a shifted 2x2x2 grid
    assert found.symmetries == 48  # diamond
    assert 1e5 < found.memory < 1e8
    assert sorted(p.name for p in inputs.folder.iterdir()) == ["pw.in"]


def test_larger_basis_needs_more_memory(inputs):
    inputs.silicon()
    small = estimate(["pw.x", "-in", "pw.in"], inputs.folder, "pw.in")
    inputs.silicon(ecut="60.0")
    assert estimate(["pw.x", "-in", "pw.in"], inputs.folder, "pw.in").memory > 3 * small.memory


def test_input_that_can_t_work_is_named(inputs):
    inputs.silicon(system="nspin = 2")
    with pytest.raises(LaunchError, match="tot_magnetization"):
        estimate(["pw.x", "-in", "pw.in"], inputs.folder, "pw.in")
