import json
import os
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Structure

from orionflow import __version__
from orionflow.errors import CodeError, InputError, OutputError
from orionflow.launchers.record import RunRecord
from orionflow.workflows.qe import _base
from orionflow.workflows.qe.core import RelaxMaker, StaticMaker, VcRelaxMaker
from orionflow.workflows.qe.pseudos import Cutoffs
from orionflow.workflows.schemas.base import FileHash, sha256_text
from orionflow.workflows.schemas.qe import QeTaskDocument
from orionflow.workflows.structures import read_structure, structure_hash

DATA = Path(__file__).parents[2] / "data" / "qe" / "pw-6.7"
PSEUDO = """<UPF version="2.0.1">
<PP_HEADER element="{element}" pseudo_type="NC" relativistic="no" has_so="false"
functional="SLA PZ NOGX NOGC" z_valence="{z}" wfc_cutoff="20" rho_cutoff="0"/>
</UPF>
"""
SI = read_structure("Si diamond 5.43")
# Cheap: the numbers need not be converged, only right for what they are.
CHEAP = {"functional": "pz", "ecutwfc": 12.0, "kpoints": (2, 2, 2)}


@pytest.fixture
def pseudo_dir(tmp_path, monkeypatch):
    folder = tmp_path / "pseudos"
    folder.mkdir()
    for element, z in (("Si", 4.0), ("Ge", 4.0), ("Fe", 8.0)):
        (folder / f"{element}.UPF").write_text(PSEUDO.format(element=element, z=z))
    monkeypatch.setenv("ORIONFLOW_PSEUDO_DIR", str(folder))
    return folder


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    folder = tmp_path / "pro ject's run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def record(**changes):
    now = datetime.now(UTC)
    values = {"executable": "/usr/bin/pw.x", "command": ["pw.x"], "hostname": "h",
              "started_at": now, "finished_at": now, "wall_seconds": 1.0, "core_seconds": 1.0,
              "attempts": 1}
    return RunRecord(**values | changes)


def document_of(job):
    responses = run_locally(job, create_folders=True, ensure_success=True, log=False)
    return responses[job.uuid][1].output


# --- choices at submission ---------------------------------------------------------------------


def test_frozen_recipe_keeps_its_grid_for_strained_cells(pseudo_dir):
    fixed = StaticMaker(functional="pz", k_spacing=0.4).for_structure(SI)
    strained = SI.copy().apply_strain(-0.05, inplace=False)
    assert StaticMaker(functional="pz", k_spacing=0.4).for_structure(strained).kpoints == (6, 6, 6)
    finer = StaticMaker(functional="pz", k_spacing=0.335)
    assert finer.for_structure(SI).kpoints == (6, 6, 6)
    assert finer.for_structure(strained).kpoints == (7, 7, 7)
    assert finer.for_structure(SI).for_structure(strained).kpoints == (6, 6, 6)
    assert fixed.for_structure(SI) == fixed


def test_frozen_recipe_refuses_other_elements(pseudo_dir):
    fixed = StaticMaker(functional="pz").for_structure(SI)
    with pytest.raises(InputError, match="fixed for Si, the structure has Ge"):
        fixed.for_structure(read_structure("Ge diamond 5.6"))


def test_file_changed_after_submission_is_refused(pseudo_dir):
    fixed = StaticMaker(functional="pz").for_structure(SI)
    pseudos = fixed._choose(SI)
    _base.check_hashes(pseudos, fixed.pseudo_hashes)
    (pseudo_dir / "Si.UPF").write_text(PSEUDO.format(element="Si", z=4.0) + "\n")
    with pytest.raises(InputError, match=r"Si\.UPF is not the file chosen at submission"):
        _base.check_hashes(pseudos, fixed.pseudo_hashes)


def test_reference_to_a_later_structure_is_accepted_and_parameters_checked(pseudo_dir):
    first = RelaxMaker(functional="pz").make(SI)
    second = StaticMaker(functional="pz").make(first.output.structure,
                                               prev_dir=first.output.dir_name)
    assert set(second.input_uuids) == {first.uuid}
    with pytest.raises(InputError, match="occupations"):
        StaticMaker(occupations="metal").make(first.output.structure)


