"""Slurm's commands as argument lists and their answers as values; no process is started here.

Each pair is ``<what>_command()`` and ``parse_<what>()``. One table says what a job state means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING

from orionflow.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Fate(Enum):
    """What a Slurm state means for the processes of the job."""

    WAITING = "waiting"
    ALIVE = "alive"
    OVER = "over"
    UNKNOWN = "unknown"


# The job states of squeue(1) and sacct(1), sections "JOB STATE CODES", Slurm 22.05 and 24.05.
# COMPLETING and SIGNALING still have processes; a SUSPENDED or STOPPED job keeps its own.
STATES: dict[str, Fate] = {
    "PENDING": Fate.WAITING,
    "CONFIGURING": Fate.WAITING,
    "REQUEUED": Fate.WAITING,
    "REQUEUE_FED": Fate.WAITING,
    "REQUEUE_HOLD": Fate.WAITING,
    "SPECIAL_EXIT": Fate.WAITING,
    "RESV_DEL_HOLD": Fate.WAITING,
    "RUNNING": Fate.ALIVE,
    "COMPLETING": Fate.ALIVE,
    "RESIZING": Fate.ALIVE,
    "SIGNALING": Fate.ALIVE,
    "STAGE_OUT": Fate.ALIVE,
    "STOPPED": Fate.ALIVE,
    "SUSPENDED": Fate.ALIVE,
    "BOOT_FAIL": Fate.OVER,
    "CANCELLED": Fate.OVER,
    "COMPLETED": Fate.OVER,
    "DEADLINE": Fate.OVER,
    "FAILED": Fate.OVER,
    "NODE_FAIL": Fate.OVER,
    "OUT_OF_MEMORY": Fate.OVER,
    "PREEMPTED": Fate.OVER,
    "REVOKED": Fate.OVER,
    "TIMEOUT": Fate.OVER,
}


def fate(state: str) -> Fate:
    """Return what a state means; ``CANCELLED by 1000`` and ``CANCELLED+`` are read too."""
    word = state.strip().split(" ")[0].rstrip("+").upper()
    return STATES.get(word, Fate.UNKNOWN)


@dataclass(frozen=True)
class SlurmJob:
    """One job as squeue, sacct or scontrol tell it.

    Attributes
    ----------
    restarts
        How often Slurm has requeued it; another launcher ran before.
    end
        When the allocation ends or ended, unix time, or None when not known.
    """

    job_id: str
    state: str
    reason: str = ""
    name: str = ""
    restarts: int = 0
    end: float | None = None

    @property
    def fate(self) -> Fate:
        """What the state means."""
        return fate(self.state)


def sbatch_command(script: str, *, program: str = "sbatch") -> list[str]:
    """Return the command that submits a script."""
    return [program, "--parsable", script]


_SUBMITTED = re.compile(r"^(?:Submitted batch job\s+)?(\d+)(?:;\S+)?(?:\s+on cluster \S+)?\s*$",
                        re.MULTILINE)


def parse_sbatch(text: str) -> str:
    """Return the job id, with ``--parsable`` or without.

    Raises
    ------
    OutputError
        There is no job id in the answer.
    """
    if found := _SUBMITTED.search(text):
        return found[1]
    raise OutputError(f"sbatch answered without a job id: {text.strip()!r}", path="sbatch",
                      expected="Submitted batch job N")


_SQUEUE_FIELDS = "%A|%T|%r|%j"


def squeue_command(job_ids: Iterable[str] = (), *, user: str | None = None,
                   program: str = "squeue") -> list[str]:
    """Return the command that lists waiting and running jobs, by id or by user."""
    command = [program, "--noheader", f"--format={_SQUEUE_FIELDS}"]
    ids = ",".join(job_ids)
    if ids:
        command.append(f"--jobs={ids}")
    if user is not None:
        command.append(f"--user={user}")
    return command


def parse_squeue(text: str) -> list[SlurmJob]:
    """Return the jobs of squeue's answer, in its order.

    Raises
    ------
    OutputError
        A line has other columns than were asked for.
    """
    jobs = []
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines())), 1):
        fields = line.split("|", 3)
        if len(fields) != 4:  # noqa: PLR2004  the columns of _SQUEUE_FIELDS
            raise OutputError(f"squeue answered {line!r}", path="squeue", line=number,
                              expected=_SQUEUE_FIELDS)
        jobs.append(SlurmJob(job_id=fields[0], state=fields[1], reason=fields[2], name=fields[3]))
    return jobs


def unknown_to_squeue(stderr: str) -> bool:
    """Whether squeue or scontrol failed because the job has left their memory."""
    return "Invalid job id specified" in stderr


_SACCT_FIELDS = "JobIDRaw,State,End,JobName"


def sacct_command(job_ids: Iterable[str], *, program: str = "sacct") -> list[str]:
    """Return the command that asks the accounting database how jobs ended."""
    return [program, "--noheader", "--parsable2", "--allocations", f"--format={_SACCT_FIELDS}",
            f"--jobs={','.join(job_ids)}"]


def parse_sacct(text: str) -> list[SlurmJob]:
    """Return the jobs of sacct's answer; the last word on a job counts (requeues).

    Raises
    ------
    OutputError
        A line has other columns than were asked for.
    """
    jobs: dict[str, SlurmJob] = {}
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines())), 1):
        fields = line.split("|", 3)
        if len(fields) != 4:  # noqa: PLR2004  the columns of _SACCT_FIELDS
            raise OutputError(f"sacct answered {line!r}", path="sacct", line=number,
                              expected=_SACCT_FIELDS)
        job_id, state, end, name = fields
        jobs[job_id] = SlurmJob(job_id=job_id, state=state, name=name, end=parse_time(end))
    return list(jobs.values())


def scancel_command(job_ids: Iterable[str], *, signal: str | None = None,
                    program: str = "scancel") -> list[str]:
    """Return the command that cancels jobs, or sends them a signal (``USR1``)."""
    how = ["--batch", f"--signal={signal}"] if signal else []
    return [program, *how, *job_ids]


def scontrol_command(job_id: str, *, program: str = "scontrol") -> list[str]:
    """Return the command that shows one job in full."""
    return [program, "--oneliner", "show", "job", job_id]


_FIELD = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=")


def parse_scontrol(text: str) -> SlurmJob:
    """Return the job that ``scontrol show job`` describes.

    Raises
    ------
    OutputError
        There is no job in the answer.
    """
    fields = _scontrol_fields(text)
    if "JobId" not in fields or "JobState" not in fields:
        raise OutputError(f"scontrol answered {text.strip()[:200]!r}", path="scontrol",
                          expected="JobId=... JobState=...")
    return SlurmJob(
        job_id=fields["JobId"], state=fields["JobState"], reason=fields.get("Reason", ""),
        name=fields.get("JobName", ""), restarts=int(fields.get("Restarts", "0")),
        end=parse_time(fields.get("EndTime", "")),
    )


def _scontrol_fields(text: str) -> dict[str, str]:
    # Values may hold blanks and `=`; a field ends where the next `Name=` begins. The first of
    # two equal names is the field, the later one part of a value (a Comment, a Command).
    starts = list(_FIELD.finditer(text))
    ends = [m.start() for m in starts[1:]] + [len(text)]
    fields: dict[str, str] = {}
    for match, end in zip(starts, ends, strict=True):
        fields.setdefault(match[1], text[match.end():end].strip())
    return fields


_CLUSTER = re.compile(r"^ClusterName\s*=\s*(\S+)", re.MULTILINE)


def parse_cluster(text: str) -> str:
    """Return the cluster's name from ``scontrol show config``; empty when it is not there."""
    found = _CLUSTER.search(text)
    return found[1] if found else ""


def parse_time(text: str) -> float | None:
    """Return unix time from Slurm's local ``2026-01-31T12:00:00``; None for ``Unknown``."""
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        return None


def format_walltime(seconds: int) -> str:
    """Return ``D-HH:MM:SS`` (or ``HH:MM:SS`` below one day) as sbatch's ``--time`` reads it."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{h:02d}:{m:02d}:{s:02d}"


_CPUS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def parse_cpus_per_node(text: str) -> list[int]:
    """Return the cores of each node from ``SLURM_JOB_CPUS_PER_NODE``, such as ``72(x2),36``.

    Raises
    ------
    OutputError
        The text is not of this form.
    """
    cores: list[int] = []
    for part in text.split(","):
        if not (m := _CPUS.fullmatch(part.strip())):
            raise OutputError(f"SLURM_JOB_CPUS_PER_NODE={text!r}", path="environment",
                              expected="like 72(x2),36")
        cores += [int(m[1])] * int(m[2] or 1)
    return cores
