"""The command ``orionflow``: what lpad and qlaunch lack."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orionflow import __version__
from orionflow.cli import agent, campaign, demo, inputs, look, services, steer, top, work
from orionflow.errors import OrionflowError

app = typer.Typer(
    name="orionflow", no_args_is_help=True, pretty_exceptions_enable=False,
    help="Campaigns of materials simulations on Slurm. `lpad` and `qlaunch` keep their jobs.",
)

EXIT_FAILED = 1
EXIT_TRY_LATER = 75


def _version(*, value: bool) -> None:
    if value:
        typer.echo(f"orionflow {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[  # noqa: ARG001  its callback acts
        bool, typer.Option("--version", callback=lambda value: _version(value=value), is_eager=True,
                           help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Debug messages.")] = False,
) -> None:
    from orionflow.log import configure_logging

    configure_logging(verbose=verbose)


def main() -> None:
    """Run the command; our own errors are printed, all others keep their traceback."""
    try:
        app()
    except OrionflowError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_TRY_LATER if error.transient else EXIT_FAILED)


for module in (services, work, look, top, steer, inputs, campaign, agent, demo):
    module.register(app)