def test_maker_survives_storing_with_its_tuples(pseudo_dir):
    maker = VcRelaxMaker(functional="pz", overrides={"system": {"nbnd": 8}}).for_structure(SI)
    again = MontyDecoder().process_decoded(json.loads(json.dumps(maker, cls=MontyEncoder)))
    assert type(again) is VcRelaxMaker
    assert again == maker
    assert again.for_structure(SI) == maker
    assert again.input_text(SI) == maker.input_text(SI)


def test_job_can_be_updated_like_any_jobflow_job(pseudo_dir):
    job = StaticMaker(functional="pz").make(SI)
    job.update_maker_kwargs({"degauss": 0.02})
    assert job.maker.degauss == 0.02
    assert job.name == "qe static"


def test_input_is_the_same_on_every_machine(pseudo_dir, tmp_path, monkeypatch):
    maker = StaticMaker(functional="pz")
    text = maker.input_text(SI)
    assert str(tmp_path) not in text
    monkeypatch.chdir("/")
    assert maker.input_text(SI) == text


def test_smearing_and_thresholds_reach_the_input(pseudo_dir):
    text = StaticMaker(functional="pz").input_text(SI)
    assert "occupations      = 'smearing'" in text
    assert "smearing         = 'mv'" in text
    assert "degauss          = 0.01" in text
    assert "conv_thr         = 2e-09" in text
    fixed = StaticMaker(functional="pz", occupations="fixed").input_text(SI)
    assert "nbnd             = 6" in fixed
    assert "degauss" not in fixed
    relax = VcRelaxMaker(functional="pz", pressure=10.0).input_text(SI)
    assert "calculation      = 'vc-relax'" in relax
    assert "press            = 10.0" in relax
    assert "nstep            = 100" in relax


def test_overrides_win_over_defaults(pseudo_dir):
    text = StaticMaker(functional="pz", occupations="fixed",
                       overrides={"system": {"nbnd": 20}}).input_text(SI)
    assert "nbnd             = 20" in text


def test_moments_make_the_run_spin_polarised(pseudo_dir):
    text = StaticMaker(functional="pz", magmoms={"Fe": 2.0}).input_text(
        read_structure("Fe bcc 2.86"))
    assert "nspin            = 2" in text


# --- what a run leaves -------------------------------------------------------------------------


def copy_case(case, folder):
    save = folder / "out" / "pw.save"
    save.mkdir(parents=True)
    (save / "data-file-schema.xml").write_bytes(
        (DATA / case / "data-file-schema.xml").read_bytes())
    (folder / "pw.out").write_bytes((DATA / case / "pw.out").read_bytes())


def test_xml_older_than_the_run_is_refused(run_dir):
    copy_case("si_scf", run_dir)
    xml, _ = _base.read_results(run_dir, calculation="scf", record=record())
    assert xml.energy < 0
    old = time.time() - 3600
    os.utime(run_dir / _base.XML, (old, old))
    with pytest.raises(OutputError, match="older than this run"):
        _base.read_results(run_dir, calculation="scf", record=record())
    # A continued run may have ended before it had to write again.
    _base.read_results(run_dir, calculation="scf", record=record(continued=1))


@pytest.mark.parametrize("missing", ["out/pw.save/data-file-schema.xml", "pw.out"])
def test_missing_output_is_named(run_dir, missing):
    copy_case("si_scf", run_dir)
    (run_dir / missing).unlink()
    with pytest.raises(OutputError, match=Path(missing).name) as caught:
        _base.read_results(run_dir, calculation="scf", record=record())
    assert Path(missing).name in caught.value.path


