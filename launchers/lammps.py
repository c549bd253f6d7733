"""lmp from an input script in a folder to a RunRecord, under Custodian."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.launchers.context import JobContext, job_context
from orionflow.launchers.custodian.handlers_lammps import lammps_rules
from orionflow.launchers.custodian.lammps_base import LammpsRun
from orionflow.launchers.custodian.lammps_job import OURS, LammpsJob
from orionflow.launchers.custodian.lammps_monitor import lammps_monitors
from orionflow.launchers.custodian.lammps_script import Script
from orionflow.launchers.custodian.lammps_walltime import (
    go_on,
    instrument,
    needs_restarts,
    write_joined_log,
)
from orionflow.launchers.custodian.rules import read_text
from orionflow.launchers.mpi import mpi_command
from orionflow.launchers.run import earlier_stop, run_code
from orionflow.launchers.run_state import hash_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orionflow.launchers.record import RunRecord


def run_lammps(directory: str | Path, input_file: str = "in.lammps",
               context: JobContext | None = None) -> RunRecord:
    """Run LAMMPS on an input that is already in a folder, with corrections.

    The input stays as it is; a script that differs from it is ``orionflow.<input_file>`` beside
    it. An input that an earlier launch in the same folder could not finish, for lack of time or
    because it was killed, goes on from the newest restart file left there; ``log.lammps`` then
    holds the thermo table of the whole simulation and dumps have every frame once.

    Parameters
    ----------
    directory
        Folder of the run.
    input_file
        Name in it. Output goes to ``log.lammps``, ``lammps.out`` and ``lammps.err``.
    context
        Resources, machine and time left; read from the surroundings unless given.

    Returns
    -------
    RunRecord
        Command, times and corrections.

    Raises
    ------
    CodeError
        LAMMPS failed and corrections did not help. ``LAMMPS_WALLTIME`` with
        ``transient=True``: a later launch in the same folder can go on.
    """
    folder = Path(directory).resolve()
    context = context or job_context(folder)
    executable = context.machine.executable("lmp")
    command = mpi_command(context.machine, context.resources,
                          [executable, "-in", input_file, "-log", "log.lammps"])
    environment = {"OMP_NUM_THREADS": str(context.resources.threads),
                   **context.machine.environment}
    return run_lammps_command(command, folder, input_file, context, executable=executable,
                              environment=environment, restarts=True,
                              deadline=time.time() + context.seconds_left())


def run_lammps_command(
        command: Sequence[str], directory: Path, input_file: str, context: JobContext, *,
        executable: str, environment: Mapping[str, str], deadline: float | None = None,
        log: str = "log.lammps", output: str = "lammps", stdin: bool = False,
        restarts: bool = False, frozen_after: float | None = None,
        on_correction: Callable[[dict[str, Any]], None] | None = None) -> RunRecord:
    """Run a given lmp command in a folder, with corrections; see `run_lammps`.

    Parameters
    ----------
    command
        Argument list, MPI launcher included; where the input follows ``-in``, a script that was
        changed takes its place.
    deadline
        Unix time at which it must have ended; without one LAMMPS is given no `timer timeout`.
    log, output
        Name of the log, and of the files for screen output and errors without their endings.
    stdin
        The script is given to standard input.
    restarts
        Have restart files written in any case. Otherwise only where the script is long or time
        is limited: they change the moments at which neighbour lists are built, and so the last
        digits of a trajectory.
    frozen_after
        Silence that counts as frozen, s; ten minutes unless given.
    on_correction
        Told of each correction as it is made.
    """
    job = LammpsJob(command, input_file=input_file, log=log, stdout=f"{output}.out",
                    stderr=f"{output}.err", environment=environment, deadline=deadline,
                    stdin=input_file if stdin else None)
    given = hash_inputs(directory, [input_file])
    job.load(directory)
    run = LammpsRun(folder=directory, job=job)
    job.monitors = tuple(lammps_monitors(job.script, frozen_after))
    instrument(job.script, restarts=restarts or deadline is not None or needs_restarts(job.script))
    continued = _continue(run, given)
    try:
        return run_code(job, lammps_rules(run), context, executable=executable,
                        directory=directory, deadline=deadline, inputs=given,
                        continued=continued, on_correction=on_correction)
    finally:
        write_joined_log(run)


def _continue(run: LammpsRun, given: dict[str, str]) -> int:
    """Go on from where an earlier launch of this input was stopped; return how many there were."""
    earlier = earlier_stop(run.folder, given, ["LAMMPS_WALLTIME", "LAMMPS_KILLED"])
    active = run.folder / run.job.active_file
    if earlier is None or not active.is_file():
        run.forget()
        return 0
    run.recall()
    stopped = Script.read(active)
    for i in stopped.find("timer"):
        if OURS in stopped.commands[i].comment:  # what was left then says nothing about now
            stopped.remove(i)
    text = read_text(run.folder / run.job.stdout)
    done = go_on(run, stopped, text, active.stat().st_mtime - 1.0)
    if isinstance(done, str):
        if run.earlier_step is None:
            run.forget()
            return 0
        run.script.restore_to(stopped)  # killed before it got further: the same way once more
    return earlier.continued + 1
