"""pw.x and ph.x from an input file in a folder to a RunRecord, under Custodian."""

from __future__ import annotations

import glob
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import CodeError
from orionflow.launchers.context import JobContext, job_context
from orionflow.launchers.custodian.handlers_qe import late_end, ph_rules, pw_rules
from orionflow.launchers.custodian.jobs import CodeJob
from orionflow.launchers.custodian.qe_base import (
    QeRun,
    patterns,
    stop_options,
    stopped_itself,
)
from orionflow.launchers.custodian.qe_continue import go_on, holds_last_step, in_last_scf
from orionflow.launchers.custodian.qe_walltime import max_seconds
from orionflow.launchers.custodian.rules import read_text
from orionflow.launchers.custodian.watch import DeadlineMonitor, FrozenMonitor
from orionflow.launchers.mpi import mpi_command
from orionflow.launchers.preflight_qe import Problem, check_ph, check_pw
from orionflow.launchers.qe_input import edit_input, read_input
from orionflow.launchers.qe_output import last_block, read_xml
from orionflow.launchers.record import Correction
from orionflow.launchers.run import RECORD_FILE, earlier_stop, run_code
from orionflow.launchers.run_state import Failure, RunState, hash_inputs, write_state

if TYPE_CHECKING:
    from orionflow.launchers.custodian.jobs import Monitor
    from orionflow.launchers.record import RunRecord

# Without it an output in a file loses its last buffer, and with it the error message.
UNBUFFERED = {"GFORTRAN_UNBUFFERED_PRECONNECTED": "y"}


def run_pw(directory: str | Path, input_file: str = "pw.in", output_file: str = "pw.out",
           context: JobContext | None = None) -> RunRecord:
    """Run pw.x on an input that is already in a folder, with corrections.

    An input that an earlier launch in the same folder could not finish in its walltime goes on
    from the restart files left there.

    Parameters
    ----------
    directory
        Folder of the run.
    input_file, output_file
        Names in it. The error stream goes beside the output, as ``.err``.
    context
        Resources, machine and time left; read from the surroundings unless given.

    Returns
    -------
    RunRecord
        Command, times and corrections.

    Raises
    ------
    CodeError
        pw.x failed and corrections did not help. ``QE_WALLTIME`` with ``transient=True``: a
        later launch in the same folder can go on.
        What can't work is refused before the start, under the same ids.
    """
    return _run("pw.x", directory, input_file, output_file, context)


def run_ph(directory: str | Path, input_file: str = "ph.in", output_file: str = "ph.out",
           context: JobContext | None = None) -> RunRecord:
    """Run ph.x in a folder in which pw.x has run, with corrections; see `run_pw`.

    Raises
    ------
    CodeError
        ph.x failed and corrections did not help.
    """
    return _run("ph.x", directory, input_file, output_file, context)


def _run(code: str, directory: str | Path, input_file: str, output_file: str,
         context: JobContext | None) -> RunRecord:
    folder = Path(directory).resolve()
    context = context or job_context(folder)
    executable = context.machine.executable(code)
    command = mpi_command(context.machine, context.resources, [executable, "-in", input_file])
    environment = {**UNBUFFERED, "OMP_NUM_THREADS": str(context.resources.threads),
                   **context.machine.environment}
    check, rules, group = {"pw.x": (check_pw, pw_rules, "control"),
                           "ph.x": (check_ph, ph_rules, "inputph")}[code]
    problem = check(folder, input_file, {**os.environ, **environment})
    if problem is not None:
        raise refuse(problem, folder, executable)
    found = read_input(folder / input_file)
    stale, watched = patterns(found, folder, environment)
    given = hash_inputs(folder, [input_file])
    left = context.seconds_left()
    deadline = time.time() + left
    job = CodeJob(command, stdout=output_file, stderr=str(Path(output_file).with_suffix(".err")),
                  environment=environment, stale=stale, inputs=[input_file], watched=watched,
                  also=["CRASH"], monitors=monitors(deadline, None), **stop_options(found))
    run = QeRun(folder=folder, input_file=input_file, job=job)
    resumed = resume(run, given)
    own = found.number(group, "max_seconds", max_seconds(left))
    edit_input(run.input_path, {group: {"max_seconds": min(own, max_seconds(left))}})
    return run_code(job, rules(run), context, executable=executable, directory=folder,
                    deadline=deadline, inputs=given, continued=resumed.continued,
                    corrected=resumed.corrections, note=late_end)


def monitors(deadline: float | None, frozen_after: float | None) -> list[Monitor]:
    """Return what looks at a running code: is it alive, is its time over.

    Parameters
    ----------
    deadline
        Unix time at which it must have ended.
    frozen_after
        Silence that counts as frozen, s; half an hour unless given.
    """
    silence = 1800.0 if frozen_after is None else frozen_after
    found: list[Monitor] = [FrozenMonitor(silence=silence, idle=min(300.0, silence))]
    if deadline is not None:
        found.append(DeadlineMonitor(deadline, "QE_WALLTIME"))
    return found


