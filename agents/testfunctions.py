"""Functions with known minima, to try a campaign or a proposer on before it costs core-hours.

L. C. W. Dixon, G. P. Szegö (eds.), Towards Global Optimization 2, North-Holland (1978).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orionflow.agents.space import Point, Space
from orionflow.agents.variables import Continuous

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from orionflow.agents.proposers import Trial

    FloatArray = NDArray[np.float64]

_A = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14],
               [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
_P = 1e-4 * np.array([[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
                      [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]])
_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])


@dataclass(frozen=True)
class TestFunction:
    """A function of real variables.

    Attributes
    ----------
    minimum
        Its least value.
    """

    __test__ = False  # no test case, whatever pytest thinks of the name

    name: str
    space: Space
    minimum: float
    function: Callable[[FloatArray], float]

    def __call__(self, point: Point) -> float:
        """Return the value at a point."""
        return self.function(np.array([float(point[v.name])  # type: ignore[arg-type]  # all are numbers
                                       for v in self.space.variables]))

    def regret(self, rows: Sequence[Trial]) -> float:
        """Return best loss minus minimum."""
        return min(t.loss for t in rows if t.loss is not None) - self.minimum


def branin(x: FloatArray) -> float:
    """Return Branin's function: three equal minima of 0.397887 in two dimensions."""
    bent = x[1] - 5.1 / (4 * np.pi**2) * x[0]**2 + 5 / np.pi * x[0] - 6
    return float(bent**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x[0]) + 10)


def hartmann6(x: FloatArray) -> float:
    """Return Hartmann's function of six variables: minimum -3.32237, next best -3.20."""
    return float(-_ALPHA @ np.exp(-np.sum(_A * (x - _P)**2, axis=1)))


def _space(*bounds: tuple[float, float]) -> Space:
    return Space(variables=tuple(Continuous(type="continuous", name=f"x{i}", low=low, high=high)
                                 for i, (low, high) in enumerate(bounds, start=1)))


FUNCTIONS = {
    "branin": TestFunction("branin", _space((-5, 10), (0, 15)), 0.397887, branin),
    "hartmann6": TestFunction("hartmann6", _space(*[(0, 1)] * 6), -3.32237, hartmann6),
}
