from pathlib import Path

import numpy as np
import pytest
from ase.io import read as ase_read

from orionflow.errors import OutputError
from orionflow.units import RYDBERG_EV
from orionflow.workflows.qe.outputs import parse_stdout, parse_xml

DATA = Path(__file__).parents[2] / "data" / "qe" / "pw-6.7"
HEALTHY = {"si_scf": "scf", "fe_spin": "scf", "si_compressed": "scf", "si_relax": "relax",
           "al_vc_relax": "vc-relax"}


def xml_of(case, calculation=None):
    path = DATA / case / "data-file-schema.xml"
    return parse_xml(path.read_bytes(), calculation=calculation or HEALTHY[case], path=str(path))


def last_number(case, pattern):
    import re

    return float(re.findall(pattern, (DATA / case / "pw.out").read_text())[-1])


@pytest.mark.parametrize("case", HEALTHY)
def test_energy_and_pressure_are_the_last_pw_printed(case):
    xml = xml_of(case)
    printed = last_number(case, r"!\s+total energy\s+=\s+(\S+) Ry")
    # stdout has eight decimals of a rydberg.
    assert xml.energy == pytest.approx(printed * RYDBERG_EV, abs=1e-7)
    pressure = last_number(case, r"P=\s*(\S+)")
    assert np.trace(xml.stress) / 3 == pytest.approx(pressure, abs=0.006)


@pytest.mark.parametrize("case", HEALTHY)
def test_forces_stress_and_cell_agree_with_ase(case):
    # ASE reads stdout: another reader, another file.
    atoms = ase_read(DATA / case / "pw.out", index=-1)
    xml = xml_of(case)
    assert xml.forces == pytest.approx(atoms.get_forces(), abs=3e-7)
    # ASE: eV/Å3 and the opposite sign.
    kbar = -atoms.get_stress(voigt=False) * 1602.176634
    assert xml.stress == pytest.approx(kbar, abs=0.006)
    # stdout has six decimals of alat or of Å.
    assert xml.lattice == pytest.approx(atoms.cell.array, abs=2e-5)
    assert xml.symbols == atoms.get_chemical_symbols()


def test_stress_of_a_compressed_cell_is_positive():
    # Si at 5.2 Å, 4 % below its equilibrium.
    assert np.trace(xml_of("si_compressed").stress) / 3 > 100


def test_fermi_energy_and_levels_are_those_printed():
    fermi = r"the Fermi energy is\s+(\S+) ev"
    assert xml_of("fe_spin").fermi_energy == pytest.approx(last_number("fe_spin", fermi), abs=6e-5)
    si = xml_of("si_scf")
    assert si.fermi_energy is None
    assert si.homo == pytest.approx(6.1699, abs=6e-5)
    assert si.lumo == pytest.approx(6.7952, abs=6e-5)


def test_magnetisation_only_where_there_is_spin():
    iron = xml_of("fe_spin")
    assert iron.total_magnetization == pytest.approx(
        last_number("fe_spin", r"total magnetization\s+=\s+(\S+)"), abs=0.006)
    assert iron.absolute_magnetization == pytest.approx(3.03, abs=0.01)
    assert iron.bands.eigenvalues.shape == (2, 4, 8)
    assert xml_of("si_scf").total_magnetization is None


def test_parameters_used_are_read_back():
    aluminium = xml_of("al_vc_relax")
    assert (aluminium.occupations, aluminium.smearing) == ("smearing", "mv")
    assert aluminium.degauss == pytest.approx(0.02)
    assert (aluminium.ecutwfc, aluminium.ecutrho) == pytest.approx((12, 48))
    assert aluminium.grid == (4, 4, 4)
    assert aluminium.shift == (0, 0, 0)
    assert aluminium.n_electrons == 3
    assert aluminium.version == "6.7MaX"


def test_kpoints_are_fractions_of_the_grid():
    bands = xml_of("si_scf").bands
    assert bands.weights.sum() == pytest.approx(1)
    assert bands.kpoints * 3 == pytest.approx(np.round(bands.kpoints * 3), abs=1e-9)
    filled = (bands.occupations * bands.weights[None, :, None]).sum() * 2
    assert filled == pytest.approx(8)


