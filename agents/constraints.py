"""What a point must fulfil beyond the bounds of each variable."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from orionflow.agents.strict import StrictModel

if TYPE_CHECKING:
    from orionflow.agents.variables import Value

_SLACK = 1e-9
_NEUTRAL = 1e-6


def lookup(point: dict[str, Value], path: str) -> float | int | str:
    """Return ``point["a"]`` or, for ``"mixture.part"``, the amount of that part."""
    name, _, part = path.partition(".")
    value = point[name]
    return value[part] if isinstance(value, dict) else value


class Linear(StrictModel):
    """``at_least <= sum(weight * value) <= at_most``; names as ``temperature``, ``alloy.Cu``."""

    type: Literal["linear"]
    weights: dict[str, float] = Field(min_length=1)
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        if None not in (self.at_least, self.at_most) and self.at_least > self.at_most:  # type: ignore[operator]  # neither is None here
            raise ValueError("at_least is above at_most")
        return self

    @property
    def names(self) -> list[str]:
        """Names it speaks of."""
        return list(self.weights)

    def holds(self, point: dict[str, Value]) -> bool:
        """Whether the point fulfils it."""
        total = sum(w * float(lookup(point, n)) for n, w in self.weights.items())
        slack = _SLACK * max(1.0, *(abs(w) for w in self.weights.values()))
        return ((self.at_least is None or total >= self.at_least - slack)
                and (self.at_most is None or total <= self.at_most + slack))


class Interval(StrictModel):
    """From and to, both included."""

    low: float
    high: float


class Forbid(StrictModel):
    """Points for which all of ``when`` is true are left out.

    Attributes
    ----------
    when
        For each name a list of values (choices, whole numbers) or an interval.
    """

    type: Literal["forbid"]
    when: dict[str, tuple[str | int, ...] | Interval] = Field(min_length=1)

    @property
    def names(self) -> list[str]:
        """Names it speaks of."""
        return list(self.when)

    def holds(self, point: dict[str, Value]) -> bool:
        """Whether the point is allowed."""
        return not all(self._matches(lookup(point, n), w) for n, w in self.when.items())

    @staticmethod
    def _matches(value: float | str, wanted: tuple[str | int, ...] | Interval) -> bool:
        if isinstance(wanted, Interval):
            return not isinstance(value, str) and wanted.low <= value <= wanted.high
        return value in wanted


class Elements(StrictModel):
    """Number of parts of a mixture that are really there (binary, ternary ...)."""

    type: Literal["elements"]
    mixture: str
    at_least: int = Field(default=1, ge=1)
    at_most: int | None = Field(default=None, ge=1)

    @property
    def names(self) -> list[str]:
        """Names it speaks of."""
        return [self.mixture]

    def holds(self, point: dict[str, Value]) -> bool:
        """Whether the point fulfils it."""
        amounts = point[self.mixture]
        present = sum(a > _NEUTRAL for a in amounts.values()) if isinstance(amounts, dict) else 0
        return present >= self.at_least and (self.at_most is None or present <= self.at_most)


class ChargeNeutral(StrictModel):
    """Oxidation states of the elements of a mixture can add up to zero.

    Each element has one state in the whole compound. Meant for mixtures with a step: among
    freely varied amounts hardly any is neutral.

    Attributes
    ----------
    oxidation_states
        Allowed states of elements; for those left out pymatgen's common ones.
    """

    type: Literal["charge_neutral"]
    mixture: str
    oxidation_states: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names it speaks of."""
        return [self.mixture]

    def holds(self, point: dict[str, Value]) -> bool:
        """Whether the point fulfils it."""
        amounts = point[self.mixture]
        if not isinstance(amounts, dict):
            return False
        present = {e: a for e, a in amounts.items() if a > _NEUTRAL}
        tolerance = _NEUTRAL * sum(present.values())
        states = [self._states(e) for e in present]
        return any(abs(sum(q * a for q, a in zip(combination, present.values(), strict=True)))
                   <= tolerance for combination in itertools.product(*states))

    def _states(self, element: str) -> tuple[int, ...]:
        from pymatgen.core import Element

        return self.oxidation_states.get(element) or tuple(
            int(q) for q in Element(element).common_oxidation_states) or (0,)

    @model_validator(mode="after")
    def _known_elements(self) -> Self:
        from pymatgen.core import Element

        for name in self.oxidation_states:
            if not Element.is_valid_symbol(name):
                raise ValueError(f"{name!r} is no element")
        return self


Constraint = Annotated[Linear | Forbid | Elements | ChargeNeutral, Field(discriminator="type")]
