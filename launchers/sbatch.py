"""What `qlaunch` needs to know: the content of ``my_qadapter.yaml`` for a machine profile."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib import resources as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.errors import ConfigError
from orionflow.launchers.slurm import format_walltime

if TYPE_CHECKING:
    from orionflow.launchers.demand import Shape
    from orionflow.launchers.machine import MachineProfile
    from orionflow.launchers.resources import Resources

JOB_NAME = "orionflow"
# Seconds before the end of the allocation at which Slurm signals the launcher: time for the code
# to write its restart files and for the firework to be put back.
NOTICE = 60
# Seconds an allocation for one job (`qlaunch -r`) lasts longer than the job itself.
RESERVE_MARGIN = 180
# A launcher waits so long for new work before it gives its allocation back.
PATIENCE = 60


def qadapter_config(profile: MachineProfile, project: Path) -> dict[str, Any]:
    """Return the content of ``my_qadapter.yaml``.

    Parameters
    ----------
    profile
        The machine whose queue is used.
    project
        Absolute path of the project folder.

    Returns
    -------
    dict
        A FireWorks ``CommonAdapter`` of type SLURM. Entries without value are left out.

    Raises
    ------
    ConfigError
        The project's path can't stand in a job script, or `orionflow` is not installed as a
        command.
    """
    folder = str(project)
    if "\n" in folder or "$$" in folder:
        raise ConfigError(f"a job script can't hold the project path {folder!r}",
                          hint="move the project to a path without `$$` and line breaks")
    config: dict[str, Any] = {
        "_fw_name": "CommonAdapter",
        "_fw_q_type": "SLURM",
        "_fw_template_file": str(_template(project)),
        "_fw_timeout": 60,
        "rocket_launch": launch_line(),
        "pre_rocket": pre_rocket(profile, project),
        "job_name": JOB_NAME,
        "nodes": profile.allocation.nodes,
        "ntasks_per_node": profile.cores,
        "cpus_per_task": 1,
        # 0 is all the memory of the node.
        "mem": f"{profile.memory_per_node}M" if profile.memory_per_node else "0",
        "gres": f"gpu:{profile.gpus_per_node}" if profile.gpus_per_node else None,
        "walltime": format_walltime(profile.allocation.walltime),
        "queue": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "signal": f"B:USR1@{NOTICE}",
        "logdir": str(project / ".orionflow" / "log"),
    }
    commands = slurm_commands(project)
    if commands["sbatch"] != "sbatch":
        config["_q_commands_override"] = {"submit_cmd": commands["sbatch"],
                                          "status_cmd": commands["squeue"]}
    return {k: v for k, v in config.items() if v is not None}


def launch_line() -> str:
    """Return the line that starts the launcher in a job script.

    `exec` puts it in the place of the shell, so that it gets Slurm's signals. `qlaunch -r` wants
    to read "singleshot" here and appends ``--fw_id N``.
    """
    script = Path(sys.executable).with_name("orionflow")
    command = str(script) if script.is_file() else shutil.which("orionflow")
    if command is None:
        raise ConfigError(f"no command `orionflow` beside {sys.executable} or on PATH",
                          hint="install orionflow with `pip install`")
    return (f"exec {shlex.quote(command)} launch --patience {PATIENCE} "
            "--singleshot-if-reserved")


def pre_rocket(profile: MachineProfile, project: Path) -> str:
    """Return the lines before the launcher: modules, then variables."""
    variables = {
        **profile.environment,
        "ORIONFLOW_PROJECT": str(project),
        "JOBFLOW_CONFIG_FILE": str(project / "jobflow.yaml"),
        "FW_CONFIG_FILE": str(project / "FW_config.yaml"),
        # The launch folder shadows no module.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
    lines = [f"module load {shlex.quote(name)}" for name in profile.modules]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join(lines)


def sized_qadapter(config: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Return the content of ``my_qadapter.yaml`` for an allocation of this size.

    Parameters
    ----------
    config
        The project's own, perhaps edited by hand.
    shape
        The size.
    """
    sized = {**config, "nodes": shape.nodes, "walltime": format_walltime(shape.walltime)}
    if not shape.whole or shape.name != "default":
        sized["ntasks_per_node"] = shape.cores
    if not shape.whole:
        # All memory of the node would keep others from its free cores.
        sized["mem"] = None if shape.memory is None else f"{shape.memory}M"
    if shape.gpus or str(config.get("gres", "")).startswith("gpu"):
        sized["gres"] = f"gpu:{shape.gpus}" if shape.gpus else None
    sized |= {k: v for k, v in (("queue", shape.partition), ("qos", shape.qos)) if v is not None}
    return {k: v for k, v in sized.items() if v is not None}


def queueadapter_spec(resources: Resources, max_walltime: int | None = None) -> dict[str, Any]:
    """Return ``_queueadapter`` of one job: its own allocation, for `qlaunch -r`.

    Parameters
    ----------
    resources
        What the job asks for.
    max_walltime
        Longest allocation of the machine, s.
    """
    seconds = resources.walltime + RESERVE_MARGIN
    spec: dict[str, Any] = {
        "nodes": resources.nodes,
        "ntasks": resources.ranks,
        "ntasks_per_node": None,
        "cpus_per_task": resources.threads,
        "walltime": format_walltime(min(seconds, max_walltime or seconds)),
    }
    if resources.memory is not None:
        spec["mem"] = f"{resources.memory}M"
    if resources.gpus:
        spec["gres"] = f"gpu:{resources.gpus}"
    return spec


def slurm_commands(project: Path | None) -> dict[str, str]:
    """Return Slurm's programs: the project's private Slurm where there is one, else PATH's."""
    names = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
    own = project / ".orionflow" / "slurm" / "bin" if project is not None else None
    if own is not None and (own / "sbatch").is_file():
        return {name: str(own / name) for name in names}
    return {name: name for name in names}


def _template(project: Path) -> Path:
    """Return the project's own template where there is one, else the one shipped."""
    own = project / "slurm.tmpl"
    shipped = package_files.files("orionflow.fw_config") / "slurm.tmpl"
    return own if own.is_file() else Path(str(shipped))
