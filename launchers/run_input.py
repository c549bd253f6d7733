"""A user's own folder, run as it is: pre-flight, corrections and checks, without a database."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import CodeError, InputError, LaunchError
from orionflow.launchers.context import JobContext
from orionflow.launchers.mpi_ranks import rank_count
from orionflow.launchers.resources import Resources
from orionflow.launchers.run_state import (
    RECORD_FILE,
    STORY_FILE,
    Failure,
    RunState,
    read_state,
    story,
    write_state,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orionflow.launchers.machine import MachineProfile
    from orionflow.settings import Settings

SUMMARY_FILE = "run_input.json"
SEPARATORS = (":::", "&&", "--")
_INPUT_FLAGS = ("-in", "-i", "-inp", "-input", "--input")
_QE_TOOLS = frozenset({
    "q2r.x", "matdyn.x", "dos.x", "bands.x", "pp.x", "projwfc.x", "dynmat.x", "plotband.x",
    "sumpdos.x", "fs.x", "epsilon.x", "neb.x", "cp.x", "hp.x", "turbo_lanczos.x", "open_grid.x",
    "pw2wannier90.x", "average.x", "molecularpdos.x",
})
Say = Callable[[str], None]


class Exit(IntEnum):
    """Exit codes of ``orionflow run-input``."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    EXHAUSTED = 3
    REFUSED = 4
    TRANSIENT = 75
    INTERRUPTED = 130


EXIT_MEANING = {
    Exit.DONE: "every step finished and passed all checks",
    Exit.FAILED: "a failure that is never corrected; the message names the cause",
    Exit.USAGE: "the command can't be understood",
    Exit.EXHAUSTED: "corrections were made and did not help",
    Exit.REFUSED: "refused before MPI was started: the input can't work",
    Exit.TRANSIENT: "stopped from outside (killed, walltime, disk, site): may run later unchanged",
    Exit.INTERRUPTED: "interrupted by Ctrl-C or SIGTERM",
}


@dataclass(frozen=True)
class Step:
    """One command of a run.

    Attributes
    ----------
    code
        ``pw.x``, ``ph.x``, ``lmp`` or ``qe`` (another program of Quantum ESPRESSO).
    input_file
        Name in the folder.
    stdin
        The input is given to standard input (``<``).
    """

    command: tuple[str, ...]
    code: str
    input_file: str
    stdin: bool = False

    @property
    def stem(self) -> str:
        """Name for the files of this step."""
        return Path(self.input_file).stem or Path(self.input_file).name


@dataclass
class Outcome:
    """How a run ended; also the JSON summary."""

    exit_code: Exit
    message: str
    hint: str = ""
    failure_id: str | None = None
    steps: list[RunState] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)


def parse_steps(words: Sequence[str], folder: Path, code: str | None = None) -> list[Step]:
    """Return the steps of a command line.

    Parameters
    ----------
    words
        What follows ``--``: commands separated by ``:::`` (or ``&&``, quoted, or ``--``).
    folder
        Where the input files are.
    code
        What the commands run, where neither their words nor the input tell.

    Raises
    ------
    InputError
        A command is empty, or has no input file, or its code is unknown.
    """
    commands: list[list[str]] = [[]]
    for word in words:
        if word in SEPARATORS:
            commands.append([])
        else:
            commands[-1].append(word)
    if any(not command for command in commands):
        raise InputError("a command is missing",
                         hint="orionflow run-input FOLDER -- mpirun -np 2 pw.x -in pw.in")
    return [_step(command, folder, code) for command in commands]


def run_input(folder: Path, steps: Sequence[Step], settings: Settings, machine: MachineProfile, *,
              say: Say = print, deadline: float | None = None,
              frozen_after: float | None = None,
              resources: Resources | None = None) -> Outcome:
    """Run the steps of a user's folder one after the other.

    Parameters
    ----------
    folder
        Holds the inputs; everything stays in it.
    steps
        See `parse_steps`.
    settings, machine
        Number of corrections; variables MPI needs on this machine.
    say
        Told in plain words what happens, at once.
    deadline
        Unix time at which all must have ended.
    frozen_after
        Silence of a code that counts as frozen, s; half an hour unless given.
    resources
        What the commands were made for; read from their words unless given.

    Returns
    -------
    Outcome
        Exit code, one message, and the state of each step. The same is left in the folder:
        ``run_input.json`` and ``corrections.md``.
    """
    from orionflow.launchers.qe_steps import prepare_parent

    outcome = Outcome(Exit.DONE, "")
    states: list[RunState] = []
    repaired: set[str] = set()
    repairs: list[str] = []
    try:
        refused = _preflight(folder, steps, machine, first=0)
        if refused is not None:
            return _finish(folder, steps, refused, states, say)
        index = 0
        while index < len(steps):
            step = steps[index]
            if index and (refused := _preflight(folder, steps, machine, first=index)) is not None:
                outcome = refused
            else:
                outcome = _run_step(folder, step, settings, machine, say=say, deadline=deadline,
                                    frozen_after=frozen_after, resources=resources)
                state = read_state(folder)
                if state is not None and outcome.exit_code is not Exit.REFUSED:
                    states.append(state)
            if outcome.exit_code is Exit.DONE:
                index += 1
                continue
            # Some failures lie in the step before: change that one, once, and go on from there.
            parent = prepare_parent(outcome.failure_id, folder, steps[:index], repaired)
            if parent is None:
                break
            index, changes = parent
            said = [f"{step.stem}: {outcome.failure_id}: {outcome.message}",
                    *(f"  {steps[index].stem}: {change}" for change in changes)]
            repairs += said
            for line in said:
                say(line)
    except KeyboardInterrupt:
        outcome = Outcome(Exit.INTERRUPTED, "interrupted; every process of the code was ended",
                          failure_id="INTERRUPTED")
    outcome.repairs = repairs
    return _finish(folder, steps, outcome, states, say)


