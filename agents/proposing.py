"""Which points come next: those given, an even first design, then the proposer."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orionflow.agents.proposers import get_proposer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orionflow.agents.records import View
    from orionflow.agents.space import Point


@dataclass(frozen=True)
class Proposal:
    """A point, who thought of it, and why, for the record."""

    point: Point
    source: str
    why: dict[str, Any] = field(default_factory=dict)


def proposals(view: View, count: int) -> list[Proposal]:
    """Return up to ``count`` new points; a pure function of the ledger.

    Parameters
    ----------
    view
        The campaign as its ledger tells it.
    count
        How many at most.

    Returns
    -------
    list
        Fewer, even none, when a finite space is used up.
    """
    campaign = view.campaign
    space, seed = campaign.space, campaign.proposer.seed
    known = {c.x_hash for c in view.candidates.values()}
    found: list[Proposal] = []
    for given in campaign.initial.given:
        point = space.check(given)
        if len(found) < count and space.x_hash(point) not in known:
            found.append(Proposal(point, "given"))
    rows = view.trials()
    pending = [c.point for c in view.open]
    method = campaign.initial.method
    made = sum(c.source == f"initial:{method}" for c in view.candidates.values())
    wanted = min(count - len(found), campaign.initial.points - made)
    with one_thread():
        if wanted > 0:
            points = get_proposer(method)(space, rows, [*pending, *_points(found)], wanted, seed)
            found += [Proposal(p, f"initial:{method}", {"seed": seed}) for p in points]
        if len(found) < count:
            name = campaign.proposer.name
            points = get_proposer(name)(space, rows, [*pending, *_points(found)],
                                        count - len(found), seed)
            why = {"proposer": name, "seed": seed, "learnt_from": len(rows),
                   "pending": len(pending)}
            weights = campaign.pareto_weights(view.head)
            found += [Proposal(p, name, {**why, **({"weights": weights} if weights else {})})
                      for p in points]
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep linear algebra on one core: on a login node others work too, and it is faster so."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:  # comes with scikit-learn; without it there is no model to fit
        yield
        return
    with threadpool_limits(limits=1):
        yield


def _points(found: list[Proposal]) -> list[Point]:
    return [p.point for p in found]