def test_relaxation_keeps_its_steps_and_final_geometry():
    xml = xml_of("si_relax")
    assert len(xml.steps) == 5
    assert xml.steps[0].energy == pytest.approx(-15.79361696 * RYDBERG_EV, abs=1e-7)
    assert xml.steps[-1].positions == pytest.approx(xml.positions)
    bond = xml.positions[1] - xml.positions[0]
    # Back in the diamond structure: sqrt(3)/4 of 5.43 Å, as far as the force threshold goes.
    assert np.linalg.norm(bond) == pytest.approx(5.43 * 3**0.5 / 4, abs=0.005)


def test_vc_relax_energy_is_of_the_final_scf_on_the_new_basis():
    xml = xml_of("al_vc_relax")
    assert xml.steps[-1].energy == pytest.approx(-4.16244845 * RYDBERG_EV, abs=1e-7)
    assert xml.energy == pytest.approx(-4.16129536 * RYDBERG_EV, abs=1e-7)
    # The optimiser saw 0.00 kbar; on the new basis there are -3.26.
    assert np.trace(xml.stress) / 3 == pytest.approx(-3.26, abs=0.006)


@pytest.mark.parametrize(("case", "calculation", "problem"), [
    ("si_unconverged", "scf", "SCF did not converge"),
    ("si_must_not_converge", "scf", "accuracy"),
    ("si_max_seconds", "scf", "SCF did not converge"),
    ("si_relax_nstep", "relax", "relaxation did not converge"),
    ("si_nscf_after_scf", "scf", "'nscf'"),
    ("mg_fixed", "scf", "metal in fixed occupations"),
    ("si_scf", "relax", "'scf'"),
])
def test_unfinished_or_foreign_result_is_refused(case, calculation, problem):
    with pytest.raises(OutputError, match=problem) as caught:
        xml_of(case, calculation)
    assert caught.value.hint
    assert case in caught.value.path


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_cut_xml_is_refused_with_its_line(share):
    text = (DATA / "si_scf" / "data-file-schema.xml").read_text()
    with pytest.raises(OutputError, match="not whole") as caught:
        parse_xml(text[:int(share * len(text))], calculation="scf", path="x.xml")
    assert caught.value.line is not None


def test_xml_without_an_element_names_it():
    text = (DATA / "si_scf" / "data-file-schema.xml").read_text()
    with pytest.raises(OutputError, match="etot"):
        parse_xml(text.replace("etot>", "foo>"), calculation="scf")


def test_positive_energy_is_refused():
    text = (DATA / "si_scf" / "data-file-schema.xml").read_text()
    with pytest.raises(OutputError, match="positive"):
        parse_xml(text.replace("<etot>-", "<etot>"), calculation="scf")


def test_stdout_gives_time_version_and_real_warnings_only():
    info = parse_stdout((DATA / "si_scf" / "pw.out").read_text())
    assert info.done
    assert info.version == "6.7MaX"
    assert 0 < info.wall_seconds < 60
    assert info.memory_mb > 0
    assert info.warnings == []
    stopped = parse_stdout((DATA / "si_max_seconds" / "pw.out").read_text())
    assert stopped.warnings == [
        "Message from routine add_xml_clocks_pw: label not found : electrons"]


@pytest.mark.parametrize(("text", "seconds"), [
    ("     PWSCF        :      0.71s CPU      0.85s WALL\n", 0.85),
    ("     PWSCF        :   3m 1.23s CPU   4m 5.50s WALL\n", 245.5),
    ("     PWSCF        :   1h 2m CPU   1h 4m WALL\n", 3840.0),
])
def test_wall_time_in_any_of_its_forms(text, seconds):
    assert parse_stdout(text).wall_seconds == pytest.approx(seconds)


def test_empty_stdout_is_not_done():
    info = parse_stdout("")
    assert not info.done
    assert info.wall_seconds is None