def _step(command: list[str], folder: Path, code: str | None) -> Step:
    stdin = "<" in command
    if stdin:
        at = command.index("<")
        if at + 1 >= len(command):
            raise InputError("no file after `<`")
        input_file = command[at + 1]
        command = command[:at] + command[at + 2:]
    else:
        found = next((command[i + 1] for i, word in enumerate(command[:-1])
                      if word in _INPUT_FLAGS and i > 0), None)
        if found is None:
            raise InputError(f"no input file in the command: {' '.join(command)}",
                             hint="name it with -in FILE (a shell's `<` does not reach the code)")
        input_file = found
    code = code or _code_of(command, folder / input_file)
    if Path(input_file).is_absolute() or ".." in Path(input_file).parts:
        raise InputError(f"input file {input_file} is not in the folder",
                         hint="give its name relative to the folder")
    first = Path(command[0])
    if len(first.parts) > 1 and not first.is_absolute() and not (folder / first).exists() and (
            first.exists()):
        command = [str(first.resolve()), *command[1:]]  # a wrapper beside the caller
    return Step(tuple(command), code, input_file, stdin)


def _code_of(command: Sequence[str], path: Path) -> str:
    """Return the code a command runs: by its words, or, behind a wrapper, by the input."""
    for word in command:
        name = Path(word).name
        if name in {"pw.x", "ph.x"}:
            return name
        if name == "lmp" or name.startswith(("lmp_", "lammps")):
            return "lmp"
        if name in _QE_TOOLS:
            return "qe"
    try:
        text = path.read_text(errors="replace").lower()
    except OSError:
        text = ""
    if "&inputph" in text:
        return "ph.x"
    if "&control" in text and "&system" in text:
        return "pw.x"
    if any(line.split()[:1] in (["pair_style"], ["units"], ["read_data"], ["read_restart"])
           for line in text.splitlines()):
        return "lmp"
    raise InputError(f"can't tell which code {' '.join(command)} runs",
                     hint="add --code pw.x, ph.x, lmp or qe")


def added_environment(machine: MachineProfile, *, fortran: bool) -> dict[str, str]:
    """Return variables to add: the machine's where the user has set none."""
    from orionflow.launchers.qe import UNBUFFERED

    wanted = {"OMP_NUM_THREADS": "1", **machine.environment, **(UNBUFFERED if fortran else {})}
    return {name: value for name, value in wanted.items() if name not in os.environ}


def _preflight(folder: Path, steps: Sequence[Step], machine: MachineProfile, *,
               first: int) -> Outcome | None:
    """Look at the inputs not run yet; files a step before will write are not missed."""
    from orionflow.launchers import preflight_qe
    from orionflow.launchers.preflight_lammps import check_lammps

    for index in range(first, len(steps)):
        step = steps[index]
        name = step.command[0]
        path = folder / name if "/" in name and not Path(name).is_absolute() else Path(name)
        if shutil.which(str(path) if "/" in name else name) is None:
            return Outcome(Exit.REFUSED, f"command {name!r} is not there or not executable",
                           "check the command, or load its module", "CODE_NOT_STARTED")
        if not (folder / step.input_file).is_file():
            return Outcome(Exit.REFUSED, f"there is no input file {step.input_file} in {folder}",
                           "check the name in the command", "INPUT_MISSING")
        if step.code == "lmp":
            problem = check_lammps(folder, step.input_file, step.command)
            # A later step may read what an earlier one writes.
            if problem is not None and (index == first or "no file" not in problem.message):
                return Outcome(Exit.TRANSIENT if problem.transient else Exit.REFUSED,
                               problem.message, problem.hint, problem.failure_id)
            continue
        check = {"pw.x": preflight_qe.check_pw, "ph.x": preflight_qe.check_ph}.get(step.code)
        variables = {**os.environ, **added_environment(machine, fortran=True)}
        problem = check(folder, step.input_file, variables, parents=index == first) if check else (
            None)
        if problem is not None:
            return Outcome(Exit.TRANSIENT if problem.transient else Exit.REFUSED, problem.message,
                           problem.hint, problem.failure_id)
    return None


