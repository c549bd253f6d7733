"""Executables, MPI, Slurm and disk: each taken away or replaced by a wrong one."""

import os
import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from fireworks import Firework, LaunchPad, ScriptTask, Workflow

from orionflow.launchers.cron import STATE_FILE, STOP_FILE, run_cron, stamp
from orionflow.launchers.doctor import machine
from orionflow.launchers.doctor.finding import Finding, Site, run_checks
from orionflow.launchers.project import init_project


def site_with(folder: Path, **profile: object) -> Site:
    """Return a project on a machine profile of its own."""
    base = {"mpi": "mpirun", "mpi_options": ["--bind-to", "none", "--oversubscribe"],
            "environment": {"OMPI_ALLOW_RUN_AS_ROOT": "1",
                            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}}
    (folder / "machines").mkdir(parents=True, exist_ok=True)
    (folder / "machines" / "here.yaml").write_text(yaml.safe_dump({**base, **profile}))
    init_project(folder, machine="here")
    return Site.of(folder)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def by_name(findings: object) -> dict[str, Finding]:
    return {f.name: f for f in findings}


def only(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    """Leave only these programs on PATH."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", os.fspath(folder))


@pytest.mark.needs_code("pw.x", "lmp")
def test_installed_codes_are_ok_with_their_paths(tmp_path: Path) -> None:
    found = by_name(machine.executables(site_with(tmp_path)))
    assert {name: f.seen for name, f in found.items()} == {
        "pw.x": shutil.which("pw.x"), "lmp": shutil.which("lmp")}


@pytest.mark.needs_code("lmp")
def test_one_missing_code_nobody_waits_for_is_a_warning(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_with(tmp_path)
    only(monkeypatch, tmp_path / "bin", "lmp")
    found = by_name(machine.executables(site))
    assert found["lmp"].state == "ok"
    assert found["pw.x"].state == "warn"
    assert "executables: {pw.x: /path}" in found["pw.x"].advice


def test_no_code_at_all_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_with(tmp_path)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert {f.state for f in machine.executables(site)} == {"broken"}


@pytest.mark.needs_mongod
@pytest.mark.needs_code("lmp")
def test_missing_code_that_jobs_wait_for_is_broken(project: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    pad = LaunchPad.from_file(str(project / "my_launchpad.yaml"))
    pad.reset("", require_password=False)
    task = {**ScriptTask.from_str("true").to_dict(), "job": {
        "function": {"@module": "orionflow.workflows.qe.core", "@callable": "StaticMaker.make"}}}
    pad.add_wf(Workflow([Firework(ScriptTask.from_str("true"), spec={"_tasks": [task]})]))
    pad.fireworks.update_many({}, {"$set": {"spec._tasks": [task]}})
    pad.connection.close()
    only(monkeypatch, project / "bin", "lmp")
    found = by_name(machine.executables(Site.of(project)))["pw.x"]
    assert found.state == "broken"
    assert "1 waiting jobs need it" in found.seen


@pytest.mark.needs_code("mpirun", "pw.x", "lmp")
def test_real_mpi_starts_two_ranks_and_matches_the_codes(tmp_path: Path) -> None:
    found = by_name(machine.mpi(site_with(tmp_path)))
    assert {f.state for f in found.values()} == {"ok"}
    assert "Open MPI" in found["MPI"].seen
    assert found["lmp and MPI"].seen == "built with Open MPI"


def test_mpirun_that_is_not_there_is_broken(tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_with(tmp_path)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    (found,) = machine.mpi(site)
    assert found.state == "broken"
    assert "mpirun: not found" in found.seen


@pytest.mark.needs_code("mpirun")
def test_mpirun_that_refuses_its_options_is_broken_with_its_words(tmp_path: Path) -> None:
    site = site_with(tmp_path, mpi_options=["--no-such-option"])
    (found,) = machine.mpi(site)
    assert found.state == "broken"
    assert "started 0 of 2 ranks" in found.seen


@pytest.mark.needs_code("mpirun", "lmp")
def test_launcher_of_another_mpi_is_broken(tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    # An MPICH launcher in front of Debian's: it starts ranks, but not as one Open MPI job.
    script(tmp_path / "bin" / "mpirun",
           'case "$1" in --version) echo "HYDRA build details:";; '
           '*) while [ "$1" != echo ]; do shift; done; "$@"; "$@";; esac')
    site = site_with(tmp_path / "p")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    found = by_name(machine.mpi(site))
    assert found["MPI"].state == "ok"
    assert found["lmp and MPI"].state == "broken"
    assert "built with Open MPI, but mpirun is MPICH" in found["lmp and MPI"].seen


@pytest.mark.needs_code("mpirun")
def test_serial_executable_is_a_warning(tmp_path: Path) -> None:
    site = site_with(tmp_path, executables={"lmp": "/bin/true", "pw.x": "/nowhere"})
    found = by_name(machine.mpi(site))["lmp and MPI"]
    assert found.state == "warn"
    assert "ranks: 1" in found.advice


def test_machine_without_mpi_says_so(tmp_path: Path) -> None:
    (found,) = machine.mpi(site_with(tmp_path, mpi="none", mpi_options=[]))
    assert (found.state, found.seen) == ("ok", "`mpi: none`: jobs of one rank only")


def test_machine_without_queue_needs_no_slurm(tmp_path: Path) -> None:
    assert list(machine.slurm(site_with(tmp_path))) == []


def test_slurm_that_does_not_answer_is_broken(tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_with(tmp_path, scheduler="slurm")
    monkeypatch.setenv("PATH", "/nowhere")
    (found,) = run_checks(site, [machine.slurm])
    assert found.state == "broken"
    assert "sinfo: not found" in found.seen
    assert "orionflow slurm start" in found.advice


@pytest.mark.needs_mongod
def test_cron_that_ran_is_ok_and_a_stop_file_is_named(project: Path) -> None:
    (project / "orionflow.yaml").write_text("machine: local\n")
    assert list(machine.cron(Site.of(project))) == []
    run_cron(project)
    (found,) = machine.cron(Site.of(project))
    assert found.state == "ok"
    assert re.fullmatch(r"ran \d+ s ago", found.seen)
    (project / ".orionflow" / STOP_FILE).touch()
    (found,) = machine.cron(Site.of(project))
    assert found.state == "warn"
    assert STOP_FILE in found.advice


def test_cron_that_never_ran_on_a_cluster_is_a_warning_with_its_line(tmp_path: Path) -> None:
    site = site_with(tmp_path / "a b", scheduler="slurm")
    (found,) = machine.cron(site)
    assert found.state == "warn"
    assert f"* * * * * cd '{tmp_path}/a b' &&" in found.advice


def test_cron_whose_submissions_fail_is_broken(tmp_path: Path) -> None:
    site = site_with(tmp_path, scheduler="slurm")
    stamp(tmp_path / ".orionflow" / STATE_FILE, last_run="2026-01-01T00:00:00+00:00", failures=3,
          last_error="Invalid account")
    (found,) = machine.cron(site)
    assert found.state == "broken"
    assert "3 submissions failed in a row: Invalid account" in found.seen


@pytest.mark.parametrize(("minutes", "problem", "state"), [
    (1, "", "ok"), (1, "MongoDB does not answer", "warn"), (600, "", "warn")])
def test_cron_is_judged_by_when_it_ran(minutes: int, problem: str, state: str) -> None:
    found = machine.cron_finding(timedelta(minutes=minutes), problem, "LINE")
    assert found.state == state
    assert ("10.0 h ago" in found.seen) == (minutes == 600)


@pytest.mark.parametrize(("free", "state"), [(500.0, "ok"), (10.0, "warn"), (1.0, "broken")])
def test_disk_is_judged_by_what_is_free(free: float, state: str) -> None:
    assert machine.disk_finding("disk", "/data", free).state == state


def test_scratch_that_is_not_there_is_broken(tmp_path: Path) -> None:
    found = by_name(machine.disk(site_with(tmp_path, scratch="/no/such/folder")))
    assert found["scratch"].state == "broken"
    assert found["disk"].state in {"ok", "warn"}
