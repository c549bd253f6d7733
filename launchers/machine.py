"""Machine profiles: what a cluster is like and how MPI is started on it."""

from __future__ import annotations

import difflib
import os
import shutil
from importlib import resources as package_files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orionflow.errors import ConfigError, InputError
from orionflow.launchers.resources import Resources, parse_memory, parse_walltime
from orionflow.settings import find_project, load_settings

Memory = Annotated[int, BeforeValidator(parse_memory), Field(ge=1)]
Walltime = Annotated[int, BeforeValidator(parse_walltime), Field(ge=1)]


class AllocationClass(BaseModel):
    """Another kind of allocation: a partition of small or big nodes, of GPUs, of long jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="For people.")
    nodes: int = Field(default=1, ge=1, description="Nodes at most.")
    cores_per_node: int | None = Field(default=None, ge=1, description="As the machine's.")
    memory_per_node: Memory | None = Field(default=None, description="MiB; as the machine's.")
    gpus_per_node: int | None = Field(default=None, ge=0, description="As the machine's.")
    walltime: Walltime | None = Field(default=None, description="As that of `allocation`.")
    partition: str | None = Field(default=None, description="As the machine's.")
    qos: str | None = Field(default=None, description="As the machine's.")


class AllocationProfile(BaseModel):
    """The Slurm job `qlaunch` asks for at most: nodes, time and how many at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int = Field(default=1, ge=1)
    walltime: Walltime = 3600
    max_queued: int = Field(default=4, ge=1, description="Most jobs in the queue at once.")
    classes: tuple[AllocationClass, ...] = Field(
        default=(), description="Other kinds; a job gets the smallest it fits in.")


class MachineProfile(BaseModel):
    """One machine, as in ``fw_config/machines/*.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    scheduler: Literal["slurm", "none"] = "none"
    category: str = Field(default="compute", min_length=1,
                          description="FireWorks category its workers take.")
    nodes: int = Field(default=1, ge=1, description="Nodes one job may use.")
    cores_per_node: int | None = Field(default=None, ge=1, description="None: count them here.")
    memory_per_node: Memory | None = Field(default=None, description="MiB; None: not checked.")
    gpus_per_node: int = Field(default=0, ge=0, description="GPUs of each node.")
    max_walltime: Walltime | None = Field(default=None, description="Longest job, s.")
    mpi: Literal["mpirun", "srun", "none"] = "mpirun"
    mpi_options: tuple[str, ...] = ()
    executables: dict[str, str] = Field(
        default_factory=dict, description="Name (`pw.x`, `lmp`) to command or absolute path."
    )
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    modules: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    scratch: Path | None = Field(
        default=None, description="Folder in which `orionflow doctor` looks for room, too.")
    allocation: AllocationProfile = AllocationProfile()

    @property
    def cores(self) -> int:
        """Cores of one node."""
        return self.cores_per_node or len(os.sched_getaffinity(0))

    def executable(self, name: str) -> str:
        """Return the absolute path of an executable.

        Raises
        ------
        ConfigError
            It is not on PATH and the profile names no other.
        """
        wanted = self.executables.get(name, name)
        found = shutil.which(os.path.expandvars(wanted), path=self.environment.get("PATH"))
        if found is None:
            raise ConfigError(
                f"executable {name!r} ({wanted}) not found on machine profile {self.name!r}",
                hint=f"install it, load its module, or set `executables: {{{name}: /path}}` "
                "in the machine profile",
            )
        return found

    def check(self, resources: Resources) -> None:
        """Refuse resources this machine can never give.

        Raises
        ------
        InputError
            More nodes, cores, memory or time than the machine has.
        """
        per_node = self.cores
        limits: list[tuple[str, int, int | None, str]] = [
            ("nodes", resources.nodes, self.nodes, ""),
            ("ranks x threads", resources.cores, resources.nodes * per_node,
             f" ({resources.nodes} node(s) of {per_node} cores)"),
            ("memory", resources.memory or 0, self.memory_per_node, " MiB per node"),
            ("gpus", resources.gpus, self.gpus_per_node, " per node"),
            ("walltime", resources.walltime, self.max_walltime, " s"),
        ]
        for name, asked, most, unit in limits:
            if most is not None and asked > most:
                raise InputError(
                    f"{name} = {asked}, but machine {self.name!r} has at most {most}{unit}",
                    hint=f"ask for {most} or fewer, or choose another machine profile",
                )


def load_machine(name: str | None = None, project: Path | None = None) -> MachineProfile:
    """Read a profile by name or path; the one in the settings unless given.

    Raises
    ------
    ConfigError
        There is no such profile, or something in it is wrong.
    """
    project = project or find_project()
    name = name or load_settings(project).machine
    text, where = _profile_text(name, project)
    try:
        data: Any = yaml.safe_load(text)
        return MachineProfile.model_validate({"name": Path(name).stem, **(data or {})})
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"machine profile {where} is not a YAML mapping: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"machine profile {where}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint=f"valid names: {', '.join(MachineProfile.model_fields)}",
        ) from error


def machine_names(project: Path | None = None) -> list[str]:
    """Return the profiles that can be chosen by name."""
    shipped = package_files.files("orionflow.fw_config") / "machines"
    names = {Path(f.name).stem for f in shipped.iterdir() if f.name.endswith(".yaml")}
    if project is not None:
        names |= {f.stem for f in (project / "machines").glob("*.yaml")}
    return sorted(names)


def _profile_text(name: str, project: Path | None) -> tuple[str, str]:
    if name.endswith((".yaml", ".yml")):
        path = (project or Path.cwd()) / name
        if path.is_file():
            return path.read_text(), str(path)
    elif project is not None and (path := project / "machines" / f"{name}.yaml").is_file():
        return path.read_text(), str(path)
    elif name in (names := machine_names(project)):
        shipped = package_files.files("orionflow.fw_config") / "machines" / f"{name}.yaml"
        return shipped.read_text(), str(shipped)
    names = machine_names(project)
    close = difflib.get_close_matches(name, names, n=1)
    raise ConfigError(
        f"no machine profile {name!r}",
        hint=(f"did you mean {close[0]!r}? " if close else "") + f"Known: {', '.join(names)}",
    )
