import pytest

from orionflow.errors import ConfigError
from orionflow.settings import find_project, load_settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project folder with a name that breaks careless quoting."""
    for name in ("ORIONFLOW_PROJECT", "ORIONFLOW_MACHINE"):
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "it's a project"
    place.mkdir()
    (place / "orionflow.yaml").write_text("machine: private-slurm\nmax_corrections: 2\n")
    return place


def test_file_value_beats_default(folder):
    assert load_settings(folder).machine == "private-slurm"
    assert load_settings(folder).max_corrections == 2


def test_variable_beats_file(folder, monkeypatch):
    monkeypatch.setenv("ORIONFLOW_MACHINE", "local")
    assert load_settings(folder).machine == "local"


def test_misspelt_variable_is_reported_with_the_right_name(folder, monkeypatch):
    monkeypatch.setenv("ORIONFLOW_MASCHINE", "local")
    with pytest.raises(ConfigError, match="ORIONFLOW_MASCHINE") as caught:
        load_settings(folder)
    assert "did you mean 'machine'" in caught.value.hint


def test_misspelt_name_in_the_file_is_reported(folder):
    (folder / "orionflow.yaml").write_text("pseudo_dirr: /x\n")
    with pytest.raises(ConfigError, match="pseudo_dirr") as caught:
        load_settings(folder)
    assert "did you mean 'pseudo_dir'" in caught.value.hint


def test_relative_folder_is_taken_from_the_project(folder):
    (folder / "orionflow.yaml").write_text("pseudo_dir: pseudos\n")
    assert load_settings(folder).pseudo_dir == folder / "pseudos"


def test_wrong_value_names_the_setting(folder):
    (folder / "orionflow.yaml").write_text("max_corrections: -1\n")
    with pytest.raises(ConfigError, match="max_corrections"):
        load_settings(folder)


def test_project_is_found_from_a_launch_folder(folder, monkeypatch):
    deep = folder / "block_1" / "launcher_2"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert find_project() == folder.resolve()


def test_no_project_is_none(tmp_path, monkeypatch):
    monkeypatch.delenv("ORIONFLOW_PROJECT", raising=False)
    assert find_project(tmp_path) is None


def test_owner_without_variables_is_the_account(monkeypatch):
    import os
    import pwd

    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "ORIONFLOW_OWNER"):
        monkeypatch.delenv(name, raising=False)
    assert load_settings(None).owner == pwd.getpwuid(os.getuid()).pw_name
