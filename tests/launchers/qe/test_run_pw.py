"""run_pw as recipes call it: awkward folders, walltime over several launches, errors."""

from __future__ import annotations

import shutil

import pytest

from orionflow.errors import CodeError
from orionflow.launchers.context import JobContext
from orionflow.launchers.custodian.jobs import CodeJob
from orionflow.launchers.custodian.qe_base import QeRun
from orionflow.launchers.explain import explain_folder
from orionflow.launchers.machine import load_machine
from orionflow.launchers.qe import resume, run_ph, run_pw
from orionflow.launchers.qe_input import read_input
from orionflow.launchers.resources import Resources
from orionflow.launchers.run_state import RunState, hash_inputs, read_state, write_state
from orionflow.settings import load_settings

pytestmark = pytest.mark.needs_code("pw.x", "mpirun")


def context(walltime=600, ranks=1):
    return JobContext(settings=load_settings(), machine=load_machine("local"),
                      resources=Resources(ranks=ranks, walltime=walltime), deadline=None)


def test_healthy_run_is_recorded(inputs):
    inputs.silicon()
    record = run_pw(inputs.folder, context=context(ranks=2))
    assert record.command[:3] == ["mpirun", "-np", "2"]
    assert record.attempts == 1
    assert record.corrections == []
    assert record.core_seconds == pytest.approx(2 * record.wall_seconds)
    assert read_state(inputs.folder).state == "done"
    assert read_input(inputs.folder / "pw.in").number("control", "max_seconds", 0) > 500


def test_stopped_launch_is_continued_by_the_next(inputs):
    inputs.silicon(calculation="relax", ecut="26.0", more="&IONS\n/\n",
                   positions="  Si 0.00 0.00 0.00\n  Si 0.29 0.25 0.22",
                   kpoints="automatic\n  4 4 4 1 1 1", system="nosym = .true., noinv = .true.")
    shutil.copy(inputs.folder / "pw.in", inputs.folder / "as_written.in")
    stops = 0
    for _ in range(12):
        shutil.copy(inputs.folder / "as_written.in", inputs.folder / "pw.in")
        try:
            record = run_pw(inputs.folder, context=context(walltime=9))
        except CodeError:
            failure = read_state(inputs.folder).failure
            assert failure.failure_id == "QE_WALLTIME"
            assert failure.transient
            stops += 1
            continue
        break
    else:
        pytest.fail("it never came to an end")
    assert stops > 0
    assert record.continued == stops
    text = (inputs.folder / "pw.out").read_text()
    assert "bfgs converged" in text


def test_files_of_another_run_are_not_continued(inputs):
    inputs.silicon(a="10.6")
    run_pw(inputs.folder, context=context())
    path = inputs.silicon(control="max_seconds = 500.0")
    job = CodeJob(["pw.x"], stdout="pw.out", stderr="pw.err", inputs=["pw.in"])
    run = QeRun(folder=inputs.folder, input_file="pw.in", job=job)
    given = hash_inputs(inputs.folder, ["pw.in"])
    # Killed before it wrote a file of its own: in outdir are those of the cell before.
    write_state(inputs.folder, RunState(state="running", executable="pw.x", inputs=given))
    text = path.read_text()
    assert resume(run, given).continued == 0
    assert path.read_text() == text


def test_hopeless_input_names_cause_and_folder(inputs):
    inputs.silicon(system="nspin = 2")
    with pytest.raises(CodeError) as caught:
        run_pw(inputs.folder, context=context())
    assert caught.value.failure_id == "QE_SPIN_SETUP"
    assert "tot_magnetization" in str(caught.value)
    assert not caught.value.transient
    told = explain_folder(inputs.folder)
    assert "QE_SPIN_SETUP" in told
    assert "what to do:" in told


def test_overlapping_atoms_are_refused_before_the_start(inputs):
    inputs.silicon(positions="  Si 0 0 0\n  Si 0 0 0.01")
    with pytest.raises(CodeError) as caught:
        run_pw(inputs.folder, context=context())
    assert caught.value.failure_id == "QE_ATOMS_OVERLAP"
    assert not (inputs.folder / "pw.out").exists()
    assert "QE_ATOMS_OVERLAP" in explain_folder(inputs.folder)


def test_corrections_are_explained(inputs):
    inputs.silicon(electrons="electron_maxstep = 4")
    record = run_pw(inputs.folder, context=context())
    assert [c.failure_id for c in record.corrections] == ["QE_SCF_NOT_CONVERGED"]
    told = explain_folder(inputs.folder)
    assert "electron_maxstep: 4 -> " in told
    assert "passed all checks" in told


def test_phonon_follows_its_scf(inputs):
    inputs.silicon()
    inputs.phonon("niter_ph = 3")
    with pytest.raises(CodeError, match="QE_PARENT_MISSING"):
        run_ph(inputs.folder, context=context())
    run_pw(inputs.folder, context=context())
    record = run_ph(inputs.folder, context=context())
    assert [c.failure_id for c in record.corrections] == ["PH_NOT_CONVERGED"]
    assert (inputs.folder / "si.dyn").is_file()
