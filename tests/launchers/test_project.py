from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

from orionflow.errors import ConfigError
from orionflow.launchers.machine import load_machine
from orionflow.launchers.project import (
    DatabaseAccess,
    init_project,
    project_environment,
    write_database_config,
    write_machine_profile,
)
from orionflow.settings import load_settings

ACCESS = DatabaseAccess("db.example.org", 27017, "lab", "me", "pass: 'word\" #1", "admin")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pro ject's"


def test_new_project_holds_every_file_and_settings_load(folder):
    report = init_project(folder, database=ACCESS)
    assert set(report.written) == {"orionflow.yaml", ".gitignore", "FW_config.yaml",
                                   "my_fworker.yaml", "my_launchpad.yaml", "jobflow.yaml"}
    assert report.kept == []
    assert load_settings(folder).machine == "local"
    worker = yaml.safe_load((folder / "my_fworker.yaml").read_text())
    assert worker["category"] == load_machine("local").category


def test_second_init_changes_nothing(folder):
    init_project(folder, database=ACCESS)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir() if p.is_file()}
    report = init_project(folder, database=ACCESS)
    assert (report.written, report.kept) == ([], [])
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir() if p.is_file()}
    assert after == before


def test_passwords_are_readable_by_their_owner_only(folder):
    init_project(folder, database=ACCESS)
    for name in ("my_launchpad.yaml", "jobflow.yaml"):
        assert (folder / name).stat().st_mode & 0o077 == 0
        (folder / name).chmod(0o644)
    assert (folder / ".orionflow").stat().st_mode & 0o077 == 0
    write_database_config(folder, ACCESS)
    for name in ("my_launchpad.yaml", "jobflow.yaml"):
        assert (folder / name).stat().st_mode & 0o077 == 0


def test_password_with_special_characters_survives_the_files(folder):
    init_project(folder, database=ACCESS)
    launchpad = yaml.safe_load((folder / "my_launchpad.yaml").read_text())
    store = yaml.safe_load((folder / "jobflow.yaml").read_text())["JOB_STORE"]
    assert launchpad["password"] == ACCESS.password
    assert store["docs_store"]["password"] == ACCESS.password
    assert store["additional_stores"]["data"]["password"] == ACCESS.password
    assert ACCESS.password not in repr(ACCESS)


def test_all_database_files_ask_for_journaled_writes(folder):
    init_project(folder, database=ACCESS)
    launchpad = yaml.safe_load((folder / "my_launchpad.yaml").read_text())
    store = yaml.safe_load((folder / "jobflow.yaml").read_text())["JOB_STORE"]
    for part in (launchpad, store["docs_store"], store["additional_stores"]["data"]):
        assert part["mongoclient_kwargs"] == {"journal": True}


def test_edited_file_is_kept_and_reported_until_forced(folder):
    init_project(folder, database=ACCESS)
    path = folder / "FW_config.yaml"
    mine = path.read_text() + "SORT_FWS: FIFO\n"
    path.write_text(mine)
    assert init_project(folder).kept == ["FW_config.yaml"]
    assert path.read_text() == mine
    assert "FW_config.yaml" in init_project(folder, force=True).written
    assert "SORT_FWS" not in path.read_text()
    assert (folder / "FW_config.yaml.bak").read_text() == mine


def test_file_that_was_there_before_is_not_overwritten(folder):
    folder.mkdir()
    (folder / "my_launchpad.yaml").write_text("host: elsewhere\n")
    report = init_project(folder, database=ACCESS)
    assert report.kept == ["my_launchpad.yaml"]
    assert (folder / "my_launchpad.yaml").read_text() == "host: elsewhere\n"


def test_unedited_file_follows_a_new_address(folder):
    init_project(folder, database=ACCESS)
    moved = DatabaseAccess("127.0.0.1", 4711, "lab", "me", "new", "admin")
    assert write_database_config(folder, moved).written == ["my_launchpad.yaml", "jobflow.yaml"]
    assert yaml.safe_load((folder / "my_launchpad.yaml").read_text())["port"] == 4711


def test_another_machine_changes_one_line_of_edited_settings(folder):
    init_project(folder)
    path = folder / "orionflow.yaml"
    path.write_text("# mine\nmax_corrections: 7\nmachine: local  # for now\nowner: ada\n")
    init_project(folder, machine="private-slurm")
    assert path.read_text() == "# mine\nmax_corrections: 7\nmachine: private-slurm\nowner: ada\n"
    assert (folder / "my_qadapter.yaml").is_file()
    init_project(folder)  # unnamed: the machine stays
    assert "machine: private-slurm" in path.read_text()


def test_unknown_machine_is_refused_before_files_are_written(folder):
    with pytest.raises(ConfigError, match="no machine profile 'private-slrum'") as caught:
        init_project(folder, machine="private-slrum")
    assert "private-slurm" in caught.value.hint
    assert not (folder / "orionflow.yaml").exists()


def test_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "p").write_text("")
    with pytest.raises(ConfigError, match=r"can't make the project folder .*/p:"):
        init_project(tmp_path / "p")


def test_machine_profile_is_copied_only_with_other_numbers(folder):
    init_project(folder, machine="private-slurm")
    shipped = load_machine("private-slurm")
    write_machine_profile(folder, "private-slurm", cores_per_node=shipped.cores,
                          max_queued=shipped.allocation.max_queued)
    assert not (folder / "machines").exists()
    write_machine_profile(folder, "private-slurm", cores_per_node=16, max_queued=9)
    profile = load_machine("private-slurm", project=folder)
    assert (profile.cores, profile.allocation.max_queued) == (16, 9)
    assert profile.mpi_options == shipped.mpi_options


def test_fireworks_and_jobflow_find_their_files_from_another_folder(folder, tmp_path):
    init_project(folder, database=ACCESS)
    code = ("import fireworks.fw_config as c, jobflow\n"
            "print(c.LAUNCHPAD_LOC, c.FWORKER_LOC, c.PRINT_FW_JSON, c.RUN_EXPIRATION_SECS)\n"
            "print(type(jobflow.SETTINGS.JOB_STORE.docs_store).__name__)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, text=True,
                          env={**os.environ, **project_environment(folder)},
                          capture_output=True)
    assert done.stdout.splitlines() == [
        f"{folder}/my_launchpad.yaml {folder}/my_fworker.yaml True 240", "MongoStore"]
