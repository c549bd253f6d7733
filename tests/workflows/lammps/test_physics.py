"""Numbers of the recipes against published ones, other codes and the laws of mechanics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from atomate2.common.flows.elastic import BaseElasticMaker
from jobflow import run_locally
from pymatgen.core import Lattice, Structure, SymmOp
from pymatgen.io.ase import AseAtomsAdaptor

from orionflow.settings import Settings
from orionflow.units import EV_PER_ANGSTROM3_KBAR
from orionflow.workflows.lammps.core import MinimizeMaker, NptMaker, NveMaker, NvtMaker, StaticMaker
from orionflow.workflows.lammps.eos import LammpsEosMaker
from orionflow.workflows.lammps.frame import Frame

pytestmark = [pytest.mark.needs_code("lmp"), pytest.mark.validation]
COPPER = StaticMaker(force_field="Cu_mishin")


@pytest.mark.parametrize(("prototype", "force_field", "start", "a0", "b0"), [
    # F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985); elastic constants of the
    # potential: Balamane, Halicioglu and Tiller, Phys. Rev. B 46, 2250 (1992): B = 101.4 GPa.
    ("diamond", "Si.sw", 5.30, 5.431, 101.4),
    # Y. Mishin et al., Phys. Rev. B 63, 224106 (2001), table III.
    ("fcc", "Cu_mishin", 3.70, 3.615, 138.4),
])
def test_equation_of_state_gives_the_published_crystal(  # noqa: PLR0917  fixtures
        prototype, force_field, start, a0, b0, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    basis = [[0, 0, 0]] if prototype == "fcc" else [[0, 0, 0], [0.25, 0.25, 0.25]]
    lattice = Lattice(start / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))
    cell = Structure(lattice, [force_field[:2]] * len(basis), basis)
    flow = LammpsEosMaker(static_maker=StaticMaker(force_field=force_field)).make(cell)

    responses = run_locally(flow, create_folders=True, ensure_success=True, log=False)

    eos = responses[flow.output.uuid][1].output
    assert eos.a0 == pytest.approx(a0, abs=0.001)
    assert eos.b0 == pytest.approx(b0, rel=0.01)
    assert eos.warnings == []
    assert eos.code == "lmp"


@dataclass
class ElasticMaker(BaseElasticMaker):
    """atomate2's flow asks only for the name of the argument."""

    @property
    def prev_calc_dir_argname(self) -> str:
        return "prev_dir"


def test_elastic_constants_through_the_common_flow_are_the_published_ones(tmp_path, monkeypatch):
    """Balamane, Halicioglu and Tiller, Phys. Rev. B 46, 2250 (1992): relaxed constants of SW Si."""
    monkeypatch.chdir(tmp_path)
    cell = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    flow = ElasticMaker(
        bulk_relax_maker=MinimizeMaker(force_field="Si.sw", relax_cell=True),
        elastic_relax_maker=MinimizeMaker(force_field="Si.sw"),
    ).make(cell)

    responses = run_locally(flow, create_folders=True, ensure_success=True, log=False)

    tensor = responses[flow.jobs[-1].uuid][1].output.elastic_tensor.ieee_format
    assert tensor[0][0] == pytest.approx(151.4, rel=0.005)
    assert tensor[0][1] == pytest.approx(76.4, rel=0.005)
    assert tensor[3][3] == pytest.approx(56.4, rel=0.005)


def distorted_copper() -> Structure:
    """Primitive cell of sheared copper in an arbitrary orientation: a general triclinic cell."""
    cell = Structure(Lattice([[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]]) , ["Cu"], [[0, 0, 0]])
    cell.apply_operation(SymmOp.from_axis_angle_and_translation([3, 1, -2], 50.0))
    shear = np.array([[1.01, 0.03, -0.02], [0, 0.98, 0.015], [0.01, 0, 1.02]])
    return Structure(cell.lattice.matrix @ shear, cell.species, cell.frac_coords)


