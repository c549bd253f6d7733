"""One handler for each code: an ordered list of rules, of which the first that fits acts.

Custodian lets every matching handler correct, so two of them can edit the same key. A rule list
behind a single handler can't.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from custodian.custodian import ErrorHandler, Validator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orionflow.launchers.custodian.jobs import CodeJob


@dataclass(frozen=True)
class Attempt:
    """What one finished attempt left behind.

    Attributes
    ----------
    stopped_by
        Failure id and evidence of the monitor that ended it, if one did.
    seconds
        How long it ran, s.
    """

    folder: Path
    number: int
    stdout: str
    stderr: str
    returncode: int | None
    deadline: float | None = None
    stopped_by: tuple[str, str] | None = None
    seconds: float = 0.0

    def seconds_left(self) -> float:
        """Seconds until the allocation ends; infinite when it has no end."""
        return float("inf") if self.deadline is None else self.deadline - time.time()


class Rule(Protocol):
    """One failure: how it shows and what is done.

    A rule may have an attribute ``advice``, a sentence that replaces the catalogue's when it
    gives up, and ``transient``, which replaces the catalogue's.
    """

    failure_id: str

    def find(self, attempt: Attempt) -> str | None:
        """Return the line of evidence, or None when this failure is not there."""

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Change the input for the next attempt.

        Parameters
        ----------
        attempt
            The attempt that failed.
        times
            How often this failure has already been corrected in this job.

        Returns
        -------
        list of str or None
            The changes as readable lines (empty: run again unchanged), or None when nothing
            more can be done.
        """


@dataclass(frozen=True)
class Finding:
    """A rule that fits, with the line that shows it."""

    rule: Rule
    evidence: str


@dataclass
class RuleHandler(ErrorHandler):
    """Custodian handler that asks the rules of one code in order.

    Attributes
    ----------
    budget
        Corrections allowed in this job.
    on_correction
        Told of each correction at once.
    corrections
        Those of earlier launches that this one continues come first and count like its own.
    """

    job: CodeJob
    rules: Sequence[Rule]
    deadline: float | None = None
    budget: int = 5
    on_correction: Callable[[dict[str, Any]], None] | None = None
    corrections: list[dict[str, Any]] = field(default_factory=list)
    failure: Finding | None = None

    is_monitor = False
    is_terminating = True
    raises_runtime_error = True

    def as_dict(self) -> dict[str, Any]:
        """Return what custodian.json shows of this handler."""
        return {"@module": type(self).__module__, "@class": type(self).__name__}

    def attempt(self, directory: str) -> Attempt:
        """Read what the current attempt left in the folder."""
        folder = Path(directory)
        process = self.job.process
        stdout = "".join(read_text(folder / name) for name in (self.job.stdout, *self.job.also))
        return Attempt(
            folder=folder, number=self.job.attempt, stdout=stdout,
            stderr=read_text(folder / self.job.stderr),
            returncode=process.poll() if process else None, deadline=self.deadline,
            stopped_by=self.job.stopped_by, seconds=self.job.last_seconds,
        )

    def check(self, directory: str = "./") -> bool:
        """Whether a rule fits."""
        self.failure = find_failure(self.rules, self.attempt(directory))
        return self.failure is not None

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Apply the rule that was found; ``actions: None`` tells Custodian to stop."""
        if self.failure is None:
            return {"errors": [], "actions": None}
        rule, evidence = self.failure.rule, self.failure.evidence
        stop = {"errors": [rule.failure_id], "actions": None}
        if len(self.corrections) >= self.budget:
            return stop
        times = sum(c["failure_id"] == rule.failure_id for c in self.corrections)
        seen = self.attempt(directory)
        inputs = self.job.read_inputs(seen.folder)
        changes = rule.fix(seen, times)
        if changes is None:
            return stop
        attic = self.job.attic(seen.folder, inputs)
        changes = changes or ["run again unchanged"]
        correction = {
            "attempt": seen.number, "failure_id": rule.failure_id, "handler": type(rule).__name__,
            "changes": changes, "evidence": evidence.strip(), "folder": attic.name,
        }
        self.corrections.append(correction)
        if self.on_correction is not None:
            self.on_correction(correction)
        return {"errors": [rule.failure_id], "actions": changes}


@dataclass
class RuleValidator(Validator):
    """No result counts while a rule still finds a failure in it."""

    handler: RuleHandler

    def as_dict(self) -> dict[str, Any]:
        """Return what custodian.json shows of this validator."""
        return {"@module": type(self).__module__, "@class": type(self).__name__}

    def check(self, directory: str = "./") -> bool:
        """Whether the result must be refused."""
        return self.handler.check(directory)


def find_failure(rules: Sequence[Rule], attempt: Attempt) -> Finding | None:
    """Return the first rule that fits; the one a monitor named, if one ended the attempt."""
    if attempt.stopped_by is not None:
        failure_id, evidence = attempt.stopped_by
        for rule in rules:
            if rule.failure_id == failure_id:
                return Finding(rule, evidence)
        message = f"no rule for {failure_id}, which a monitor found: {evidence}"
        raise LookupError(message)
    for rule in rules:
        evidence_line = rule.find(attempt)
        if evidence_line is not None:
            return Finding(rule, evidence_line)
    return None


def read_text(path: Path, limit: int = 64 * 2**20) -> str:
    """Return a file as text, its first 2 MiB and last ``limit`` bytes; empty when there is none.

    Null bytes, which a lost node leaves in files, are dropped.
    """
    head = 2 * 2**20
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            if size <= limit + head:
                data = stream.read()
            else:
                data = stream.read(head)
                stream.seek(size - limit)
                data += b"\n" + stream.read()
    except OSError:
        return ""
    return data.decode(errors="replace").replace("\0", "")
