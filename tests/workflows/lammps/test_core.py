from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder, jsanitize
from pymatgen.core import Lattice, Structure

from orionflow.errors import CodeError, InputError
from orionflow.workflows.lammps.core import (
    MinimizeMaker,
    NptMaker,
    NveMaker,
    NvtMaker,
    StaticMaker,
)
from orionflow.workflows.lammps.potentials import ForceField
from orionflow.workflows.schemas.base import BlobReference
from orionflow.workflows.schemas.lammps import LammpsDocument, ThermoTable, Trajectory

lmp = pytest.mark.needs_code("lmp")
SW = "Si.sw"


@lmp
def test_static_job_gives_a_document_that_survives_the_store(silicon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    job = StaticMaker(force_field=SW).make(silicon)
    job.update_metadata({"tags": ["first"]})

    run_locally(job, store=store, create_folders=True, ensure_success=True, log=False)

    document = MontyDecoder().process_decoded(store.get_output(job.uuid, load=True))
    assert isinstance(document, LammpsDocument)
    assert isinstance(document.thermo, ThermoTable)
    assert document.uuid == job.uuid
    assert document.tags == ["first"]
    assert document.task_label == "lammps static"
    assert document.formula_pretty == "Si"
    assert document.symmetry.symbol == "Fd-3m"
    assert document.entry.energy == document.output.energy
    assert document.force_field.doi == "10.1103/PhysRevB.31.5262"
    (file,) = document.provenance.files
    assert file.name == SW
    assert document.provenance.run.executable.endswith("lmp")
    folder = Path(document.dir_name.partition(":")[2])
    assert (folder / "in.lammps").read_text() == document.input["script"]
    # Without its objects the document holds references in their place.
    stored = store.query_one({"uuid": job.uuid}, load=False)["output"]
    plain = MontyDecoder().process_decoded(stored)
    assert isinstance(plain, LammpsDocument)
    assert isinstance(plain.thermo, BlobReference)
    assert plain.thermo.store == "data"


def test_maker_survives_the_database(silicon):
    field = ForceField("sw", ("* * Si.sw {elements}",), files=("Si.sw",))
    for maker in (StaticMaker(force_field=SW), MinimizeMaker(force_field=SW, relax_cell=True),
                  NveMaker(force_field=field), NvtMaker(force_field=SW, tdamp=0.2),
                  NptMaker(force_field=SW, couple="aniso")):
        again = MontyDecoder().decode(MontyEncoder().encode(maker))
        assert type(again) is type(maker)
        assert again == maker


@pytest.mark.parametrize(("maker", "change", "message"), [
    (StaticMaker(force_field="Cu_mishin"), {}, "no parameters for Si; it holds Cu"),
    (StaticMaker(force_field=SW), {"pbc": (True, True, False)}, "not periodic"),
    (NvtMaker(force_field=SW), {"sites": 1}, "one atom has no temperature"),
    (StaticMaker(force_field=SW), {"overlap": True}, "Å apart"),
])
def test_what_can_not_run_is_refused_before_submission(  # noqa: PLR0917  fixtures
        silicon, maker, change, message, tmp_path, monkeypatch):
    (tmp_path / "Cu_mishin1.eam.alloy").write_text("\n\n\n1 Cu\n")
    (tmp_path / "Si.sw").write_text("Si Si Si" + " 1.0" * 11)
    monkeypatch.setenv("ORIONFLOW_POTENTIALS_DIR", str(tmp_path))
    lattice = Lattice(silicon.lattice.matrix, pbc=change.get("pbc", (True, True, True)))
    coords = [[0, 0, 0], [0.01, 0, 0]] if "overlap" in change else silicon.frac_coords
    n = change.get("sites", 2)

    with pytest.raises(InputError, match=message):
        maker.make(Structure(lattice, silicon.species[:n], coords[:n]))


@lmp
def test_potential_file_changed_after_submission_is_refused(silicon, tmp_path, monkeypatch):
    text = Path("/usr/share/lammps/potentials/Si.sw").read_text()
    file = tmp_path / "Si.sw"
    file.write_text(text)
    monkeypatch.setenv("ORIONFLOW_POTENTIALS_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    job = StaticMaker(force_field=SW).make(silicon)
    file.write_text(text.replace("2.1683", "2.1684"))

    with pytest.raises(InputError, match=r"'Si\.sw' is not the one there was at submission"):
        StaticMaker.calculate.original(job.maker, *job.function_args)


@lmp
def test_minimisation_moves_atoms_back_and_keeps_the_cell(silicon, run):
    moved = silicon.copy()
    moved.translate_sites([1], [0.02, -0.01, 0.015])

    document = run(MinimizeMaker(force_field=SW, dump_every=1), moved)

    assert document.minimization.criterion == "force tolerance"
    assert document.minimization.max_force <= 1e-6
    assert np.array_equal(document.structure.lattice.matrix, silicon.lattice.matrix)
    distance = document.structure.get_distance(0, 1)
    assert distance == pytest.approx(silicon.get_distance(0, 1), abs=1e-6)
    assert np.abs(document.output.forces).max() < 1e-6
    assert len(document.trajectory) == document.steps + 1
    assert np.allclose(document.trajectory.positions[0], moved.cart_coords, atol=1e-12)
    assert np.allclose(document.trajectory.structure().cart_coords,
                       document.structure.cart_coords, atol=1e-10)


@lmp
@pytest.mark.parametrize(("couple", "pressure"), [("tri", 0.0), ("iso", 0.0), ("tri", 50_000.0)])
def test_cell_is_relaxed_to_the_pressure_asked_for(silicon, run, couple, pressure):
    start = silicon.copy()
    start.apply_strain([0.02, 0.01, -0.01] if couple == "tri" else 0.02)

    document = run(MinimizeMaker(force_field=SW, relax_cell=True, couple=couple,
                                 pressure=pressure), start)

    # Pressure in bar, stress in kbar with VASP's sign: compressed is positive.
    assert np.allclose(document.output.stress, np.eye(3) * pressure / 1000, atol=0.01)
    if pressure == 0:
        assert document.structure.volume == pytest.approx(5.43095**3 / 4, rel=1e-5)
    assert document.structure.lattice.angles == pytest.approx((60, 60, 60), abs=1e-3)


@lmp
def test_unconverged_minimisation_gives_no_document(silicon, run, monkeypatch):
    moved = silicon.copy()
    moved.translate_sites([1], [0.05, 0, 0])
    monkeypatch.setenv("ORIONFLOW_MAX_CORRECTIONS", "0")

    with pytest.raises(CodeError, match="max iterations"):
        run(MinimizeMaker(force_field=SW, maxiter=1), moved)


@lmp
def test_order_of_sites_does_not_matter_and_is_kept(run):
    ordered = Structure(Lattice.cubic(3.6), ["Ni", "Ni", "Cu", "Cu"],
                        [[0, 0, 0.02], [0.5, 0.5, 0], [0.5, 0.01, 0.5], [0, 0.5, 0.5]])
    order = [2, 0, 3, 1]
    mixed = Structure.from_sites([ordered[i] for i in order])
    maker = StaticMaker(force_field="CuNi")

    one, two = run(maker, ordered), run(maker, mixed)

    assert one.force_field.types == ["Ni", "Cu"]
    assert two.force_field.types == ["Cu", "Ni"]
    assert two.output.energy == pytest.approx(one.output.energy, abs=1e-10)
    assert np.allclose(two.output.forces, np.array(one.output.forces)[order], atol=1e-10)
    assert [s.specie.symbol for s in two.structure] == ["Cu", "Ni", "Cu", "Ni"]


@lmp
def test_dynamics_stores_what_is_needed_to_repeat_it(silicon, run):
    maker = NvtMaker(force_field=SW, nsteps=200, dump_every=50, seed=99)

    one = run(maker, silicon * [2, 2, 2])
    two = run(maker, silicon * [2, 2, 2])
    other = run(NvtMaker(force_field=SW, nsteps=200, dump_every=50, seed=98), silicon * [2, 2, 2])

    assert one.seed == 99
    assert one.input["parameters"]["seed"] == 99
    assert np.array_equal(one.thermo["pe"], two.thermo["pe"])
    assert not np.array_equal(one.thermo["pe"], other.thermo["pe"])
    assert list(one.trajectory.steps) == [0, 50, 100, 150, 200]
    assert np.allclose(one.trajectory.times, [0, 0.05, 0.1, 0.15, 0.2])
    assert one.trajectory.velocities.shape == (5, 16, 3)
    assert np.allclose(one.trajectory.forces[-1], one.output.forces, atol=1e-12)
    assert one.time == pytest.approx(0.2)
    assert one.steps == 200


@lmp
def test_initial_velocities_do_not_depend_on_the_number_of_processes(silicon, run):
    cell = silicon * [3, 2, 2]
    maker = NveMaker(force_field=SW, nsteps=20, thermo_every=10, dump_every=0)

    one, two = run(maker, cell), run(maker, cell, resources={"ranks": 2})

    assert (one.provenance.run.ranks, two.provenance.run.ranks) == (1, 2)
    assert one.thermo["temp"][0] == pytest.approx(300)
    assert np.allclose(one.output.forces, two.output.forces, atol=1e-9)


@lmp
def test_run_stopped_by_walltime_goes_on_in_its_folder(silicon, run):
    """A launch that runs out of time fails for now; the next one in the same folder finishes."""
    maker = NvtMaker(force_field=SW, nsteps=40_000, thermo_every=500, dump_every=500,
                     restart_every=500)
    cell = silicon * [3, 3, 2]

    with pytest.raises(CodeError) as error:
        run(maker, cell, resources={"walltime": 5})
    assert error.value.failure_id == "LAMMPS_WALLTIME"
    assert error.value.transient
    document = run(maker, cell, resources={"walltime": 600}, again=True)

    assert document.provenance.run.continued == 1
    assert document.steps == 40_000
    assert document.time == pytest.approx(40)
    every = np.arange(0, 40_001, 500)
    assert np.array_equal(document.thermo["step"], every)
    assert np.allclose(document.thermo["time"], every * 0.001)
    assert np.array_equal(document.trajectory.steps, every)
    assert np.allclose(document.trajectory.times, every * 0.001)


@lmp
def test_continued_run_is_the_uninterrupted_one(silicon, run):
    cell = silicon * [2, 2, 2]
    fields = {"force_field": SW, "dump_every": 100}
    whole = run(NvtMaker(nsteps=600, **fields), cell)
    first = run(NvtMaker(nsteps=400, **fields), cell)

    second = run(NvtMaker(nsteps=200, continue_previous=True, **fields), first.structure,
                 first.dir_name)

    assert second.steps == 200
    assert list(second.thermo["step"]) == [400, 500, 600]
    assert np.allclose(second.thermo["etotal"], whole.thermo["etotal"][-3:], atol=1e-10)
    assert np.allclose(second.structure.cart_coords, whole.structure.cart_coords, atol=1e-10)


@lmp
def test_continuing_another_structure_is_refused(silicon, run):
    first = run(NveMaker(force_field=SW, nsteps=50), silicon * [2, 1, 1])
    maker = NveMaker(force_field=SW, nsteps=50, continue_previous=True)

    with pytest.raises(InputError, match="not the final one"):
        run(maker, silicon * [2, 1, 1], first.dir_name)
    with pytest.raises(InputError, match="no prev_dir"):
        run(maker, first.structure)


@lmp
def test_sheared_cell_of_npt_comes_back_in_the_frame_it_was_given(silicon, run):
    turned = silicon.copy()
    turned.apply_operation(_rotation())
    maker = NptMaker(force_field=SW, nsteps=300, couple="tri", pdamp=0.2, pressure=20_000.0)

    document = run(maker, turned * [2, 2, 2])

    start = (turned * [2, 2, 2]).lattice.matrix
    strain = np.linalg.solve(start, document.structure.lattice.matrix) - np.eye(3)
    assert 1e-4 < np.abs(strain).max() < 0.1
    assert np.allclose(document.trajectory.cells[0], start, atol=1e-10)
    assert np.allclose(document.trajectory.cells[-1], document.structure.lattice.matrix)
    assert document.structure.volume == pytest.approx(document.thermo["vol"][-1], rel=1e-10)
    # LAMMPS's own energy of the reported structure: positions and cell belong together.
    static = run(StaticMaker(force_field=SW), document.structure)
    assert static.output.energy == pytest.approx(document.output.energy, abs=1e-8)
    assert np.allclose(static.output.forces, document.output.forces, atol=1e-7)


@lmp
def test_explicit_lines_are_run_as_given(run):
    """Two argon atoms in a large box: the Lennard-Jones energy is known by hand."""
    epsilon, sigma, r = 0.0104, 3.4, 3.9
    field = ForceField("lj/cut 8.5", (f"1 1 {epsilon} {sigma}",), elements=("Ar",))
    pair = Structure(Lattice.cubic(20), ["Ar", "Ar"], [[0.1, 0.2, 0.3], [0.1, 0.2 + r / 20, 0.3]])

    document = run(StaticMaker(force_field=field), pair)

    x = (sigma / r) ** 6
    assert document.output.energy == pytest.approx(4 * epsilon * (x * x - x), abs=1e-12)
    force = 24 * epsilon * (2 * x * x - x) / r
    assert np.allclose(document.output.forces, [[0, -force, 0], [0, force, 0]], atol=1e-12)


@lmp
def test_charges_give_the_madelung_energy(run):
    """Rock salt of point charges: -1.747565 e²/(4 pi eps0 r) for each pair of ions."""
    field = ForceField("coul/long 9.0", ("* *",), elements=("Na", "Cl"),
                       charges={"Na": 1.0, "Cl": -1.0}, commands=("kspace_style ewald 1e-8",))
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"],
                                     [[0, 0, 0], [0.5, 0.5, 0.5]])

    document = run(StaticMaker(force_field=field), salt)

    # LAMMPS's Coulomb constant in metal units is 14.399645 eV Å.
    assert document.output.energy == pytest.approx(4 * -1.747565 * 14.399645 / 2.82, rel=1e-5)


def test_document_is_plain_data(silicon):
    table = ThermoTable(columns={"step": np.arange(3), "pe": np.array([1.0, 2.0, 3.0])})
    path = Trajectory(species=["Si"], steps=[0], times=[0.0], cells=np.eye(3)[None],
                      positions=np.zeros((1, 1, 3)))

    for item in (table, path):
        again = MontyDecoder().process_decoded(jsanitize(item, strict=True))
        assert type(again) is type(item)
    assert np.array_equal(again.cells, path.cells)
    assert again.velocities is None


def _rotation():
    from pymatgen.core import SymmOp

    return SymmOp.from_axis_angle_and_translation([1, 2, 3], 77.0)
