"""The project folder: the files FireWorks, jobflow and orionflow find their way by."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from importlib import resources as package_files
from typing import TYPE_CHECKING, Any

import yaml

from orionflow.errors import ConfigError
from orionflow.launchers.machine import load_machine
from orionflow.launchers.sbatch import qadapter_config
from orionflow.launchers.services.processes import private_folder, read_state, write_private
from orionflow.settings import PROJECT_FILE, Settings

if TYPE_CHECKING:
    from pathlib import Path

STATE_FOLDER = ".orionflow"
LAUNCHPAD_FILE = "my_launchpad.yaml"
FWORKER_FILE = "my_fworker.yaml"
QADAPTER_FILE = "my_qadapter.yaml"
FW_CONFIG_FILE = "FW_config.yaml"
JOBFLOW_FILE = "jobflow.yaml"
PING_SECONDS = 60

_GITIGNORE = f"""\
# passwords and state
{LAUNCHPAD_FILE}
{JOBFLOW_FILE}
{STATE_FOLDER}/
# folders of runs
block_*/
launcher_*/
"""


@dataclass(frozen=True)
class DatabaseAccess:
    """How to reach a MongoDB database.

    Attributes
    ----------
    name
        Database of FireWorks' collections and of the outputs.
    auth_source
        Database that knows the user; ``name`` when None.
    """

    host: str
    port: int
    name: str = "orionflow"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    auth_source: str | None = None


@dataclass
class FileReport:
    """What happened to the files of a project.

    Attributes
    ----------
    written
        Files made or brought up to date.
    kept
        Files a user has edited, left alone though we would write something else now.
    """

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def __add__(self, other: FileReport) -> FileReport:
        """Both reports as one."""
        return FileReport(self.written + other.written, self.kept + other.kept)


def init_project(folder: Path, *, machine: str | None = None,
                 database: DatabaseAccess | None = None, force: bool = False) -> FileReport:
    """Make a project folder, or bring an existing one up to date.

    Parameters
    ----------
    folder
        The project; made when missing.
    machine
        Machine profile, by name or path; without it the project's own, at first ``local``.
    database
        A MongoDB to use; without it ``orionflow db start`` writes the files for its own.
    force
        Replace files a user has edited too (a copy stays as ``<file>.bak``).

    Returns
    -------
    FileReport
        What was written, and what was left alone because somebody edited it.

    Raises
    ------
    ConfigError
        The machine profile is unknown or wrong, or the folder can't be written.
    """
    folder = folder.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        private_folder(folder / STATE_FOLDER)
        private_folder(folder / STATE_FOLDER / "log")
    except OSError as error:
        raise ConfigError(f"can't make the project folder {folder}: {error.strerror}",
                          hint="choose a folder you may write in") from error
    profile = load_machine(machine or _machine_of(folder), project=folder)
    report = FileReport()
    _write_settings(folder, machine, report)
    files = _Files(folder, force=force)
    files.put(".gitignore", _GITIGNORE)
    files.put(FW_CONFIG_FILE, _yaml(_fw_config(folder)))
    files.put(FWORKER_FILE, _yaml(
        {"name": profile.name, "category": profile.category, "query": "{}", "env": {}}))
    if profile.scheduler == "slurm":
        files.put(QADAPTER_FILE, _yaml(qadapter_config(profile, folder)))
    report += files.report
    if database is not None:
        report += write_database_config(folder, database, force=force)
    return report


def write_database_config(project: Path, database: DatabaseAccess, *,
                          force: bool = False) -> FileReport:
    """Write ``my_launchpad.yaml`` and ``jobflow.yaml``, readable by their owner only.

    Writes are acknowledged when they are in MongoDB's journal: without that, some of them
    vanish when the server is killed.
    """
    store: dict[str, Any] = {
        "database": database.name, "host": database.host, "port": database.port,
        "username": database.username or "", "password": database.password or "",
        "auth_source": database.auth_source or database.name,
    }
    files = _Files(project, force=force)
    files.put(LAUNCHPAD_FILE, _yaml({
        "host": database.host, "port": database.port, "name": database.name,
        "username": database.username, "password": database.password,
        "authsource": database.auth_source or database.name,
        "mongoclient_kwargs": {"journal": True},
    }))
    files.put(JOBFLOW_FILE, _yaml({"JOB_STORE": {
        "docs_store": {"type": "MongoStore", "collection_name": "outputs", **store,
                       "mongoclient_kwargs": {"journal": True}},
        "additional_stores": {
            "data": {"type": "GridFSStore", "collection_name": "outputs_blobs", **store,
                     "mongoclient_kwargs": {"journal": True}}},
    }}))
    return files.report


def write_machine_profile(project: Path, name: str, *, cores_per_node: int,
                          max_queued: int) -> FileReport:
    """Write the project's copy of a shipped machine profile with the numbers of a real machine.

    Nothing is written as long as the shipped profile says the same.

    Parameters
    ----------
    name
        Shipped profile.
    cores_per_node
        Cores of one node.
    max_queued
        Most allocations in the queue at once.
    """
    shipped = package_files.files("orionflow.fw_config") / "machines" / f"{name}.yaml"
    old = yaml.safe_load(shipped.read_text())
    new = {**old, "cores_per_node": cores_per_node,
           "allocation": {**old.get("allocation", {}), "max_queued": max_queued}}
    files = _Files(project, force=False)
    if new != old or (project / "machines" / f"{name}.yaml").exists():
        (project / "machines").mkdir(exist_ok=True)
        files.put(f"machines/{name}.yaml", _yaml(new))
    return files.report


def project_environment(project: Path) -> dict[str, str]:
    """Return the variables by which a process in any folder finds this project's files."""
    return {
        "ORIONFLOW_PROJECT": str(project),
        "JOBFLOW_CONFIG_FILE": str(project / JOBFLOW_FILE),
        "FW_CONFIG_FILE": str(project / FW_CONFIG_FILE),
    }


