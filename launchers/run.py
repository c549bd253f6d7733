"""One executable under Custodian: from an input file in a folder to a RunRecord."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orionflow.errors import CodeError
from orionflow.launchers.custodian.rules import RuleHandler, RuleValidator
from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.record import Correction, RunRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from orionflow.launchers.context import JobContext
    from orionflow.launchers.custodian.jobs import CodeJob
    from orionflow.launchers.custodian.rules import Rule

RECORD_FILE = "orionflow_run.json"


def run_code(job: CodeJob, rules: Sequence[Rule], context: JobContext, *,
             executable: str, directory: Path) -> RunRecord:
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

    handler = RuleHandler(job=job, rules=rules, deadline=context.deadline)
    # One more than the rules may use: that attempt's failure is then a rule's own verdict.
    custodian = Custodian(
        [handler], [job], validators=[RuleValidator(handler)],
        max_errors=context.settings.max_corrections + 1,
        directory=str(directory), polling_time_step=1, monitor_freq=1,
    )
    started = datetime.now(UTC)
    problem: BaseException | None = None
    try:
        custodian.run()
    except CustodianError as error:
        problem = error
    finally:
        # Also after an exception from outside (SIGTERM as KeyboardInterrupt): no orphans.
        if job.process is not None and job.process.poll() is None:
            job.terminate(str(directory))
    seconds = job.finish()
    resources = context.resources
    record = RunRecord(
        executable=executable, command=job.command, hostname=socket.gethostname(),
        slurm_job_id=os.environ.get("SLURM_JOB_ID"), nodes=resources.nodes,
        ranks=resources.ranks, threads=resources.threads, started_at=started,
        finished_at=datetime.now(UTC), wall_seconds=seconds,
        core_seconds=seconds * resources.cores, attempts=max(1, job.attempt),
        corrections=[Correction(**c) for c in handler.corrections],
    )
    (directory / RECORD_FILE).write_text(json.dumps(record.model_dump(mode="json"), indent=1))
    if problem is not None:
        raise _code_error(handler, problem, directory) from problem
    return record


def _code_error(handler: RuleHandler, problem: BaseException, folder: Path) -> CodeError:
    failure_id, evidence = handler.failure or ("CODE_UNKNOWN", str(problem))
    mode = CATALOGUE.get(failure_id, CATALOGUE["CODE_UNKNOWN"])
    done = f" after {len(handler.corrections)} correction(s)" if handler.corrections else ""
    return CodeError(
        f"{failure_id}: {mode.title}{done}: {evidence.strip()} (folder {folder})",
        failure_id=failure_id, folder=folder, hint=mode.advice, transient=mode.transient,
    )
