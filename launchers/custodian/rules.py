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
    from collections.abc import Sequence

    from orionflow.launchers.custodian.jobs import CodeJob


@dataclass(frozen=True)
class Attempt:
    """What one finished (or running) attempt left behind."""

    folder: Path
    number: int
    stdout: str
    stderr: str
    returncode: int | None
    deadline: float | None = None

    def seconds_left(self) -> float:
        """Seconds until the allocation ends; infinite when it has no end."""
        return float("inf") if self.deadline is None else self.deadline - time.time()


class Rule(Protocol):
    """One failure: how it shows and what is done."""

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
            How often this rule has already corrected this job.

        Returns
        -------
        list of str or None
            The changes as readable lines (empty: run again unchanged), or None when nothing
            more can be done.
        """


@dataclass
class RuleHandler(ErrorHandler):
    """Custodian handler that asks the rules of one code in order."""

    job: CodeJob
    rules: Sequence[Rule]
    deadline: float | None = None
    corrections: list[dict[str, Any]] = field(default_factory=list)
    failure: tuple[str, str] | None = None
    _fixes: dict[str, int] = field(default_factory=dict)
    _found: tuple[Rule, str] | None = None

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
        return Attempt(
            folder=folder, number=self.job.attempt,
            stdout=read_text(folder / self.job.stdout), stderr=read_text(folder / self.job.stderr),
            returncode=process.poll() if process else None, deadline=self.deadline,
        )

    def check(self, directory: str = "./") -> bool:
        """Whether a rule fits."""
        seen = self.attempt(directory)
        for rule in self.rules:
            evidence = rule.find(seen)
            if evidence is not None:
                self._found = (rule, evidence)
                self.failure = (rule.failure_id, evidence)
                return True
        self._found = None
        self.failure = None
        return False

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Apply the rule that was found; ``actions: None`` tells Custodian to stop."""
        if self._found is None:
            return {"errors": [], "actions": None}
        rule, evidence = self._found
        times = self._fixes.get(rule.failure_id, 0)
        seen = self.attempt(directory)
        changes = rule.fix(seen, times)
        if changes is None:
            return {"errors": [rule.failure_id], "actions": None}
        self._fixes[rule.failure_id] = times + 1
        changes = changes or ["run again unchanged"]
        self.corrections.append({
            "attempt": seen.number, "failure_id": rule.failure_id, "handler": type(rule).__name__,
            "changes": changes, "evidence": evidence,
        })
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


def read_text(path: Path, limit: int = 64 * 2**20) -> str:
    """Return a file as text, the last ``limit`` bytes of it; empty when there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - limit))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
