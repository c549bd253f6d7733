"""A campaign in plain values, for people, programs and agents alike."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orionflow.agents.campaign_document import ENDED, CampaignState
from orionflow.agents.records import CandidateState, View, budget_seconds
from orionflow.agents.stopping import end_of, exhausted, front

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orionflow.agents.records import Candidate

_REASONS = 8


@dataclass(frozen=True)
class Best:
    """A candidate with its result.

    Attributes
    ----------
    values
        Objective's path -> value.
    sigma
        Objective's path -> 1 standard deviation of the model at that point, in the unit of the
        value; None where no model says anything. See `uncertainty`.
    result
        Id (uuid) of the stored result.
    """

    candidate: int
    point: dict[str, Any]
    values: dict[str, float]
    result: str | None
    sigma: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class CampaignStatus:
    """Where a campaign stands.

    Attributes
    ----------
    reason
        Why it is in that state.
    core_hours, spent, reserved, left
        Budget; cost of settled candidates; set aside for open ones; what may still be reserved.
    evaluations, evaluations_allowed
        Candidates so far and at most.
    open, done, failed
        Candidates that wait or run, have values, or have failed for good.
    awaiting_approval
        Open candidates a person must agree to first.
    failures
        Reason and number, most frequent first.
    best
        Of least loss.
    front
        Of a Pareto search: all that nothing betters in every objective.
    next
        What happens, or is to be done, next.
    predicted_finish
        When the budget or the evaluations are used up at the present pace (ISO 8601, UTC); a
        stopping rule may end it earlier. None when it can't be told or has ended.
    """

    name: str
    owner: str
    state: str
    reason: str
    description: str
    recipe: str
    objectives: list[str]
    core_hours: float
    spent: float
    reserved: float
    left: float
    evaluations: int
    evaluations_allowed: int
    open: int
    done: int
    failed: int
    awaiting_approval: list[int] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None
    front: list[Best] = field(default_factory=list)
    next: str = ""
    predicted_finish: str | None = None
    started_at: str = ""
    changed_at: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def status_of(view: View, now: datetime | None = None, *,
              sigma: Sequence[float] | None = None) -> CampaignStatus:
    """Return the status of a campaign as its ledger tells it.

    Parameters
    ----------
    view
        From `Ledger.view`.
    now
        The present unless given.
    sigma
        Of the best candidate's values, in the order of the objectives, if known.
    """
    campaign, now = view.campaign, now or datetime.now(UTC)
    done = view.done()
    failed = [c for c in view.candidates.values()
              if c.state in {CandidateState.FAILED, CandidateState.ABANDONED}]
    waiting = [c.seq for c in view.open if view.needs_approval(c)]
    best = view.best()
    pareto = campaign.combine == "pareto"
    return CampaignStatus(
        name=campaign.name, owner=campaign.owner, state=view.state.value, reason=view.reason,
        description=campaign.description, recipe=campaign.recipe,
        objectives=[describe_objective(o) for o in campaign.objectives],
        core_hours=budget_seconds(campaign) / 3600, spent=view.spent / 3600,
        reserved=view.reserved / 3600, left=view.left / 3600,
        evaluations=len(view.candidates), evaluations_allowed=campaign.budget.evaluations,
        open=len(view.open), done=len(done), failed=len(failed), awaiting_approval=waiting,
        failures=_reasons(failed), best=_best(view, best, sigma) if best else None,
        front=[_best(view, done[i]) for i in front(campaign, [c.values or [] for c in done])]
        if pareto else [],
        next=_next(view, waiting, now), predicted_finish=_finish(view, now),
        started_at=view.started_at, changed_at=view.changed_at,
    )


def describe_objective(objective: Any) -> str:
    """Return an objective in words: ``minimize b0 (GPa)``, ``match a0 = 3.57 ± 0.01``."""
    text = f"{objective.goal} {objective.path}"
    if objective.goal == "match":
        text += f" = {objective.target:g}"
        text += f" ± {objective.tolerance:g}" if objective.tolerance else ""
    elif objective.target is not None:
        text += f", good enough at {objective.target:g}"
    return text + (f" ({objective.unit})" if objective.unit else "")


def _best(view: View, candidate: Candidate, sigma: Sequence[float] | None = None) -> Best:
    paths = [o.path for o in view.campaign.objectives]
    spread: Sequence[float | None] = sigma or [None] * len(paths)
    return Best(candidate.seq, dict(candidate.point),
                dict(zip(paths, candidate.values or [], strict=True)), candidate.result,
                dict(zip(paths, spread, strict=True)))


def _reasons(failed: list[Candidate]) -> list[dict[str, Any]]:
    counts = Counter(c.reason for c in failed)
    return [{"reason": reason, "count": count,
             "candidates": [c.seq for c in failed if c.reason == reason][:_REASONS]}
            for reason, count in counts.most_common(_REASONS)]


def _next(view: View, waiting: list[int], now: datetime) -> str:
    name = view.campaign.name
    if view.state in ENDED:
        left = f"; {len(view.open)} running candidate(s) are still collected" if view.open else ""
        return f"it has ended{left}: orionflow campaign report {name}"
    if view.state is not CampaignState.RUNNING:
        return (f"start it: orionflow campaign start {name}" if view.state is CampaignState.DRAFT
                else f"go on: orionflow campaign resume {name}")
    if waiting:
        return (f"{len(waiting)} candidate(s) wait for a person's consent: orionflow campaign "
                f"approve {name}")
    if view.open:
        return f"{len(view.open)} candidate(s) wait or run; each advance collects what is finished"
    reason = exhausted(view, now)
    return (f"the next advance ends it ({reason})" if reason else
            f"the next advance proposes candidates: orionflow campaign advance {name}")


def _finish(view: View, now: datetime) -> str | None:
    if view.state is not CampaignState.RUNNING or not view.started_at:
        return None
    settled = [c for c in view.candidates.values() if c.settled_at]
    if not settled:
        return None
    started = datetime.fromisoformat(view.started_at)
    last = max(datetime.fromisoformat(c.settled_at) for c in settled)
    pace = (last - started) / len(settled)
    each = max(view.spent / len(settled), 1.0)
    remaining = min(view.campaign.budget.evaluations - len(settled),
                    len(view.open) + view.left / each)
    finish = max(last + pace * max(remaining, 0.0), now)
    end = end_of(view.campaign.budget.until)
    if end is not None and finish > end:
        finish = max(end, now)
    if finish - now > timedelta(days=3650):
        return None
    return finish.isoformat(timespec="seconds")
