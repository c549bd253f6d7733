"""A user's own input files: `run-input`, and the story of any run: `explain`."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path  # noqa: TC003  typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from types import FrameType

    from orionflow.launchers.run_input import Step


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("run-input", context_settings={
        "allow_extra_args": True, "ignore_unknown_options": True})(run_input)
    app.command("explain")(explain)


def run_input(  # noqa: PLR0917  typer's arguments
    folder: Annotated[Path, typer.Argument(help="Folder with the input, run in place.")],
    command: Annotated[list[str], typer.Argument(
        help="After `--`: mpirun -np 2 pw.x -in pw.in; several commands are separated by `:::`.",
    )],
    walltime: Annotated[str | None, typer.Option(
        "--walltime", help="Time for everything, s or HH:MM:SS; a Slurm job's end is found by "
        "itself.")] = None,
    code: Annotated[str | None, typer.Option(
        "--code", help="pw.x, ph.x, lmp or qe, when a wrapper script hides it.")] = None,
    frozen_after: Annotated[float | None, typer.Option(
        "--frozen-after", help="Silence that counts as frozen, s.", min=1)] = None,
    max_corrections: Annotated[int | None, typer.Option(
        "--max-corrections", min=0, max=20, help="Corrections of one step; 5 unless set.")] = None,
    estimate: Annotated[bool, typer.Option(
        "--estimate", help="Only ask pw.x for its memory, k-points and symmetries.")] = False,
) -> None:
    """Run your own pw.x, ph.x or lmp input with pre-flight, corrections and checks.

    Exit codes: 0 passed all checks, 1 never corrected, 2 usage, 3 corrections did not help,
    4 refused before MPI started, 75 stopped from outside, 130 interrupted.
    """
    from orionflow.errors import InputError
    from orionflow.launchers.machine import load_machine
    from orionflow.launchers.run_input import Exit, parse_steps
    from orionflow.launchers.run_input import run_input as run
    from orionflow.settings import load_settings

    signal.signal(signal.SIGTERM, _interrupt)
    place = folder.resolve()
    if not place.is_dir():
        print(f"error: {folder} is not a folder", file=sys.stderr)
        raise typer.Exit(Exit.USAGE)
    settings = load_settings()
    if max_corrections is not None:
        settings = settings.model_copy(update={"max_corrections": max_corrections})
    try:
        steps = parse_steps(command, place, code)
        end = _deadline(walltime)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(Exit.USAGE) from error
    if estimate:
        _estimate(steps, place)
        return
    outcome = run(place, steps, settings, load_machine(), deadline=end, frozen_after=frozen_after,
                  say=lambda line: print(line, flush=True))
    if outcome.exit_code is Exit.DONE:
        print(outcome.message)
        return
    named = f"{outcome.failure_id}: " if outcome.failure_id else ""
    print(f"error: {named}{outcome.message}", file=sys.stderr)
    if outcome.hint:
        print(f"  -> {outcome.hint}", file=sys.stderr)
    raise typer.Exit(outcome.exit_code)


def explain(
    folder: Annotated[Path | None, typer.Argument(help="Folder of a run.")] = None,
    fw_id: Annotated[int | None, typer.Option("-i", "--fw_id", help="Or a firework.")] = None,
) -> None:
    """Tell what happened in a run, what was changed and what a person can do next."""
    from orionflow.launchers.explain import explain_firework, explain_folder

    if (folder is None) == (fw_id is None):
        print("error: give either a folder or -i ID", file=sys.stderr)
        raise typer.Exit(2)
    print(explain_folder(folder) if folder is not None else explain_firework(int(fw_id or 0)))


def _estimate(steps: list[Step], folder: Path) -> None:
    from orionflow.launchers.estimate_qe import estimate
    from orionflow.launchers.machine import load_machine
    from orionflow.launchers.run_input import added_environment

    variables = added_environment(load_machine(), fortran=True)
    for step in steps:
        if step.code == "pw.x":
            found = estimate(step.command, folder, step.input_file, variables)
            print(f"{step.stem}: {found.memory / 1e6:.1f} MB for each MPI process, "
                  f"{found.kpoints} k-points, {found.symmetries} symmetries")


def _interrupt(number: int, frame: FrameType | None) -> Any:  # noqa: ARG001  signal's signature
    raise KeyboardInterrupt


def _deadline(walltime: str | None) -> float | None:
    """Return when everything must have ended, unix time."""
    import os

    from orionflow.errors import InputError
    from orionflow.launchers.resources import parse_walltime

    known = [float(value) for name in ("ORIONFLOW_DEADLINE", "SLURM_JOB_END_TIME")
             if (value := os.environ.get(name, "")).replace(".", "", 1).isdigit()]
    if walltime is not None:
        seconds = parse_walltime(walltime)
        try:
            known.append(time.time() + float(str(seconds)))
        except ValueError as error:
            raise InputError(f"--walltime {walltime} is no time",
                             hint="seconds, HH:MM:SS or D-HH:MM:SS") from error
    return min(known, default=None)
