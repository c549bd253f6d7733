"""A user's own pw.x and ph.x inputs as jobs: what is stored, refused, run and healed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from monty.json import MontyDecoder

from orionflow.analysis.store import open_store
from orionflow.errors import CodeError, InputError
from orionflow.launchers.run_state import read_state
from orionflow.units import RYDBERG_EV
from orionflow.workflows import user_files
from orionflow.workflows.qe.user_input import InputMaker
from orionflow.workflows.registry import make
from orionflow.workflows.schemas.user_input import UserInputDocument

PSEUDO = Path("/usr/share/espresso/pseudo/Si.pz-vbc.UPF")
# Made for these tests by pw.x 6.7 alone, on one rank, from the input below, Ry.
SILICON = -15.79449557
PW = """&CONTROL
  calculation = 'scf', prefix = 'si', pseudo_dir = '{pseudo}', outdir = '{outdir}' ! mine
  tprnfor = .true., tstress = .true.
/
&SYSTEM
  ibrav = 2, celldm(1) = 10.2, nat = 2, ntyp = 1, ecutwfc = 12.0
/
&ELECTRONS
  conv_thr = 1.0d-8 {electrons}
/
ATOMIC_SPECIES
  Si  28.086  Si.pz-vbc.UPF
ATOMIC_POSITIONS alat
  Si 0.00 0.00 0.00
  Si 0.25 0.25 0.25
K_POINTS {kpoints}
"""
PH = """phonon at Gamma
&inputph
  prefix = 'si', outdir = '{outdir}', tr2_ph = 1.0d-10, fildyn = 'si.dyn'
/
0 0 0
"""
UPF = """<UPF version="2.0.1">
<PP_HEADER element="Si" pseudo_type="NC" relativistic="no" has_so="false"
functional="SLA PZ NOGX NOGC" z_valence="4.0" wfc_cutoff="20" rho_cutoff="0"/>
</UPF>
"""


@pytest.fixture
def folder(tmp_path):
    """Return a submitter's folder with a pseudopotential beside it."""
    place = tmp_path / "my folder's"
    (place / "upf").mkdir(parents=True)
    (place / "upf" / "Si.pz-vbc.UPF").write_text(UPF)
    return place


def write(folder, name="pw.in", *, pseudo="./upf", outdir="/scratch/mine", electrons="",
          kpoints="automatic\n  2 2 2 1 1 1"):
    path = folder / name
    path.write_text(PW.format(pseudo=pseudo, outdir=outdir, electrons=electrons, kpoints=kpoints))
    return path


def write_ph(folder, outdir="/scratch/mine/"):
    (folder / "ph.in").write_text(PH.format(outdir=outdir))


