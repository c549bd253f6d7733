"""What is known of a run after it: processes, time, corrections. Stored in every document."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  pydantic reads it at run time

from pydantic import BaseModel, ConfigDict, Field


class Correction(BaseModel):
    """One change made by Custodian between two attempts.

    Attributes
    ----------
    attempt
        Attempt that failed, from 1.
    failure_id
        Stable id in the failure catalogue, such as ``QE_SCF_NOT_CONVERGED``.
    handler
        Class that corrected.
    changes
        What was changed, one readable line each: ``electron_maxstep: 4 -> 12``.
    evidence
        The line of output that showed the failure.
    folder
        Subfolder that keeps input and output of that attempt.
    """

    model_config = ConfigDict(extra="forbid")

    attempt: int = Field(ge=1)
    failure_id: str
    handler: str
    changes: list[str]
    evidence: str = ""
    folder: str = ""


class RunRecord(BaseModel):
    """How one executable was run, from first attempt to last."""

    model_config = ConfigDict(extra="forbid")

    executable: str = Field(description="Absolute path of the executable.")
    command: list[str] = Field(description="Whole command with its MPI launcher.")
    hostname: str
    slurm_job_id: str | None = None
    nodes: int = 1
    ranks: int = 1
    threads: int = 1
    started_at: datetime = Field(description="Start of the first attempt of this launch, UTC.")
    finished_at: datetime = Field(description="End of the last attempt, UTC.")
    wall_seconds: float = Field(
        ge=0, description="Time in the executable, s: all attempts, and earlier launches of the "
        "same input that were stopped or killed.")
    core_seconds: float = Field(
        ge=0, description="The same times ranks times threads of each launch, s.")
    attempts: int = Field(ge=1)
    corrections: list[Correction] = Field(default_factory=list)
    continued: int = Field(
        default=0, ge=0, description="Earlier launches this run continues (walltime, lost node)."
    )
