"""A regular grid, coarse first, refined when it is used up."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from orionflow.agents.proposers import Trial, known_hashes
from orionflow.agents.space import hash_point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orionflow.agents.space import Point, Space

_MOST = 200_000


def propose(space: Space, rows: Sequence[Trial], pending: Sequence[Point], k: int,
            seed: int) -> list[Point]:
    """Return the next ``k`` points of a grid.

    Levels with 2, 3, 5, 9, 17 ... values of each coordinate contain one another, so nothing is
    wasted when a level is finished. The order inside a level is random (by the seed), so that an
    early end does not leave one corner unseen. Parameters as in ``random.propose``.
    """
    if k <= 0:
        return []
    seen = known_hashes(rows, pending)
    rng = np.random.default_rng(seed)
    found: dict[str, Point] = {}
    finite = space.candidates()
    if finite is not None:
        left = [p for p in finite if hash_point(p) not in seen]
        return [left[i] for i in rng.permutation(len(left))[:k]]
    for level in itertools.count():
        values = np.linspace(0.0, 1.0, 2**level + 1)
        if len(values) ** space.dimension > _MOST:
            break
        unit = np.array(list(itertools.product(values, repeat=space.dimension)))
        for point in space.decode(rng.permutation(unit)):
            x_hash = hash_point(point)
            if x_hash in seen or x_hash in found or not space.feasible(point):
                continue
            found[x_hash] = point
            if len(found) == k:
                return list(found.values())
    from orionflow.agents.proposers import sobol

    # Finer grids than this no campaign can fill.
    new = list(found.values())
    return new + sobol.propose(space, rows, [*pending, *new], k - len(new), seed)
