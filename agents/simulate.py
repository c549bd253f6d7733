"""A campaign played through on known results, before core-hours are spent on a real one.

The same proposer, batches and stopping rules as in a real campaign, and a table instead of a
queue. How much sooner than by chance it finds the goal is told with an interval: one lucky seed
proves nothing.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from orionflow.agents.campaign_document import Campaign, CampaignState
from orionflow.agents.proposing import proposals
from orionflow.agents.records import Candidate, CandidateState, View
from orionflow.agents.space import hash_point
from orionflow.agents.stopping import decide
from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from orionflow.agents.space import Point

_LEAST = 5
_BOOTSTRAPS = 2000
_TOP = 0.01
_RANDOM_RUNS = 200
_PATIENCE = 3


@dataclass(frozen=True)
class Known:
    """A point and its result."""

    point: Point
    values: list[float]


@dataclass
class Simulation:
    """How a campaign would have gone.

    Attributes
    ----------
    candidates
        Size of the table.
    goal
        What counts as found.
    good
        How many of the candidates are that good.
    found_after
        Evaluations until the goal, for each seed; None where the budget did not suffice.
    random_after
        The same for random search, without a limit.
    random_found
        Share of random searches that find it within the budget.
    best, random_best
        Loss of the best candidate after each evaluation, median over seeds.
    ended
        Reason and number of campaigns that ended so.
    acceleration
        Median evaluations random search needs over those this campaign's proposer needs. Where a
        campaign ended before the goal, its proposer is played on; where it has not found it in
        three times the evaluations either, it counts as if it had tried the whole table.
    interval
        95 % interval of it, by drawing seeds anew.
    """

    name: str
    proposer: str
    seeds: int
    evaluations: int
    candidates: int
    goal: str
    good: int
    found_after: list[int | None]
    random_after: list[int]
    random_found: float
    acceleration: float
    interval: tuple[float, float]
    best: list[float] = field(default_factory=list)
    random_best: list[float] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=dict)

    @property
    def found(self) -> float:
        """Share of seeds that found the goal within the budget."""
        return sum(n is not None for n in self.found_after) / len(self.found_after)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "found": self.found}


def simulate(campaign: Campaign, table: Sequence[Known], *, seeds: int = 10,
             progress: Callable[[int], None] | None = None) -> Simulation:
    """Play a campaign through on a table of known results.

    Parameters
    ----------
    campaign
        Its search space is replaced by the points of the table.
    table
        Every candidate there is, with its values.
    seeds
        How many campaigns, each with another seed of its proposer.
    progress
        Called with the number of campaigns played.

    Raises
    ------
    InputError
        Fewer than five candidates, or none that is good enough.
    """
    if len(table) < _LEAST:
        raise InputError(f"{len(table)} known results are too few to judge a search by",
                         hint=f"give at least {_LEAST}")
    known = {hash_point(k.point): k.values for k in table}
    # A date is no rule of a game that takes seconds: it may be over long since.
    pool = campaign.model_copy(update={
        "budget": campaign.budget.model_copy(update={"until": None}),
        "space": campaign.space.model_copy(update={"pool": tuple(k.point for k in table)})})
    good, goal = _goal(campaign, table)
    limit = min(campaign.budget.evaluations, len(table))
    runs: list[_Played] = []
    for seed in range(seeds):
        runs.append(_play(pool, known, good, seed, patience=min(_PATIENCE * limit, len(table))))
        if progress is not None:
            progress(seed + 1)
    hits = [next((n for n, x in enumerate(r.points, 1) if hash_point(x) in good), None)
            for r in runs]
    after = [n if n is not None and n <= r.ended_after else None
             for n, r in zip(hits, runs, strict=True)]
    curves = [_best_so_far(campaign, [known[hash_point(x)] for x in r.points[:r.ended_after]],
                           limit) for r in runs]
    chance, chance_curves = _random(campaign, table, good, limit)
    counted = [len(table) if n is None else n for n in hits]
    ended: dict[str, int] = {}
    for run in runs:
        rule = run.reason.split(":", 1)[0]
        ended[rule] = ended.get(rule, 0) + 1
    return Simulation(
        name=campaign.name, proposer=campaign.proposer.name, seeds=seeds, evaluations=limit,
        candidates=len(table), goal=goal, good=len(good), found_after=after, random_after=chance,
        random_found=float(np.mean([n <= limit for n in chance])),
        acceleration=float(np.median(chance) / np.median(counted)),
        interval=_interval(chance, counted), ended=ended,
        best=np.median(curves, axis=0).tolist(),
        random_best=np.median(chance_curves, axis=0).tolist())


def known_results(view: View) -> list[Known]:
    """Return what a past campaign has found, as a table for another simulation."""
    return [Known(c.point, list(c.values or [])) for c in view.done()]


def read_table(path: Path, campaign: Campaign) -> list[Known]:
    """Read known results from a CSV file.

    Parameters
    ----------
    path
        One row a candidate; columns named as the variables (``pressure``, ``alloy.Cu``) and the
        objectives' paths. Other columns are ignored.
    campaign
        Tells the names; the points must lie in its search space.

    Raises
    ------
    InputError
        A column is missing, a value is no number, or a point is not in the space or there twice.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"can't read {path}: {error}", hint="give a CSV file") from error
    table: list[Known] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        try:
            point = campaign.space.check(_point(row, campaign))
            values = [float(_cell(row, o.path)) for o in campaign.objectives]
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error.message}", hint=error.hint) from error
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}",
                             hint="objectives must be numbers") from error
        if not np.isfinite(values).all():
            raise InputError(f"{path}, line {number}: an objective is not a finite number",
                             hint="leave out candidates without a result")
        x_hash = hash_point(point)
        if x_hash in seen:
            raise InputError(f"{path}, line {number}: the same candidate as line {seen[x_hash]}",
                             hint="keep one of them")
        seen[x_hash] = number
        table.append(Known(point, values))
    return table