def test_pseudopotentials_are_linked_and_input_rewritten_the_same(run_dir, pseudo_dir):
    maker = StaticMaker(functional="pz")
    for _ in range(2):
        _base.write_run(run_dir, maker.input_text(SI), maker.for_structure(SI)._choose(SI))
        assert (run_dir / "pseudo" / "Si.UPF").read_text() == (pseudo_dir / "Si.UPF").read_text()
        assert (run_dir / "pw.in").read_text() == maker.input_text(SI)


def test_only_wavefunctions_are_dropped(run_dir):
    save = run_dir / "out" / "pw.save"
    save.mkdir(parents=True)
    for name in ("wfc1.dat", "wfcup2.dat", "charge-density.dat", "data-file-schema.xml"):
        (save / name).write_text("x")
    (run_dir / "out" / "pw.wfc1").write_text("x")
    _base.drop_wavefunctions(run_dir)
    assert {f.name for f in (run_dir / "out").rglob("*") if f.is_file()} == {
        "charge-density.dat", "data-file-schema.xml"}


@pytest.mark.parametrize(("case", "maker"), [
    ("si_relax", RelaxMaker()), ("al_vc_relax", VcRelaxMaker())])
def test_document_of_captured_run_decodes_to_itself(run_dir, tmp_path, monkeypatch, case, maker):
    folder = tmp_path / "p"
    folder.mkdir()
    element, z = ("Si", 4.0) if case.startswith("si") else ("Al", 3.0)
    (folder / f"{element}.UPF").write_text(PSEUDO.format(element=element, z=z))
    monkeypatch.setenv("ORIONFLOW_PSEUDO_DIR", str(folder))
    copy_case(case, run_dir)
    start = Structure.from_file(DATA / case / "POSCAR")
    fixed = replace(maker, functional="pz").for_structure(start)
    pseudos = fixed._choose(start)
    found = record(started_at=datetime.fromtimestamp(0, UTC))
    xml, stdout = _base.read_results(run_dir, calculation=maker.calculation, record=found)
    document = _base.summarise(
        xml, stdout, directory=run_dir, record=found, input_text="the input", start=start,
        pseudos=pseudos, cutoffs=Cutoffs(20, 80, {}), parameters=json.loads(json.dumps(
            asdict(fixed))), task_label="x", tags=["a"], uuid="u", pressure_threshold=0.1)
    stored = json.loads(json.dumps(document, cls=MontyEncoder))
    again = MontyDecoder().process_decoded(stored)
    assert type(again) is QeTaskDocument
    for name in QeTaskDocument.model_fields:
        if name != "entry":  # entries of pymatgen compare by identity of their parameters
            assert getattr(again, name) == getattr(document, name), name
    assert again.entry.as_dict() == document.entry.as_dict()
    assert document.provenance.input_sha256 == sha256_text("the input")
    assert document.provenance.structure_sha256 == structure_hash(start)
    assert document.provenance.files == [FileHash.of(folder / f"{element}.UPF")]
    assert document.qe.ionic_steps == len(document.trajectory)
    if maker.calculation == "vc-relax":
        assert document.qe.pulay_pressure == pytest.approx(-3.26, abs=0.006)
        assert any("-3.26 kbar" in w for w in document.warnings)
    else:
        assert document.structure.lattice == start.lattice


# --- real runs -----------------------------------------------------------------------------------


@pytest.mark.needs_code("pw.x", "mpirun")
def test_static_run_gives_a_whole_document(run_dir):
    document = document_of(StaticMaker(**CHEAP).make(SI))
    assert type(document) is QeTaskDocument
    assert document.structure == SI
    assert document.output.energy_per_atom == pytest.approx(document.output.energy / 2)
    assert np.shape(document.output.forces) == (2, 3)
    assert np.shape(document.output.stress) == (3, 3)
    assert document.entry.energy == document.output.energy
    assert document.formula_pretty == "Si"
    assert document.symmetry.number == 227
    host, _, folder = document.dir_name.partition(":")
    assert host
    run = document.provenance.run
    assert run.executable.endswith("pw.x")
    assert "mpirun" in run.command[0]
    assert run.core_seconds > 0
    assert run.corrections == []
    assert document.provenance.orionflow_version == __version__
    assert document.provenance.files[0].sha256 == FileHash.of(
        Path(folder) / "pseudo" / "Si.pz-vbc.UPF").sha256
    assert document.bands.eigenvalues
    assert document.input["kpoints"] == [2, 2, 2]
    assert not list(Path(folder).glob("out/pw.save/wfc*"))
    again = MontyDecoder().process_decoded(json.loads(json.dumps(document, cls=MontyEncoder)))
    assert type(again) is QeTaskDocument
    assert again.output == document.output


