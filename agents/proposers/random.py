"""Uniform random points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orionflow.agents.proposers import Trial, known_hashes
from orionflow.agents.space import hash_point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orionflow.agents.space import Point, Space


def propose(space: Space, rows: Sequence[Trial], pending: Sequence[Point], k: int,
            seed: int) -> list[Point]:
    """Return ``k`` random points that are neither known nor pending.

    Parameters
    ----------
    space
        Where to look.
    rows, pending
        What is finished, and what has been proposed and is not finished.
    k
        How many points.
    seed
        Same seed and same ledger: same points.

    Returns
    -------
    list
        Fewer than ``k`` when a finite space is used up.
    """
    seen = known_hashes(rows, pending)
    rng = np.random.default_rng([seed, len(seen)])
    finite = space.candidates()
    if finite is not None:
        left = [p for p in finite if hash_point(p) not in seen]
        return [left[i] for i in rng.permutation(len(left))[:k]]
    return space.fresh(lambda n: rng.random((n, space.dimension)), k, seen)
