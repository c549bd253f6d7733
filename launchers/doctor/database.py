"""Checks of the database and of the files that lead to it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from orionflow.errors import StoreError, database_reason
from orionflow.launchers.doctor.finding import Finding
from orionflow.launchers.project import (
    FW_CONFIG_FILE,
    JOBFLOW_FILE,
    LAUNCHPAD_FILE,
    project_environment,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo import MongoClient

    from orionflow.launchers.doctor.finding import Site

SCRATCH = "orionflow_doctor"
"""Collection that is written to and dropped again."""
CLOCK_WARN, CLOCK_BROKEN = 5.0, 60.0
"""Differences of clocks in seconds; a run is taken for lost after four minutes without ping."""


@contextmanager
def connection(site: Site, timeout: float = 5.0) -> Iterator[tuple[MongoClient[Any], str]]:
    """Give a client and the database name as ``my_launchpad.yaml`` says.

    Raises
    ------
    StoreError
        No such file, or nobody answers, or the user is refused.
    """
    from pymongo import MongoClient
    from pymongo.errors import OperationFailure, PyMongoError

    path = site.project / LAUNCHPAD_FILE
    values = _values(path)
    options = {"serverSelectionTimeoutMS": round(timeout * 1000),
               **(values.get("mongoclient_kwargs") or {})}
    if not values.get("uri_mode"):
        options |= {"port": int(values.get("port") or 27017)}
        if values.get("username"):
            options |= {"username": values["username"], "password": values.get("password"),
                        "authSource": values.get("authsource") or values.get("name")}
    where = values.get("host") or "localhost"
    name = str(values.get("name") or "fireworks")
    try:
        with MongoClient(where, **options) as client:
            client[name].command("ping")
            client[name]["fw_id_assigner"].find_one()  # a ping needs no password
            yield client, name
    except OperationFailure as error:
        reason = (error.details or {}).get("errmsg", str(error))
        raise StoreError(f"MongoDB at {where}:{options.get('port', '')} refuses: {reason}",
                         hint=f"check user and password in {path}") from error
    except PyMongoError as error:
        reason = database_reason(error)
        raise StoreError(f"no MongoDB at {where}:{options.get('port', '')}: {reason}",
                         hint="start it: orionflow db start") from error


def database(site: Site) -> Iterator[Finding]:
    """Write, read and delete a document with journaled acknowledgement."""
    from pymongo import WriteConcern

    with connection(site) as (client, name):
        key = uuid.uuid4().hex
        begin = time.perf_counter()
        scratch = client[name].get_collection(SCRATCH, write_concern=WriteConcern(w=1, j=True))
        scratch.insert_one({"_id": key})
        read = scratch.find_one({"_id": key})
        scratch.delete_one({"_id": key})
        took = 1000 * (time.perf_counter() - begin)
        if scratch.estimated_document_count() == 0:
            scratch.drop()
        host, port = client.address or ("?", 0)
        version = client.server_info()["version"]
        if read is None:
            yield Finding("database", "broken", f"{host}:{port} loses what is written to it",
                          "ask who runs this MongoDB; is it a replica set that is behind?")
            return
        yield Finding("database", "ok", f"MongoDB {version} at {host}:{port}, database {name}: "
                      f"write, read and delete in {took:.0f} ms")
        concern = client.write_concern.document
        if not (concern.get("j") or concern.get("w") == "majority"):
            yield Finding("journaled writes", "warn",
                          "writes are acknowledged before they are in the journal",
                          f"add `mongoclient_kwargs: {{journal: true}}` to {LAUNCHPAD_FILE}: "
                          "without it jobs vanish when mongod is killed")
        yield _clock(client)


def _clock(client: MongoClient[Any]) -> Finding:
    before = datetime.now(UTC)
    there = client.admin.command("hello")["localTime"].replace(tzinfo=UTC)
    after = datetime.now(UTC)
    middle = before + (after - before) / 2
    return clock_finding((there - middle).total_seconds())


def clock_finding(drift: float) -> Finding:
    """Judge the clock of the database, ``drift`` seconds ahead of ours."""
    state = abs(drift)
    if state < CLOCK_WARN:
        return Finding("clock", "ok", "agrees with the database's")
    seen = f"{state:.0f} s {'behind' if drift > 0 else 'ahead of'} the database's"
    advice = "set the clocks (chrony or ntpd): running jobs are taken for lost by their last ping"
    return Finding("clock", "broken" if state > CLOCK_BROKEN else "warn", seen, advice)


def private_files(site: Site) -> Iterator[Finding]:
    """Files with a password must be readable by their owner only."""
    for name in (LAUNCHPAD_FILE, JOBFLOW_FILE):
        path = site.project / name
        if not path.is_file():
            yield Finding(name, "broken", f"there is no {path}",
                          "make it: orionflow init, then orionflow db start")
            continue
        secret = _holds_password(_values(path))
        mode = path.stat().st_mode & 0o777
        if not secret:
            yield Finding(name, "warn", "no password: every account on this machine can change "
                          "the database", "start one with a password: orionflow db start")
        elif mode & 0o077:
            yield Finding(name, "broken", f"others can read the password in it (mode {mode:04o})",
                          f"chmod 600 {path}; then change the password")
        else:
            yield Finding(name, "ok", f"readable by its owner only (mode {mode:04o})")


def fireworks_configuration(site: Site) -> Iterator[Finding]:
    """Ask FireWorks itself, in an empty folder, which configuration a job would use.

    FW_CONFIG_FILE is its last choice: a file in the home folder wins, and jobs would then look
    into another database without a word.
    """
    code = ("import fireworks.fw_config as c, json, sys\n"
            "json.dump([c.LAUNCHPAD_LOC, c.FWORKER_LOC], sys.stderr)")
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=empty, capture_output=True, text=True, timeout=60,
            env={**os.environ, **project_environment(site.project)}, check=False)
    try:
        launchpad, fworker = yaml.safe_load(done.stderr.strip().splitlines()[-1])
    except (IndexError, ValueError, TypeError, yaml.YAMLError):
        yield Finding("FireWorks configuration", "broken", done.stderr.strip()[-300:],
                      f"correct {site.project / FW_CONFIG_FILE}")
        return
    wrong = [str(found) for found in (launchpad, fworker)
             if found is None or Path(found).resolve().parent != site.project]
    if not wrong:
        yield Finding("FireWorks configuration", "ok", "jobs find this project's files")
        return
    home = Path.home() / ".fireworks" / FW_CONFIG_FILE
    what = (f"remove {home}: FireWorks prefers it to FW_CONFIG_FILE" if home.is_file()
            else f"make {FW_CONFIG_FILE} anew: orionflow init")
    yield Finding("FireWorks configuration", "broken", f"jobs would use {wrong[0]}", what)


def _holds_password(values: Any) -> bool:
    if isinstance(values, dict):
        return any((key == "password" and bool(value)) or _holds_password(value)
                   for key, value in values.items())
    return isinstance(values, str) and "://" in values and "@" in values


def _values(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror}",
                         hint="make it: orionflow init, then orionflow db start") from error
    except yaml.YAMLError as error:
        raise StoreError(f"{path} is not YAML: {error}", hint="orionflow init") from error
    if not isinstance(values, dict):
        raise StoreError(f"{path} must hold `name: value` lines", hint="orionflow init")
    return values
