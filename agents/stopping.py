"""When a campaign is at its end: pure functions of what its ledger says."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING

from orionflow.agents.campaign_document import Campaign, CampaignState
from orionflow.agents.records import SETTLED, CandidateState, View, budget_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

Verdict = tuple[CampaignState, str]


def decide(view: View, now: datetime) -> Verdict | None:
    """Return the state a running campaign ends in and why, or None: go on.

    Rules that need no more results (target, improvement, failures) end it at once; a budget that
    is used up only when nothing is running any more.
    """
    if found := _target(view) or _failures(view) or _no_improvement(view):
        return found
    waiting = [c for c in view.open if view.needs_approval(c)]
    end = end_of(view.campaign.budget.until)
    # After the end of its time a campaign waits for what runs, and not for a person's consent.
    if view.open and (len(waiting) < len(view.open) or end is None or now < end):
        return None
    if reason := exhausted(view, now):
        return CampaignState.COMPLETED, reason
    return None


def exhausted(view: View, now: datetime) -> str:
    """Return why nothing more may be proposed, empty while something may."""
    budget = view.campaign.budget
    if len(view.candidates) >= budget.evaluations:
        return f"budget: all {budget.evaluations} evaluations are made"
    end = end_of(budget.until)
    if end is not None and now >= end:
        return f"until: {end.isoformat(timespec='minutes')} is over"
    need = expected_cost(view)
    if view.left < need:
        return (f"budget: {view.left / 3600:.3g} core-hours are left of "
                f"{budget.core_hours:g}, a candidate needs {need / 3600:.3g}")
    return ""


def expected_cost(view: View) -> int:
    """Return the core-seconds the next candidate would reserve: as the last one did."""
    if view.campaign.budget.core_hours_each is not None:
        return view.campaign.reservation()
    return max((c.first_reserved for c in view.candidates.values() if not c.refused),
               default=view.campaign.reservation())


def end_of(until: datetime | date | None) -> datetime | None:
    """Return the moment meant: a date's end, a time without zone in UTC."""
    if until is None:
        return None
    if not isinstance(until, datetime):
        until = datetime.combine(until, time.max)
    return until if until.tzinfo else until.replace(tzinfo=UTC)


def improvements(campaign: Campaign, values: Sequence[Sequence[float]]) -> list[bool]:
    """Return of each result, in order, whether it bettered what was known before."""
    found: list[bool] = []
    if campaign.combine == "pareto":
        for n, one in enumerate(values):
            found.append(not any(dominates(campaign, other, one, slack=True)
                                 for other in values[:n]))
        return found
    best = float("inf")
    for one in values:
        loss = campaign.loss(one)
        better = loss < best - (campaign.stopping.improvement if best < float("inf") else 0.0)
        found.append(better)
        # Many steps, each too small to count, add up and do count.
        best = loss if better else best
    return found


def dominates(campaign: Campaign, one: Sequence[float], other: Sequence[float], *,
              slack: bool = False) -> bool:
    """Whether one result is nowhere worse than the other and somewhere better.

    With ``slack`` being equal everywhere is enough.
    """
    a = [o.loss(v) for o, v in zip(campaign.objectives, one, strict=True)]
    b = [o.loss(v) for o, v in zip(campaign.objectives, other, strict=True)]
    return all(x <= y for x, y in zip(a, b, strict=True)) and (slack or a != b)


def front(campaign: Campaign, values: Sequence[Sequence[float]]) -> list[int]:
    """Return the positions of results that no other one dominates."""
    return [n for n, one in enumerate(values)
            if not any(dominates(campaign, other, one) for other in values)]


def _target(view: View) -> Verdict | None:
    if not view.campaign.stopping.target_reached:
        return None
    for candidate in view.done():
        if view.campaign.reached(candidate.values or []):
            values = ", ".join(f"{o.path} = {v:.6g}" for o, v in zip(
                view.campaign.objectives, candidate.values or [], strict=True))
            return (CampaignState.COMPLETED,
                    f"target_reached: candidate {candidate.seq} has {values}")
    return None


def _failures(view: View) -> Verdict | None:
    rule = view.campaign.stopping
    settled = [c for c in view.candidates.values() if c.state in SETTLED]
    failed = sum(c.state is not CandidateState.DONE for c in settled)
    if len(settled) >= rule.failure_rate_after and failed > rule.failure_rate * len(settled):
        return (CampaignState.FAILED, (f"failure_rate: {failed} of {len(settled)} candidates "
                f"failed, more than {rule.failure_rate:g}"))
    return None


def _no_improvement(view: View) -> Verdict | None:
    limit = view.campaign.stopping.no_improvement_in
    done = view.done()
    # An even first design is there to be looked at as a whole.
    if limit is None or len(done) < limit + max(view.campaign.initial.points, 1):
        return None
    better = improvements(view.campaign, [c.values or [] for c in done])
    if any(better[-limit:]):
        return None
    return CampaignState.COMPLETED, f"no_improvement_in: none of the last {limit} was better"


__all__ = ["Verdict", "budget_seconds", "decide", "dominates", "end_of", "exhausted",
           "expected_cost", "front", "improvements"]
