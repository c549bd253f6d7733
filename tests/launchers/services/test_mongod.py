from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from orionflow.errors import ConfigError, LaunchError
from orionflow.launchers.project import init_project, write_database_config
from orionflow.launchers.services import mongod as module
from orionflow.launchers.services.mongod import Mongod
from orionflow.launchers.services.processes import (
    ProcessIdentity,
    find_processes,
    free_port,
    read_state,
)

ORIONFLOW = str(Path(sys.executable).with_name("orionflow"))
LPAD = str(Path(sys.executable).with_name("lpad"))


@pytest.fixture
def server(tmp_path):
    """A server of the test's own: it may be killed."""
    server = Mongod(tmp_path / "it's mine" / "mongo", cache_gb=0.25)
    yield server
    server.stop()


def servers_on(server):
    return find_processes("--dbpath", str(server.data))


def kill(server):
    (process,) = servers_on(server)
    process.signal(signal.SIGKILL)
    while process.alive():
        time.sleep(0.01)


def test_missing_mongod_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(module, "WHEEL", "no-such-distribution")
    with pytest.raises(ConfigError, match="no mongod") as caught:
        module.find_mongod()
    assert "orionflow[local]" in caught.value.hint


@pytest.mark.needs_mongod
def test_mongod_on_path_is_preferred(monkeypatch, tmp_path):
    real = module.find_mongod()
    (tmp_path / "mongod").symlink_to(real)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.find_mongod() == tmp_path / "mongod"


def test_status_before_the_first_start_says_so(tmp_path):
    status = Mongod(tmp_path / "mongo").status()
    assert not status.running
    assert status.problem == "never started"


@pytest.mark.needs_mongod
def test_plain_lpad_works_in_the_project_without_a_password(project):
    def lpad(*arguments):
        return subprocess.run([LPAD, *arguments], capture_output=True, text=True, check=True)

    today = datetime.now().strftime("%Y-%m-%d")  # noqa: DTZ005  lpad compares with local time
    lpad("reset", "--password", today)
    assert json.loads(lpad("get_fws").stdout) == []
    lpad("add_scripts", "echo hello")
    assert json.loads(lpad("get_fws", "-d", "less").stdout)["state"] == "READY"


@pytest.mark.needs_mongod
def test_jobflow_writes_documents_and_blobs(job_store):
    big = list(range(1000))
    job_store.update({"uuid": "u", "index": 1, "output": {"x": big}}, save={"data": ["x"]})
    document = job_store.query_one({"uuid": "u"}, load=False)
    assert document["output"]["x"]["store"] == "data"
    assert job_store.query_one({"uuid": "u"}, load=True)["output"]["x"] == big


@pytest.mark.needs_mongod
def test_commands_start_status_stop_with_exit_codes(tmp_path, monkeypatch):
    project = tmp_path / "pro ject's"
    init_project(project)
    monkeypatch.chdir(project)

    def db(*arguments):
        return subprocess.run([ORIONFLOW, "db", *arguments], capture_output=True, text=True,
                              check=False)

    assert db("status").returncode == 1
    try:
        port = free_port()
        started = db("start", "--port", str(port))
        assert started.returncode == 0, started.stderr
        status = db("status")
        assert status.returncode == 0
        assert f"127.0.0.1:{port}" in status.stdout
        assert "MB" in status.stdout
        assert db("start").stdout == started.stdout  # the same process
        other = db("start", "--port", str(port + 1))
        assert other.returncode == 1
        assert f"already, on port {port}" in other.stderr
    finally:
        assert db("stop").stdout == "MongoDB stopped\n"
    assert db("stop").stdout == "MongoDB was not running\n"
    assert db("status").returncode == 1
    # The port is kept: addresses in files stay true.
    assert str(port) in db("start").stdout
    db("stop")


