"""What is refused before MPI starts, and what is not."""

from __future__ import annotations

import shutil

import pytest

from orionflow.launchers.preflight_qe import check_ph, check_pw

pytestmark = pytest.mark.needs_code("pw.x")  # its package brings the pseudopotentials
PARENT = """<?xml version="1.0"?><qes:espresso xmlns:qes="http://www.quantum-espresso.org/ns/qes">
<input><atomic_species ntyp="1"><species name="Si">
<pseudo_file>Si.pz-vbc.UPF</pseudo_file></species>
</atomic_species><spin><lsda>false</lsda></spin>
<basis><ecutwfc>{half_ecut}</ecutwfc></basis></input>
<output><atomic_structure nat="{nat}"/></output></qes:espresso>"""


@pytest.fixture
def parent(inputs):
    def make(*, ecut=12.0, nat=2, density=b"density"):
        save = inputs.folder / "out" / "si.save"
        save.mkdir(parents=True)
        (save / "data-file-schema.xml").write_text(PARENT.format(half_ecut=ecut / 2, nat=nat))
        (save / "charge-density.dat").write_bytes(density)
        return save

    return make


def test_healthy_input_passes(inputs):
    inputs.silicon()
    assert check_pw(inputs.folder, "pw.in") is None


@pytest.mark.parametrize(("failure_id", "named", "values"), [
    ("QE_INPUT_NAMELIST", "ecutwfx", {"system": "ecutwfx = 3"}),
    ("QE_INPUT_NAMELIST", "mixing_beta", {"system": "mixing_beta = 0.3"}),
    ("QE_CUTOFFS", "ecutrho", {"system": "ecutrho = 10"}),
    ("QE_CUTOFFS", "ecutwfc", {"ecut": "0"}),
    ("QE_INPUT_CARDS", "columns", {"positions": "  Si 0 0\n  Si 0.25 0.25 0.25"}),
    ("QE_INPUT_CARDS", "1 atoms", {"positions": "  Si 0 0 0"}),
    ("QE_INPUT_CARDS", "Ge", {"positions": "  Ge 0 0 0\n  Si 0.25 0.25 0.25"}),
    ("QE_ATOMS_OVERLAP", "0.000 Å", {"positions": "  Si 0 0 0\n  Si 0 0 0"}),
    ("QE_ATOMS_OVERLAP", "0.162 Å", {"positions": "  Si 0 0 0\n  Si 0 0 0.03"}),
    ("QE_PSEUDO", "Si.pz-vbc.UPF", {"pseudo": "./nowhere"}),
    ("QE_NO_DEGAUSS", "degauss", {"system": "occupations = 'smearing'"}),
    ("QE_TETRAHEDRA", "automatic", {"system": "occupations = 'tetrahedra'",
                                    "kpoints": "crystal\n1\n 0 0 0 1"}),
    ("QE_OUTDIR", "/proc", {"control": "wfcdir = './x', outdir = '/proc/out'"}),
    ("QE_PARENT_MISSING", "data-file-schema.xml", {"calculation": "nscf"}),
])
def test_hopeless_input_is_refused_by_name(inputs, failure_id, named, values):
    path = inputs.silicon(**values)
    if failure_id == "QE_OUTDIR":
        path.write_text(path.read_text().replace(", outdir = './out'", ""))
    problem = check_pw(inputs.folder, "pw.in")
    assert problem is not None
    assert problem.failure_id == failure_id
    assert named in problem.message
    assert problem.hint


def test_missing_or_empty_input_is_refused(inputs):
    assert check_pw(inputs.folder, "pw.in").failure_id == "QE_INPUT_EMPTY"
    (inputs.folder / "pw.in").write_text(" \n")
    assert check_pw(inputs.folder, "pw.in").failure_id == "QE_INPUT_EMPTY"


def test_pseudopotential_of_another_element_is_refused(inputs):
    path = inputs.silicon()
    path.write_text(path.read_text().replace("Si.pz-vbc.UPF", "Al.pz-vbc.UPF"))
    problem = check_pw(inputs.folder, "pw.in")
    assert problem.failure_id == "QE_PSEUDO_ELEMENT"
    assert "Al" in problem.message


def test_cut_pseudopotential_is_refused(inputs):
    text = inputs.silicon(pseudo="./pseudo").read_text()
    (inputs.folder / "pseudo").mkdir()
    whole = shutil.copy("/usr/share/espresso/pseudo/Si.pbe-rrkj.UPF",
                        inputs.folder / "pseudo" / "Si.pz-vbc.UPF")
    assert check_pw(inputs.folder, "pw.in") is None, text
    data = (inputs.folder / "pseudo" / "Si.pz-vbc.UPF").read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    problem = check_pw(inputs.folder, "pw.in")
    assert problem.failure_id == "QE_PSEUDO"
    assert "cut" in problem.message


def test_agreeing_parent_passes(inputs, parent):
    parent()
    inputs.silicon(calculation="nscf")
    assert check_pw(inputs.folder, "pw.in") is None


@pytest.mark.parametrize(("failure_id", "values"), [
    ("QE_PARENT_DISAGREES", {"ecut": 14.0}),
    ("QE_PARENT_DISAGREES", {"nat": 3}),
    ("QE_PARENT_BROKEN", {"density": b""}),
])
def test_parent_that_does_not_fit_is_refused(inputs, parent, failure_id, values):
    parent(**values)
    inputs.silicon(calculation="nscf")
    assert check_pw(inputs.folder, "pw.in").failure_id == failure_id


def test_damaged_parent_is_refused(inputs, parent):
    save = parent()
    (save / "data-file-schema.xml").write_text("<espresso><inp")
    inputs.silicon(calculation="nscf")
    assert check_pw(inputs.folder, "pw.in").failure_id == "QE_PARENT_BROKEN"
    inputs.phonon()
    assert check_ph(inputs.folder, "ph.in").failure_id == "QE_PARENT_BROKEN"


def test_phonon_without_scf_is_refused(inputs):
    inputs.phonon()
    assert check_ph(inputs.folder, "ph.in").failure_id == "QE_PARENT_MISSING"
    assert check_ph(inputs.folder, "ph.in", parents=False) is None


def test_misspelt_phonon_key_is_named(inputs):
    inputs.phonon("nitre_ph = 3")
    problem = check_ph(inputs.folder, "ph.in", parents=False)
    assert problem.failure_id == "QE_INPUT_NAMELIST"
    assert "niter_ph" in problem.hint
