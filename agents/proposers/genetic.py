"""A genetic algorithm: for many cheap evaluations and rough landscapes.

Works on any space: structures of a pool, compositions, numbers. The parents are simply the best
finished rows, so there are no generations to wait for and nothing to remember.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orionflow.agents.proposers import Trial, known_hashes, sobol
from orionflow.agents.proposers import random as uniform
from orionflow.agents.space import hash_point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from orionflow.agents.space import Point, Space

    FloatArray = NDArray[np.float64]

POPULATION = 20
_ROUNDS = 50
_SPREAD = 0.1
_NEWCOMERS = 0.1


def propose(space: Space, rows: Sequence[Trial], pending: Sequence[Point], k: int,
            seed: int) -> list[Point]:
    """Return ``k`` children of the best finished points.

    Parents are the winners of tournaments among the best ``POPULATION``. A child takes each
    variable from one of two parents; numbers are blended and moved, choices sometimes redrawn. One
    in ten is a newcomer. Parameters as in ``random.propose``.
    """
    done = sorted((t for t in rows if t.loss is not None), key=lambda t: t.loss or 0.0)
    begin = min(POPULATION, 4 + 2 * space.dimension) - len(rows) - len(pending)
    chosen: list[Point] = []
    if begin > 0 or len(done) < 2:  # noqa: PLR2004  two parents
        count = min(k, begin) if len(done) >= 2 and begin > 0 else k  # noqa: PLR2004
        chosen = sobol.propose(space, rows, pending, count, seed)
    seen = known_hashes(rows, [*pending, *chosen])
    rng = np.random.default_rng([seed, len(seen)])
    finite = space.candidates()
    left = None if finite is None else [p for p in finite if hash_point(p) not in seen]
    parents = space.encode([t.point for t in done[:POPULATION]])
    for _ in range(_ROUNDS * k):
        if len(chosen) >= k or len(parents) < 2 or left == []:  # noqa: PLR2004
            break
        child = (rng.random(space.dimension) if rng.random() < _NEWCOMERS
                 else _child(space, parents, rng))
        point = space.decode(child[None, :])[0]
        if left is not None:
            point = _nearest(space, left, child)
            left = [p for p in left if p is not point]
        elif hash_point(point) in seen or not space.feasible(point):
            continue
        chosen.append(point)
        seen.add(hash_point(point))
    if len(chosen) < k:
        chosen += uniform.propose(space, rows, [*pending, *chosen], k - len(chosen), seed)
    return chosen


def _child(space: Space, parents: FloatArray, rng: np.random.Generator) -> FloatArray:
    # The parents are sorted: the smaller of two random ranks wins the tournament.
    mother, father = (parents[int(rng.integers(len(parents), size=2).min())] for _ in range(2))
    blocks, at = [], 0
    for v in space.variables:
        one, other = mother[at:at + v.dimension], father[at:at + v.dimension]
        at += v.dimension
        if v.type == "categorical":
            block = one if rng.random() < 0.5 else other  # noqa: PLR2004  a fair coin
        else:
            # Up to a quarter beyond either parent.
            block = one + rng.uniform(-0.25, 1.25) * (other - one)
        if rng.random() < 1.5 / len(space.variables):
            block = (rng.random(v.dimension) if v.type == "categorical"
                     else block + rng.normal(scale=_SPREAD, size=v.dimension))
        blocks.append(block)
    child: FloatArray = np.clip(np.concatenate(blocks), 0.0, 1.0)
    return child


def _nearest(space: Space, points: list[Point], unit: FloatArray) -> Point:
    where = space.features(space.encode(points))
    distance = np.sum((where - space.features(unit[None, :])) ** 2, axis=1)
    return points[int(np.argmin(distance))]
