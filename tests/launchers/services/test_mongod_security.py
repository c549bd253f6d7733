from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from orionflow.launchers.project import init_project, write_database_config
from orionflow.launchers.services import mongod as module
from orionflow.launchers.services.mongod import Mongod
from orionflow.launchers.services.processes import free_port

pytestmark = pytest.mark.needs_mongod


@pytest.fixture
def server(tmp_path):
    server = Mongod(tmp_path / "it's mine" / "mongo", cache_gb=0.25)
    yield server
    server.stop()


def test_nothing_listens_without_password_even_during_the_first_start(server):
    """Somebody on this machine tries all the time, with the localhost exception, too."""
    port = free_port()
    stop = threading.Event()
    answers, successes = [], []

    def attack():
        while not stop.is_set():
            with MongoClient("127.0.0.1", port, serverSelectionTimeoutMS=50) as client:
                evil = {"createUser": "evil", "pwd": "x", "roles": ["root"]}
                for act, what in ((client["admin"].command, evil),
                                  (client["orionflow"]["rows"].insert_one, {}),
                                  (client["orionflow"]["rows"].find_one, {})):
                    try:
                        act(what)
                        successes.append(1)
                    except PyMongoError as error:
                        answers.append(getattr(error, "code", None))

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        server.start(port=port)
        time.sleep(0.5)
    finally:
        stop.set()
        thread.join()
    unauthorized = 13
    assert successes == []
    assert answers.count(unauthorized) >= 3


def test_the_server_without_authentication_has_a_hidden_socket_only(tmp_path, monkeypatch):
    real, record = module.find_mongod(), tmp_path / "calls"
    wrapper = tmp_path / "bin" / "mongod"
    wrapper.parent.mkdir()
    wrapper.write_text("#!/bin/sh\n"
                       f'for a; do printf "%s\\n" "$a"; done >> "{record}"\n'
                       f'echo END >> "{record}"\n'
                       f'exec "{real}" "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    server = Mongod(tmp_path / "m", cache_gb=0.25)
    try:
        server.start()
    finally:
        server.stop()
    calls = [c.strip().split("\n") for c in record.read_text().split("END\n") if c.strip()]
    assert len(calls) == 2
    first, second = calls
    address = first[first.index("--bind_ip") + 1]
    assert "--auth" not in first
    assert address.startswith("/")
    assert first[first.index("--filePermissions") + 1] == "0600"
    assert "--auth" in second
    assert second[second.index("--bind_ip") + 1] == "127.0.0.1"
    assert not Path(address).parent.exists()


def test_another_account_can_neither_read_the_password_nor_use_the_database():
    with tempfile.TemporaryDirectory() as base:  # a place everybody may enter
        Path(base).chmod(0o755)
        project = Path(base) / "p"
        init_project(project)
        server = Mongod(project / ".orionflow" / "mongo", cache_gb=0.25)
        try:
            access = server.start()
            write_database_config(project, access)
            secret = access.password.encode()
            readable = []
            for path in project.rglob("*"):
                if path.is_file() and secret in path.read_bytes():
                    assert path.stat().st_mode & 0o077 == 0
                    readable.append(path)
            assert {p.name for p in readable} == {"my_launchpad.yaml", "jobflow.yaml",
                                                  "credentials.json"}
            everywhere = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True,
                                        check=True).stdout
            assert secret not in everywhere
            if os.geteuid() == 0:
                _as_nobody(readable, server, access)
        finally:
            server.stop()


def _as_nobody(paths, server, access):
    """Try as another account, which only root can."""
    code = """
import os, sys
from pymongo import MongoClient
from pymongo.errors import OperationFailure
import pymongo.synchronous.server, bson, encodings.idna
client = MongoClient("127.0.0.1", int(sys.argv[1]))
try: client.admin.command("ping"); client.db.rows.find_one()
except OperationFailure: pass
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.argv[2:]:
    try: open(path).read(); print("READ", path)
    except PermissionError: print("refused")
try: os.listdir(os.path.dirname(sys.argv[-1])); print("LISTED")
except PermissionError: print("refused")
for act in (client.list_database_names, lambda: client.orionflow.rows.insert_one({}),
            client.orionflow.rows.find_one):
    try: act(); print("DONE")
    except OperationFailure as e: print("refused" if e.code == 13 else e)
"""
    files = [*map(str, paths), str(server.log)]
    done = subprocess.run([sys.executable, "-c", code, str(access.port), *files],
                          capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused"] * (len(files) + 1 + 3), done