def test_command_outside_a_project_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([ORIONFLOW, "db", "start"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "orionflow init" in done.stderr


@pytest.mark.needs_mongod
def test_server_survives_the_death_of_the_shell_that_started_it(tmp_path):
    project = tmp_path / "p"
    init_project(project)
    shell = subprocess.Popen(["sh", "-c", '"$0" db start; echo up; cat', ORIONFLOW],
                             cwd=project, stdout=subprocess.PIPE, stdin=subprocess.PIPE,
                             text=True, start_new_session=True)
    while shell.stdout.readline() not in {"up\n", ""}:
        pass
    server = Mongod(project / ".orionflow" / "mongo")
    try:
        os.killpg(shell.pid, signal.SIGHUP)
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()
        assert server.status().running
    finally:
        server.stop()
    assert servers_on(server) == []


WRITER = """
import sys, threading, yaml
from pymongo import MongoClient
c = yaml.safe_load(open("my_launchpad.yaml"))
def write(n):
    client = MongoClient(c["host"], c["port"], username=c["username"], password=c["password"],
                         authSource=c["authsource"], **c["mongoclient_kwargs"])
    rows = client[c["name"]].rows
    i = 0
    while True:
        rows.insert_one({"_id": f"{n}-{i}"})
        sys.stdout.write(f"{n}-{i}\\n"); sys.stdout.flush()
        i += 1
for n in range(8):
    threading.Thread(target=write, args=(n,), daemon=True).start()
threading.Event().wait()
"""


@pytest.mark.needs_mongod
def test_kill_9_under_load_loses_no_acknowledged_write(server, tmp_path):
    project = tmp_path / "p"
    init_project(project)
    write_database_config(project, server.start())
    acknowledged = set()
    for round_number in range(3):
        out = tmp_path / f"acknowledged-{round_number}"
        with out.open("w") as file, subprocess.Popen(
                [sys.executable, "-c", WRITER], cwd=project, stdout=file,
                stderr=subprocess.DEVNULL) as writer:
            while out.stat().st_size < 4000:  # some 600 writes
                time.sleep(0.01)
            kill(server)
            time.sleep(0.2)
            writer.kill()
        # The last line may be cut; all whole ones were acknowledged.
        acknowledged |= set(out.read_text().split("\n")[:-1])
        assert "db start" in server.status().problem
        server.start()
        with server.client() as client:
            rows = client["orionflow"]["rows"]
            there = {row["_id"] for row in rows.find()}
            lost = acknowledged - there
            rows.delete_many({})
        assert not lost
        assert len(acknowledged) > 100
        acknowledged.clear()


@pytest.mark.needs_mongod
def test_two_starts_at_once_make_one_server(tmp_path):
    project = tmp_path / "p"
    init_project(project)
    server = Mongod(project / ".orionflow" / "mongo")
    both = [subprocess.Popen([ORIONFLOW, "db", "start"], cwd=project, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    try:
        outputs = [(p.communicate(timeout=120), p.returncode) for p in both]
        assert [code for _, code in outputs] == [0, 0], outputs
        assert outputs[0][0][0] == outputs[1][0][0]  # port and process alike
        assert len(servers_on(server)) == 1
        assert server.status().running
    finally:
        server.stop()


@pytest.mark.needs_mongod
def test_taken_port_is_named_and_another_can_be_chosen(server):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(LaunchError, match=f"port {port} .* is taken") as caught:
            server.start(port=port)
        assert "--port NUMBER" in caught.value.hint
        assert servers_on(server) == []
        assert server.start(port=free_port()).port != port


@pytest.mark.needs_mongod
def test_port_taken_while_stopped_is_not_changed_in_secret(server):
    port = server.start().port
    server.stop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with pytest.raises(LaunchError, match=rf"port {port} \(of this project\) is taken"):
            server.start()
    assert server.start().port == port


@pytest.mark.needs_mongod
def test_data_in_use_by_another_mongod_is_told(server):
    server.start()
    server.stop()
    # Started by hand, with another spelling of the folder.
    subprocess.run([module.find_mongod(), "--fork", "--dbpath", "data", "--port",
                    str(free_port()), "--bind_ip", "127.0.0.1", "--nounixsocket", "--logpath",
                    str(server.folder / "other.log")],
                   cwd=server.folder, check=True, capture_output=True)
    (other,) = find_processes("--logpath", str(server.folder / "other.log"))
    try:
        with pytest.raises(LaunchError, match="another mongod uses the data"):
            server.start()
        assert other.alive()
    finally:
        other.signal(signal.SIGTERM)
        while other.alive():
            time.sleep(0.05)


@pytest.mark.needs_mongod
def test_state_naming_an_innocent_process_neither_stops_nor_believes_it(server):
    server.start()
    server.stop()
    with subprocess.Popen(["sleep", "60"]) as innocent:
        identity = ProcessIdentity.of(innocent.pid).to_dict()
        state = json.loads((server.folder / "server.json").read_text())
        state["process"] = {**identity, "started": identity["started"] - 5}
        (server.folder / "server.json").write_text(json.dumps(state))
        assert not server.status().running
        assert server.stop() is False
        assert innocent.poll() is None
        innocent.kill()


@pytest.mark.needs_mongod
def test_long_temporary_folder_does_not_matter(server, tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    server.start()
    assert server.status().running


@pytest.mark.needs_mongod
def test_lost_password_is_replaced_and_data_stay(server):
    old = server.start()
    with server.client() as client:
        client["orionflow"]["rows"].insert_one({"_id": 1})
    server.stop()
    (server.folder / "credentials.json").unlink()
    new = server.start()
    assert new.password != old.password
    with server.client() as client:
        assert client["orionflow"]["rows"].count_documents({}) == 1
    with MongoClient(old.host, new.port, username=old.username, password=old.password,
                     authSource="admin") as client, pytest.raises(PyMongoError, match="uthentic"):
        client["orionflow"]["rows"].find_one()


@pytest.mark.needs_mongod
@pytest.mark.parametrize("delay", [0.4, 0.9, 1.3, 2.0])
def test_start_killed_half_way_is_repaired_by_the_next(tmp_path, delay):
    project = tmp_path / "p"
    init_project(project)
    server = Mongod(project / ".orionflow" / "mongo")
    with subprocess.Popen([ORIONFLOW, "db", "start"], cwd=project, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as starter:
        time.sleep(delay)
        starter.kill()
    hidden = read_state(server.folder / "first-start.json").get("folder")
    try:
        server.start()
        assert server.status().running
        assert len(servers_on(server)) == 1
    finally:
        server.stop()
    assert servers_on(server) == []
    assert not hidden or not Path(hidden).exists()


@pytest.mark.needs_mongod
def test_log_is_rotated_under_the_running_server(server, monkeypatch):
    server.start()
    monkeypatch.setattr(module, "LOG_BYTES", 1000)
    for _ in range(4):
        server.start()
    logs = sorted(p.name for p in server.folder.glob("mongod.log*"))
    assert logs[0] == "mongod.log"
    assert 2 <= len(logs) <= 1 + module.LOGS_KEPT
    assert server.status().running
    server.stop()
    assert "shut" in server.log.read_text().lower()  # it writes to the new file


@pytest.mark.needs_mongod
def test_data_started_on_another_machine_are_left_alone(server):
    server.start()
    kill(server)
    path = server.folder / "server.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hostname": "node-17"}))
    assert "node-17" in server.status().problem
    with pytest.raises(LaunchError, match="'node-17'"):
        server.start()
    path.unlink()
    server.start()
