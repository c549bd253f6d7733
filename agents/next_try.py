"""What another try of a candidate needs: more core-seconds for the jobs that failed. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orionflow.analysis.outcomes import FailureKind

if TYPE_CHECKING:
    from orionflow.agents.records import Candidate
    from orionflow.analysis.outcomes import Fate


@dataclass(frozen=True)
class NextTry:
    """Another try of a candidate.

    Attributes
    ----------
    launches
        Those that failed, ascending.
    reserved
        Core-seconds that must be reserved for the candidate in all: what was spent, and what its
        jobs may still take.
    set_aside
        What those jobs may take from now on (firework: core-seconds of all launches, old ones
        included).
    continued
        They had got further and only used up what was set aside for them.
    reason
        Why they failed.
    """

    launches: list[int]
    reserved: int
    set_aside: dict[int, int] = field(default_factory=dict)
    continued: bool = False
    reason: str = ""

    def to_row(self, candidate: int) -> dict[str, Any]:
        """Return what the ledger's row says."""
        return {"candidate": candidate, "launches": self.launches, "reason": self.reason,
                "continued": self.continued,
                "set_aside": {str(k): v for k, v in self.set_aside.items()}}

    @classmethod
    def of(cls, candidate: Candidate, fate: Fate, reason: str) -> NextTry:
        """Return what a candidate needs whose jobs have failed.

        Each gets a whole try beside what it has spent; one that was stopped before it got anywhere
        as much as it has spent, if that is more: the same again would not suffice.
        """
        launches = sorted(f.launch_id for f in fate.failed if f.launch_id is not None)
        if not candidate.each:  # proposed by an older version
            return cls(launches, fate.core_seconds + candidate.first_reserved, reason=reason)
        spent = {i: _whole(fate.spent.get(i, 0.0)) for i in fate.states}
        more = {}
        for job in fate.failed:
            whole = candidate.each
            if job.kind is FailureKind.UNFINISHED and not job.continued:
                whole = max(whole, spent[job.fw_id])
            more[job.fw_id] = max(spent[job.fw_id] + whole, fate.set_aside.get(job.fw_id, 0))
        # What is over takes no more; jobs that a running one has yet to make will get their share.
        reserved = candidate.each * max(candidate.jobs - len(fate.states), 0) + sum(
            spent[i] if state == "COMPLETED" else
            more.get(i, max(fate.set_aside.get(i, 0), candidate.set_aside.get(i, 0), spent[i]))
            for i, state in fate.states.items())
        return cls(launches, reserved, more, reason=reason, continued=all(
            f.kind is FailureKind.UNFINISHED and f.continued for f in fate.failed))


def _whole(seconds: float) -> int:
    return math.ceil(round(seconds, 3))
