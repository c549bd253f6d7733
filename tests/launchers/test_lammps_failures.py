"""Every catalogue row of LAMMPS on a run that really failed, and on its healthy twin."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orionflow.launchers.custodian import lammps_input
from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.handlers_lammps import lammps_rules
from orionflow.launchers.custodian.lammps_base import LammpsRun
from orionflow.launchers.custodian.lammps_job import LammpsJob
from orionflow.launchers.custodian.rules import Attempt, find_failure, read_text
from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.failures_lammps import LAMMPS_FAILURES

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_script import Script

DATA = Path(__file__).parents[1] / "data" / "lammps_failures"
CASES = sorted(p.name for p in DATA.iterdir() if (p / "in.lammps").is_file())
# What the first correction must have changed: text that is in the new script and not in the old.
CORRECTED = {
    "LAMMPS_LOST_ATOMS": ("timestep 0.003125", "run 4800"),
    "LAMMPS_LOST_THROUGH_BOUNDARY": ("boundary m m m",),
    "LAMMPS_ATOMS_LOST_SILENTLY": ("timestep 0.003125", "run 4800"),
    "LAMMPS_BOND_MISSING": ("timestep 0.003125", "run 4800"),
    "LAMMPS_FENE": ("timestep 0.005", "run 1200"),
    "LAMMPS_KSPACE_RANGE": ("timestep 0.00125", "run 9600", "every 1 delay 0 check yes"),
    "LAMMPS_NON_NUMERIC": ("minimize 0.0 0.01",),
    "LAMMPS_NEIGHBOR_OVERFLOW": ("one 116 page 2320",),
    "LAMMPS_ZERO_TEMPERATURE": ("velocity all create 300 ",),
    "LAMMPS_MIN_STEPS": ("minimize 0 1e-4 25 5000",),
    "LAMMPS_MIN_LINESEARCH": ("min_style fire",),
    "LAMMPS_MIN_ENERGY_TOLERANCE": ("minimize 0.0 1e-4 5000 10000",),
    "LAMMPS_DANGEROUS_BUILDS": ("neigh_modify every 1 delay 0 check yes",),
    "LAMMPS_ENERGY_DRIFT": ("timestep 0.0045", "run 4000"),
    "LAMMPS_BOX_TILTED": ("tri 0 0 1",),
    "LAMMPS_BOX_EXPLODED": ("iso 0 0 1",),
    "LAMMPS_RESTART_BROKEN": ("read_restart restart.200", "run 400"),
    "LAMMPS_WALLTIME": ("timer timeout 0:00:10",),
}
# Run again as it is: the input has no part in the failure.
UNCHANGED = {"LAMMPS_KILLED", "LAMMPS_UNFINISHED", "LAMMPS_CRASHED", "LAMMPS_FROZEN"}
HOPELESS = {"LAMMPS_INPUT_ERROR", "LAMMPS_NAN", "LAMMPS_STOPPED", "LAMMPS_NOT_STARTED",
            "LAMMPS_DISK_FULL", "LAMMPS_ENERGY_ABSURD", "LAMMPS_QUIT"}
# Seen while LAMMPS runs; the monitor that sees them has tests of its own.
MONITORED = {"LAMMPS_FROZEN": "no output for 700 s"}


def _open(folder: Path, monitored: str | None = None) -> tuple[LammpsRun, Attempt]:
    job = LammpsJob(["lmp", "-in", "in.lammps"], input_file="in.lammps")
    job.load(folder)
    job.attempt = 1
    stopped = (folder.name, monitored) if monitored else None
    attempt = Attempt(folder=folder, number=1, stdout=read_text(folder / "lammps.out"),
                      stderr=read_text(folder / "lammps.err"), stopped_by=stopped, seconds=3.0,
                      returncode=int((folder / "returncode").read_text()))
    return LammpsRun(folder=folder, job=job), attempt


@pytest.fixture
def failed(request: pytest.FixtureRequest, tmp_path: Path,
           monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a failed run; the disk it ran on was full in one case."""
    folder = tmp_path / request.param
    shutil.copytree(DATA / request.param, folder)
    if request.param == "LAMMPS_DISK_FULL":
        monkeypatch.setattr(lammps_input.shutil, "disk_usage",
                            lambda _: shutil._ntuple_diskusage(2**21, 2**21, 0))
    return folder


