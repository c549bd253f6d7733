"""Real runs that fail, are healed and end with the number of the run that never failed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from orionflow.launchers.machine import load_machine
from orionflow.launchers.run_input import Exit, parse_steps, run_input
from orionflow.settings import load_settings

pytestmark = pytest.mark.needs_code("pw.x", "ph.x", "mpirun")

SERIAL = ["pw.x", "-in", "pw.in"]
TWO = ["mpirun", "-np", "2", "--bind-to", "none", "--oversubscribe", "pw.x"]
SMEARED = "occupations = 'smearing', smearing = 'mv', degauss = 0.02"
DISPLACED = "  Si 0.00 0.00 0.00\n  Si 0.27 0.25 0.24"
IONS = "&IONS\n/\n"
TIGHT = 1e-5


def run(folder, command, **options):
    lines = []
    steps = parse_steps(command, folder)
    outcome = run_input(folder, steps, load_settings(), load_machine("local"),
                        say=lines.append, **options)
    return outcome, lines


def energies(output):
    return [float(x) for x in re.findall(r"^!+ +total energy +=\s+(\S+) Ry", output.read_text(),
                                         re.MULTILINE)]


def energy(folder, name="pw.out"):
    return energies(folder / name)[-1]


@pytest.fixture(scope="session")
def silicon(unfailed, texts):
    """Return the energy of silicon in a run that does not fail, by what is asked for, Ry."""

    def of(**values):
        return energies(unfailed(texts.silicon_text(**values)))[-1]

    return of


@pytest.fixture(scope="session")
def aluminium(unfailed, texts):
    """Return the energy of aluminium with smeared occupations, by the number of atoms, Ry."""

    def of(**values):
        return energies(unfailed(texts.aluminium_text(system=SMEARED, **values)))[-1]

    return of


@pytest.fixture(scope="session")
def silicon_cell(unfailed, texts):
    """Return the energy of silicon at zero pressure with the plane waves of its own cell, Ry.

    The second of two relaxations: it begins where the first one ended, in a cell that no longer
    changes.
    """
    more = {"calculation": "vc-relax", "more": "&IONS\n/\n&CELL\n  press_conv_thr = 0.1\n/\n"}
    first = unfailed(texts.silicon_text(**more)).read_text()
    volume = float(re.findall(r"new unit-cell volume =\s+(\S+) a\.u", first)[-1])
    return energies(unfailed(texts.silicon_text(a=f"{(4 * volume)**(1 / 3):.6f}", **more)))[-1]


def frequencies(folder):
    text = (folder / "ph.out").read_text()
    return [float(x) for x in re.findall(r"freq \(\s*\d+\) =.*=\s+(\S+) \[cm-1\]", text)]


def healed(outcome, *ids):
    seen = [c.failure_id for state in outcome.steps for c in state.corrections]
    assert outcome.exit_code is Exit.DONE, outcome.message
    assert sorted(set(seen)) == sorted(ids)
    return True


@pytest.mark.parametrize(("failure_id", "values"), [
    ("QE_SCF_NOT_CONVERGED", {"electrons": "electron_maxstep = 4"}),
    ("QE_SCF_PRETENDED", {"electrons": "electron_maxstep = 3, scf_must_converge = .false."}),
    ("QE_MORE_BANDS_THAN_PW", {"system": "nbnd = 100"}),
    ("QE_TOO_FEW_BANDS", {"system": "nbnd = 3"}),
])
def test_silicon_scf_is_healed(inputs, silicon, failure_id, values):
    inputs.silicon(**values)
    outcome, lines = run(inputs.folder, SERIAL)
    assert healed(outcome, failure_id)
    assert energy(inputs.folder) == pytest.approx(silicon(), abs=TIGHT)
    assert any(failure_id in line for line in lines)
    assert "comments stay" in (inputs.folder / "pw.in").read_text()
    assert failure_id in (inputs.folder / "corrections.md").read_text()


def test_pools_on_the_command_line_are_corrected(inputs, silicon):
    inputs.silicon()
    outcome, _ = run(inputs.folder, [*TWO, "-nk", "3", "-in", "pw.in"])
    assert healed(outcome, "QE_POOLS")
    assert energy(inputs.folder) == pytest.approx(silicon(), abs=TIGHT)


def test_damaged_xml_is_put_aside(inputs, silicon):
    inputs.silicon(control="restart_mode = 'restart'")
    save = inputs.folder / "out" / "si.save"
    save.mkdir(parents=True)
    (save / "data-file-schema.xml").write_text("<?xml version='1.0'?><qes:espresso><inp")
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_XML_BROKEN")
    assert energy(inputs.folder) == pytest.approx(silicon(), abs=TIGHT)


def test_damaged_wavefunctions_are_made_anew(inputs, silicon):
    inputs.silicon()
    assert run(inputs.folder, SERIAL)[0].exit_code is Exit.DONE
    for file in (inputs.folder / "out" / "si.save").glob("wfc*"):
        file.write_bytes(file.read_bytes()[:300])
    inputs.silicon(electrons="startingwfc = 'file'")
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_WFC_BROKEN")
    assert energy(inputs.folder) == pytest.approx(silicon(), abs=TIGHT)


def test_own_clock_is_continued(inputs):
    more = {"ecut": "20.0", "kpoints": "automatic\n  5 5 5 0 0 0",
            "system": "nosym = .true., noinv = .true."}  # seconds even on a fast machine
    inputs.silicon(**more)
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome)
    reference = energy(inputs.folder)
    inputs.silicon(control="max_seconds = 1", **more)
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_WALLTIME")
    assert energy(inputs.folder) == pytest.approx(reference, abs=TIGHT)


def test_odd_electrons_are_smeared(inputs, aluminium):
    inputs.aluminium()
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_SMEARING_NEEDED")
    assert energy(inputs.folder) == pytest.approx(aluminium(), abs=TIGHT)


@pytest.mark.parametrize("system", ["nbnd = 10", ""], ids=["unsettled", "silent"])
def test_metal_as_insulator_is_smeared(inputs, aluminium, system):
    inputs.aluminium(atoms=4, system=system)
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_METAL_AS_INSULATOR")
    assert energy(inputs.folder) == pytest.approx(aluminium(atoms=4), abs=TIGHT)


def test_occupied_top_band_gets_company(inputs, aluminium):
    inputs.aluminium(system=f"{SMEARED}, nbnd = 2")
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_TOP_BAND_OCCUPIED")
    assert energy(inputs.folder) == pytest.approx(aluminium(), abs=TIGHT)


def test_relaxation_goes_on_after_its_steps(inputs, silicon):
    inputs.silicon(calculation="relax", control="nstep = 2", more=IONS, positions=DISPLACED)
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_NSTEP")
    assert energy(inputs.folder) == pytest.approx(silicon(), abs=TIGHT)


def test_forces_left_by_bfgs_are_relaxed(inputs, silicon):
    inputs.silicon(calculation="relax", control="forc_conv_thr = 1e-5, etot_conv_thr = 1e-9",
                   conv="1d-4", positions=DISPLACED,
                   more="&IONS\n  trust_radius_min = 0.01, trust_radius_ini = 0.05\n/\n")
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_FORCES_NOT_CONVERGED")
    assert energy(inputs.folder) == pytest.approx(silicon(), abs=TIGHT)


def test_cell_that_shrinks_gets_larger_tables(inputs, silicon_cell):
    inputs.silicon(calculation="vc-relax", a="12.0",
                   more="&IONS\n/\n&CELL\n  cell_factor = 1.0001\n/\n")
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_CELL_FACTOR", "QE_FINAL_PRESSURE")
    # The pressure is zero within 0.5 kbar; at B = 900 kbar that is below 1e-6 Ry in energy.
    assert energy(inputs.folder) == pytest.approx(silicon_cell, abs=TIGHT)


def test_final_pressure_is_relaxed_away(inputs, silicon_cell):
    inputs.silicon(calculation="vc-relax", a="9.6",
                   more="&IONS\n/\n&CELL\n  press_conv_thr = 0.1\n/\n")
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_FINAL_PRESSURE")
    assert energy(inputs.folder) == pytest.approx(silicon_cell, abs=TIGHT)


def test_solvers_take_turns(inputs):
    text = inputs.aluminium(system=f"{SMEARED}, nbnd = 20").read_text()
    for old, new in (("ibrav = 2, celldm(1) = 7.5, nat = 1", "ibrav = 1, A = 3.0, nat = 2"),
                     ("ecutwfc = 12.0", "ecutwfc = 6, ecutrho = 24"),
                     ("Al 26.98 Al.pz-vbc.UPF", "Cu 63.5 Cu.pz-d-rrkjus.UPF"),
                     ("conv_thr = 1d-8", "conv_thr = 1d-6"),
                     (" Al 0 0 0", " Cu 0 0 0\n Cu 0 0 0.2333333333"),
                     ("4 4 4 1 1 1", "2 2 2 0 0 0")):
        assert old in text
        text = text.replace(old, new)
    (inputs.folder / "pw.in").write_text(text.replace("1d-6", "1d-6, diagonalization = 'ppcg'"))
    assert healed(run(inputs.folder, SERIAL)[0])
    right = energy(inputs.folder)
    (inputs.folder / "pw.in").write_text(text)
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_DIAGONALISATION")
    assert energy(inputs.folder) == pytest.approx(right, abs=TIGHT)


def test_dynamics_that_breaks_symmetry_runs_without_it(inputs):
    more = {"calculation": "md", "more": "&IONS\n  ion_velocities = 'from_input'\n/\n",
            "control": "nstep = 5, dt = 20",
            "positions": "  Si 0.00 0.00 0.00\n  Si 0.25 0.25 0.25\nATOMIC_VELOCITIES\n"
                         "  Si 0.01 0.003 0.0\n  Si 0 0 0"}
    inputs.silicon(system="nosym = .true.", **more)
    assert healed(run(inputs.folder, SERIAL)[0])
    right = energy(inputs.folder)
    inputs.silicon(**more)
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_SYMMETRY_ATOMS")
    assert energy(inputs.folder) == pytest.approx(right, abs=TIGHT)


def test_unconverged_bands_are_seen(inputs, silicon):
    inputs.silicon(electrons="diagonalization = 'cg', diago_cg_maxiter = 1")
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_BANDS_NOT_CONVERGED")
    assert energy(inputs.folder) == pytest.approx(silicon(), abs=1e-7)


def test_sloshing_slab_is_mixed_gently(inputs):
    layers = "\n".join(f" Al {x} {x} {z:.4f}" for x, z in zip(
        [0.5, 0.0] * 4, [i * 0.7 / 9 for i in range(8)], strict=True))
    mixing = "conv_thr = 1d-7, electron_maxstep = {steps}, mixing_beta = {beta}"
    text = inputs.aluminium(system=SMEARED.replace("0.02", "0.01")).read_text()
    for old, new in (("ibrav = 2, celldm(1) = 7.5, nat = 1",
                      "ibrav = 6, celldm(1) = 5.4, celldm(3) = 9.0, nat = 8"),
                     (" Al 0 0 0", layers), ("4 4 4 1 1 1", "1 1 1 0 0 0"),
                     ("conv_thr = 1d-8", mixing)):
        assert old in text
        text = text.replace(old, new)
    (inputs.folder / "pw.in").write_text(text.format(steps=200, beta=0.2))
    assert healed(run(inputs.folder, SERIAL)[0])
    right = energy(inputs.folder)
    (inputs.folder / "pw.in").write_text(text.format(steps=14, beta=1.0))
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome, "QE_SCF_NOT_CONVERGED")
    assert energy(inputs.folder) == pytest.approx(right, abs=TIGHT)


def test_unconverged_response_is_recovered(inputs):
    inputs.silicon()
    inputs.phonon()
    both = [*SERIAL, ":::", "ph.x", "-in", "ph.in"]
    assert run(inputs.folder, both)[0].exit_code is Exit.DONE
    right = frequencies(inputs.folder)
    assert len(right) == 6
    shutil.rmtree(inputs.folder / "out")
    inputs.silicon()
    inputs.phonon("niter_ph = 3")
    outcome, _ = run(inputs.folder, both)
    assert healed(outcome, "PH_NOT_CONVERGED")
    assert frequencies(inputs.folder) == pytest.approx(right, abs=0.05)


def test_field_in_metal_is_left_out(inputs):
    inputs.silicon(system=SMEARED)
    inputs.phonon("epsil = .true.")
    outcome, _ = run(inputs.folder, [*SERIAL, ":::", "ph.x", "-in", "ph.in"])
    assert healed(outcome, "PH_EPSIL_METAL")
    assert len(frequencies(inputs.folder)) == 6


def test_gamma_tricks_are_undone_in_the_step_before(inputs):
    inputs.silicon(kpoints="gamma")
    inputs.phonon()
    outcome, lines = run(inputs.folder, [*SERIAL, ":::", "ph.x", "-in", "ph.in"])
    assert outcome.exit_code is Exit.DONE
    assert any("PH_GAMMA_TRICKS" in line for line in lines)
    assert len(frequencies(inputs.folder)) == 6
    assert "PH_GAMMA_TRICKS" in (inputs.folder / "corrections.md").read_text()


def test_wrapper_script_is_respected(inputs, silicon):
    inputs.silicon(electrons="electron_maxstep = 4")
    wrapper = inputs.folder / "wrap.sh"
    wrapper.write_text("#!/bin/sh\nexec pw.x -in pw.in\n")
    wrapper.chmod(0o755)
    outcome, _ = run(inputs.folder, ["./wrap.sh", "-in", "pw.in"])
    assert healed(outcome, "QE_SCF_NOT_CONVERGED")
    assert outcome.steps[0].record.command == ["./wrap.sh", "-in", "pw.in"]
    assert energy(inputs.folder) == pytest.approx(silicon(), abs=TIGHT)


def test_healthy_steps_in_a_row_are_left_alone(inputs):
    text = inputs.silicon().read_text()
    inputs.silicon("nscf.in", calculation="nscf", system="nbnd = 8")
    outcome, _ = run(inputs.folder, [*SERIAL, ":::", "pw.x", "-in", "nscf.in"])
    assert healed(outcome)
    assert (inputs.folder / "pw.in").read_text() == text
    assert not list(inputs.folder.glob("attempt_*"))


def test_bands_too_few_for_the_electrons_are_noticed_after_an_scf(inputs):
    inputs.silicon()
    inputs.silicon("nscf.in", calculation="nscf", system="nbnd = 3")
    inputs.silicon("metal.in", calculation="nscf", system=f"nbnd = 3, {SMEARED}")
    outcome, _ = run(inputs.folder, [*SERIAL, ":::", "pw.x", "-in", "nscf.in", ":::",
                                     "pw.x", "-in", "metal.in"])
    assert healed(outcome, "QE_TOO_FEW_BANDS", "QE_FERMI_LEVEL")
    assert "number of Kohn-Sham states=            4" in (inputs.folder / "nscf.out").read_text()


def test_corrections_that_do_not_help_are_no_success(inputs):
    inputs.silicon(electrons="electron_maxstep = 4")
    settings = load_settings().model_copy(update={"max_corrections": 0})
    steps = parse_steps(SERIAL, inputs.folder)
    outcome = run_input(inputs.folder, steps, settings, load_machine("local"), say=len)
    assert outcome.exit_code is Exit.FAILED
    assert outcome.failure_id == "QE_SCF_NOT_CONVERGED"


@pytest.mark.parametrize(("failure_id", "values"), [
    ("QE_CELL_DOFREE", {"calculation": "vc-relax",
                        "more": "&IONS\n/\n&CELL\n cell_dofree = 'volume'\n/\n"}),
    ("QE_FUNCTIONAL_WRONG", {"system": "input_dft = 'pbee'"}),
    ("QE_TOO_MANY_KPOINTS", {"system": "nosym = .true., noinv = .true.",
                             "kpoints": "automatic\n 40 40 40 0 0 0"}),
    ("QE_FUNCTIONAL_WRONG", {"system": "input_dft = 'lda-pz'"}),
])
def test_hopeless_input_stops_at_the_first_attempt(inputs, failure_id, values):
    text = inputs.silicon(**values).read_text()
    outcome, _ = run(inputs.folder, SERIAL)
    assert outcome.exit_code is Exit.FAILED
    assert outcome.failure_id == failure_id
    assert outcome.steps[0].record.attempts == 1
    assert (inputs.folder / "pw.in").read_text() == text
    assert outcome.hint


def test_summary_in_the_folder_says_the_same(inputs):
    import json

    inputs.silicon(electrons="electron_maxstep = 4")
    outcome, _ = run(inputs.folder, SERIAL)
    summary = json.loads((inputs.folder / "run_input.json").read_text())
    assert summary["exit_code"] == 0
    assert summary["message"] == outcome.message
    (correction,) = summary["steps"][0]["corrections"]
    assert correction["failure_id"] == "QE_SCF_NOT_CONVERGED"
    assert Path(inputs.folder / correction["folder"] / "pw.out").is_file()


@pytest.mark.parametrize("outdir", [".", "./", "../here"])
def test_outdir_may_be_the_folder_itself(inputs, silicon, outdir):
    # Its CRASH then goes by two names: that of outdir and that of the folder.
    folder = inputs.folder / "here"
    folder.mkdir()
    text = inputs.silicon(system="nbnd = 3").read_text()
    assert "'./out'" in text
    (folder / "pw.in").write_text(text.replace("'./out'", f"'{outdir}'"))
    outcome, _ = run(folder, SERIAL)
    assert healed(outcome, "QE_TOO_FEW_BANDS")
    assert energy(folder) == pytest.approx(silicon(), abs=TIGHT)


@pytest.mark.parametrize("disk_io", ["none", "nowf", "minimal", "high"])
def test_result_is_looked_for_only_where_it_was_asked_for(inputs, silicon, disk_io):
    inputs.silicon(control=f"disk_io = '{disk_io}'")
    outcome, _ = run(inputs.folder, SERIAL)
    assert healed(outcome)
    assert energy(inputs.folder) == pytest.approx(silicon(), abs=TIGHT)


def test_some_of_the_modes_are_a_result(inputs):
    inputs.silicon()
    (inputs.folder / "ph.in").write_text(
        "gamma\n&inputph\n prefix = 'si', outdir = './out', fildyn = 'dyn', tr2_ph = 1d-12\n"
        " start_irr = 1, last_irr = 1\n/\n0 0 0\n")
    outcome, _ = run(inputs.folder, [*SERIAL, ":::", "ph.x", "-in", "ph.in"])
    assert healed(outcome)
