from __future__ import annotations

import numpy as np
import pytest
from jobflow import run_locally
from monty.json import MontyDecoder, jsanitize
from pymatgen.core import Lattice, Structure

from orionflow.analysis.physics.eos import EosFit
from orionflow.errors import InputError
from orionflow.workflows.common.eos import EosMaker, fit_eos
from orionflow.workflows.lammps.core import MinimizeMaker, StaticMaker
from orionflow.workflows.lammps.eos import LammpsEosMaker
from orionflow.workflows.schemas.eos import EosDocument

lmp = pytest.mark.needs_code("lmp")
CURVE = EosFit(e0=-14.0, v0=47.0, b0=140.0, b0_prime=5.0, rms=0.0)


def fcc(a: float = 3.6) -> Structure:
    return Structure(Lattice.cubic(a), ["Cu"] * 4,
                     [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def fit(structure: Structure, curve: EosFit = CURVE, noise=0.0) -> EosDocument:
    cells = [structure.copy() for _ in range(7)]
    for cell, scale in zip(cells, (1.04, 0.94, 1.0, 0.96, 1.06, 0.98, 1.02), strict=True):
        cell.scale_lattice(curve.v0 * scale)
    volumes = [c.volume for c in cells]
    energies = np.array(curve.energy(volumes)) + np.array([1, -1, 1, -1, 1, -1, 1]) * noise
    return fit_eos.original(volumes=volumes, energies=energies.tolist(), structures=cells,
                            dir_names=[f"host:/run/{i}" for i in range(7)], recipe={})


def test_points_in_any_order_give_the_curve_they_lie_on():
    document = fit(fcc())

    assert document.v0 == pytest.approx(47.0)
    assert document.e0 == pytest.approx(-14.0)
    assert document.b0 == pytest.approx(140.0)
    assert document.b0_prime == pytest.approx(5.0)
    assert document.volumes == sorted(document.volumes)
    assert document.dir_names[0] == "host:/run/1"
    assert document.dir_names[-1] == "host:/run/4"
    assert document.energies[0] == pytest.approx(float(CURVE.energy(47.0 * 0.94)))
    assert document.structure.volume == pytest.approx(47.0)
    assert document.warnings == []


@pytest.mark.parametrize("matrix", [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
])
def test_lattice_constant_does_not_depend_on_the_cell(matrix):
    cell = fcc() * matrix if np.linalg.det(matrix) > 0.9 else fcc().get_primitive_structure()
    n = len(cell)
    document = fit(cell, EosFit(e0=-3.5 * n, v0=11.75 * n, b0=140, b0_prime=5, rms=0))

    assert document.a0 == pytest.approx((4 * 11.75) ** (1 / 3))
    assert document.space_group == "Fm-3m"
    assert document.volume_per_atom == pytest.approx(11.75)
    assert document.energy_per_atom == pytest.approx(-3.5)


def test_crystal_that_is_not_cubic_has_no_lattice_constant():
    cell = Structure(Lattice.hexagonal(3.2, 5.2), ["Mg", "Mg"],
                     [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])

    document = fit(cell)

    assert document.a0 is None
    assert document.crystal_system == "hexagonal"


def test_points_that_scatter_are_remarked_upon():
    assert "scatter" in fit(fcc(), noise=0.01).warnings[0]


def test_document_survives_the_store():
    document = fit(fcc())

    again = MontyDecoder().process_decoded(jsanitize(document, strict=True))

    assert isinstance(again, EosDocument)
    assert again.volumes == document.volumes
    assert again.structure == document.structure


@pytest.mark.parametrize(("fields", "message"), [
    ({"linear_strain": (0.03, -0.03)}, "linear_strain"),
    ({"linear_strain": (-3.0, 3.0)}, "linear_strain"),
    ({"number_of_frames": 4}, "too few"),
])
def test_strains_no_fit_can_come_from_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        EosMaker(static_maker=StaticMaker(force_field="Cu_mishin"), **fields)


@lmp
def test_structure_the_force_field_does_not_know_is_refused_before_submission():
    with pytest.raises(InputError, match="no parameters for Cu"):
        EosMaker(static_maker=StaticMaker(force_field="Si.sw")).make(fcc())


@lmp
def test_strains_on_one_side_of_the_minimum_give_no_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flow = EosMaker(static_maker=StaticMaker(force_field="Cu_mishin"), number_of_frames=5,
                    linear_strain=(0.02, 0.05)).make(fcc(3.65))

    responses = run_locally(flow, create_folders=True, log=False)

    assert flow.output.uuid not in responses
    with pytest.raises(InputError, match="outside the sampled volumes"):
        run_locally(flow, create_folders=True, log=False, raise_immediately=True)


@lmp
def test_failed_point_leaves_no_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORIONFLOW_MAX_CORRECTIONS", "0")
    cell = fcc()
    cell.translate_sites([0], [0.02, 0, 0])
    flow = EosMaker(static_maker=MinimizeMaker(force_field="Cu_mishin", maxiter=1),
                    number_of_frames=5).make(cell)

    responses = run_locally(flow, create_folders=True, log=False)

    assert flow.output.uuid not in responses


@lmp
def test_points_may_be_relaxed_in_their_cells(tmp_path, monkeypatch):
    """The minimum of relaxed points lies not above that of unrelaxed ones."""
    monkeypatch.chdir(tmp_path)
    cell = Structure(Lattice.hexagonal(3.2, 5.2), ["Mg", "Mg"],
                     [[1 / 3, 2 / 3, 0.26], [2 / 3, 1 / 3, 0.75]])
    found = []
    for maker in (StaticMaker(force_field="Mg_mm"), MinimizeMaker(force_field="Mg_mm")):
        flow = LammpsEosMaker(static_maker=maker, initial_relax=False, number_of_frames=5,
                              linear_strain=(-0.02, 0.02)).make(cell)
        responses = run_locally(flow, create_folders=True, ensure_success=True, log=False)
        found.append(responses[flow.output.uuid][1].output)

    assert found[1].e0 < found[0].e0 - 1e-4
    assert found[1].recipe["maker"] == "orionflow.workflows.lammps.core:MinimizeMaker"
    assert found[1].recipe["fields"]["force_field"] == "Mg_mm"
