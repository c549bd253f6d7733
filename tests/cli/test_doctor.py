"""`orionflow doctor` as a whole: quiet on a healthy project, loud when one thing is broken."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orionflow.cli import doctor
from orionflow.launchers.doctor.finding import Finding, Site, run_checks
from orionflow.launchers.project import init_project

ORIONFLOW = Path(sys.executable).with_name("orionflow")


def run(project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([ORIONFLOW, "doctor", *words], cwd=project, capture_output=True,
                          text=True, timeout=180, check=False,
                          env={**os.environ, **environment})


def findings(project: Path, **environment: str) -> dict[str, dict[str, str]]:
    done = run(project, "-o", "json", **environment)
    found = {f["name"]: f for f in json.loads(done.stdout)}
    assert done.returncode == (1 if any(f["state"] == "broken" for f in found.values()) else 0)
    return found


def settings(project: Path, **values: object) -> None:
    path = project / "orionflow.yaml"
    path.write_text(yaml.safe_dump({"machine": "local", **values}))


@pytest.mark.needs_mongod
@pytest.mark.needs_code("pw.x", "lmp", "mpirun")
def test_healthy_project_has_nothing_broken_and_ends_with_zero(project: Path) -> None:
    done = run(project)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stderr
    found = findings(project)
    assert {f["state"] for f in found.values()} <= {"ok", "warn"}
    assert {"database", "result store", "workers", "pw.x", "lmp", "MPI", "pseudopotentials",
            "potentials", "lost runs", "disk", "clock"} <= set(found)
    assert not any(f["advice"] for f in found.values() if f["state"] == "ok")


@pytest.mark.needs_mongod
def test_one_broken_thing_ends_with_one_and_says_what_to_do(project: Path) -> None:
    (project / "jobflow.yaml").chmod(0o644)
    done = run(project)
    assert done.returncode == 1
    assert "chmod 600" in done.stdout
    assert "1 broken" in done.stderr


@pytest.mark.needs_mongod
def test_doctor_leaves_nothing_in_the_database(project: Path) -> None:
    from orionflow.analysis.store import reading

    run(project)
    with reading(project) as store:
        assert store.count() == 0
        assert store.additional_stores["data"].count() == 0


@pytest.mark.needs_mongod
def test_settings_that_can_t_be_read_are_said_at_once(project: Path) -> None:
    settings(project, pseudo_dirr="/x")
    done = run(project)
    assert done.returncode == 1
    assert "unknown setting 'pseudo_dirr'" in done.stderr


def one(check: object, project: Path) -> Finding:
    (found,) = run_checks(Site.of(project), [check])
    return found


@pytest.mark.needs_mongod
def test_jobflow_without_its_data_store_is_broken(project: Path) -> None:
    path = project / "jobflow.yaml"
    content = yaml.safe_load(path.read_text())
    content["JOB_STORE"].pop("additional_stores")
    path.write_text(yaml.safe_dump(content))
    found = one(doctor.result_store, project)
    assert found.state == "broken"
    assert "no additional store 'data'" in found.seen


@pytest.mark.needs_mongod
def test_results_kept_in_memory_are_broken(project: Path) -> None:
    (project / "jobflow.yaml").write_text("JOB_STORE: {docs_store: {type: MemoryStore}}\n")
    found = one(doctor.result_store, project)
    assert found.state == "broken"
    assert "MemoryStore, not to MongoDB" in found.seen


@pytest.mark.needs_mongod
def test_jobflow_really_falls_back_to_memory_where_the_file_is_missing(project: Path) -> None:
    """The trap this check is for: no error, no warning, results gone with the process."""
    missing = str(project / "nowhere.yaml")
    code = "import jobflow; print(type(jobflow.SETTINGS.JOB_STORE.docs_store).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JOBFLOW_CONFIG_FILE": missing}, capture_output=True, text=True,
        check=True, timeout=60)
    assert done.stdout.strip() == "MemoryStore"
    found = findings(project, JOBFLOW_CONFIG_FILE=missing)["jobflow variables"]
    assert found["state"] == "broken"
    assert f"export JOBFLOW_CONFIG_FILE={project / 'jobflow.yaml'}" in found["advice"]


@pytest.mark.needs_mongod
def test_jobflow_variables_of_another_project_are_a_warning(
        project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(doctor.jobflow_variables, project).state == "ok"
    shutil.copy(project / "jobflow.yaml", tmp_path / "other.yaml")
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "other.yaml"))
    assert one(doctor.jobflow_variables, project).state == "warn"
    monkeypatch.delenv("JOBFLOW_CONFIG_FILE")
    assert one(doctor.jobflow_variables, project).state == "ok"
    monkeypatch.setenv("JOBFLOW_JOB_STORE", "store.yaml")
    found = one(doctor.jobflow_variables, project)
    assert (found.state, found.advice) == ("broken", "unset JOBFLOW_JOB_STORE")


@pytest.mark.parametrize(("check", "setting"), [(doctor.pseudopotentials, "pseudo_dir"),
                                                (doctor.potentials, "potentials_dir")])
@pytest.mark.parametrize("there", [True, False])
def test_empty_or_missing_folder_of_potentials_is_broken(
        check: object, setting: str, there: bool, tmp_path: Path) -> None:  # noqa: FBT001  a case
    init_project(tmp_path / "p", machine="local")
    empty = tmp_path / "empty"
    if there:
        empty.mkdir()
    settings(tmp_path / "p", **{setting: str(empty)})
    found = one(check, tmp_path / "p")
    assert found.state == "broken"
    assert setting in found.advice
    assert str(empty) in found.seen


@pytest.mark.needs_code("lmp")
def test_potentials_are_listed_with_their_hashes(tmp_path: Path) -> None:
    init_project(tmp_path, machine="local")
    found = one(doctor.potentials, tmp_path)
    expected = subprocess.run(["sha256sum", "/usr/share/lammps/potentials/Si.sw"],
                              capture_output=True, text=True, check=True).stdout
    assert f"Si.sw {expected[:12]}" in found.seen


@pytest.mark.needs_code("lmp")
def test_one_missing_potential_file_is_a_warning(tmp_path: Path) -> None:
    init_project(tmp_path / "p", machine="local")
    own = tmp_path / "potentials"
    shutil.copytree("/usr/share/lammps/potentials", own)
    (own / "Si.sw").unlink()
    settings(tmp_path / "p", potentials_dir=str(own))
    found = one(doctor.potentials, tmp_path / "p")
    assert found.state == "warn"
    assert "missing: Si.sw" in found.seen
