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

db = typer.Typer(no_args_is_help=True, help="The project's own MongoDB: a real mongod, started "
                 "for this project alone, reachable from this machine only.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(db, name="db")


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
