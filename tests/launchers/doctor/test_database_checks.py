"""Each check is broken for real and must say so; on a healthy project it must be quiet."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from orionflow.launchers.doctor import database
from orionflow.launchers.doctor.finding import Finding, Site, run_checks
from orionflow.launchers.project import DatabaseAccess, init_project
from orionflow.launchers.services.mongod import Mongod


def edit(path: Path, **values: object) -> None:
    content = yaml.safe_load(path.read_text())
    content.update(values)
    path.write_text(yaml.safe_dump(content))


def by_name(findings: object) -> dict[str, Finding]:
    return {f.name: f for f in findings}


@pytest.mark.needs_mongod
def test_healthy_database_is_ok_and_left_as_it_was(project: Path) -> None:
    site = Site.of(project)
    found = by_name(database.database(site))
    assert {f.state for f in found.values()} == {"ok"}
    assert set(found) == {"database", "clock"}
    with database.connection(site) as (client, name):
        assert database.SCRATCH not in client[name].list_collection_names()


@pytest.mark.needs_mongod
def test_stopped_mongod_is_broken_and_names_the_command(tmp_path: Path) -> None:
    server = Mongod(tmp_path / "mongo", cache_gb=0.25)
    init_project(tmp_path / "p", machine="local", database=server.start())
    server.stop()
    (found,) = run_checks(Site.of(tmp_path / "p"), [database.database])
    assert found.state == "broken"
    assert "no MongoDB at 127.0.0.1" in found.seen
    assert "orionflow db start" in found.advice


@pytest.mark.needs_mongod
def test_wrong_password_is_broken_and_not_repeated(project: Path) -> None:
    edit(project / "my_launchpad.yaml", password="wrong-horse")  # noqa: S106  that is the point
    (found,) = run_checks(Site.of(project), [database.database])
    assert found.state == "broken"
    assert "Authentication failed" in found.seen
    assert "wrong-horse" not in found.seen + found.advice


@pytest.mark.needs_mongod
def test_database_the_user_may_not_use_is_broken(project: Path) -> None:
    edit(project / "my_launchpad.yaml", name="local", authsource="admin")
    (found,) = run_checks(Site.of(project), [database.database])
    assert found.state == "broken"
    assert "not authorized on local" in found.seen


@pytest.mark.needs_mongod
def test_writes_without_journal_are_a_warning(project: Path) -> None:
    edit(project / "my_launchpad.yaml", mongoclient_kwargs={})
    found = by_name(database.database(Site.of(project)))["journaled writes"]
    assert found.state == "warn"
    assert "journal: true" in found.advice


@pytest.mark.needs_mongod
@pytest.mark.parametrize("name", ["my_launchpad.yaml", "jobflow.yaml"])
def test_password_others_can_read_is_broken(project: Path, name: str) -> None:
    assert by_name(database.private_files(Site.of(project)))[name].state == "ok"
    (project / name).chmod(0o644)
    found = by_name(database.private_files(Site.of(project)))[name]
    assert found.state == "broken"
    assert "0644" in found.seen
    assert f"chmod 600 {project / name}" in found.advice


def test_database_without_password_is_a_warning(tmp_path: Path) -> None:
    init_project(tmp_path, machine="local", database=DatabaseAccess("localhost", 27017))
    assert {f.state for f in database.private_files(Site.of(tmp_path))} == {"warn"}


def test_project_without_database_files_is_broken(tmp_path: Path) -> None:
    init_project(tmp_path, machine="local")
    found = list(database.private_files(Site.of(tmp_path)))
    assert [f.state for f in found] == ["broken", "broken"]
    (other,) = run_checks(Site.of(tmp_path), [database.database])
    assert other.state == "broken"
    assert "orionflow db start" in other.advice


@pytest.mark.needs_mongod
def test_fireworks_file_in_the_home_folder_that_wins_is_broken(
        project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (healthy,) = database.fireworks_configuration(Site.of(project))
    assert healthy.state == "ok"
    home = tmp_path / "home"
    (home / ".fireworks").mkdir(parents=True)
    shutil.copy(project / "my_launchpad.yaml", home / "elsewhere.yaml")
    (home / ".fireworks" / "FW_config.yaml").write_text(f"LAUNCHPAD_LOC: {home}/elsewhere.yaml\n")
    monkeypatch.setenv("HOME", os.fspath(home))
    (found,) = database.fireworks_configuration(Site.of(project))
    assert found.state == "broken"
    assert f"{home}/elsewhere.yaml" in found.seen
    assert f"remove {home}/.fireworks/FW_config.yaml" in found.advice


@pytest.mark.needs_mongod
def test_missing_fireworks_file_is_broken(project: Path, monkeypatch: pytest.MonkeyPatch,
                                          tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    (project / "FW_config.yaml").unlink()
    (found,) = database.fireworks_configuration(Site.of(project))
    assert found.state == "broken"
    assert "orionflow init" in found.advice


@pytest.mark.parametrize(("drift", "state", "word"), [
    (0.4, "ok", "agrees"), (-20.0, "warn", "ahead of"), (20.0, "warn", "behind"),
    (300.0, "broken", "behind")])
def test_clock_is_judged_by_its_difference(drift: float, state: str, word: str) -> None:
    found = database.clock_finding(drift)
    assert found.state == state
    assert word in found.seen


def test_check_that_crashes_is_a_finding_and_the_next_one_still_runs(tmp_path: Path) -> None:
    def bad_check(_site: Site) -> list[Finding]:
        raise ZeroDivisionError("here")

    def good_check(_site: Site) -> list[Finding]:
        return [Finding("good", "ok", "fine")]

    init_project(tmp_path, machine="local")
    first, second = run_checks(Site.of(tmp_path), [bad_check, good_check])
    assert (first.name, first.state) == ("bad check", "broken")
    assert "ZeroDivisionError: here" in first.seen
    assert second.state == "ok"
