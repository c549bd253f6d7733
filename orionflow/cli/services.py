"""MongoDB and Slurm for machines that have none: `db`, `slurm`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orionflow.errors import ConfigError
from orionflow.settings import find_project

if TYPE_CHECKING:
    from pathlib import Path

    from orionflow.launchers.services.mongod import Mongod
    from orionflow.launchers.services.slurm import PrivateSlurm

db = typer.Typer(no_args_is_help=True, help="The project's own MongoDB: a real mongod, started "
                 "for this project alone, reachable from this machine only.")

slurm = typer.Typer(no_args_is_help=True, help="The project's own Slurm: several virtual nodes "
                    "on this machine, run by you, for you alone.")
PROFILE = "private-slurm"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(db, name="db")
    app.add_typer(slurm, name="slurm")


def _project() -> Path:
    project = find_project()
    if project is None or not (project / "orionflow.yaml").is_file():
        raise ConfigError(f"no project {'here' if project is None else f'in {project}'}",
                          hint="`orionflow init` makes one of the current folder")
    return project


def _mongod() -> Mongod:
    from orionflow.launchers.services.mongod import Mongod

    return Mongod(_project() / ".orionflow" / "mongo")


@db.command("start")
def db_start(
    *,
    port: Annotated[int | None, typer.Option(
        min=1024, max=65535, help="TCP port; otherwise the one of last time, at first a free one.",
    )] = None,
    force: Annotated[bool, typer.Option(
        "--force", help="Replace my_launchpad.yaml and jobflow.yaml though they were edited.",
    )] = False,
) -> None:
    """Start MongoDB unless it runs, and write the files that lpad and jobflow find it by."""
    from orionflow.launchers.project import write_database_config

    project = _project()
    server = _mongod()
    access = server.start(port=port)
    report = write_database_config(project, access, force=force)
    status = server.status()
    print(f"MongoDB {status.version} runs on {access.host}:{access.port} (process {status.pid})")
    for name in report.kept:
        print(f"note: {name} was edited by hand and is kept as it is; it may name another "
              "database. `orionflow db start --force` replaces it.", file=sys.stderr)


@db.command("stop")
def db_stop() -> None:
    """Stop the project's MongoDB; nothing is lost."""
    stopped = _mongod().stop()
    print("MongoDB stopped" if stopped else "MongoDB was not running")


@db.command("status")
def db_status() -> None:
    """Show host, port, version, size and uptime; exit 0 when it runs, 1 when not."""
    from datetime import timedelta

    status = _mongod().status()
    if not status.running:
        where = f" ({status.host}:{status.port})" if status.port else ""
        print(f"not running{where}: {status.problem}")
        raise typer.Exit(1)
    print(f"running   process {status.pid}, for {timedelta(seconds=round(status.uptime))}")
    print(f"address   {status.host}:{status.port}")
    print(f"version   MongoDB {status.version}")
    print(f"size      {status.size / 1e6:.1f} MB in {status.folder}")


def _slurm() -> PrivateSlurm:
    from orionflow.launchers.services.slurm import PrivateSlurm

    return PrivateSlurm.of(_project())


@slurm.command("start")
def slurm_start(
    *,
    nodes: Annotated[int | None, typer.Option(
        min=1, max=64, help="Virtual nodes; otherwise as last time, at first 4.")] = None,
    cpus_per_node: Annotated[int | None, typer.Option(
        min=1, help="CPUs each claims to have; at first a fair share, at least 2.")] = None,
    accounting: Annotated[bool | None, typer.Option(
        "--accounting/--no-accounting", help="Keep a history for `sacct` (slurmdbd, MariaDB); "
        "otherwise as last time, at first not.")] = None,
) -> None:
    """Start Slurm, or repair what died of it, and wait until its nodes take jobs."""
    from orionflow.launchers.project import init_project, write_machine_profile
    from orionflow.settings import load_settings

    project = _project()
    server = _slurm()
    layout = server.start(nodes=nodes, cpus=cpus_per_node, accounting=accounting)
    report = write_machine_profile(project, PROFILE, cores_per_node=layout.cpus,
                                   max_queued=layout.nodes)
    report += init_project(project)  # my_qadapter.yaml names the commands of this Slurm
    print(f"{server.status().version} runs: {layout.nodes} virtual nodes of {layout.cpus} CPUs, "
          f"partition main{', history for sacct' if layout.accounting else ''}")
    print(f"commands in {server.folder / 'bin'}")
    for name in report.kept:
        print(f"note: {name} was edited by hand and is kept as it is", file=sys.stderr)
    if load_settings(project).machine != PROFILE:
        print(f"note: this project's machine is {load_settings(project).machine!r}; "
              f"`orionflow init --machine {PROFILE}` makes qlaunch use this Slurm",
              file=sys.stderr)


@slurm.command("stop")
def slurm_stop() -> None:
    """Stop Slurm and the jobs it runs; jobs that wait stay in its queue for the next start."""
    print("Slurm stopped" if _slurm().stop() else "Slurm was not running")


@slurm.command("status")
def slurm_status() -> None:
    """Show nodes and jobs; exit 0 when everything runs, 1 when not."""
    status = _slurm().status()
    for problem in status.problems:
        print(f"problem   {problem}")
    if status.nodes:
        states = ", ".join(f"{name} {state}" for name, state in status.nodes.items())
        print(f"nodes     {states} ({status.cpus} CPUs each)")
        print(f"jobs      {status.jobs_running} running, {status.jobs_pending} waiting")
        print(f"version   {status.version}")
        print(f"config    SLURM_CONF={status.conf}")
    if not status.running:
        if status.conf:
            print("`orionflow slurm start` starts what does not run", file=sys.stderr)
        raise typer.Exit(1)