def run(job, folder, monkeypatch):
    """Run the job's own function in a folder."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return InputMaker.calculate.original(job.maker, *job.function_args)


def test_job_holds_the_text_and_refers_to_the_pseudopotential(folder):
    path = write(folder)
    steps, files, references = make("qe.input", str(path)).function_args
    assert steps == [{"code": "pw.x", "input_file": "pw.in"}]
    assert [f["name"] for f in files] == ["pw.in"]
    text = files[0]["text"]
    assert "! mine" in text
    assert "pseudo_dir = './pseudo'" in text
    assert "outdir = './outdir'" in text
    kept = [line for line in path.read_text().splitlines() if "pseudo_dir" not in line]
    assert [line for line in text.splitlines() if "pseudo_dir" not in line] == kept
    assert files[0]["sha256"] == sha256(path.read_bytes()).hexdigest()
    upf = (folder / "upf" / "Si.pz-vbc.UPF").resolve()
    assert references == [{"name": "pseudo/Si.pz-vbc.UPF", "path": str(upf),
                           "sha256": sha256(UPF.encode()).hexdigest()}]


def test_folders_inside_stay_and_one_scratch_folder_stays_one(folder):
    write(folder, outdir="./out")
    assert "outdir = './out'" in make("qe.input", folder).function_args[1][0]["text"]
    write(folder, outdir="/scratch/mine")
    write_ph(folder)
    files = make("qe.input", folder).function_args[1]
    assert [f["name"] for f in files] == ["pw.in", "ph.in"]
    assert all("outdir = './outdir'" in f["text"] for f in files)


@pytest.mark.parametrize(("change", "message", "hint"), [
    ({"electrons": ", mixing_bta = 0.3"}, "unknown key 'mixing_bta'", "mixing_beta"),
    ({"pseudo": "./nowhere"}, "pseudopotential Si.pz-vbc.UPF of Si is not in", "pseudo_dir"),
])
def test_input_that_cannot_work_is_refused_at_submission(folder, change, message, hint):
    with pytest.raises(InputError, match=message) as caught:
        make("qe.input", write(folder, **change))
    assert hint in caught.value.hint


def test_step_without_its_scf_is_refused(folder):
    write_ph(folder)
    with pytest.raises(InputError, match="starts from an scf") as caught:
        make("qe.input", folder / "ph.in")
    assert '"scf.in", "ph.in"' in caught.value.hint


def test_folder_with_two_scf_wants_an_order(folder):
    write(folder, "a.in")
    write(folder, "b.in")
    with pytest.raises(InputError, match=r"it holds a\.in, b\.in") as caught:
        make("qe.input", folder)
    assert "steps=" in caught.value.hint
    steps = make("qe.input", folder, {"steps": ["b.in", "a.in"]}).function_args[0]
    assert [s["input_file"] for s in steps] == ["b.in", "a.in"]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("large.dat", b"x" * (user_files.MAX_BYTES + 1), r"large\.dat is 4\.0 MiB; 4 MiB can be"),
    ("binary.dat", b"\xff\xfe\0", r"binary\.dat is not text"),
    ("../outside.dat", b"x", "is not in the folder of the input"),
])
def test_file_that_cannot_be_stored_is_refused(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        make("qe.input", write(folder), {"files": [name]})


def test_missing_input_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no input file or folder .*pw\.in"):
        make("qe.input", tmp_path / "pw.in")


def test_changed_pseudopotential_is_refused_by_the_job(folder, tmp_path, monkeypatch):
    job = make("qe.input", write(folder))
    (folder / "upf" / "Si.pz-vbc.UPF").write_text(UPF + "\n")
    with pytest.raises(InputError, match="is not the one there was at submission"):
        run(job, tmp_path / "run", monkeypatch)


@pytest.mark.needs_code("pw.x", "ph.x", "mpirun")
def test_scf_and_phonon_are_healed_without_the_submitters_folder(folder, tmp_path, monkeypatch):
    write(folder, pseudo=PSEUDO.parent, electrons=", electron_maxstep = 4")
    write_ph(folder)
    job = make("qe.input", folder)
    shutil.rmtree(folder)
    document = run(job, tmp_path / "run", monkeypatch)
    assert [c.failure_id for c in document.provenance.run.corrections] == ["QE_SCF_NOT_CONVERGED"]
    assert document.converged
    assert document.output.energy == pytest.approx(SILICON * RYDBERG_EV, abs=1e-5 * RYDBERG_EV)
    assert document.steps[0].numbers["energy"] == pytest.approx(document.output.energy, abs=1e-6)
    assert document.output.forces is not None
    assert len(document.structure) == 2
    # The optical mode is threefold, 517 cm-1 by Raman scattering; 12 Ry and 2x2x2 are coarse.
    optical = document.steps[1].numbers["frequencies"][3:]
    assert max(optical) - min(optical) < 0.1
    assert optical[0] == pytest.approx(517, rel=0.05)
    assert {"pw.out", "ph.out", "si.dyn", "corrections.md"} <= set(document.files)
    # Started again in its folder, as after a launcher that died in the phonon: the scf is done.
    pw, ph = (tmp_path / "run" / name for name in ("pw.out", "ph.out"))
    before = pw.stat().st_mtime_ns, ph.stat().st_mtime_ns
    (tmp_path / "run" / "ph.orionflow_run.json").unlink()
    again = run(job, tmp_path / "run", monkeypatch)
    assert pw.stat().st_mtime_ns == before[0]
    assert ph.stat().st_mtime_ns > before[1]
    assert again.output.energy == document.output.energy
    assert [c.failure_id for c in again.provenance.run.corrections] == ["QE_SCF_NOT_CONVERGED"]


@pytest.mark.needs_code("pw.x", "ph.x", "mpirun")
def test_scf_that_a_phonon_cannot_start_from_is_repaired(folder, tmp_path, monkeypatch):
    write(folder, pseudo=PSEUDO.parent, kpoints="gamma")
    write_ph(folder)
    document = run(make("qe.input", folder), tmp_path / "run", monkeypatch)
    assert any("PH_GAMMA_TRICKS" in line for line in document.repairs)
    assert len(document.steps[1].numbers["frequencies"]) == 6


@pytest.mark.needs_code("pw.x", "mpirun")
def test_energy_of_an_scf_stays_when_a_later_step_overwrites_its_xml(folder, tmp_path,
                                                                     monkeypatch):
    scf = write(folder, "scf.in", pseudo=PSEUDO.parent)
    (folder / "nscf.in").write_text(scf.read_text().replace("'scf'", "'nscf'").replace(
        "tprnfor = .true., tstress = .true.", ""))
    job = make("qe.input", folder, {"steps": ["scf.in", "nscf.in"], "options": ["-nk", "1"]})
    document = run(job, tmp_path / "run", monkeypatch)
    assert document.output is None
    assert any("holds a 'nscf' calculation" in warning for warning in document.warnings)
    assert document.steps[0].numbers["energy"] == pytest.approx(SILICON * RYDBERG_EV, abs=1e-4)
    assert [s.calculation for s in document.steps] == ["scf", "nscf"]
    assert "-nk" in document.steps[1].run.command


@pytest.mark.needs_code("pw.x", "mpirun")
def test_hopeless_input_is_an_error_with_its_name(folder, tmp_path, monkeypatch):
    path = write(folder, pseudo=PSEUDO.parent)
    # Only what pw.x prints shows that it does not know a part of this name.
    text = path.read_text().replace("ecutwfc = 12.0", "ecutwfc = 12.0, input_dft = 'pbee'")
    path.write_text(text)
    job = make("qe.input", path)
    with pytest.raises(CodeError) as caught:
        run(job, tmp_path / "run", monkeypatch)
    assert caught.value.failure_id == "QE_FUNCTIONAL_WRONG"
    assert not caught.value.transient
    assert read_state(tmp_path / "run").failure.failure_id == "QE_FUNCTIONAL_WRONG"


@pytest.mark.needs_mongod
@pytest.mark.needs_code("pw.x", "mpirun")
def test_submitted_input_runs_and_is_healed_through_fireworks(folder, project):
    path = write(folder, pseudo=PSEUDO.parent, electrons=", electron_maxstep = 4")
    orionflow = Path(sys.executable).with_name("orionflow")
    done = subprocess.run([orionflow, "submit", "qe.input", path, "-c", "own", "-o", "json"],
                          cwd=project, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)[0]["name"] == "qe.input pw"
    shutil.rmtree(folder)
    subprocess.run([orionflow, "launch"], cwd=project, check=True, capture_output=True,
                   timeout=120)
    store = open_store(project)
    found = store.query_one({"metadata.campaign": "own"}, load=True)
    store.close()
    document = MontyDecoder().process_decoded(found["output"])
    assert isinstance(document, UserInputDocument)
    assert [c.failure_id for c in document.provenance.run.corrections] == ["QE_SCF_NOT_CONVERGED"]
    assert document.output.energy == pytest.approx(SILICON * RYDBERG_EV, abs=1e-5 * RYDBERG_EV)
    table = subprocess.run([orionflow, "results", "--campaign", "own", "-o", "json"], cwd=project,
                           check=True, capture_output=True, text=True)
    assert json.loads(table.stdout)[0]["energy_ev"] == pytest.approx(document.output.energy)
    for command in ("show", "explain"):
        told = subprocess.run([orionflow, command, "-i", str(found["metadata"]["fw_id"])],
                              cwd=project, check=True, capture_output=True, text=True)
        assert "QE_SCF_NOT_CONVERGED" in told.stdout