def _run_step(folder: Path, step: Step, settings: Settings, machine: MachineProfile, *, say: Say,
              deadline: float | None, frozen_after: float | None,
              resources: Resources | None) -> Outcome:
    from orionflow.launchers import qe_steps

    left = max(1, int(deadline - time.time())) if deadline is not None else 10 * 365 * 86400
    context = JobContext(settings=settings, machine=machine, deadline=deadline,
                         resources=resources or Resources(ranks=rank_count(step.command),
                                                          walltime=left))
    environment = added_environment(machine, fortran=step.code != "lmp")
    if resources is not None:
        environment["OMP_NUM_THREADS"] = str(resources.threads)
    say(f"{step.stem}: {' '.join(step.command)}")

    def told(correction: dict[str, object]) -> None:
        say(f"{step.stem}: attempt {correction['attempt']}: {correction['failure_id']}: "
            f"{correction['evidence']}")
        changes = correction["changes"]
        for change in changes if isinstance(changes, list) else []:
            say(f"  {change}")

    try:
        record = qe_steps.run_step(
            folder, step, context,
            environment=environment,
            on_correction=told, deadline=deadline, frozen_after=frozen_after, say=say)
    except CodeError as error:
        state = read_state(folder)
        failure = state.failure if state is not None else None
        corrected = bool(state and state.corrections)
        exit_code = (Exit.TRANSIENT if error.transient else
                     Exit.EXHAUSTED if corrected else Exit.FAILED)
        title = f"{failure.title}: {failure.evidence}" if failure else error.message
        return Outcome(exit_code, title, error.hint, error.failure_id)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return Outcome(Exit.TRANSIENT, f"the disk of {folder} is full: {error}",
                           "free some space, then run it again unchanged", "QE_DISK_FULL")
        return Outcome(Exit.FAILED, f"the command could not be started: {error}",
                       "check the command", "CODE_NOT_STARTED")
    except LaunchError as error:
        return Outcome(Exit.FAILED, f"the command could not be started: {error}",
                       "check the command", "CODE_NOT_STARTED")
    except InputError as error:
        return Outcome(Exit.REFUSED, error.message, error.hint, "INPUT_REFUSED")
    finally:
        _keep_record(folder, step)
    attempts = f" in attempt {record.attempts}" if record.corrections else ""
    state = read_state(folder)
    for note in state.notes if state is not None else []:
        say(f"{step.stem}: note: {note}")
    say(f"{step.stem}: done{attempts}, {record.wall_seconds:.1f} s")
    return Outcome(Exit.DONE, "")


def _keep_record(folder: Path, step: Step) -> None:
    state = read_state(folder)
    if state is not None:
        write_state(folder, state, f"{step.stem}.{RECORD_FILE}")


def _finish(folder: Path, steps: Sequence[Step], outcome: Outcome, states: list[RunState],
            say: Say) -> Outcome:
    outcome.steps = states
    if len(steps) == 1:  # the same as orionflow_run.json
        (folder / f"{steps[0].stem}.{RECORD_FILE}").unlink(missing_ok=True)
    if outcome.exit_code is Exit.DONE:
        corrections = sum(len(state.corrections) for state in outcome.steps) + len(
            [line for line in outcome.repairs if not line.startswith(" ")])
        outcome.message = (f"all checks passed after {corrections} correction(s)" if corrections
                           else "all checks passed")
    summary = {
        "exit_code": int(outcome.exit_code), "meaning": EXIT_MEANING[outcome.exit_code],
        "message": outcome.message, "hint": outcome.hint, "failure_id": outcome.failure_id,
        "repairs": outcome.repairs,
        "steps": [state.model_dump(mode="json") for state in outcome.steps],
    }
    try:
        (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=1))
        (folder / STORY_FILE).write_text(_story(outcome))
    except OSError as error:
        say(f"the summary could not be written: {error}")
    return outcome


def _story(outcome: Outcome) -> str:
    parts = [story(state) for state in outcome.steps]
    if outcome.repairs:
        parts.append("\n".join(["# Earlier steps changed", "", *(
            f"- {line.strip()}" for line in outcome.repairs)]) + "\n")
    if outcome.exit_code in {Exit.REFUSED, Exit.USAGE} or not parts:
        refused = Failure(failure_id=outcome.failure_id or "", evidence=outcome.message,
                          advice=outcome.hint)
        parts.append(f"# Not run\n\n{refused.failure_id}: {refused.evidence}\n\n"
                     f"What to do: {refused.advice}\n")
    return "\n".join(parts)