def _cell(row: Mapping[str, str | None], name: str) -> str:
    value = row.get(name)
    if value is None or not value.strip():
        raise InputError(f"there is no {name!r}",
                         hint=f"columns: {', '.join(k for k in row if k)}")
    return value.strip()


def _point(row: Mapping[str, str | None], campaign: Campaign) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for variable in campaign.space.variables:
        if variable.type == "mixture":
            point[variable.name] = {p: float(_cell(row, f"{variable.name}.{p}"))
                                    for p in variable.parts}
        else:
            text = _cell(row, variable.name)
            point[variable.name] = text if variable.type == "categorical" else json.loads(text)
    return point


def _goal(campaign: Campaign, table: Sequence[Known]) -> tuple[set[str], str]:
    if any(o.target is not None for o in campaign.objectives):
        good = {hash_point(k.point) for k in table if campaign.reached(k.values)}
        if not good:
            raise InputError("no known result reaches the target of the campaign",
                             hint="simulate with a target that can be reached, or without one")
        return good, "the target"
    losses = np.array([campaign.loss(k.values) for k in table])
    count = max(1, round(_TOP * len(table)))
    order = np.argsort(losses, kind="stable")[:count]
    return ({hash_point(table[int(i)].point) for i in order},
            "the best one" if count == 1 else f"one of the best {count}")


@dataclass
class _Played:
    """Points in order, after how many its rules ended the campaign, and which did."""

    points: list[Point]
    ended_after: int = 0
    reason: str = ""


def _play(campaign: Campaign, known: Mapping[str, list[float]], good: set[str], seed: int, *,
          patience: int) -> _Played:
    """Play one campaign, and on beyond its end until the goal is found or patience is over."""
    chosen = campaign.proposer.model_copy(update={"seed": seed})
    view = View(campaign.model_copy(update={"proposer": chosen}), CampaignState.RUNNING, "", 0, {})
    cost = campaign.reservation()
    played = _Played([])
    hit = False
    while True:
        room = campaign.batch_size
        if not played.reason:
            verdict = decide(view, datetime.now(UTC))
            room = min(room, campaign.budget.evaluations - len(played.points), view.left // cost)
            if verdict is not None:
                played.ended_after, played.reason = len(played.points), verdict[1]
        if played.reason and (hit or len(played.points) >= patience):
            return played
        found = proposals(view, room if not played.reason else campaign.batch_size)
        if not found:
            played.reason = played.reason or "space: every candidate has been tried"
            played.ended_after = played.ended_after or len(played.points)
            return played
        for proposal in found:
            view.head += 1
            x_hash = hash_point(proposal.point)
            view.candidates[view.head] = Candidate(
                view.head, proposal.point, x_hash, CandidateState.DONE, cost, proposal.source,
                spent=cost, values=known[x_hash], settled_in=view.head, first_reserved=cost)
            played.points.append(proposal.point)
            hit = hit or x_hash in good


def _best_so_far(campaign: Campaign, values: Sequence[Sequence[float]], length: int
                 ) -> list[float]:
    """Return the least loss after each evaluation; after the end of a campaign it stays."""
    best = np.minimum.accumulate([campaign.loss(v) for v in values])
    return [float(best[min(n, len(best) - 1)]) for n in range(length)]


def _random(campaign: Campaign, table: Sequence[Known], good: set[str], limit: int
            ) -> tuple[list[int], list[list[float]]]:
    rng = np.random.default_rng(0)
    hits = np.array([hash_point(k.point) in good for k in table])
    losses = np.array([campaign.loss(k.values) for k in table])
    after, curves = [], []
    for _ in range(_RANDOM_RUNS):
        order = rng.permutation(len(table))
        after.append(int(np.argmax(hits[order])) + 1)
        curves.append(np.minimum.accumulate(losses[order[:limit]]).tolist())
    return after, curves


def _interval(chance: Sequence[int], counted: Sequence[int]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the ratio of medians.

    B. Efron, Ann. Statist. 7, 1 (1979), doi:10.1214/aos/1176344552.
    """
    rng = np.random.default_rng(1)
    drawn = [np.median(rng.choice(values, (_BOOTSTRAPS, len(values))), axis=1)
             for values in (np.array(chance), np.array(counted))]
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return float(low), float(high)
