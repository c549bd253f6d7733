"""Bayesian optimisation: a Gaussian process and the logarithm of its expected improvement.

For evaluations that cost minutes to days, some ten to a thousand of them, and spaces of up to some
ten degrees of freedom.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from orionflow.agents.proposers import Trial, known_hashes, sobol
from orionflow.agents.proposers import random as uniform
from orionflow.agents.space import hash_point
from orionflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from orionflow.agents.proposers.surrogate import Surrogate
    from orionflow.agents.space import Point, Space

    FloatArray = NDArray[np.float64]

_START = 512
_ELITE, _CHILDREN = 8, 24
_SPREADS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
# Failures say something of points within a tenth of the space, little of what lies farther.
_NEAR, _HOPE = 0.1, 0.05


def initial_points(space: Space) -> int:
    """Return how many points are spread evenly before a model is asked."""
    return min(max(space.dimension + 2, 4), 12)


def check(space: Space) -> None:  # noqa: ARG001  any space can be searched
    """Refuse, as a ConfigError, to search without scikit-learn."""
    if find_spec("sklearn") is None:
        raise ConfigError("the proposer 'bayesian' needs scikit-learn, which is not installed",
                          hint="pip install 'orionflow[agents]'")


def propose(space: Space, rows: Sequence[Trial], pending: Sequence[Point], k: int,
            seed: int) -> list[Point]:
    """Return ``k`` points of high expected improvement.

    The first few points are a Sobol sequence. Then a Gaussian process is fitted to the finished
    points, their losses evened out; pending ones, and those just chosen for the batch, are
    believed to give what the model expects, so that a batch spreads. Failed points count as bad as
    the worst, and lower the chance that a point near them succeeds, which multiplies the
    improvement. Two models with different priors are asked, so that one which has fooled itself
    does not leave the search stranded. Parameters as in ``random.propose``.
    """
    chosen: list[Point] = []
    start = initial_points(space) - len(rows) - len(pending)
    if start > 0:
        chosen = sobol.propose(space, rows, pending, min(k, start), seed)
    done = [t for t in rows if t.loss is not None]
    if len(done) < 2:  # noqa: PLR2004  nothing can be fitted to one point
        more = k - len(chosen)
        return chosen + sobol.propose(space, rows, [*pending, *chosen], more, seed)
    if len(chosen) < k:
        chosen += _by_model(space, rows, [*pending, *chosen], k - len(chosen), seed)
    return chosen


def _by_model(space: Space, rows: Sequence[Trial], pending: list[Point], k: int,
              seed: int) -> list[Point]:
    from orionflow.agents.proposers import surrogate

    check(space)  # another machine, or another environment, than the one it was created in
    count = len(rows) + len(pending)
    rng = np.random.default_rng([seed, count])
    done = [t for t in rows if t.loss is not None]
    losses = tamed(np.array([t.loss for t in done], dtype=float))
    unit = space.encode([t.point for t in done])
    good = space.features(unit)
    failed = space.features(space.encode([t.point for t in rows if t.loss is None]))
    # A failure has no value; but were the model told nothing, it would go there again and again.
    known = np.concatenate([losses, np.full(len(failed), losses.max())])
    known = surrogate.evened(known)
    models = [surrogate.fit(np.vstack([good, failed]), known, seed, prior)
              for prior in surrogate.PRIORS]
    models = [m.believe(space.features(space.encode(pending))) for m in models]
    elite = unit[np.argsort(losses, kind="stable")[:_ELITE]]
    finite = space.candidates()
    seen = known_hashes(rows, pending)
    chosen: list[Point] = []
    for _ in range(k):
        search = _Search(space, models, good, failed)
        point = (search.among([p for p in finite if hash_point(p) not in seen])
                 if finite is not None else search.anywhere(elite, seen, rng))
        if point is None:
            break
        chosen.append(point)
        seen.add(hash_point(point))
        models = [m.believe(space.features(space.encode([point]))) for m in models]
    if len(chosen) < k and finite is None:
        chosen += uniform.propose(space, rows, [*pending, *chosen], k - len(chosen), seed)
    return chosen


class _Search:
    """The maximum of the acquisition function over a space."""

    def __init__(self, space: Space, models: list[Surrogate], good: FloatArray,
                 failed: FloatArray) -> None:
        self.space, self.models = space, models
        self.good, self.failed = good, failed

    def score(self, unit: FloatArray) -> FloatArray:
        """Return what is to be maximised, shape (n,), for coordinates, shape (n, dimension)."""
        from orionflow.agents.proposers import surrogate

        features = self.space.features(unit)
        # The best includes what is believed: an improvement that is pending is none any more.
        beliefs = [(*m.predict(features), float(m.losses.min())) for m in self.models]
        value: FloatArray = np.logaddexp.reduce([
            surrogate.log_expected_improvement(mean, sigma, best)
            for mean, sigma, best in beliefs])
        if len(self.failed):
            good, failed = (_closeness(features, known) for known in (self.good, self.failed))
            value = value + np.log((good + _HOPE) / (good + failed + _HOPE))
        return value

    def among(self, points: list[Point]) -> Point | None:
        """Return the best of a list."""
        if not points:
            return None
        return points[int(np.argmax(self.score(self.space.encode(points))))]

    def anywhere(self, elite: FloatArray, seen: set[str], rng: np.random.Generator
                 ) -> Point | None:
        """Return the best point found: broad sampling, then ever closer around the best ones.

        No gradients, so that choices, whole numbers, mixtures and constraints are all the same.
        """
        from scipy.stats import qmc

        dimension = self.space.dimension
        start = qmc.Sobol(dimension, rng=rng).random(_START)
        pool = self._allowed(np.vstack([start, elite, self._around(elite, 0.1, rng)]))
        if not len(pool):
            return None
        scores = self.score(pool)
        for spread in _SPREADS:
            order = np.argsort(-scores, kind="stable")[:_ELITE]
            children = self._allowed(self._around(pool[order], spread, rng))
            pool, scores = pool[order], scores[order]
            if len(children):
                pool = np.vstack([pool, children])
                scores = np.concatenate([scores, self.score(children)])
        for index in np.argsort(-scores, kind="stable"):
            point = self.space.decode(pool[index:index + 1])[0]
            if hash_point(point) not in seen and self.space.feasible(point):
                return point
        return None

    def _around(self, centres: FloatArray, spread: float, rng: np.random.Generator) -> FloatArray:
        """Move a few coordinates of each centre, or all."""
        shape = (len(centres), _CHILDREN, centres.shape[1])
        share = rng.choice([1.5 / centres.shape[1], 1.0], size=(*shape[:2], 1))
        moved = rng.random(shape) < share
        step = rng.normal(scale=spread, size=shape) * moved
        new: FloatArray = np.clip(centres[:, None, :] + step, 0.0, 1.0).reshape(-1, shape[2])
        # A choice or a whole number only changes by jumps.
        jump = moved.reshape(new.shape) & (rng.random(new.shape) < 0.05)  # noqa: PLR2004  one in twenty
        return np.where(jump, rng.random(new.shape), new)

    def _allowed(self, unit: FloatArray) -> FloatArray:
        if not self.space.constraints:
            return unit
        return unit[[self.space.feasible(p) for p in self.space.decode(unit)]]


def _closeness(features: FloatArray, known: FloatArray) -> FloatArray:
    """Return how many known points are near, each counted by a Gaussian of its distance."""
    squares = ((features[:, None, :] - known[None, :, :]) ** 2).sum(axis=2)
    total: FloatArray = np.exp(-0.5 * squares / (_NEAR**2 * features.shape[1])).sum(axis=1)
    return total


def tamed(losses: FloatArray) -> FloatArray:
    """Return losses, shape (n,), without what lies far above the rest and would flatten it.

    An unphysical cell may have any energy; it is enough to know that it is bad.
    """
    low, middle = np.quantile(losses, [0.0, 0.5])
    spread = middle - low
    return np.minimum(losses, middle + 6 * spread) if spread > 0 else losses