def _fw_config(folder: Path) -> dict[str, Any]:
    """Return FireWorks' settings; it finds them in the current folder or by FW_CONFIG_FILE."""
    return {
        "CONFIG_FILE_DIR": str(folder),
        "LAUNCHPAD_LOC": str(folder / LAUNCHPAD_FILE),
        "FWORKER_LOC": str(folder / FWORKER_FILE),
        "QUEUEADAPTER_LOC": str(folder / QADAPTER_FILE),
        "PRINT_FW_JSON": True,  # a job reads its resources from FW.json
        "PING_TIME_SECS": PING_SECONDS,
        "RUN_EXPIRATION_SECS": 4 * PING_SECONDS,
        "QUEUE_UPDATE_INTERVAL": 1,  # squeue knows a job as soon as sbatch returns
        "WFLOCK_EXPIRATION_KILL": True,  # a killed process must not lock a workflow for ever
    }


def _machine_of(folder: Path) -> str:
    try:
        values = yaml.safe_load((folder / PROJECT_FILE).read_text()) or {}
    except (FileNotFoundError, yaml.YAMLError):
        values = {}
    return str(values.get("machine", "local"))


def _write_settings(folder: Path, machine: str | None, report: FileReport) -> None:
    """Write ``orionflow.yaml`` once; later only its line ``machine:``, and only when asked."""
    path = folder / PROJECT_FILE
    old = path.read_text() if path.exists() else None
    if old is None:
        lines = ["# Settings of this project; variables ORIONFLOW_<NAME> win over them."]
        for name, info in Settings.model_fields.items():
            if name != "machine":
                default = "" if info.default_factory else f" {info.default}"
                lines += [f"# {info.description}", f"# {name}:{default}"]
        old = "\n".join(lines) + "\n"
        machine = machine or "local"
    new = old
    if machine is not None:
        line = _yaml({"machine": machine}).strip()
        new, found = re.subn(r"(?m)^machine:.*$", lambda _: line, old)
        if not found:
            new = f"{line}\n{old}"
    if not path.exists() or new != old:
        path.write_text(new)
        report.written.append(PROJECT_FILE)


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


class _Files:
    """Writes files, but none that somebody edited: it remembers the sum of what it wrote."""

    def __init__(self, folder: Path, *, force: bool) -> None:
        self.folder = folder
        self.force = force
        self.report = FileReport()
        self._sums_file = private_folder(folder / STATE_FOLDER) / "written.json"
        self._sums = read_state(self._sums_file)

    def put(self, name: str, text: str) -> None:
        path = self.folder / name
        if path.exists():
            old = path.read_text()
            edited = _sum(old) != self._sums.get(name)
            if old != text and edited and not self.force:
                self.report.kept.append(name)
                return
            if old != text and edited:
                write_private(path.with_name(f"{name}.bak"), old)
            if old == text and not edited and path.stat().st_mode & 0o077 == 0:
                return
        write_private(path, text)
        self.report.written.append(name)
        self._sums[name] = _sum(text)
        write_private(self._sums_file, json.dumps(self._sums, indent=1))


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