@pytest.mark.needs_code("pw.x", "mpirun")
def test_stored_job_runs_and_its_document_decodes_with_and_without_large_parts(run_dir):
    job = MontyDecoder().process_decoded(json.loads(json.dumps(
        StaticMaker(**CHEAP).make(SI), cls=MontyEncoder)))
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(job, store=store, create_folders=True, ensure_success=True, log=False)
    light = MontyDecoder().process_decoded(store.get_output(job.uuid, load=False))
    whole = MontyDecoder().process_decoded(store.get_output(job.uuid, load=True))
    assert type(light) is type(whole) is QeTaskDocument
    assert light.bands.store == "data"
    assert np.shape(whole.bands.eigenvalues)[1:] == (whole.qe.kpoints.irreducible,
                                                     whole.qe.n_bands)


@pytest.mark.needs_code("pw.x", "mpirun")
def test_two_ranks_give_the_same_energy(run_dir, monkeypatch):
    one = document_of(StaticMaker(**CHEAP).make(SI))
    (run_dir / "FW.json").write_text(json.dumps({"spec": {"resources": {"ranks": 2}}}))
    two = StaticMaker(**CHEAP).for_structure(SI).calculate.original(
        StaticMaker(**CHEAP).for_structure(SI), SI)
    assert two.provenance.run.ranks == 2
    assert two.output.energy == pytest.approx(one.output.energy, abs=1e-6)


@pytest.mark.needs_code("pw.x", "mpirun")
def test_forces_are_the_slope_of_the_energy(run_dir):
    step = 0.01
    kw = CHEAP | {"conv_thr_per_atom": 1e-11}
    moved = SI.copy()
    moved.translate_sites([1], [0.15, 0.02, 0.0], frac_coords=False)
    cells = [moved.copy() for _ in range(3)]
    for cell, sign in zip(cells, (-1, 1, 0), strict=True):
        cell.translate_sites([1], [sign * step, 0.0, 0.0], frac_coords=False)
    jobs = [StaticMaker(**kw).make(cell) for cell in cells]
    responses = run_locally(Flow(jobs), create_folders=True, ensure_success=True, log=False)
    low, high, middle = (responses[job.uuid][1].output for job in jobs)
    slope = -(high.output.energy - low.output.energy) / (2 * step)
    # Central differences leave the third derivative: some meV/Å.
    assert middle.output.forces[1][0] == pytest.approx(slope, abs=0.01)
    assert abs(slope) > 0.5


@pytest.mark.needs_code("pw.x", "mpirun")
def test_stress_is_the_slope_of_the_energy(run_dir):
    # At 30 Ry; at a low cutoff the basis changes with the cell (Pulay).
    kw = CHEAP | {"ecutwfc": 30.0, "conv_thr_per_atom": 1e-11}
    cells = [SI.copy().apply_strain(s, inplace=False) for s in (-0.012, -0.008, -0.01)]
    jobs = [StaticMaker(**kw).make(cell) for cell in cells]
    responses = run_locally(Flow(jobs), create_folders=True, ensure_success=True, log=False)
    small, large, middle = (responses[job.uuid][1].output for job in jobs)
    pressure = -(large.output.energy - small.output.energy) / (
        large.structure.volume - small.structure.volume) * 1602.176634
    mean = np.trace(middle.output.stress) / 3
    assert mean > 0, "compressed cells have positive stress"
    assert mean == pytest.approx(pressure, abs=2.0)


