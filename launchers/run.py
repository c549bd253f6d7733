"""One executable under Custodian: from an input file in a folder to a RunRecord."""

from __future__ import annotations

import errno
import logging
import os
import socket
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orionflow.errors import CodeError
from orionflow.launchers.custodian.rules import RuleHandler, RuleValidator
from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.record import Correction, RunRecord
from orionflow.launchers.run_state import (
    RECORD_FILE,
    STORY_FILE,
    Failure,
    RunState,
    hash_inputs,
    read_state,
    spent_before,
    story,
    write_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from orionflow.launchers.context import JobContext
    from orionflow.launchers.custodian.jobs import CodeJob
    from orionflow.launchers.custodian.rules import Attempt, Rule

__all__ = ["RECORD_FILE", "earlier_stop", "run_code"]


def run_code(job: CodeJob, rules: Sequence[Rule], context: JobContext, *,
             executable: str, directory: Path, deadline: float | None = None,
             inputs: dict[str, str] | None = None, continued: int = 0,
             corrected: Sequence[Correction] = (),
             note: Callable[[Attempt], str | None] | None = None,
             on_correction: Callable[[dict[str, Any]], None] | None = None) -> RunRecord:
    """Run a code until its result passes all rules, or no rule can help any more.

    Parameters
    ----------
    job
        The command with its files.
    rules
        Failures in the order in which they are looked for.
    context
        Resources, machine and deadline.
    executable
        Absolute path of the code, for provenance.
    directory
        Folder of the run; the input is there already.
    deadline
        Unix time at which this run must have ended; the allocation's unless given.
    inputs
        sha256 of the input files before anything was changed in them (`hash_inputs`); made here
        unless given.
    continued
        Earlier launches of the same input that this one continues.
    corrected
        Corrections those launches made to what is run now.
    note
        Given by a code whose rules judge every end: a return code no rule takes for a failure
        does not refuse the result; what this says of the last attempt is kept beside it.
    on_correction
        Told of each correction as it is made: the fields of `Correction`.

    Returns
    -------
    RunRecord
        Times, command and every correction.

    Raises
    ------
    CodeError
        The code failed and corrections did not help; ``failure_id`` names how.
    """
    from custodian.custodian import Custodian, CustodianError

    logging.getLogger("custodian").addHandler(logging.NullHandler())  # our record says it better
    handler = RuleHandler(
        job=job, rules=rules, deadline=context.deadline if deadline is None else deadline,
        budget=context.settings.max_corrections, on_correction=on_correction,
        corrections=[c.model_dump() for c in corrected],
    )
    custodian = Custodian(
        [handler], [job], validators=[RuleValidator(handler)],
        # The handler keeps the budget: Custodian would correct once more and then not run.
        max_errors=context.settings.max_corrections + 2, directory=str(directory),
        terminate_on_nonzero_returncode=note is None,
    )
    names = list(job.inputs)
    given = hash_inputs(directory, names) if inputs is None else inputs
    seconds, core_seconds = spent_before(directory, given)
    started = datetime.now(UTC)
    state = RunState(
        state="running", executable=executable, continued=continued, inputs=given,
        inputs_now=hash_inputs(directory, names), started_at=started,
        cores=context.resources.cores, earlier_seconds=seconds, earlier_core_seconds=core_seconds,
    )
    write_state(directory, state)
    problem: Exception | None = None
    state.state = "interrupted"
    try:
        with warnings.catch_warnings():  # of return codes; the note below says it better
            warnings.filterwarnings("ignore", "subprocess returned a non-zero return code")
            custodian.run()
        state.state = "done"
        said = note(handler.attempt(str(directory))) if note is not None else None
        state.notes = [said] if said else []
    except CustodianError as error:
        problem = error
        state.state = "failed"
        state.failure = _failure(handler, error)
    except OSError as error:
        if handler.failure is None or error.errno != errno.ENOSPC:
            raise
        # Custodian could not write its own log: the disk is full, as the handler has found.
        problem = error
        state.state = "failed"
        state.failure = _failure(handler, error)
    finally:
        # Also after an exception from outside (SIGTERM as KeyboardInterrupt): no orphans.
        if job.process is not None and job.process.poll() is None:
            job.terminate(str(directory))
        state.corrections = [Correction(**c) for c in handler.corrections]
        state.inputs_now = hash_inputs(directory, names)
        state.record = _record(job, context, executable, started, state)
        # On a full disk the failure itself is more important than its record.
        with suppress(OSError):
            write_state(directory, state)
            if state.corrections or state.notes or state.failure is not None:
                (directory / STORY_FILE).write_text(story(state))
            else:
                (directory / STORY_FILE).unlink(missing_ok=True)
    if state.failure is not None:
        raise _code_error(state, directory) from problem
    return state.record


def earlier_stop(directory: Path, inputs: dict[str, str],
                 failure_ids: Sequence[str]) -> RunState | None:
    """Return the state of an earlier launch of this input that a new one can continue.

    Parameters
    ----------
    directory
        Folder of the run.
    inputs
        sha256 of the input files as they are given now.
    failure_ids
        Failures after which the code can go on from its restart files; a launch that was killed
        together with its code counts as well.
    """
    state = read_state(directory)
    if state is None or not state.same_inputs(inputs):
        return None
    stopped = state.state in {"running", "interrupted"} or (
        state.failure is not None and state.failure.failure_id in failure_ids)
    return state if stopped else None


def _record(job: CodeJob, context: JobContext, executable: str, started: datetime,
            state: RunState) -> RunRecord:
    seconds = job.finish()
    resources = context.resources
    return RunRecord(
        executable=executable, command=job.command, hostname=socket.gethostname(),
        slurm_job_id=os.environ.get("SLURM_JOB_ID"), nodes=resources.nodes,
        ranks=resources.ranks, threads=resources.threads, started_at=started,
        finished_at=datetime.now(UTC), wall_seconds=state.earlier_seconds + seconds,
        core_seconds=state.earlier_core_seconds + seconds * resources.cores,
        attempts=max(1, job.attempt), corrections=state.corrections,
        continued=state.continued,
    )


def _failure(handler: RuleHandler, problem: Exception) -> Failure:
    found = handler.failure
    failure_id, evidence = (
        (found.rule.failure_id, found.evidence) if found else ("CODE_UNKNOWN", str(problem)))
    mode = CATALOGUE.get(failure_id, CATALOGUE["CODE_UNKNOWN"])
    rule = found.rule if found else None
    return Failure(
        failure_id=failure_id, title=getattr(rule, "title", None) or mode.title,
        evidence=evidence.strip(),
        advice=getattr(rule, "advice", None) or mode.advice,
        transient=getattr(rule, "transient", mode.transient), exhausted=bool(handler.corrections),
    )


def _code_error(state: RunState, folder: Path) -> CodeError:
    failure = state.failure or Failure(failure_id="CODE_UNKNOWN")
    done = f" after {len(state.corrections)} correction(s)" if state.corrections else ""
    return CodeError(
        f"{failure.failure_id}: {failure.title}{done}: {failure.evidence} (folder {folder})",
        failure_id=failure.failure_id, folder=folder, hint=failure.advice,
        transient=failure.transient,
    )
