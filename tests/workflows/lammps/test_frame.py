from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.lammps import Prism
from hypothesis import given, settings
from hypothesis import strategies as st

from orionflow.errors import InputError
from orionflow.workflows.lammps.frame import Frame

FCC = np.array([[0.0, 1.8, 1.8], [1.8, 0.0, 1.8], [1.8, 1.8, 0.0]])


def cells() -> st.SearchStrategy[np.ndarray]:
    numbers = st.lists(st.floats(-10, 10), min_size=9, max_size=9)
    return numbers.map(lambda x: np.reshape(x, (3, 3))).filter(
        lambda c: abs(np.linalg.det(c)) > 0.05 * np.prod(np.linalg.norm(c, axis=1)) > 0.5)


@given(cells())
@settings(max_examples=200, deadline=None)
def test_box_of_any_cell_is_a_lattice_lammps_takes(cell):
    frame = Frame.of(cell)

    assert np.allclose(np.triu(frame.box, 1), 0)
    assert (np.diag(frame.box) > 0).all()
    (lx, _, _), (xy, ly, _), (xz, yz, _) = frame.box
    assert max(abs(xy / lx), abs(xz / lx), abs(yz / ly)) <= 0.5 + 1e-9
    combination = cell @ np.linalg.inv(frame.vectors(frame.box))
    assert np.allclose(combination, np.round(combination), atol=1e-6)
    assert abs(np.linalg.det(combination)) == pytest.approx(1)
    assert np.allclose(frame.cell(frame.box), cell, atol=1e-8)


@given(cells())
@settings(max_examples=100, deadline=None)
def test_vectors_of_a_right_handed_cell_turn_as_in_ase(cell):
    if np.linalg.det(cell) < 0:
        cell = cell[[1, 0, 2]]
    prism = Prism(cell)
    vectors = np.arange(6.0).reshape(2, 3)

    frame = Frame.of(cell)

    assert np.allclose(frame.to_lammps(vectors), prism.vector_to_lammps(vectors), atol=1e-7)
    assert np.allclose(frame.vectors(vectors), prism.vector_to_ase(vectors), atol=1e-7)
    assert np.allclose(frame.tensor(np.diag([1.0, 2, 3])),
                       prism.tensor2_to_ase(np.diag([1.0, 2, 3])), atol=1e-7)


def test_orthogonal_cell_stays_as_it_is():
    frame = Frame.of(np.diag([3.0, 4.0, 5.0]))

    assert not frame.triclinic
    assert np.array_equal(frame.rotation, np.eye(3))


def test_rounding_noise_is_no_tilt():
    assert not Frame.of([[3, 0, 0], [1e-12, 3, 0], [0, -2e-13, 3]]).triclinic
    assert Frame.of(FCC).triclinic


def test_left_handed_cell_keeps_its_vectors():
    cell = FCC[[1, 0, 2]]
    assert np.linalg.det(cell) * np.linalg.det(FCC) < 0

    assert np.allclose(Frame.of(cell).cell(Frame.of(cell).box), cell)


def test_strained_and_flipped_boxes_give_the_same_kind_of_cell():
    frame = Frame.of(FCC)
    strain = np.array([[1.01, 0, 0], [0.02, 0.99, 0], [-0.01, 0.01, 1.0]])
    strained = frame.box @ strain
    flipped = strained.copy()
    flipped[1] -= np.sign(flipped[1, 0]) * flipped[0]  # what fix npt does with a large tilt

    expected = FCC @ frame.rotation.T @ strain @ frame.rotation
    assert np.allclose(frame.cell(strained), expected)
    assert np.allclose(frame.cell(flipped), expected)


def test_flat_cell_is_refused():
    with pytest.raises(InputError, match="one plane"):
        Frame.of([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
