"""lmp from an input script in a folder to a RunRecord, under Custodian."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.errors import CodeError
from orionflow.launchers.context import JobContext, job_context
from orionflow.launchers.custodian.handlers_lammps import lammps_rules
from orionflow.launchers.custodian.lammps_base import LammpsRun
from orionflow.launchers.custodian.lammps_job import OURS, LammpsJob
from orionflow.launchers.custodian.lammps_monitor import lammps_monitors
from orionflow.launchers.custodian.lammps_script import Script
from orionflow.launchers.custodian.lammps_walltime import (
    InPart,
    go_on,
    instrument,
    needs_restarts,
    write_joined_log,
)
from orionflow.launchers.custodian.rules import Attempt, read_text
from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.mpi import mpi_command
from orionflow.launchers.record import Correction
from orionflow.launchers.run import earlier_stop, run_code
from orionflow.launchers.run_state import (
    STORY_FILE,
    Failure,
    hash_inputs,
    story,
    write_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orionflow.launchers.custodian.rules import Rule
    from orionflow.launchers.record import RunRecord
    from orionflow.launchers.run_state import RunState


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
    rules = lammps_rules(run)
    continued, corrected = _continue(run, given, rules, on_correction)
    try:
        return run_code(job, rules, context, executable=executable,
                        directory=directory, deadline=deadline, inputs=given,
                        continued=continued, corrected=corrected, on_correction=on_correction)
    finally:
        write_joined_log(run)


def _continue(run: LammpsRun, given: dict[str, str], rules: Sequence[Rule],
              on_correction: Callable[[dict[str, Any]], None] | None,
              ) -> tuple[int, list[Correction]]:
    """Go on from where an earlier launch of this input was stopped.

    Returns
    -------
    tuple of int and list of Correction
        How many launches there were, and what they corrected in the script that is run now.
    """
    earlier = earlier_stop(run.folder, given, ["LAMMPS_WALLTIME", "LAMMPS_KILLED"])
    active = run.folder / run.job.active_file
    if earlier is None or not active.is_file():
        run.forget()
        return 0, []
    run.recall()
    stopped = Script.read(active)
    for i in stopped.find("timer"):
        if OURS in stopped.commands[i].comment:  # what was left then says nothing about now
            stopped.remove(i)
    # The input has a part in these; what time or a signal made necessary is done with.
    made = [c for c in earlier.corrections if not CATALOGUE[c.failure_id].transient]
    whole = run.script.copy()
    run.script.restore_to(stopped)
    since = active.stat().st_mtime - 1.0
    text = read_text(run.folder / run.job.stdout)
    fault = _mend(run, earlier, made, text, rules)
    if fault is not None:
        if on_correction is not None:
            on_correction(fault.model_dump())
        return earlier.continued + 1, [*made, fault]
    done = go_on(run, stopped, text, since)
    if isinstance(done, str) and run.earlier_step is None:
        run.forget()
        if not made:
            run.script.restore_to(whole)
            return 0, []
    # Killed before it got further: the same way once more.
    return earlier.continued + 1, made


def _mend(run: LammpsRun, earlier: RunState, made: Sequence[Correction], text: str,
          rules: Sequence[Rule]) -> Correction | None:
    """Correct what is wrong in the part an earlier launch left, from the start of the run.

    Raises
    ------
    CodeError
        It is wrong and can't be mended.
    """
    job = run.job
    part = Attempt(folder=run.folder, number=0, stdout=text, returncode=None,
                   stderr=read_text(run.folder / job.stderr),
                   seconds=time.time() - (run.folder / job.active_file).stat().st_mtime)
    for rule in (r.rule for r in rules if isinstance(r, InPart)):
        evidence = rule.find(part)
        if evidence is None:
            continue
        inputs = job.read_inputs(run.folder)
        times = sum(c.failure_id == rule.failure_id for c in made)
        changes = rule.fix(part, times)
        if changes is None:
            raise _refused(run.folder, earlier, rule, evidence)
        run.forget()
        return Correction(
            attempt=earlier.record.attempts if earlier.record else 1,
            failure_id=rule.failure_id, handler=type(rule).__name__, changes=changes,
            evidence=evidence.strip(), folder=job.attic(run.folder, inputs).name)
    return None


def _refused(folder: Path, state: RunState, rule: Rule, evidence: str) -> CodeError:
    """Record that the part an earlier launch left can't be continued; return the error."""
    mode = CATALOGUE[rule.failure_id]
    failure = Failure(failure_id=rule.failure_id, title=mode.title, evidence=evidence.strip(),
                      advice=getattr(rule, "advice", None) or mode.advice,
                      exhausted=bool(state.corrections))
    state.state, state.failure = "failed", failure
    write_state(folder, state)
    (folder / STORY_FILE).write_text(story(state))
    return CodeError(
        f"{failure.failure_id}: {failure.title}: {failure.evidence} (folder {folder})",
        failure_id=failure.failure_id, folder=folder, hint=failure.advice, transient=False)
