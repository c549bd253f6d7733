"""The project's results and its queue, opened for reading.

jobflow's own settings are not asked: where they find no file they hand out a MemoryStore without a
word, and every query on that is empty.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from orionflow.errors import ConfigError, StoreError, database_reason
from orionflow.launchers.project import JOBFLOW_FILE, LAUNCHPAD_FILE
from orionflow.settings import PROJECT_FILE, find_project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fireworks.core.launchpad import LaunchPad
    from jobflow import JobStore

DATA_STORE = "data"
"""Name of the additional store (GridFS) that holds trajectories and other large data."""
_PATIENCE_MS = 5000


def project_folder(project: Path | str | None = None) -> Path:
    """Return the project folder given, or the one around the current folder.

    Raises
    ------
    ConfigError
        There is none.
    """
    folder = Path(project).resolve() if project is not None else find_project()
    if folder is None or not (folder / PROJECT_FILE).is_file():
        where = (f"{folder} holds no {PROJECT_FILE}" if folder
                 else f"no {PROJECT_FILE} in {Path.cwd()} or above")
        raise ConfigError(
            f"no orionflow project: {where}",
            hint="change into a project folder, set ORIONFLOW_PROJECT, or make one: orionflow init",
        )
    return folder


def open_store(project: Path | str | None = None) -> JobStore:
    """Return the project's JobStore, connected and reachable.

    Parameters
    ----------
    project
        Project folder; the one around the current folder unless given.

    Raises
    ------
    ConfigError
        There is no project.
    StoreError
        ``jobflow.yaml`` is missing or names no store that outlives the process, or the database
        can't be reached.
    """
    from pymongo.errors import PyMongoError

    path = project_folder(project) / JOBFLOW_FILE
    store = load_store(path)
    try:
        store.connect()
        store.docs_store.count({"uuid": ""})
    except (PyMongoError, TypeError, ValueError) as error:  # the last two: a bad port or option
        close_store(store)
        raise _unreachable(path, error) from error
    return store


def close_store(store: JobStore) -> None:
    """Close the connections of a store; maggma's own ``close`` leaves them open."""
    untyped: Any = store
    for part in (store.docs_store, *untyped.additional_stores.values()):
        for name in ("_coll", "_files_collection"):
            database = getattr(getattr(part, name, None), "database", None)
            if database is not None:
                database.client.close()


@contextmanager
def reading(project: Path | str | None = None) -> Iterator[JobStore]:
    """Open the project's JobStore for the length of a ``with`` block; see ``open_store``."""
    store = open_store(project)
    try:
        yield store
    finally:
        close_store(store)


def load_store(path: Path) -> JobStore:
    """Return the JobStore written in a jobflow settings file, not yet connected.

    Raises
    ------
    StoreError
        No such file, not readable as a store, or a store in memory.
    """
    from jobflow import JobStore
    from maggma.stores import MemoryStore
    from maggma.stores.mongolike import MongoStore

    spec = read_yaml(path).get("JOB_STORE")
    if not isinstance(spec, dict):
        raise StoreError(f"{path} has no JOB_STORE with a docs_store",
                         hint="make it anew: orionflow init")
    _be_impatient(spec)
    try:
        build: Callable[[dict[str, Any]], Any] = (
            JobStore.from_dict if "@class" in spec else JobStore.from_dict_spec)
        store: JobStore = build(spec)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: JOB_STORE is not a store: {error}",
                         hint="make it anew: orionflow init") from error
    # Every maggma store on a real database derives from MongoStore, and so does MemoryStore.
    if isinstance(store.docs_store, MemoryStore) or not isinstance(store.docs_store, MongoStore):
        raise StoreError(
            f"{path}: results go to {type(store.docs_store).__name__}, not to MongoDB",
            hint="results in memory are lost with the process; write a MongoStore: orionflow init",
        )
    return store


def open_launchpad(project: Path | str | None = None) -> LaunchPad:
    """Return the project's LaunchPad, reachable; meant for reading.

    Raises
    ------
    ConfigError
        There is no project.
    StoreError
        ``my_launchpad.yaml`` is missing or wrong, or the database can't be reached.
    """
    from fireworks.core.launchpad import LaunchPad
    from pymongo.errors import PyMongoError

    path = project_folder(project) / LAUNCHPAD_FILE
    fields = {**read_yaml(path), "logdir": None, "strm_lvl": "WARNING"}
    kwargs = fields.get("mongoclient_kwargs") or {}
    fields["mongoclient_kwargs"] = {"serverSelectionTimeoutMS": _PATIENCE_MS, **kwargs}
    launchpad = None
    try:
        launchpad = LaunchPad.from_dict(fields)
        launchpad.fw_id_assigner.find_one()
    except (PyMongoError, TypeError, ValueError) as error:
        if launchpad is not None:
            launchpad.connection.close()
        raise _unreachable(path, error) from error
    return launchpad


@contextmanager
def queue(project: Path | str | None = None) -> Iterator[LaunchPad]:
    """Open the project's LaunchPad for the length of a ``with`` block; see ``open_launchpad``."""
    launchpad = open_launchpad(project)
    try:
        yield launchpad
    finally:
        launchpad.connection.close()


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML mapping.

    Raises
    ------
    StoreError
        It is missing, unreadable or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror}",
                         hint="make it: orionflow init") from error
    except yaml.YAMLError as error:
        raise StoreError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} must hold `name: value` lines")
    return content


def _be_impatient(spec: dict[str, Any]) -> None:
    """Wait seconds, not half a minute, for a server that is not there."""
    for part in (spec.get("docs_store"), *(spec.get("additional_stores") or {}).values()):
        if isinstance(part, dict) and part.get("type") in {"MongoStore", "GridFSStore"}:
            kwargs = part.get("mongoclient_kwargs") or {}
            part["mongoclient_kwargs"] = {"serverSelectionTimeoutMS": _PATIENCE_MS, **kwargs}


def _unreachable(path: Path, error: Exception) -> StoreError:
    reason = database_reason(error)
    denied = "Authentication failed" in reason
    return StoreError(
        f"database of {path} can't be {'used' if denied else 'reached'}: {reason}",
        hint=f"user or password in {path.name} is wrong for this database" if denied
        else "start it: orionflow db start; what is wrong: orionflow doctor",
    )
