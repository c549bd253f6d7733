import io
import math
from pathlib import Path

import pytest
from ase.io import read as ase_read
from pymatgen.core import Lattice, Structure

from orionflow.errors import InputError
from orionflow.workflows.qe.inputs import (
    bands_with_gap,
    check_overrides,
    electrons,
    force_threshold_ry,
    k_grid,
    pw_input,
)
from orionflow.workflows.qe.upf import Pseudo
from orionflow.workflows.structures import read_structure

SI = read_structure("Si diamond 5.43")


def pseudo(element, z):
    return {element: Pseudo(path=Path(f"{element}.UPF"),
                            element=element, functional="pbe", kind="NC", z_valence=z,
                            ecutwfc=None, ecutrho=None, spin_orbit=False)}


def test_k_grid_counts_reciprocal_vectors_with_two_pi():
    cubic = Structure(Lattice.orthorhombic(4.0, 8.0, 100.0), ["Si"], [[0, 0, 0]])
    # 2π/4 = 1.571, 2π/8 = 0.785, 2π/100 = 0.063
    assert k_grid(cubic, 0.25) == (math.ceil(1.571 / 0.25), math.ceil(0.785 / 0.25), 1)


def test_k_grid_that_fits_exactly_does_not_grow():
    cubic = Structure(Lattice.cubic(5.0), ["Si"], [[0, 0, 0]])
    assert k_grid(cubic, 2 * math.pi / 5.0 / 4) == (4, 4, 4)


def test_k_grid_jumps_under_strain_which_is_why_flows_freeze_it():
    cell = Structure(Lattice.cubic(5.0), ["Si"], [[0, 0, 0]])
    spacing = 2 * math.pi / 5.0 / 4
    assert k_grid(cell.copy().apply_strain(-0.03, inplace=False), spacing) == (5, 5, 5)


@pytest.mark.parametrize("spacing", [0, -0.2, math.nan, math.inf])
def test_k_grid_refuses_spacing(spacing):
    with pytest.raises(InputError, match="k_spacing"):
        k_grid(SI, spacing)


def test_input_reads_back_as_the_same_structure():
    text = pw_input(SI, {"control": {"calculation": "scf"}, "system": {"ecutwfc": 20.0}},
                    pseudo("Si", 4), kpoints=(4, 4, 4), k_shift=(1, 1, 1))
    atoms = ase_read(io.StringIO(text), format="espresso-in")
    assert atoms.get_chemical_symbols() == ["Si", "Si"]
    assert atoms.cell.array == pytest.approx(SI.lattice.matrix)
    assert atoms.get_scaled_positions() == pytest.approx(SI.frac_coords, abs=1e-9)
    assert "K_POINTS automatic\n4 4 4  1 1 1" in text
    assert "Si.UPF" in text


def test_input_has_no_empty_namelists():
    text = pw_input(SI, {"control": {"calculation": "scf"}, "system": {"ecutwfc": 20.0},
                         "electrons": {"conv_thr": 1e-9}}, pseudo("Si", 4), kpoints=(1, 1, 1))
    assert [line for line in text.splitlines() if line.startswith("&")] == [
        "&CONTROL", "&SYSTEM", "&ELECTRONS"]


def test_moments_become_shares_of_the_valence_electrons():
    iron = read_structure("Fe bcc 2.86")
    text = pw_input(iron, {"system": {}}, pseudo("Fe", 8), kpoints=(1, 1, 1),
                    magmoms={"Fe": 2.0})
    assert "starting_magnetization(1) = 0.25" in text
    assert "nspin            = 2" in text
    with pytest.raises(InputError, match="9 μB on Fe"):
        pw_input(iron, {"system": {}}, pseudo("Fe", 8), kpoints=(1, 1, 1), magmoms={"Fe": 9})


def test_antiferromagnet_of_site_moments_makes_two_species():
    cell = read_structure("Fe bcc 2.86 cubic")
    cell.add_site_property("magmom", [2.0, -2.0])
    text = pw_input(cell, {"system": {}}, pseudo("Fe", 8), kpoints=(1, 1, 1))
    assert "ntyp             = 2" in text
    assert "starting_magnetization(2) = -0.25" in text


def test_zero_moments_make_no_spin():
    cell = read_structure("Fe bcc 2.86")
    cell.add_site_property("magmom", [0.0])
    assert "nspin" not in pw_input(cell, {"system": {}}, pseudo("Fe", 8), kpoints=(1, 1, 1))


def test_fixed_atoms_stay_fixed():
    cell = SI.copy()
    cell.add_site_property("selective_dynamics", [[True] * 3, [False] * 3])
    lines = pw_input(cell, {"system": {}}, pseudo("Si", 4), kpoints=(1, 1, 1)).splitlines()
    assert [line.split()[-3:] for line in lines if line.startswith("Si 0.25")] == [["0"] * 3]


def test_electrons_count_the_charge():
    assert electrons(SI, pseudo("Si", 4)) == 8
    assert electrons(SI, pseudo("Si", 4), {"system": {"tot_charge": 1}}) == 7


@pytest.mark.parametrize(("n", "bands"), [(8, 6), (2, 3), (100, 55)])
def test_fixed_occupations_get_empty_bands(n, bands):
    assert bands_with_gap(n) == bands


def test_force_threshold_in_rydberg_per_bohr():
    # 1 Ry/bohr = 25.711 eV/Å
    assert force_threshold_ry(0.0257110) == pytest.approx(1e-3, rel=1e-4)


def test_good_overrides_pass():
    check_overrides({"system": {"nbnd": 12, "Hubbard_U(1)": 4.0, "nosym": True},
                     "electrons": {"mixing_beta": 0.3}})


@pytest.mark.parametrize(("overrides", "problem", "hint"), [
    ({"sytem": {"nbnd": 1}}, "'sytem' is not a namelist", "system"),
    ({"system": {"nbnds": 1}}, "no variable 'nbnds'", "nbnd"),
    ({"system": {"mixing_beta": 0.3}}, "no variable 'mixing_beta'", "&electrons"),
    ({"system": {"ecutwfc": 30}}, "decided by the recipe", "parameter"),
    ({"control": {"outdir": "x"}}, "decided by the recipe", "parameter"),
    ({"system": {"celldm(1)": 10}}, "decided by the recipe", "parameter"),
    ({"system": {"nbnd": [1]}}, "not a plain value", "numbers"),
    ({"system": 3}, "not a namelist", "write"),
])
def test_bad_override_is_refused(overrides, problem, hint):
    with pytest.raises(InputError, match=problem) as caught:
        check_overrides(overrides)
    assert hint in caught.value.hint
