"""What the rules for LAMMPS share: the job, its script, what it printed and what came before."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.lammps_log import merge_logs
from orionflow.launchers.custodian.lammps_output import LammpsOutput, parse_output
from orionflow.launchers.custodian.lammps_script import Script
from orionflow.launchers.custodian.rules import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orionflow.launchers.custodian.lammps_job import LammpsJob
    from orionflow.launchers.custodian.rules import Attempt


EARLIER_LOG = "orionflow.earlier.log"
FIRST_SCRIPT = "orionflow.first.script"
DANGER_FILE = "orionflow.danger"
# At the start of a line, or in the quotes of an `if`.
_QUIT = re.compile(r"(?:^|(?<=[\"']))[ \t]*quit\b[ \t]*[^\s\"'#]*", re.MULTILINE)
_GOES_ON = "# orionflow: goes on at step "


@dataclass
class LammpsRun:
    """One input script on its way to a result.

    Attributes
    ----------
    earlier
        Text of the log of the attempts this one continues, joined; empty at a start from zero.
    earlier_step
        Step from which the present attempt goes on.
    fresh, fresh_step
        The script before it was made to go on from a restart file, and the step it began at.
    begun_at
        Step at which a script that was put back to its start begins.
    """

    folder: Path
    job: LammpsJob
    earlier: str = ""
    earlier_step: int | None = None
    fresh: Script | None = None
    fresh_step: int | None = None
    begun_at: int | None = None
    _seen: tuple[int, int, LammpsOutput] | None = field(default=None, repr=False)
    _joined: tuple[int, int, int, LammpsOutput] | None = field(default=None, repr=False)

    @property
    def script(self) -> Script:
        """The script of the next attempt; rules edit it."""
        return self.job.script

    def remember(self, text: str, step: int) -> None:
        """Keep the log of what is already done, also for a later launch."""
        self.earlier, self.earlier_step = text, step
        (self.folder / EARLIER_LOG).write_text(f"{_GOES_ON}{step}\n{text}")
        if self.fresh is not None:
            (self.folder / FIRST_SCRIPT).write_text(self.fresh.text(), errors="surrogateescape")

    def recall(self) -> None:
        """Take up the log of earlier launches, and the script they began with."""
        head, _, text = read_text(self.folder / EARLIER_LOG).partition("\n")
        if head.startswith(_GOES_ON) and head.removeprefix(_GOES_ON).isdigit():
            self.earlier, self.earlier_step = text, int(head.removeprefix(_GOES_ON))
            first = read_text(self.folder / FIRST_SCRIPT)
            if first:
                self.fresh, self.fresh_step = Script(first), first_step(text)

    def forget(self) -> None:
        """Remove what an earlier simulation in this folder left for its continuation."""
        for file in self.folder.glob("orionflow.*"):
            if file.name.endswith(".restart") or file.name in {
                    EARLIER_LOG, FIRST_SCRIPT, DANGER_FILE}:
                file.unlink()

    def begin_again(self) -> list[str]:
        """Put a script that goes on from a restart file back to its start; return the change.

        What is wrong with the dynamics is wrong in the part before the restart file, too.
        """
        if self.fresh is None:
            return []
        self.script.restore_to(self.fresh)
        self.begun_at = self.fresh_step
        self.fresh = self.fresh_step = None
        self.earlier, self.earlier_step = "", None
        self.forget()
        return ["start: restart file -> from the beginning"]

    def output(self, attempt: Attempt) -> LammpsOutput:
        """Return what the attempt printed; the screen first, the log where that is silent."""
        key = (attempt.number, len(attempt.stdout))
        if self._seen is None or self._seen[:2] != key:
            found = parse_output(attempt.stdout)
            if not found.runs:
                log = parse_output(read_text(self.folder / self.job.log))
                if log.runs or (log.errors and not found.errors):
                    log.errors = log.errors or found.errors
                    log.ended = log.ended or found.ended
                    found = log
            found.units = found.units or model.units(self.script)
            self._seen = (*key, found)
        return self._seen[2]

    def whole(self, attempt: Attempt) -> tuple[Script, LammpsOutput]:
        """Return script and output of the simulation from its start, earlier parts included."""
        found = self.output(attempt)
        if not self.earlier or self.fresh is None:
            return self.script, found
        key = (attempt.number, len(attempt.stdout), len(self.earlier))
        if self._joined is None or self._joined[:3] != key:
            text = merge_logs(self.earlier, self.earlier_step, attempt.stdout)
            joined = found if text == attempt.stdout else parse_output(text)
            joined.units = joined.units or found.units
            self._joined = (*key, joined)
        joined = self._joined[3]
        return (self.script, found) if joined is found else (self.fresh, joined)

    @property
    def units(self) -> str:
        """Unit style: as printed (a restart file brings its own along), else as in the script."""
        return self._seen[2].units if self._seen is not None else model.units(self.script)

    def quits(self) -> Iterator[str]:
        """Go through the `quit` commands of the script and of the files it jumps to."""
        texts = [self.script.text()]
        texts += [read_text(self.folder / c.args[0]) for c in self.script.all("include", "jump")
                  if c.args and "$" not in c.args[0]]
        for text in texts:
            for match in _QUIT.finditer(text):
                yield match[0].strip()

    def complete(self, attempt: Attempt) -> bool:
        """Whether LAMMPS ended by itself and without an error."""
        found = self.output(attempt)
        return attempt.returncode == 0 and not found.errors and (
            found.ended or self._ended_by_quit(attempt, found))

    def _ended_by_quit(self, attempt: Attempt, found: LammpsOutput) -> bool:
        """Whether a `quit` may have ended it: LAMMPS prints no last line then.

        Its last run must be printed to its end, or the output is only cut short.
        """
        if next(self.quits(), None) is None or not found.runs:
            return False
        last = found.runs[-1]
        whole = last.dangerous is not None or last.steps == 0 or any(
            "post" in c.args for c in self.script.all("run"))
        return (whole and all(r.steps is not None for r in found.runs)
                and (not attempt.stdout or attempt.stdout.endswith("\n")))


def first_step(text: str) -> int | None:
    """Return the step at which the dynamics of a log begin."""
    return next((r.first_step for r in parse_output(text).runs if not r.minimize), None)
