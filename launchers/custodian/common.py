"""Rules that do not depend on the code: it did not start, or something outside ended it."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orionflow.launchers.custodian.rules import Attempt

_LAUNCHER = re.compile(
    r"^.*(?:not enough slots available|command not found|could not find an executable|"
    r"unable to find the specified executable|No such file or directory|Permission denied|"
    r"execvp?e?\b.*(?:failed|error)|error while loading shared libraries|cannot execute|"
    r"PMIX ERROR|ORTE_ERROR_LOG|srun: error: .*|mpirun: .*|prterun.*|"
    r"Unable to create step|An ORTE daemon has unexpectedly failed|"
    r"mpirun has detected an attempt to run as root).*$", re.MULTILINE | re.IGNORECASE)
_BUSY = re.compile(r"PMIX ERROR|ORTE daemon|Unable to (?:create|confirm).*(?:step|alloc)|"
                   r"temporarily unavailable|Socket timed out|nodes are busy", re.IGNORECASE)
_SIGNAL = re.compile(r"^.*exited on signal (\d+).*$", re.MULTILINE)
_SLURM_KILL = re.compile(
    r"^.*(?:STEP|JOB) .* CANCELLED AT.*$|^.*(?:node failure|NODE_FAIL).*$|"
    r"^.*(?:task|tasks) .*: (?:Killed|Terminated).*$", re.MULTILINE)
_MEMORY = re.compile(r"^.*(?:oom[-_ ]kill|Out Of Memory|OutOfMemory|Exceeded .*memory limit).*$",
                     re.MULTILINE | re.IGNORECASE)
# Sent from outside; SIGSEGV, SIGABRT, SIGFPE, SIGBUS are the code's own doing.
_OUTSIDE = {signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU,
            signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE}


def ending_signal(returncode: int | None, stderr: str) -> tuple[int, str] | None:
    """Return the signal that ended a run and the line that shows it."""
    found = _SIGNAL.search(stderr)
    if found is not None:
        return int(found[1]), found[0].strip()
    if returncode is not None and returncode < 0:
        return -returncode, f"the process ended by signal {-returncode}"
    if returncode is not None and 128 < returncode < 128 + 65:  # noqa: PLR2004  shells add 128
        return returncode - 128, f"return code {returncode} (signal {returncode - 128})"
    return None


def memory_line(stderr: str) -> str | None:
    """Return the line by which Slurm or the kernel says that memory ran out."""
    found = _MEMORY.search(stderr)
    return found[0].strip() if found else None


@dataclass
class LauncherFailed:
    """The command, its MPI launcher or the site failed before the code printed a word.

    Attributes
    ----------
    begun
        Text at the head of every output of the code.
    """

    begun: str
    failure_id: str
    transient: bool = False

    def find(self, attempt: Attempt) -> str | None:
        """Look for a launcher's complaint where the code said nothing."""
        if self.begun in attempt.stdout or attempt.returncode == 0:
            return None
        text = attempt.stderr + "\n" + attempt.stdout
        if ending_signal(attempt.returncode, attempt.stderr) and not _LAUNCHER.search(text):
            return None
        found = _LAUNCHER.search(text)
        self.transient = bool(found and _BUSY.search(found[0]))
        if found is not None:
            return found[0].strip()
        if attempt.stdout.strip():
            return None
        lines = attempt.stderr.strip().splitlines()
        return lines[0] if lines else f"no output at all, return code {attempt.returncode}"

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Try once more where the site was only busy."""
        return [] if self.transient and times < 1 else None


@dataclass
class Killed:
    """Something outside the code ended it; the input has no part in it.

    Attributes
    ----------
    finished
        Text at the end of every output of the code, good or bad.
    """

    finished: str
    failure_id: str
    most: int = 2

    def find(self, attempt: Attempt) -> str | None:
        """Look for the signal."""
        if self.finished in attempt.stdout[-4000:] and attempt.returncode == 0:
            return None
        found = _SLURM_KILL.search(attempt.stderr)
        if found is not None:
            return found[0].strip()
        ended = ending_signal(attempt.returncode, attempt.stderr)
        return ended[1] if ended is not None and ended[0] in _OUTSIDE else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Run again unchanged, while there is time for it."""
        return [] if times < self.most and attempt.seconds_left() > attempt.seconds else None
