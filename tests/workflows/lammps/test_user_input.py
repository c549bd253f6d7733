"""A user's own LAMMPS script as a job: what is stored, refused, run and healed."""

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
from orionflow.errors import InputError
from orionflow.workflows import user_files
from orionflow.workflows.lammps.user_input import InputMaker
from orionflow.workflows.registry import make
from orionflow.workflows.schemas.user_input import UserInputDocument

POTENTIAL = Path("/usr/share/lammps/potentials/Si.sw")
LOST_ATOMS = Path(__file__).parents[2] / "data" / "lammps_failures" / "LAMMPS_LOST_ATOMS"
# -2 epsilon for one atom of perfect silicon, epsilon = 2.1683 eV: Stillinger and Weber,
# Phys. Rev. B 31, 5262 (1985), doi:10.1103/PhysRevB.31.5262.
SILICON = -4.3366
SCRIPT = """# silicon
units metal
read_data "si.data"
include potential.mod
thermo_style custom step pe press atoms
write_data after.data
run 0
"""
INCLUDED = "pair_style sw\npair_coeff * * {potential} Si\n"
DATA = """silicon

8 atoms
1 atom types

0 5.431 xlo xhi
0 5.431 ylo yhi
0 5.431 zlo zhi

Masses

1 28.0855

Atoms # atomic

1 1 0 0 0
2 1 0 2.7155 2.7155
3 1 2.7155 0 2.7155
4 1 2.7155 2.7155 0
5 1 1.35775 1.35775 1.35775
6 1 1.35775 4.07325 4.07325
7 1 4.07325 1.35775 4.07325
8 1 4.07325 4.07325 1.35775
"""


@pytest.fixture
def folder(tmp_path):
    """Return a submitter's folder: script, included script, data and potential file."""
    place = tmp_path / "my folder's"
    place.mkdir()
    (place / "in.silicon").write_text(SCRIPT)
    (place / "potential.mod").write_text(INCLUDED.format(potential="mine.sw"))
    (place / "mine.sw").write_text("Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333\n"
                                   "7.049556277 0.6022245584 4.0 0.0 0.0\n")
    (place / "si.data").write_text(DATA)
    (place / "after.data").write_text("written by the script\n")
    return place


def run(job, folder, monkeypatch):
    """Run the job's own function in a folder."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return InputMaker.calculate.original(job.maker, *job.function_args)


def test_job_holds_all_files_the_script_reads(folder):
    steps, files, references = make("lammps.input", folder).function_args
    assert steps == [{"code": "lmp", "input_file": "in.silicon"}]
    assert {f["name"]: f["text"] for f in files} == {
        name: (folder / name).read_text() for name in ("in.silicon", "potential.mod", "si.data")}
    assert references == [{
        "name": "mine.sw", "path": str((folder / "mine.sw").resolve()),
        "sha256": sha256((folder / "mine.sw").read_bytes()).hexdigest()}]


@pytest.mark.parametrize(("text", "message", "hint"), [
    (SCRIPT.replace("si.data", "sii.data"), r"no file 'sii\.data'", "into the folder"),
    ("units lj\n" + INCLUDED.format(potential="mine.sw"), "units lj with pair_style sw", "metal"),
    (SCRIPT.replace("si.data", "../si.data"), "is not in the folder of the input", "put it there"),
])
def test_script_that_cannot_work_is_refused_at_submission(folder, text, message, hint):
    (folder.parent / "si.data").write_text(DATA)
    (folder / "in.silicon").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        make("lammps.input", folder / "in.silicon")
    assert hint in caught.value.hint


def test_large_data_file_is_refused_with_its_size(folder):
    with (folder / "si.data").open("a") as stream:
        stream.write("\n" * user_files.MAX_BYTES)
    with pytest.raises(InputError, match=r"si\.data is 4\.0 MiB; 4 MiB can be stored"):
        make("lammps.input", folder)


def test_folder_with_two_scripts_wants_one_named(folder):
    (folder / "in.other").write_text(SCRIPT)
    with pytest.raises(InputError, match=r"it holds in\.other, in\.silicon"):
        make("lammps.input", folder)


@pytest.mark.needs_code("lmp", "mpirun")
def test_script_runs_without_the_submitters_folder(folder, tmp_path, monkeypatch):
    (folder / "potential.mod").write_text(INCLUDED.format(potential=POTENTIAL))
    job = make("lammps.input", folder)
    shutil.rmtree(folder)
    document = run(job, tmp_path / "run", monkeypatch)
    step = document.steps[0]
    assert step.units == "metal"
    assert step.numbers["pe"] / step.numbers["atoms"] == pytest.approx(SILICON, abs=1e-4)
    assert step.input_text == SCRIPT
    assert (tmp_path / "run" / "in.silicon").read_text() == SCRIPT
    assert [f.name for f in document.provenance.files] == ["Si.sw"]
    assert {"log.lammps", "after.data", "in.out"} <= set(document.files)


@pytest.mark.needs_mongod
@pytest.mark.needs_code("lmp", "mpirun")
def test_submitted_script_runs_and_is_healed_through_fireworks(tmp_path, project):
    script = tmp_path / "in.lammps"
    shutil.copy(LOST_ATOMS / "in.lammps", script)
    orionflow = Path(sys.executable).with_name("orionflow")
    done = subprocess.run([orionflow, "submit", "lammps.input", script, "-c", "own", "-o", "json"],
                          cwd=project, check=True, capture_output=True, text=True)
    assert len(json.loads(done.stdout)[0]["fw_ids"]) == 1
    script.unlink()
    subprocess.run([orionflow, "launch"], cwd=project, check=True, capture_output=True,
                   timeout=120)
    store = open_store(project)
    found = store.query_one({"metadata.campaign": "own"}, load=True)
    store.close()
    document = MontyDecoder().process_decoded(found["output"])
    assert isinstance(document, UserInputDocument)
    assert document.provenance.run.corrections[0].failure_id == "LAMMPS_LOST_ATOMS"
    assert document.steps[0].units == "lj"
    # A time step of a tenth, ten times the steps: the time that was asked for.
    assert document.steps[0].numbers["step"] >= 300
    assert document.steps[0].numbers["temp"] == pytest.approx(0.7, abs=0.2)
