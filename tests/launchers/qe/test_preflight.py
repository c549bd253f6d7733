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
    ("QE_INPUT_CARDS", "no lines", {"kpoints": "automatic"}),
    ("QE_INPUT_CARDS", "3 numbers", {"kpoints": "automatic\n 2 2 2"}),
    ("QE_INPUT_CARDS", "0 x 2 x 2", {"kpoints": "automatic\n 0 2 2 0 0 0"}),
    ("QE_INPUT_CARDS", "offsets", {"kpoints": "automatic\n 2 2 2 2 0 0"}),
    ("QE_INPUT_CARDS", "4 are announced", {"kpoints": "crystal\n4\n 0 0 0 1"}),
    ("QE_INPUT_CARDS", "weights are 0", {"kpoints": "crystal\n2\n 0 0 0 0\n 0.5 0 0 0"}),
    ("QE_INPUT_CARDS", "no weight", {"kpoints": "crystal\n1\n 0 0 0"}),
    ("QE_INPUT_CARDS", "automtic", {"kpoints": "automtic\n 2 2 2 0 0 0"}),
    ("QE_INPUT_CARDS", "3 atoms", {"positions": "  Si 0 0 0\n  Si 0.25 0.25 0.25\n Si 1 0 0"}),
    ("QE_SPIN_SETUP", "starting_magnetization",
     {"system": "nspin = 2, occupations = 'smearing', degauss = 0.01"}),
    ("QE_SPIN_SETUP", "tot_magnetization", {"system": "nspin = 2"}),
    ("QE_SPIN_SETUP", "nspin = 3", {"system": "nspin = 3"}),
    ("QE_INPUT_REFUSED", "gausian", {"system": "smearing = 'gausian'"}),
    ("QE_INPUT_REFUSED", "relaxx", {"calculation": "relaxx"}),
    ("QE_INPUT_REFUSED", "broyden", {"electrons": "mixing_mode = 'broyden'"}),
    ("QE_INPUT_REFUSED", "celldm", {"system": "a = 5.4"}),
    ("QE_INPUT_NAMELIST", "&ions", {"calculation": "relax"}),
    ("QE_INPUT_NAMELIST", "no logical", {"control": "tprnfor = yes"}),
    ("QE_INPUT_NAMELIST", "no number", {"system": "tot_charge = one"}),
    ("QE_INPUT_NAMELIST", "title = 'x", {"control": "title = 'x"}),
    ("QE_CHARGE_WRONG", "-1 are left", {"system": "tot_charge = 9"}),
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


@pytest.mark.parametrize(("ibrav", "named"), [
    ("ibrav = 4,", "celldm(3)"), ("ibrav = 8,", "celldm(2)"),
    ("ibrav = 5, celldm(4) = 60,", "celldm(4)"), ("ibrav = 15,", "15")])
def test_lattice_that_lacks_a_number_is_refused(inputs, ibrav, named):
    path = inputs.silicon()
    path.write_text(path.read_text().replace("ibrav = 2,", ibrav))
    problem = check_pw(inputs.folder, "pw.in")
    assert problem.failure_id == "QE_INPUT_CARDS"
    assert named in problem.message


@pytest.mark.parametrize("values", [
    {"system": "nspin = 2, tot_magnetization = 0"},
    {"system": "nspin = 2, starting_magnetization(1) = 0.1, occupations = 'smearing', "
               "smearing = 'Marzari-Vanderbilt', degauss = 1.d-2"},
    {"calculation": "relax", "more": "&IONS\n/\n", "kpoints": "automatic\n 2 2 2 1 1 1",
     "system": "occupations = 'tetrahedra'"},
    {"kpoints": "gamma"}, {"kpoints": "{tpiba}\n 1\n 0 0 0 1"},
    {"electrons": "diagonalization = 'ParO', mixing_mode = 'local-TF'", "control": "tprnfor = T"},
    {"positions": "  Si 0.0 0.0 0.0 0 0 0\n  Si 1/4 0.25 0.25"},
])
def test_what_the_code_takes_passes(inputs, values):
    inputs.silicon(**values)
    assert check_pw(inputs.folder, "pw.in") is None


def test_phonon_without_its_point_is_refused(inputs):
    path = inputs.phonon()
    path.write_text(path.read_text().replace("0 0 0\n", ""))
    assert "q-point" in check_ph(inputs.folder, "ph.in", parents=False).message
    path.write_text(path.read_text().replace("/\n", "ldisp = .true., nq1 = 1\n/\n"))
    assert check_ph(inputs.folder, "ph.in", parents=False) is None


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
