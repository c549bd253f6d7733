"""One lmp run: its script as given, its script as run, and the time it has."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import InputError
from orionflow.launchers.custodian.jobs import CodeJob
from orionflow.launchers.custodian.lammps_script import RUNS, Script

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

STOP_FILE = "STOP"
ASK_FILE = "orionflow.stop"
PREFIX = "orionflow."
OURS = "# orionflow: time left"


class LammpsJob(CodeJob):
    """lmp with an input script that corrections may change.

    The user's file is never written to. What is run instead, once something has to differ, is
    ``orionflow.<name>`` beside it.

    Parameters
    ----------
    input_file
        Name of the script in the folder.
    deadline
        Unix time at which the run must have ended; LAMMPS is told through `timer timeout`.

    Attributes
    ----------
    active_file
        Name of the script lmp is given once it differs from the user's.
    given, script
        The user's script and that of the next attempt, which rules edit.
    """

    def __init__(self, command: Sequence[str], *, input_file: str, log: str = "log.lammps",
                 stdout: str = "lammps.out", stderr: str = "lammps.err",
                 environment: Mapping[str, str] | None = None,
                 deadline: float | None = None, stdin: str | None = None) -> None:
        self.active_file = str(Path(input_file).with_name(PREFIX + Path(input_file).name))
        super().__init__(command, stdout=stdout, stderr=stderr, environment=environment,
                         stale=(log,) if log != "none" else (), stdin=stdin,
                         inputs=(input_file, self.active_file))
        self.log = log
        self.input_file = input_file
        self.own_command = list(command)
        self.deadline = deadline
        self.given = Script("")
        self.script = Script("")

    def load(self, directory: Path) -> None:
        """Read the script.

        Raises
        ------
        InputError
            It is not there or can't be read.
        """
        try:
            self.given = Script.read(directory / self.input_file)
        except OSError as error:
            raise InputError(f"LAMMPS input {directory / self.input_file}: {error.strerror}",
                             hint="check the name of the input file") from error
        self.script = self.given.copy()

    def run(self, directory: str = "./") -> subprocess.Popen[bytes]:
        """Write the script of this attempt and run it to its end."""
        folder = Path(directory)
        with suppress(OSError):
            (folder / STOP_FILE).unlink(missing_ok=True)
        self.stop_file = ASK_FILE if ASK_FILE in self.script.text() else None
        self.command = self._command(folder)
        return super().run(directory)

    def _command(self, folder: Path) -> list[str]:
        script = self._timed()
        for i in script.find("jump"):
            if script.commands[i].args[:1] == [self.input_file] and script.text() != (
                    self.given.text()):
                script.replace(i, " ".join(["jump", "SELF", *script.commands[i].words[2:]]))
        text = script.text()
        unchanged = text == self.given.text()
        if self.stdin is not None:
            self.stdin = self.input_file if unchanged else self.active_file
        if unchanged:
            return list(self.own_command)
        (folder / self.active_file).write_text(text, errors="surrogateescape")
        return [self.active_file if self._is_input(i) else word
                for i, word in enumerate(self.own_command)]

    def _is_input(self, at: int) -> bool:
        command = self.own_command
        return at > 0 and command[at] == self.input_file and command[at - 1] in {
            "-in", "-i", "-inp", "-input", "--input"}

    def _timed(self) -> Script:
        """Return the script with the time left as `timer timeout`."""
        script = self.script.copy()
        seconds = self.timeout()
        at = next((i for i, c in enumerate(script.commands) if c.name in RUNS), None)
        if seconds is None or at is None:
            return script
        for i in script.find("timer"):
            words = script.commands[i].words
            if OURS in script.commands[i].comment:
                script.remove(i)
            elif "timeout" in words[:-1]:
                own = timer_seconds(words[words.index("timeout") + 1])
                seconds = min(seconds, own) if own is not None and i < at else seconds
                script.remove(i)
        at = next(i for i, c in enumerate(script.commands) if c.name in RUNS)
        script.insert(at, [f"timer timeout {clock(seconds)} every {_CHECK_EVERY}  {OURS}"])
        return script

    def timeout(self) -> float | None:
        """Return what is left for LAMMPS, with time kept back to write and clean up, s."""
        if self.deadline is None:
            return None
        left = self.deadline - time.time()
        return max(1.0, left - margin(left))


_CHECK_EVERY = 10


def margin(seconds: float) -> float:
    """Return the time kept back at the end of an allocation, s."""
    return min(120.0, max(3.0, 0.05 * seconds))


def timer_seconds(word: str) -> float | None:
    """Return the seconds of a LAMMPS time (``H:MM:SS``, ``MM:SS`` or seconds); None for `off`."""
    try:
        parts = [float(p) for p in word.split(":")]
    except ValueError:
        return None
    return sum(p * 60.0**i for i, p in enumerate(reversed(parts)))


def clock(seconds: float) -> str:
    """Return H:MM:SS."""
    whole = max(1, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
