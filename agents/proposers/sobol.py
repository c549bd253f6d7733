"""Even coverage: scrambled Sobol points and Latin hypercubes.

I. M. Sobol, USSR Comput. Math. Math. Phys. 7, 86 (1967), doi:10.1016/0041-5553(67)90144-9;
M. D. McKay, R. J. Beckman, W. J. Conover, Technometrics 21, 239 (1979), doi:10.2307/1268522.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orionflow.agents.proposers import Trial, known_hashes
from orionflow.agents.proposers import random as uniform
from orionflow.agents.space import hash_point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from orionflow.agents.space import Point, Space


def propose(space: Space, rows: Sequence[Trial], pending: Sequence[Point], k: int,
            seed: int) -> list[Point]:
    """Return the next ``k`` points of a scrambled Sobol sequence that are new.

    The sequence depends on the seed alone: what was proposed before is recognised by its hash and
    passed over, so asking for 3 and then for 5 gives the same 8 as asking at once. In a pool the
    candidates nearest to the sequence are taken. Parameters as in ``random.propose``.
    """
    from scipy.stats import qmc

    seen = known_hashes(rows, pending)
    engine = qmc.Sobol(space.dimension, scramble=True, rng=np.random.default_rng(seed))
    if space.pool is not None:
        unit: NDArray[np.float64] = engine.random_base2(_power(len(seen) + k))
        return _nearest(space, unit, seen, k)

    def draw(n: int) -> NDArray[np.float64]:
        block: NDArray[np.float64] = engine.random(2 ** _power(n))
        return block

    found = space.fresh(draw, k, seen)
    # A finite space is covered by chance only in the end.
    return found + uniform.propose(space, rows, [*pending, *found], k - len(found), seed)


def propose_latin(space: Space, rows: Sequence[Trial], pending: Sequence[Point], k: int,
                  seed: int) -> list[Point]:
    """Return a Latin hypercube of ``k`` points; parameters as in ``random.propose``."""
    from scipy.stats import qmc

    seen = known_hashes(rows, pending)
    engine = qmc.LatinHypercube(space.dimension, rng=np.random.default_rng([seed, len(seen)]))
    unit: NDArray[np.float64] = engine.random(k)
    if space.pool is not None:
        return _nearest(space, unit, seen, k)
    # Points that break a constraint are replaced by other hypercubes' until there are k.
    state = {"first": True}

    def draw(n: int) -> NDArray[np.float64]:
        if state.pop("first", False):
            return unit
        more: NDArray[np.float64] = engine.random(n)
        return more

    found = space.fresh(draw, k, seen)
    return found + uniform.propose(space, rows, [*pending, *found], k - len(found), seed)


def _nearest(space: Space, unit: NDArray[np.float64], seen: set[str], k: int) -> list[Point]:
    """Return the candidate of the pool nearest to each coordinate, each once."""
    left = [p for p in space.candidates() or [] if hash_point(p) not in seen]
    where = space.features(space.encode(left)) if left else np.zeros((0, 1))
    chosen: list[Point] = []
    free = np.ones(len(left), dtype=bool)
    for target in space.features(unit):
        if len(chosen) == k or not free.any():
            break
        distance = np.where(free, np.sum((where - target) ** 2, axis=1), np.inf)
        best = int(np.argmin(distance))
        free[best] = False
        chosen.append(left[best])
    return chosen


def _power(n: int) -> int:
    return max(int(np.ceil(np.log2(max(n, 1)))), 0)
