"""Custodian jobs: one executable in a process group of its own that can be ended for sure."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from custodian.custodian import Job

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Have the kernel end mpirun, and so its ranks, when this process is killed."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class CodeJob(Job):
    """One simulation code in the current attempt.

    Parameters
    ----------
    command
        Argument list, MPI launcher included.
    stdout, stderr
        Files in the folder of the run.
    environment
        Variables added to those of this process.
    stale
        Files of an earlier attempt that would be taken for this one's (patterns); moved away.
    stdin
        File given to standard input, or None.
    """

    def __init__(self, command: Sequence[str], *, stdout: str, stderr: str,
                 environment: Mapping[str, str] | None = None, stale: Sequence[str] = (),
                 stdin: str | None = None) -> None:
        self.command = list(command)
        self.stdout = stdout
        self.stderr = stderr
        self.environment = dict(environment or {})
        self.stale = tuple(stale)
        self.stdin = stdin
        self.attempt = 0
        self.seconds = 0.0
        self.started_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Name in Custodian's log."""
        return Path(self.command[-1]).name

    def as_dict(self) -> dict[str, Any]:
        """Return what custodian.json shows of this job."""
        return {"@module": type(self).__module__, "@class": type(self).__name__,
                "command": self.command, "stdout": self.stdout, "stderr": self.stderr}

    def setup(self, directory: str = "./") -> None:
        """Nothing: the recipe has written the input."""

    def run(self, directory: str = "./") -> subprocess.Popen[bytes]:
        """Start the next attempt."""
        folder = Path(directory)
        self._settle_time()
        self.attempt += 1
        self._put_away(folder)
        stdin = (folder / self.stdin).open("rb") if self.stdin else None
        with (folder / self.stdout).open("wb") as out, (folder / self.stderr).open("wb") as err:
            self.started_at = time.time()
            self.process = subprocess.Popen(
                self.command, cwd=folder, stdout=out, stderr=err,
                stdin=stdin or subprocess.DEVNULL, env={**os.environ, **self.environment},
                start_new_session=True, preexec_fn=_die_with_parent,  # noqa: PLW1509  calls one C function
            )
        if stdin:
            stdin.close()
        return self.process

    def postprocess(self, directory: str = "./") -> None:
        """Nothing to do after a good run."""

    def terminate(self, directory: str = "./") -> None:  # noqa: ARG002  Custodian passes it
        """End the whole process group and wait until it is gone."""
        process = self.process
        if process is None:
            return
        for sig, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(process.pid, sig)
                process.wait(patience)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
            else:
                break
        self._settle_time()

    def finish(self) -> float:
        """Return the seconds spent in the code over all attempts."""
        self._settle_time()
        return self.seconds

    def _settle_time(self) -> None:
        if self.started_at:
            self.seconds += time.time() - self.started_at
            self.started_at = 0.0

    def _put_away(self, folder: Path) -> None:
        """Keep what the last attempt printed, where nothing takes it for news."""
        old = [f for pattern in (self.stdout, self.stderr, *self.stale)
               for f in folder.glob(pattern) if f.is_file()]
        if not old:
            return
        number = 1
        while (attic := folder / f"attempt_{number}").exists():
            number += 1
        attic.mkdir()
        for file in old:
            shutil.move(file, attic / file.name)