def test_primitive_and_larger_cells_agree(run):
    """One lattice, three cells: energy an atom, stress and the zero forces are the same."""
    primitive = distorted_copper()
    left_handed = primitive * [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert np.linalg.det(left_handed.lattice.matrix) < 0
    conventional = primitive * [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
    skewed = primitive * [[1, 0, 0], [2, 1, 0], [3, 4, 1]]

    one, *others = (run(COPPER, cell) for cell in (primitive, left_handed, conventional, skewed))

    assert len(others[1].structure) == 4
    for other in others:
        assert other.output.energy_per_atom == pytest.approx(one.output.energy_per_atom, abs=1e-10)
        assert np.allclose(other.output.stress, one.output.stress, atol=1e-6)
        assert np.allclose(other.output.forces, 0, atol=1e-9)
    assert np.abs(one.output.stress).max() > 10


def test_rotated_crystal_has_rotated_forces_and_stress(copper, run):
    copper.translate_sites([1], [0.03, -0.02, 0.05])
    copper.apply_strain([0.01, 0, -0.02])
    operation = SymmOp.from_axis_angle_and_translation([1, 2, 3], 33.0)
    rotation = operation.rotation_matrix
    turned = copper.copy()
    turned.apply_operation(operation)
    assert not Frame.of(copper.lattice.matrix).triclinic
    assert not Frame.of(turned.lattice.matrix).triclinic

    one, two = run(COPPER, copper), run(COPPER, turned)

    assert two.output.energy == pytest.approx(one.output.energy, abs=1e-9)
    assert np.allclose(two.output.forces, np.array(one.output.forces) @ rotation.T, atol=1e-9)
    stress = rotation @ np.array(one.output.stress) @ rotation.T
    assert np.allclose(two.output.stress, stress, atol=1e-6)
    assert np.abs(one.output.forces).max() > 0.1


def test_triclinic_forces_and_stress_are_derivatives_of_the_energy(run):
    cell = distorted_copper() * [2, 1, 1]
    cell.translate_sites([1], [0.04, -0.03, 0.02])
    here = run(COPPER, cell)
    h = 1e-4

    def energy(structure: Structure) -> float:
        return run(COPPER, structure).output.energy

    for axis in range(3):
        step = np.eye(3)[axis] * h
        pair = [cell.copy(), cell.copy()]
        for structure, sign in zip(pair, (1, -1), strict=True):
            structure.translate_sites([1], sign * step, frac_coords=False)
        force = -(energy(pair[0]) - energy(pair[1])) / (2 * h)
        # Second-order differences: h² times a third derivative of some 100 eV/Å³ -> 1e-6.
        assert here.output.forces[1][axis] == pytest.approx(force, abs=1e-5)
    for i, j in ((0, 0), (0, 1), (1, 2), (2, 2)):
        strained = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * h / 2
            strain[j, i] += sign * h / 2
            strained.append(Structure(cell.lattice.matrix @ (np.eye(3) + strain), cell.species,
                                      cell.frac_coords))
        # Positive means compressed: minus the derivative of the energy by the strain.
        slope = (energy(strained[0]) - energy(strained[1])) / (2 * h) / cell.volume
        assert here.output.stress[i][j] == pytest.approx(-slope * EV_PER_ANGSTROM3_KBAR, abs=0.01)


def test_forces_agree_with_an_independent_code(run):
    """ASE's own reader and evaluation of the same file; its splines differ a little."""
    from ase.calculators.eam import EAM

    cell = distorted_copper() * [2, 2, 1]
    cell.translate_sites([0, 2], [0.05, -0.03, 0.04])
    atoms = AseAtomsAdaptor.get_atoms(cell)
    atoms.calc = EAM(potential=str(Settings().potentials_dir / "Cu_mishin1.eam.alloy"))

    document = run(COPPER, cell)

    assert document.output.energy_per_atom == pytest.approx(
        atoms.get_potential_energy() / len(cell), abs=1e-4)
    assert np.allclose(document.output.forces, atoms.get_forces(), atol=5e-3)
    assert np.abs(document.output.forces).max() > 0.3


def test_energy_is_conserved_to_second_order_in_the_time_step(silicon, run):
    """Velocity Verlet: half the time step, a quarter of the energy error."""
    cell = silicon * [3, 3, 3]
    ranges = []
    for timestep in (0.004, 0.002):
        steps = round(2.0 / timestep)
        document = run(NveMaker(force_field="Si.sw", nsteps=steps, timestep=timestep,
                                temperature=600, thermo_every=1, dump_every=0), cell)
        energy = document.thermo["etotal"]
        assert document.trajectory is None
        half = len(energy) // 2
        drift = abs(energy[half:].mean() - energy[:half].mean())
        ranges.append(energy[10:].std())
        assert drift < ranges[-1]
    assert ranges[1] / len(cell) < 1e-4
    assert 3 < ranges[0] / ranges[1] < 5


@pytest.mark.parametrize("thermostat", ["nose-hoover", "langevin"])
def test_thermostat_reaches_its_temperature(silicon, run, thermostat):
    document = run(NvtMaker(force_field="Si.sw", nsteps=20_000, temperature=400,
                            initial_temperature=800, thermostat=thermostat, thermo_every=20,
                            dump_every=0), silicon * [3, 3, 3])

    average = document.averages["temp"]
    assert abs(average.mean - 400) < 4 * average.error
    assert 0 < average.error < 10
    # Fluctuations of the canonical ensemble: sigma(T) / T = sqrt(2 / degrees of freedom).
    half = document.thermo["temp"][len(document.thermo) // 2 :]
    assert half.std() / 400 == pytest.approx(np.sqrt(2 / (3 * 54 - 3)), rel=0.25)


def test_barostat_reaches_its_pressure(copper, run):
    document = run(NptMaker(force_field="Cu_mishin", nsteps=20_000, temperature=300,
                            initial_temperature=600, pressure=10_000.0, thermo_every=20,
                            dump_every=0), copper * [3, 3, 3])

    average = document.averages["press"]
    assert abs(average.mean - 10_000) < 4 * average.error + 20
    assert average.error < 1000
    # 1 GPa over 138.4 GPa against thermal expansion of some 1.5 %.
    per_atom = document.averages["vol"].mean / 108
    assert 0.995 < per_atom / (3.615**3 / 4) < 1.015