def refuse(problem: Problem, folder: Path, executable: str) -> CodeError:
    """Leave the story of a run that was not started in its folder; return the error to raise."""
    failure = Failure(failure_id=problem.failure_id, title="refused before the start",
                      evidence=problem.message, advice=problem.hint, transient=problem.transient)
    write_state(folder, RunState(state="failed", executable=executable, failure=failure))
    return CodeError(f"{problem.failure_id}: {problem.message} (folder {folder})",
                     failure_id=problem.failure_id, folder=folder, hint=problem.hint,
                     transient=problem.transient)


_RESUME = "resume"
# Stopped from outside in an earlier launch: files and steps up to then are good.
_STOPS = ("QE_WALLTIME", "QE_KILLED", "CODE_FROZEN", "QE_OUT_OF_MEMORY")


@dataclass(frozen=True)
class Resumed:
    """What an earlier launch of the same input left to go on from.

    Attributes
    ----------
    continued
        Launches that are continued.
    corrections
        The last structure put into the input, where pw.x could not restart by itself.
    """

    continued: int = 0
    corrections: tuple[Correction, ...] = ()


def resume(run: QeRun, given: dict[str, str]) -> Resumed:
    """Let a run go on where an earlier launch of its input was stopped.

    Only files written by that launch count: pw.x takes the atoms of a restart from the XML, and
    that of another run in the same outdir may hold another structure.
    """
    earlier = earlier_stop(run.folder, given, _STOPS)
    if earlier is None:
        return Resumed()
    failure = earlier.failure
    output = read_text(run.folder / run.job.stdout)
    restarted: dict[str, dict[str, str | bool]] | None = None
    if "inputph" in run.input.namelists:
        restarted = {"inputph": {"recover": True}} if read_xml(run.xml_path) is not None else {}
    elif _written_by(run, earlier) and _counts_on(run, failure) and not in_last_scf(output) and (
            # Asked to stop it leaves everything whole; a signal may come in the midst of writing.
            stopped_itself(output) or holds_last_step(run, output)
            or _left_alone(run, earlier, output)):
        restarted = {"control": {"restart_mode": "restart"}}
    if restarted is not None:
        edit_input(run.input_path, restarted)
        return Resumed(earlier.continued + 1 if restarted else 0)
    changes = go_on(run, _last_words(run, earlier, output))
    if not changes:
        return Resumed()
    return Resumed(earlier.continued + 1, (Correction(
        attempt=1, failure_id=failure.failure_id if failure else "QE_KILLED", handler=_RESUME,
        evidence=failure.evidence if failure else "an earlier launch was ended from outside",
        changes=changes),))


def _counts_on(run: QeRun, failure: Failure | None) -> bool:
    """Whether a restart does no more steps than asked for; each part of a dynamics does ``nstep``.

    One that its own clock has stopped goes on nevertheless: it would never end.
    """
    return run.input.calculation not in {"md", "vc-md"} or (
        failure is not None and failure.failure_id == "QE_WALLTIME")


def _left_alone(run: QeRun, launch: RunState, output: str) -> bool:
    """Whether a launch that went on ended before it changed what it began with."""
    return bool(launch.continued and launch.started_at is not None
                and not _began_with_structure(launch)
                and last_block(output, "ATOMIC_POSITIONS") is None
                and run.xml_path.stat().st_mtime < launch.started_at.timestamp())


def _began_with_structure(launch: RunState) -> bool:
    """Whether a launch went on from a printed structure, not from restart files."""
    return any(c.handler == _RESUME for c in launch.corrections)


def _last_words(run: QeRun, launch: RunState, output: str) -> str:
    """Return the output that holds the last structure of a run: the one before, if need be."""
    if last_block(output, "ATOMIC_POSITIONS") is not None or not _began_with_structure(launch):
        return output
    earlier = sorted(run.folder.glob(f"attempt_*/{glob.escape(run.job.stdout)}"),
                     key=lambda file: file.stat().st_mtime, reverse=True)
    texts = (read_text(file) for file in earlier)
    return next((t for t in texts if last_block(t, "ATOMIC_POSITIONS") is not None), output)


def _written_by(run: QeRun, launch: RunState) -> bool:
    """Whether the XML in outdir is whole and from that launch, or from one it continued."""
    if read_xml(run.xml_path) is None:
        return False
    if launch.continued:
        return True
    begun = (launch.record.started_at.timestamp() if launch.record is not None else
             (run.folder / RECORD_FILE).stat().st_mtime)
    return run.xml_path.stat().st_mtime >= begun
