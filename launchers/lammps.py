"""lmp from an input script in a folder to a RunRecord, under Custodian."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.launchers.context import JobContext, job_context
from orionflow.launchers.custodian.handlers_lammps import lammps_rules
from orionflow.launchers.custodian.lammps_base import LammpsRun
from orionflow.launchers.custodian.lammps_job import LammpsJob
from orionflow.launchers.custodian.lammps_monitor import lammps_monitors
from orionflow.launchers.custodian.lammps_script import Script
from orionflow.launchers.custodian.lammps_walltime import go_on, instrument, write_joined_log
from orionflow.launchers.custodian.rules import read_text
from orionflow.launchers.mpi import mpi_command
from orionflow.launchers.run import earlier_stop, run_code
from orionflow.launchers.run_state import hash_inputs

if TYPE_CHECKING:
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
    deadline = time.time() + context.seconds_left()
    job = LammpsJob(command, input_file=input_file, environment=environment, deadline=deadline)
    given = hash_inputs(folder, [input_file])
    job.load(folder)
    run = LammpsRun(folder=folder, job=job)
    job.monitors = tuple(lammps_monitors(job.script))
    instrument(job.script, restarts=True)
    continued = _continue(run, given)
    try:
        return run_code(job, lammps_rules(run), context, executable=executable, directory=folder,
                        deadline=deadline, inputs=given, continued=continued)
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
    text = read_text(run.folder / run.job.stdout)
    done = go_on(run, stopped, text, active.stat().st_mtime - 1.0)
    if isinstance(done, str):
        if run.earlier_step is None:
            run.forget()
            return 0
        run.script.restore_to(stopped)  # killed before it got further: the same way once more
    return earlier.continued + 1
