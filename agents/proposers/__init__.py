"""Search strategies: where to look next, from what is known.

Every proposer is a pure function of the ledger: the same space, rows, pending points, number and
seed give the same proposal, in any process, at any time. Nothing needs to be kept between calls,
so a campaign that was interrupted needs nothing restored.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from orionflow.agents.space import hash_point
from orionflow.agents.strict import suggest
from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from orionflow.agents.space import Point, Space

_PROPOSERS = {
    "random": "uniform random points: the baseline",
    "sobol": "scrambled Sobol points: even coverage",
    "latin": "Latin hypercube: each coordinate evenly covered",
    "grid": "a regular grid, refined when used up",
    "bayesian": "a Gaussian process and expected improvement: few, expensive evaluations",
    "baybe": "BayBE's Gaussian process (extra `baybe`, with PyTorch)",
    "genetic": "selection, crossover and mutation: many cheap evaluations, rough landscapes",
}


@dataclass(frozen=True)
class Trial:
    """A finished candidate.

    Attributes
    ----------
    point
        Canonical point.
    loss
        What is to be minimised; None when the evaluation failed, for a failed one has no value.
    """

    point: Point
    loss: float | None


class Proposer(Protocol):
    """The one signature of all search strategies."""

    def __call__(self, space: Space, rows: Sequence[Trial], pending: Sequence[Point], k: int,
                 seed: int) -> list[Point]:
        """Return at most ``k`` new points."""
        ...


def proposer_names() -> dict[str, str]:
    """Return name and summary of every proposer."""
    return dict(_PROPOSERS)


def get_proposer(name: str) -> Proposer:
    """Return a proposer by name.

    Raises
    ------
    InputError
        There is none of that name; lists those there are.
    """
    if name not in _PROPOSERS:
        raise InputError(f"there is no proposer {name!r}", hint=suggest(name, _PROPOSERS))
    found: Proposer = getattr(_module(name), "propose_latin" if name == "latin" else "propose")
    return found


def check_proposer(name: str, space: Space) -> None:
    """Refuse a proposer that could not search a space; most can search any.

    Raises
    ------
    ConfigError
        What it needs is not installed.
    InputError
        There is none of that name, or it can't search this space.
    """
    get_proposer(name)
    check = getattr(_module(name), "check", None)
    if check is not None:
        check(space)


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{'sobol' if name == 'latin' else name}")


def known_hashes(rows: Sequence[Trial], pending: Sequence[Point]) -> set[str]:
    """Return the hashes of all points that must not be proposed again."""
    return {hash_point(t.point) for t in rows} | {hash_point(p) for p in pending}
