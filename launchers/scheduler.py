"""Asking Slurm: the commands of `slurm` run, with their failures told apart."""

from __future__ import annotations

import getpass
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.errors import LaunchError, OutputError
from orionflow.launchers import slurm
from orionflow.launchers.sbatch import slurm_commands
from orionflow.launchers.slurm import Fate, SlurmJob

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TIMEOUT = 60.0


@dataclass(frozen=True)
class Scheduler:
    """Slurm as one project sees it: its private one, or the machine's."""

    project: Path | None = None

    def program(self, name: str) -> str:
        """Return the path or name of one of Slurm's programs."""
        return slurm_commands(self.project)[name]

    def show(self, job_id: str) -> SlurmJob | None:
        """Return what slurmctld knows of a job, None when it has forgotten it.

        Raises
        ------
        LaunchError
            Slurm does not answer.
        """
        done = _run(slurm.scontrol_command(job_id, program=self.program("scontrol")))
        if done.returncode == 0:
            return slurm.parse_scontrol(done.stdout)
        if slurm.unknown_to_squeue(done.stderr):
            return None
        raise _failed(done)

    def my_queue(self) -> list[SlurmJob]:
        """Return this user's waiting and running jobs.

        Raises
        ------
        LaunchError
            Slurm does not answer.
        """
        done = _run(slurm.squeue_command(user=getpass.getuser(), program=self.program("squeue")))
        if done.returncode != 0:
            raise _failed(done)
        return slurm.parse_squeue(done.stdout)

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs; those that are over already are no error.

        Raises
        ------
        LaunchError
            Slurm does not answer, or the jobs are somebody else's.
        """
        done = _run(slurm.scancel_command(job_ids, program=self.program("scancel")))
        if done.returncode != 0 and not slurm.unknown_to_squeue(done.stderr):
            raise _failed(done)

    def fate(self, job_id: str, restarts: int = 0) -> Fate:
        """Return whether a job's processes may still be alive; see `look`."""
        return self.look(job_id, restarts)[0]

    def look(self, job_id: str, restarts: int = 0) -> tuple[Fate, str]:
        """Return whether a job's processes may still be alive, and its state in Slurm's word.

        slurmctld is asked first, then accounting. A job neither knows is `Fate.UNKNOWN`: absent
        is not over.

        Parameters
        ----------
        job_id
            Slurm's number.
        restarts
            The job's requeues so far when the process in question was started: after another
            one that process is over, though the job lives.

        Raises
        ------
        LaunchError
            slurmctld does not answer.
        """
        job = self.show(job_id)
        if job is not None:
            return (Fate.OVER, "REQUEUED") if job.restarts > restarts else (job.fate, job.state)
        try:
            done = _run(slurm.sacct_command([job_id], program=self.program("sacct")))
            told = [] if done.returncode else slurm.parse_sacct(done.stdout)
        except (LaunchError, OutputError):
            told = []  # no accounting on this machine
        found = next((j for j in told if j.job_id == job_id), None)
        # Accounting's "RUNNING" of a job slurmctld has forgotten is a runaway: not known.
        if found is not None and found.fate is Fate.OVER:
            return Fate.OVER, found.state
        return Fate.UNKNOWN, ""

    def cluster(self) -> str:
        """Return the name of the cluster that is asked.

        Raises
        ------
        LaunchError
            slurmctld does not answer.
        """
        done = _run([self.program("scontrol"), "show", "config"])
        if done.returncode != 0:
            raise _failed(done)
        return slurm.parse_cluster(done.stdout)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT,
                              check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise LaunchError(f"command {command[0]!r} not found", command=command,
                          hint="is Slurm installed here? `orionflow slurm status`") from error
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"{command[0]} did not answer in {_TIMEOUT:.0f} s", command=command,
                          hint="Slurm's controller is busy or down", transient=True) from error


def _failed(done: subprocess.CompletedProcess[str]) -> LaunchError:
    return LaunchError(
        f"{done.args[0]} failed: {done.stderr.strip() or done.stdout.strip()}",
        command=done.args, code=done.returncode, stderr=done.stderr,
        hint="is Slurm's controller running? `orionflow slurm status`", transient=True)