@pytest.mark.parametrize("failed", CASES, indirect=True)
def test_failed_run_is_named(failed: Path) -> None:
    run, attempt = _open(failed, MONITORED.get(failed.name))
    found = find_failure(lammps_rules(run), attempt)
    assert found is not None
    assert found.rule.failure_id == failed.name
    assert found.evidence.strip()


@pytest.mark.parametrize("name", CASES)
def test_healthy_twin_raises_nothing(name: str) -> None:
    run, attempt = _open(DATA / name / "healthy")
    found = find_failure(lammps_rules(run), attempt)
    assert found is None, (found.rule.failure_id, found.evidence)


@pytest.mark.parametrize("failed", sorted(CORRECTED), indirect=True)
def test_correction_changes_the_script(failed: Path) -> None:
    run, attempt = _open(failed)
    before = run.script.text()
    found = find_failure(lammps_rules(run), attempt)
    assert found is not None
    changes = found.rule.fix(attempt, 0)
    assert changes
    for text in CORRECTED[failed.name]:
        assert text in run.script.text()
        assert text not in before
    assert (failed / "in.lammps").read_bytes() == (DATA / failed.name / "in.lammps").read_bytes()


@pytest.mark.parametrize("failed", sorted(UNCHANGED), indirect=True)
def test_outside_cause_leaves_the_script_alone(failed: Path) -> None:
    run, attempt = _open(failed, MONITORED.get(failed.name))
    before = run.script.text()
    found = find_failure(lammps_rules(run), attempt)
    assert found is not None
    assert found.rule.fix(attempt, 0) == []
    assert run.script.text() == before


@pytest.mark.parametrize("failed", sorted(HOPELESS), indirect=True)
def test_hopeless_run_is_not_corrected(failed: Path) -> None:
    run, attempt = _open(failed)
    found = find_failure(lammps_rules(run), attempt)
    assert found is not None
    assert found.rule.fix(attempt, 0) is None
    assert getattr(found.rule, "advice", None) or CATALOGUE[failed.name].advice


@pytest.mark.parametrize("failed", CASES, indirect=True)
def test_corrections_of_the_same_failure_come_to_an_end(failed: Path) -> None:
    run, attempt = _open(failed, MONITORED.get(failed.name))
    rules = lammps_rules(run)
    found = find_failure(rules, attempt)
    assert found is not None
    for times in range(20):
        if found.rule.fix(attempt, times) is None:
            break
    else:
        pytest.fail("still corrected after twenty times")


@pytest.mark.parametrize("failed", sorted(CORRECTED), indirect=True)
def test_corrections_never_touch_structure_or_potential(failed: Path) -> None:
    kept = ("pair_style", "pair_coeff", "bond_coeff", "lattice", "create_atoms", "create_box",
            "read_data", "mass", "set", "kspace_style", "special_bonds", "units")
    run, attempt = _open(failed)
    before = [str(c) for c in run.script.all(*kept)]
    time_before = _simulated_time(run.script)
    found = find_failure(lammps_rules(run), attempt)
    assert found is not None
    for times in range(6):
        if found.rule.fix(attempt, times) is None:
            break
    assert [str(c) for c in run.script.all(*kept)] == before
    if failed.name not in {"LAMMPS_RESTART_BROKEN", "LAMMPS_WALLTIME"}:
        assert _simulated_time(run.script) == pytest.approx(time_before)


def _simulated_time(script: Script) -> float:
    """Steps of the user's runs times the time step; preparing runs of a correction left out."""
    step = [float(c.args[0]) for c in script.all("timestep")][-1:] or [
        model.DEFAULT_TIMESTEP[model.units(script)]]
    last = [c.args for c in script.all("run")][-1:]
    return step[0] * int(last[0][0]) if last else 0.0


def test_every_reproduced_row_has_its_data() -> None:
    stated = {m.id for m in LAMMPS_FAILURES if m.reproduced}
    assert stated == set(CASES)
    assert stated == set(CORRECTED) | UNCHANGED | HOPELESS


def test_every_rule_has_a_row_and_every_row_a_rule() -> None:
    job = LammpsJob(["lmp"], input_file="in.lammps")
    rules = {r.failure_id for r in lammps_rules(LammpsRun(folder=DATA, job=job))}
    assert rules - {"CODE_FROZEN"} == {m.id for m in LAMMPS_FAILURES}
