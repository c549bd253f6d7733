from __future__ import annotations

import socket

import pytest
import yaml
from typer.testing import CliRunner

from orionflow.cli import app
from orionflow.errors import ConfigError, LaunchError
from orionflow.launchers.machine import load_machine
from orionflow.launchers.project import init_project
from orionflow.launchers.services.mongod import Mongod
from orionflow.launchers.services.slurm import PrivateSlurm


@pytest.fixture
def call():
    """Run a command in this process; our own errors come out as they are."""
    def run(*arguments):
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A project on its own, without services; they are ended afterwards."""
    folder = tmp_path / "pro ject's"
    init_project(folder)
    monkeypatch.chdir(folder)
    yield folder
    PrivateSlurm.of(folder).stop()
    Mongod(folder / ".orionflow" / "mongo").stop()


@pytest.mark.parametrize("command", [("db", "start"), ("db", "status"), ("slurm", "start"),
                                     ("slurm", "stop")])
def test_outside_a_project_the_error_names_init(call, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no project") as caught:
        call(*command)
    assert "orionflow init" in caught.value.hint


def test_status_of_services_never_started_exits_1(call, here):
    for command in ("db", "slurm"):
        result = call(command, "status")
        assert result.exit_code == 1
        assert "never started" in result.stdout


def test_stop_of_services_never_started_is_no_error(call, here):
    assert call("db", "stop").stdout == "MongoDB was not running\n"
    assert call("slurm", "stop").stdout == "Slurm was not running\n"


@pytest.mark.needs_mongod
def test_edited_database_file_is_kept_and_told_until_forced(call, here):
    call("db", "start")
    path = here / "my_launchpad.yaml"
    mine = path.read_text().replace("127.0.0.1", "db.example.org")
    path.write_text(mine)
    result = call("db", "start")
    assert "my_launchpad.yaml was edited by hand" in result.stderr
    assert path.read_text() == mine
    assert "edited" not in call("db", "start", "--force").stderr
    assert yaml.safe_load(path.read_text())["host"] == "127.0.0.1"
    assert call("db", "status").exit_code == 0
    call("db", "stop")


@pytest.mark.needs_slurm
def test_slurm_start_brings_profile_and_qadapter_up_to_date(call, here):
    first = call("slurm", "start", "--nodes", "1", "--cpus-per-node", "3")
    assert "1 virtual nodes of 3 CPUs" in first.stdout
    assert "orionflow init --machine private-slurm" in first.stderr  # it is `local` so far
    init_project(here, machine="private-slurm")
    assert call("slurm", "start").stderr == ""
    assert load_machine(project=here).cores == 3
    adapter = yaml.safe_load((here / "my_qadapter.yaml").read_text())
    assert adapter["ntasks_per_node"] == 3
    assert adapter["_q_commands_override"]["submit_cmd"] == str(
        here / ".orionflow" / "slurm" / "bin" / "sbatch")
    status = call("slurm", "status")
    assert status.exit_code == 0
    assert "n1 idle (3 CPUs each)" in status.stdout
    with pytest.raises(LaunchError, match="runs already"):
        call("slurm", "start", "--nodes", "2")
    assert call("slurm", "stop").stdout == "Slurm stopped\n"


@pytest.mark.needs_slurm
def test_slurm_takes_other_ports_when_somebody_took_its_own(call, here):
    call("slurm", "start", "--nodes", "1")
    server = PrivateSlurm.of(here)
    port = server.layout().port
    call("slurm", "stop")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert call("slurm", "start").exit_code == 0
        assert port not in server.layout().ports
        assert server.status().running