@pytest.mark.needs_code("pw.x", "mpirun")
def test_relaxation_finds_the_symmetric_positions(run_dir):
    moved = SI.copy()
    moved.translate_sites([1], [0.1, -0.05, 0.02], frac_coords=False)
    document = document_of(RelaxMaker(**CHEAP | {"kpoints": (3, 3, 3)}).make(moved))
    assert document.qe.ionic_converged
    assert np.abs(document.output.forces).max() < 0.01
    bond = document.structure.get_distance(0, 1)
    assert bond == pytest.approx(5.43 * 3**0.5 / 4, abs=0.01)
    assert document.structure.lattice == moved.lattice
    assert document.trajectory[0].energy > document.output.energy
    assert document.bands is None


@pytest.mark.needs_code("pw.x", "mpirun")
def test_vc_relax_reaches_the_pressure_asked_for(run_dir):
    document = document_of(VcRelaxMaker(
        functional="pz", ecutwfc=30.0, kpoints=(3, 3, 3), pressure=50.0).make(SI))
    # On the basis of the final cell; 30 Ry leaves little Pulay stress.
    assert document.qe.pulay_pressure == pytest.approx(50.0, abs=3.0)
    assert document.structure.volume < SI.volume


@pytest.mark.needs_code("pw.x", "mpirun")
def test_run_stopped_by_walltime_goes_on_in_its_folder(run_dir, monkeypatch):
    # Many short iterations, and many k-points: stopped among them on any machine.
    dense = CHEAP | {"ecutwfc": 30.0, "kpoints": (4, 4, 4)}
    slow = StaticMaker(**dense | {"conv_thr_per_atom": 1e-12}, overrides={
        "electrons": {"mixing_beta": 0.005, "mixing_ndim": 2, "electron_maxstep": 5000},
        "system": {"nosym": True, "noinv": True}}).for_structure(SI)
    monkeypatch.setenv("ORIONFLOW_DEADLINE", str(time.time() + 9))
    with pytest.raises(CodeError) as caught:
        slow.calculate.original(slow, SI)
    assert caught.value.failure_id == "QE_WALLTIME"
    assert caught.value.transient
    monkeypatch.delenv("ORIONFLOW_DEADLINE")
    document = slow.calculate.original(slow, SI)
    assert document.provenance.run.continued == 1
    quick = document_of(StaticMaker(**dense).make(SI))
    assert document.output.energy == pytest.approx(quick.output.energy, abs=1e-6)


@pytest.mark.needs_code("pw.x", "mpirun")
def test_run_healed_by_custodian_says_so(run_dir):
    document = document_of(StaticMaker(
        **CHEAP, overrides={"electrons": {"electron_maxstep": 2}}).make(SI))
    corrections = document.provenance.run.corrections
    assert [c.failure_id for c in corrections] == ["QE_SCF_NOT_CONVERGED"] * len(corrections)
    assert corrections
    assert any("electron_maxstep" in change for c in corrections for change in c.changes)
    clean = document_of(StaticMaker(**CHEAP).make(SI))
    assert document.output.energy == pytest.approx(clean.output.energy, abs=1e-6)


@pytest.mark.needs_code("pw.x", "mpirun")
@pytest.mark.parametrize(("maker", "structure", "pseudo"), [
    (StaticMaker(functional="pz", ecutwfc=25.0, ecutrho=200.0, kpoints=(3, 3, 3), degauss=0.02,
                 magmoms={"Fe": 3.0}), "Fe bcc 2.86", "Fe.pz-nd-rrkjus.UPF"),
])
def test_iron_is_magnetic(run_dir, maker, structure, pseudo):
    document = document_of(maker.make(read_structure(structure)))
    # 2.2 μB with dense k-points (Kittel, Introduction to Solid State Physics, ch. 12); the coarse
    # grid of this test overestimates.
    assert document.qe.total_magnetization == pytest.approx(2.2, abs=0.9)
    assert document.qe.pseudopotentials == {"Fe": pseudo}
