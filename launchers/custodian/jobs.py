"""Custodian jobs: one executable in a session of its own that can be ended for sure."""

from __future__ import annotations

import glob
import os
import re
import select
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from custodian.custodian import Job

from orionflow.errors import ConfigError
from orionflow.launchers.custodian import guard
from orionflow.launchers.stopping import Stopped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FIRST_LOOK = 0.2
_LONGEST_PAUSE = 30.0
# Who wakes so much later than it wanted to was held still, and its code with it (`lease`), s.
_HELD = 5.0
# After SIGTERM a code has so long to end before it is killed, s.
_TERM_PATIENCE = 4.0
# Ctrl-C, and SIGTERM to a run without a launcher: a second one ends the waiting.
_INTERRUPT_PATIENCE = 12.0


class Monitor(Protocol):
    """Looks at a running code; what it finds ends the attempt under this failure id."""

    failure_id: str

    def look(self, job: CodeJob, folder: Path) -> str | None:
        """Return the evidence that the code must be stopped, or None. Must be cheap."""

    def grace(self) -> float:
        """Return how long the code may take to stop by itself when asked, s (0: kill it)."""


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
    inputs
        Files (patterns) of which a copy is kept before a correction changes them.
    watched
        Files (patterns) an earlier step may have left and this attempt must write anew; see
        `is_fresh`.
    monitors
        Asked, in order, while the code runs.
    also
        Files of the folder to which the code writes its last words as well; read behind stdout.
    stop_file
        File in the folder of the run for which the code looks, and when it is there writes its
        restart files and ends; None for a code that can't be asked.
    listens_after
        Pattern in the output before which a code that is asked to stop leaves worse files than
        one that is killed; it is not asked then.
    """

    def __init__(self, command: Sequence[str], *, stdout: str, stderr: str,
                 environment: Mapping[str, str] | None = None, stale: Sequence[str] = (),
                 stdin: str | None = None, inputs: Sequence[str] = (),
                 watched: Sequence[str] = (), monitors: Sequence[Monitor] = (),
                 also: Sequence[str] = (), stop_file: str | None = None,
                 listens_after: str = "") -> None:
        self.command = list(command)
        self.stdout = stdout
        self.stderr = stderr
        self.environment = dict(environment or {})
        self.stale = tuple(stale)
        self.stdin = stdin
        self.inputs = tuple(inputs)
        self.watched = tuple(watched)
        self.monitors = tuple(monitors)
        self.also = tuple(also)
        self.stop_file = stop_file
        self.listens_after = listens_after
        self.attempt = 0
        self.seconds = 0.0
        self.last_seconds = 0.0
        self.started_at = 0.0
        self.stopped_by: tuple[str, str] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._before: dict[Path, tuple[int, int]] = {}
        self._attic: Path | None = None
        self._held = 0.0

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
        """Run the next attempt to its end, under the eyes of the monitors.

        Custodian's own loop sleeps a whole polling step before it looks for the first time, so
        the waiting is done here and it is given a process that has ended.
        """
        folder = Path(directory)
        self._settle_time()
        self.attempt += 1
        self.stopped_by = None
        self._put_away(folder)
        if self.stop_file is not None:
            (folder / self.stop_file).unlink(missing_ok=True)
        self._attic = None
        self._before = {f: _stamp(f) for f in self._watched_files(folder)}
        stdin = (folder / self.stdin).open("rb") if self.stdin else None
        with (folder / self.stdout).open("wb") as out, (folder / self.stderr).open("wb") as err:
            self.started_at = time.time()
            try:
                self.process = subprocess.Popen(
                    self.command, cwd=folder, stdout=out, stderr=err,
                    stdin=stdin or subprocess.DEVNULL, env={**os.environ, **self.environment},
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                if error.filename != self.command[0]:
                    raise
                # Not the job's fault: another node may have it.
                raise ConfigError(
                    f"{self.command[0]} is not on this node",
                    hint="load its module in the machine profile, or leave the node out") from error
        if stdin:
            stdin.close()
        with subprocess.Popen(  # ends what survives the death of this process
            [sys.executable, "-I", "-S", guard.__file__, str(self.process.pid)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as keeper:
            try:
                self._wait(folder)
                guard.end_session(self.process.pid)  # mpirun killed: its ranks may be left
            except Stopped as stop:
                stop.kept = self.ask_to_stop(directory, stop.grace)
                raise
            except KeyboardInterrupt:
                self.ask_to_stop(directory, _INTERRUPT_PATIENCE)
                raise
            finally:
                if self.process.poll() is None:
                    self.terminate(directory)
                if keeper.stdin:
                    try:
                        keeper.stdin.write(b"\n")
                        keeper.stdin.close()
                    except BrokenPipeError:
                        pass  # the guard was killed, and nothing is left for it to do
        self._settle_time()
        return self.process

    def postprocess(self, directory: str = "./") -> None:
        """Nothing to do after a good run."""

    def ask_to_stop(self, directory: str, patience: float) -> bool:
        """Ask the code to write its restart files and end.

        Parameters
        ----------
        directory
            Folder of the run.
        patience
            How long it may take, s.

        Returns
        -------
        bool
            Whether it ended by itself; false also where it can't be asked.
        """
        folder = Path(directory)
        process = self.process
        if process is None or self.stop_file is None or patience <= 0 or not re.search(
                self.listens_after, self._output(folder)):
            return False
        path = folder / self.stop_file
        try:
            path.touch()
            return _ends_within(process, patience)
        except OSError:  # a full disk: nothing could be written anyway
            return False
        finally:  # it must not stop the next run
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def terminate(self, directory: str = "./") -> None:  # noqa: ARG002  Custodian passes it
        """End the whole session and wait until it is gone."""
        process = self.process
        if process is None:
            return
        guard.end_session(process.pid, patience=_TERM_PATIENCE)
        process.wait()
        self._settle_time()

    def finish(self) -> float:
        """Return the seconds spent in the code over all attempts."""
        self._settle_time()
        return self.seconds

    def is_fresh(self, file: Path) -> bool:
        """Whether a watched file was written by the present attempt."""
        return file.is_file() and self._before.get(file) != _stamp(file)

    def read_inputs(self, folder: Path) -> dict[Path, bytes]:
        """Return the input files as they are before a correction."""
        return {file: file.read_bytes() for file in matching_files(folder, self.inputs)}

    def attic(self, folder: Path, inputs: Mapping[Path, bytes] | None = None) -> Path:
        """Return the folder for what the present attempt leaves, with its inputs."""
        if self._attic is None:
            number = 1
            while (attic := folder / f"attempt_{number}").exists():
                number += 1
            attic.mkdir()
            for file, content in (inputs or {}).items():
                (attic / file.name).write_bytes(content)
            self._attic = attic
        return self._attic

    def output_size(self, folder: Path) -> int:
        """Return how much the present attempt has printed, bytes."""
        try:
            return (folder / self.stdout).stat().st_size
        except OSError:
            return 0

    def clock(self) -> float:
        """Return seconds that stand still while the launcher holds its jobs (`lease`)."""
        return time.monotonic() - self._held

    def _wait(self, folder: Path) -> None:
        """Wait for the end; look often at a short job and seldom at a long one."""
        process = self.process
        if process is None or not self.monitors:
            if process is not None:
                process.wait()
            return
        pause, began = _FIRST_LOOK, time.monotonic()
        while not _ends_within(process, pause):
            late = time.monotonic() - began - pause
            self._held += late if late > _HELD else 0.0
            for monitor in self.monitors:
                evidence = monitor.look(self, folder)
                if evidence is not None:
                    self.stopped_by = (monitor.failure_id, evidence)
                    if not self.ask_to_stop(str(folder), monitor.grace()):
                        self.terminate(str(folder))
                    return
            pause = min(_LONGEST_PAUSE, max(_FIRST_LOOK, 0.05 * (time.time() - self.started_at)))
            began = time.monotonic()

    def _output(self, folder: Path) -> str:
        try:
            return (folder / self.stdout).read_text(errors="replace") if self.listens_after else ""
        except OSError:
            return ""

    def _settle_time(self) -> None:
        if self.started_at:
            self.last_seconds = time.time() - self.started_at
            self.seconds += self.last_seconds
            self.started_at = 0.0

    def _watched_files(self, folder: Path) -> list[Path]:
        return matching_files(folder, self.watched)

    def _put_away(self, folder: Path) -> None:
        """Keep what the last attempt printed, where nothing takes it for news."""
        old = matching_files(folder, (self.stdout, self.stderr, *self.stale))
        if not old:
            return
        attic = self.attic(folder)
        for file in old:
            if file.is_file():  # it may go by two names, through `..` or a link
                shutil.move(file, attic / file.name)


def matching_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files that match shell patterns, absolute or below the folder; each once."""
    root = glob.escape(str(folder))
    # Two patterns may mean one file: ./CRASH and CRASH, where outdir is the folder itself.
    return list(dict.fromkeys(
        Path(name) for pattern in patterns for name in glob.glob(os.path.join(root, pattern))  # noqa: PTH118, PTH207  Path.glob refuses absolute patterns
        if os.path.isfile(name)))  # noqa: PTH113


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process without polling: the kernel wakes us the moment it ends."""
    if process.poll() is not None:
        return True
    try:
        handle = os.pidfd_open(process.pid)
    except (OSError, AttributeError):  # kernels before 5.3
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
    try:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        poller.poll(seconds * 1000)
    finally:
        os.close(handle)
    return process.poll() is not None


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:
        return (0, 0)
    return (stat.st_mtime_ns, stat.st_ino)
