"""Where and how to run: one frozen object from variables, a YAML file and defaults.

Physics is never a setting: it is a field of a recipe, because it must be stored.
"""

from __future__ import annotations

import difflib
import getpass
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from orionflow.errors import ConfigError

PROJECT_FILE = "orionflow.yaml"
PREFIX = "ORIONFLOW_"
# Set by the launcher for the processes it starts; facts about a run, not settings.
RUNTIME_VARIABLES = frozenset({
    "ORIONFLOW_PROJECT", "ORIONFLOW_DEADLINE", "ORIONFLOW_LAUNCHER", "ORIONFLOW_LAUNCH",
    "ORIONFLOW_CORES", "ORIONFLOW_NODES", "ORIONFLOW_MEMORY"})


class RetrySettings(BaseModel):
    """How often a job runs again by itself after each class of failure.

    Without a number ``max_reruns`` holds. A failure of the job itself is never retried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: int | None = Field(
        default=None, ge=0, le=100, description="The node or its set-up failed, or the launcher "
        "died; `max_reruns` unless set.")
    preemption: int | None = Field(
        default=None, ge=0, description="Stopped from outside: preempted, allocation cancelled; "
        "any number unless set.")
    memory: int | None = Field(
        default=2, ge=0, le=100, description="Not enough memory; asks for more each time, or for "
        "half the ranks.")
    memory_factor: float = Field(
        default=1.5, gt=1, le=16, description="How much more memory it asks for.")
    walltime: int | None = Field(
        default=None, ge=0, description="Out of time; goes on in its folder. Unless set 20 times "
        "`max_reruns` where it got further, else `max_reruns`.")
    infrastructure: int | None = Field(
        default=None, ge=0, le=100, description="Killed by a signal, disk full, Slurm or MPI; "
        "`max_reruns` unless set.")
    database: int | None = Field(
        default=None, ge=0, le=100, description="MongoDB did not answer; `max_reruns` unless set.")
    unknown: int | None = Field(
        default=1, ge=0, le=100, description="Its process ended without a word.")


class Settings(BaseSettings):
    """Settings of a project; ``ORIONFLOW_…`` variables win over ``orionflow.yaml``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True
    )

    machine: str = Field(
        default="local",
        description="Machine profile: a name in fw_config/machines or in the project's "
        "`machines` folder, or the path of a YAML file.",
    )
    pseudo_dir: Path = Field(
        default=Path("/usr/share/espresso/pseudo"),
        description="Folder of UPF pseudopotential files.",
    )
    potentials_dir: Path = Field(
        default=Path("/usr/share/lammps/potentials"),
        description="Folder of LAMMPS potential files.",
    )
    max_corrections: int = Field(
        default=5, ge=0, le=20, description="Corrections Custodian may make in one job."
    )
    max_reruns: int = Field(
        default=3, ge=0, le=100,
        description="How often a lost or unfinished firework is made READY again by itself.",
    )
    retry: RetrySettings = Field(
        default=RetrySettings(),
        description="Limits by class of failure, see below.",
    )
    owner: str = Field(
        default_factory=lambda: _login_name(),  # noqa: PLW0108  it is defined further down
        description="Owner written on every firework; the login name unless set.",
    )


def _login_name() -> str:
    try:
        return getpass.getuser()  # variables first, then the account: containers set none
    except (KeyError, OSError):  # an account without a name
        return "unknown"


def find_project(start: Path | None = None) -> Path | None:
    """Return the project folder: ``$ORIONFLOW_PROJECT`` or the nearest with ``orionflow.yaml``.

    Parameters
    ----------
    start
        Where to begin looking upwards; the current folder unless given.
    """
    if start is None and (named := os.environ.get("ORIONFLOW_PROJECT")):
        return Path(named).resolve()
    here = (start or Path.cwd()).resolve()
    return next((f for f in (here, *here.parents) if (f / PROJECT_FILE).is_file()), None)


def load_settings(project: Path | None = None) -> Settings:
    """Return the settings of a project (found from the current folder unless given).

    Raises
    ------
    ConfigError
        A value is wrong, or a name in the file or an ``ORIONFLOW_…`` variable is unknown.
    """
    folder = project if project is not None else find_project()
    variables = frozenset((k, v) for k, v in os.environ.items() if k.startswith(PREFIX))
    path = folder / PROJECT_FILE if folder is not None else None
    # `orionflow init --machine` may change the file while a process lives.
    changed = path.stat().st_mtime_ns if path is not None and path.is_file() else 0
    return _load(folder, variables, changed)


@lru_cache(maxsize=16)
def _load(folder: Path | None, variables: frozenset[tuple[str, str]],
          _changed: int) -> Settings:
    known = list(Settings.model_fields)
    names = {name.lower().removeprefix(PREFIX.lower()) for name, _ in variables
             if name not in RUNTIME_VARIABLES}
    for name in sorted(names - set(known)):
        raise ConfigError(f"unknown variable {PREFIX}{name.upper()}",
                          hint=_did_you_mean(name, known))
    values: dict[str, Any] = {}
    if folder is not None and (path := folder / PROJECT_FILE).is_file():
        values = _read(path, known)
    # BaseSettings ranks keyword values above the environment; here the variable wins.
    values = {k: v for k, v in values.items() if k not in names}
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint=f"correct it in {folder / PROJECT_FILE if folder else 'the environment'}"
            + (f"; valid: {', '.join(RetrySettings.model_fields)}"
               if first["loc"][0] == "retry" else ""),
        ) from error


def _read(path: Path, known: list[str]) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `name: value` lines")
    for name in values:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r} in {path}",
                              hint=_did_you_mean(str(name), known))
    for name in ("pseudo_dir", "potentials_dir"):
        if name in values:
            values[name] = path.parent / Path(str(values[name])).expanduser()
    return values


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(sorted(known))
    return f"did you mean {close[0]!r}? Valid: {listed}" if close else f"valid: {listed}"
