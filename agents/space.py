"""The search space of a campaign: variables, constraints, and perhaps a fixed pool of candidates.

A point is a plain dict ``{variable: value}``; the value of a mixture is a dict of amounts. Points
are kept in one canonical form, so that equal points have equal hashes wherever they were made.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from orionflow.agents.constraints import ChargeNeutral, Constraint, Elements, Forbid
from orionflow.agents.strict import StrictModel, suggest
from orionflow.agents.variables import Mixture, Value, Variable
from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

Point = dict[str, Value]
_ENUMERABLE = 20_000
_TRIES = 64


class Space(StrictModel):
    """Where a campaign looks.

    Attributes
    ----------
    variables
        What may be varied.
    constraints
        What every point must fulfil.
    pool
        If given, only these points are candidates: measured samples, structures of a database.
    """

    variables: tuple[Variable, ...] = Field(min_length=1)
    constraints: tuple[Constraint, ...] = ()
    pool: tuple[dict[str, float | int | str | dict[str, float]], ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [v.name for v in self.variables]
        if len(set(names)) != len(names):
            raise ValueError("two variables have the same name")
        known = self._paths()
        for constraint in self.constraints:
            for name in constraint.names:
                if name not in known:
                    raise ValueError(f"constraint {constraint.type}: there is no {name!r}. "
                                     f"{suggest(name, known)}")
                if isinstance(constraint, (Elements, ChargeNeutral)) and "." in name:
                    raise ValueError(f"constraint {constraint.type}: {name!r} is no mixture")
                wanted = {"linear": "number", "forbid": known[name]}.get(constraint.type, "mixture")
                if known[name] != wanted or (isinstance(constraint, Forbid)
                                             and wanted == "mixture"):
                    raise ValueError(f"constraint {constraint.type}: {name!r} is a {known[name]}, "
                                     "which it can't judge")
            if isinstance(constraint, ChargeNeutral):
                _check_elements(self._mixture(constraint.mixture))
        if self.pool is not None:
            self._check_pool()
        return self

    def _paths(self) -> dict[str, str]:
        paths: dict[str, str] = {}
        for v in self.variables:
            if isinstance(v, Mixture):
                paths[v.name] = "mixture"
                paths.update(dict.fromkeys((f"{v.name}.{p}" for p in v.parts), "number"))
            else:
                paths[v.name] = "category" if v.type == "categorical" else "number"
        return paths

    def _mixture(self, name: str) -> Mixture:
        return next(v for v in self.variables if isinstance(v, Mixture) and v.name == name)

    def _check_pool(self) -> None:
        if not self.pool:
            raise ValueError("pool: is empty; leave it out to search the whole space")
        seen: dict[str, int] = {}
        for n, point in enumerate(self.pool):
            try:
                x_hash = _hash(self._canonical(point))
            except InputError as error:
                raise ValueError(f"pool.{n}: {error.message}") from error
            if x_hash in seen:
                raise ValueError(f"pool.{n}: the same candidate as pool.{seen[x_hash]}")
            seen[x_hash] = n

    # ------------------------------------------------------------------------------- points

    def check(self, point: Mapping[str, Any]) -> Point:
        """Return a point in canonical form.

        Raises
        ------
        InputError
            A name or a value is wrong, a constraint is broken, or it is not in the pool.
        """
        canonical = self._canonical(point)
        for constraint in self.constraints:
            if not constraint.holds(canonical):
                raise InputError(f"the point {canonical} breaks the constraint "
                                 f"{constraint.to_data() }",
                                 hint="choose a point that fulfils all constraints")
        if self.pool is not None and _hash(canonical) not in self._pool_hashes:
            raise InputError(f"the point {canonical} is not in the pool of candidates",
                             hint="choose one of the pool")
        return canonical

    def _canonical(self, point: Mapping[str, Any]) -> Point:
        names = [v.name for v in self.variables]
        for name in point:
            if name not in names:
                raise InputError(f"the search space has no variable {name!r}",
                                 hint=suggest(str(name), names))
        if missing := [n for n in names if n not in point]:
            raise InputError(f"the point has no {', '.join(missing)}",
                             hint="give a value for every variable")
        return {v.name: v.check(point[v.name]) for v in self.variables}

    def x_hash(self, point: Mapping[str, Any]) -> str:
        """Return a hash that is the same for equal points, whoever made them; see `check`."""
        return _hash(self.check(point))

    def feasible(self, point: Point) -> bool:
        """Whether a canonical point fulfils all constraints."""
        return all(c.holds(point) for c in self.constraints)

    @cached_property
    def _pool_hashes(self) -> frozenset[str]:
        return frozenset(_hash(self._canonical(p)) for p in self.pool or ())

    # ------------------------------------------------------------------- the unit cube

    @property
    def dimension(self) -> int:
        """Number of coordinates of the unit cube: degrees of freedom."""
        return sum(v.dimension for v in self.variables)

    def decode(self, unit: FloatArray) -> list[Point]:
        """Return points for coordinates, shape (n, dimension); constraints are not asked."""
        unit = np.clip(np.atleast_2d(unit), 0.0, 1.0)
        columns = [v.from_unit(block) for v, block in self._blocks(unit)]
        return [{v.name: value for v, value in zip(self.variables, row, strict=True)}
                for row in zip(*columns, strict=True)]

    def encode(self, points: Sequence[Point]) -> FloatArray:
        """Return coordinates, shape (n, dimension), in [0, 1]; `decode` leads back."""
        if not points:
            return np.zeros((0, self.dimension))
        return np.hstack([v.to_unit([p[v.name] for p in points]) for v in self.variables])

    def features(self, unit: FloatArray) -> FloatArray:
        """Return what a model sees of coordinates, shape (n, features), in [0, 1]."""
        return np.hstack([v.features(block) for v, block in self._blocks(unit)])

    def _blocks(self, unit: FloatArray) -> Iterator[tuple[Any, FloatArray]]:
        at = 0
        for v in self.variables:
            yield v, unit[:, at:at + v.dimension]
            at += v.dimension

    # ------------------------------------------------------------------------ candidates

    @property
    def size(self) -> int | None:
        """Number of points before constraints, None for infinitely many."""
        if self.pool is not None:
            return len(self.pool)
        sizes = [v.size for v in self.variables]
        return None if None in sizes else math.prod(s for s in sizes if s is not None)

    def candidates(self) -> list[Point] | None:
        """Return all feasible points of a pool or a small finite space, else None."""
        if self.pool is not None:
            return [p for p in map(self._canonical, self.pool) if self.feasible(p)]
        if self.size is None or self.size > _ENUMERABLE:
            return None
        values: list[list[Any]] = [list(v.values()) for v in self.variables]
        rows = itertools.product(*values)
        points: list[Point] = [{v.name: x for v, x in zip(self.variables, row, strict=True)}
                               for row in rows]
        return [p for p in points if self.feasible(p)]

    def fresh(self, draw: Callable[[int], FloatArray], count: int, seen: set[str]) -> list[Point]:
        """Draw coordinates until ``count`` feasible points not in ``seen`` are found.

        Parameters
        ----------
        draw
            Returns the next coordinates, shape (n, dimension), for a number n.
        count
            How many points.
        seen
            Hashes of points not to repeat.

        Returns
        -------
        list
            Fewer, even none, when a finite space is used up.

        Raises
        ------
        InputError
            Nothing drawn fulfils the constraints.
        """
        found: dict[str, Point] = {}
        if count <= 0:
            return []
        feasible = 0
        for _ in range(_TRIES):
            for point in self.decode(draw(max(64, 2 * count))):
                if not self.feasible(point):
                    continue
                feasible += 1
                x_hash = _hash(point)
                if x_hash not in seen and x_hash not in found:
                    found[x_hash] = point
                    if len(found) == count:
                        return list(found.values())
        if not feasible:
            raise InputError("no point of the search space fulfils all constraints, as far as "
                             f"{_TRIES * 64} draws can tell",
                             hint="relax the constraints or narrow the variables")
        return list(found.values())


def hash_point(point: Point) -> str:
    """Return the hash of a canonical point, as `Space.check` and the proposers return it."""
    return _hash(point)


def _hash(point: Point) -> str:
    text = json.dumps(point, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _check_elements(mixture: Mixture) -> None:
    from pymatgen.core import Element

    for part in mixture.parts:
        if not Element.is_valid_symbol(part):
            raise ValueError(f"constraint charge_neutral: part {part!r} of {mixture.name!r} is no "
                             "element")
