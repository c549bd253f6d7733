"""What may be varied: numbers, whole numbers, choices, mixtures.

Each variable maps its values to coordinates in the unit cube and back (one coordinate a degree of
freedom, so that low-discrepancy points stay so), and coordinates to the features a model sees.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from orionflow.agents.strict import StrictModel, suggest
from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Value = float | int | str | dict[str, float]
_DIGITS = 10
_EPS = 1e-9
_MOST_STEPS = 1e15  # coordinates are floats
_MOST_PARTS = 100_000


def tidy(value: float) -> float:
    """Return a float without the noise of its last digits, and without a negative zero."""
    return float(f"{value:.{_DIGITS}g}") + 0.0


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{name} = {value!r} is not a number", hint="give a finite number")
    return float(value)


class Continuous(StrictModel):
    """A real number in a closed interval.

    Attributes
    ----------
    scale
        ``log`` spaces coordinates evenly in the logarithm; needs ``low > 0``.
    step
        Only ``low + i * step`` are allowed (what an instrument can set).
    """

    type: Literal["continuous"]
    name: Name
    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"
    step: float | None = Field(default=None, gt=0)
    unit: str = ""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError("a log scale needs low > 0")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step = {self.step:g} is wider than the interval")
        if self.step is not None and (self.high - self.low) / self.step > _MOST_STEPS:
            raise ValueError(f"step = {self.step:g} is too fine for the interval; leave it out")
        return self

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return 1

    @property
    def size(self) -> int | None:
        """Number of values, None for infinitely many."""
        if self.step is None:
            return None
        return math.floor((self.high - self.low) / self.step + _EPS) + 1

    def check(self, value: Any) -> float:
        """Return the value as stored; InputError outside the interval or off the steps."""
        number = _number(self.name, value)
        slack = _EPS * (self.high - self.low)
        if not self.low - slack <= number <= self.high + slack:
            raise InputError(f"{self.name} = {number:g} is outside {self.low:g} ... {self.high:g}",
                             hint="choose a value inside, or widen the search space")
        number = min(max(number, self.low), self.high)
        if self.step is not None:
            index = round((number - self.low) / self.step)
            nearest = self.low + index * self.step
            if abs(nearest - number) > 1e-6 * self.step:
                raise InputError(f"{self.name} = {number:g} is not {self.low:g} + i * "
                                 f"{self.step:g}", hint=f"nearest: {tidy(nearest):g}")
            number = nearest
        return tidy(number)

    def values(self) -> list[float]:
        """Return all values of a stepped variable."""
        return [tidy(self.low + i * (self.step or 0)) for i in range(self.size or 0)]

    def from_unit(self, unit: FloatArray) -> list[float]:
        """Return values for coordinates, shape (n, 1), in [0, 1]."""
        if self.size is not None:
            return [tidy(self.low + i * (self.step or 0)) for i in _bins(unit[:, 0], self.size)]
        if self.scale == "log":
            raw = np.exp(np.log(self.low) + unit[:, 0] * (np.log(self.high) - np.log(self.low)))
        else:
            raw = self.low + unit[:, 0] * (self.high - self.low)
        return [tidy(min(max(float(v), self.low), self.high)) for v in raw]

    def to_unit(self, values: Sequence[Any]) -> FloatArray:
        """Return coordinates, shape (n, 1)."""
        raw = np.asarray(values, dtype=float)
        if self.size is not None:
            unit = (np.round((raw - self.low) / (self.step or 1)) + 0.5) / self.size
        elif self.scale == "log":
            unit = (np.log(raw) - np.log(self.low)) / (np.log(self.high) - np.log(self.low))
        else:
            unit = (raw - self.low) / (self.high - self.low)
        return np.clip(unit, 0.0, 1.0)[:, None]

    def features(self, unit: FloatArray) -> FloatArray:
        """Return what a model sees, shape (n, 1), in [0, 1]."""
        if self.size is None:
            return unit
        if self.scale == "linear":
            steps: FloatArray = _bins(unit[:, 0], self.size)[:, None] / max(self.size - 1, 1)
            return steps
        raw = np.asarray(self.from_unit(unit))
        logs: FloatArray = ((np.log(raw) - np.log(self.low)) / (
            np.log(self.high) - np.log(self.low)))[:, None]
        return logs


class Integer(StrictModel):
    """A whole number, both ends included."""

    type: Literal["integer"]
    name: Name
    low: int
    high: int
    unit: str = ""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        return self

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return 1

    @property
    def size(self) -> int:
        """Number of values."""
        return self.high - self.low + 1

    def check(self, value: Any) -> int:
        """Return the value as stored; InputError when it is outside or not whole."""
        number = _number(self.name, value)
        if number != int(number) or not self.low <= number <= self.high:
            raise InputError(f"{self.name} = {value!r} is not a whole number in "
                             f"{self.low} ... {self.high}", hint="choose one of those")
        return int(number)

    def values(self) -> list[int]:
        """Return all values."""
        return list(range(self.low, self.high + 1))

    def from_unit(self, unit: FloatArray) -> list[int]:
        """Return values for coordinates, shape (n, 1)."""
        return [self.low + int(i) for i in _bins(unit[:, 0], self.size)]

    def to_unit(self, values: Sequence[Any]) -> FloatArray:
        """Return coordinates, shape (n, 1): the middle of each value's share."""
        return ((np.asarray(values, dtype=float) - self.low + 0.5) / self.size)[:, None]

    def features(self, unit: FloatArray) -> FloatArray:
        """Return what a model sees, shape (n, 1)."""
        scaled: FloatArray = _bins(unit[:, 0], self.size)[:, None] / (self.size - 1)
        return scaled


class Categorical(StrictModel):
    """One of several names: prototypes, structure files, solvents.

    Attributes
    ----------
    features_of
        Numbers that describe each choice; a model then sees those (scaled to [0, 1]) and may
        learn from one choice about another. Without them all choices are equally far apart.
    """

    type: Literal["categorical"]
    name: Name
    choices: tuple[str, ...] = Field(min_length=2)
    features_of: dict[str, tuple[float, ...]] | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if len(set(self.choices)) != len(self.choices):
            raise ValueError("a choice is listed twice")
        if self.features_of is not None:
            if set(self.features_of) != set(self.choices):
                wrong = sorted(set(self.features_of) ^ set(self.choices))
                raise ValueError(f"features_of and choices differ in {', '.join(wrong)}")
            lengths = {len(f) for f in self.features_of.values()}
            if len(lengths) != 1 or lengths == {0}:
                raise ValueError("features_of needs the same number of features, at least one, "
                                 "for each choice")
        return self

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return 1

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.choices)

    def check(self, value: Any) -> str:
        """Return the value; InputError when it is no choice."""
        if value not in self.choices:
            raise InputError(f"{self.name} = {value!r} is no choice",
                             hint=suggest(str(value), self.choices))
        return str(value)

    def values(self) -> list[str]:
        """Return all values."""
        return list(self.choices)

    def from_unit(self, unit: FloatArray) -> list[str]:
        """Return values for coordinates, shape (n, 1)."""
        return [self.choices[int(i)] for i in _bins(unit[:, 0], self.size)]

    def to_unit(self, values: Sequence[Any]) -> FloatArray:
        """Return coordinates, shape (n, 1)."""
        return np.array([[(self.choices.index(v) + 0.5) / self.size] for v in values]
                        ).reshape(-1, 1)

    def features(self, unit: FloatArray) -> FloatArray:
        """Return what a model sees, shape (n, choices or number of features)."""
        index = _bins(unit[:, 0], self.size)
        if self.features_of is None:
            # Two different choices are at distance one.
            one_hot: FloatArray = np.eye(self.size)[index] / np.sqrt(2.0)
            return one_hot
        table = np.array([self.features_of[c] for c in self.choices], dtype=float)
        span = np.ptp(table, axis=0)
        scaled: FloatArray = ((table - table.min(axis=0)) / np.where(span > 0, span, 1.0))[index]
        return scaled


class Mixture(StrictModel):
    """Amounts that add up to a fixed total: a composition, a blend.

    Attributes
    ----------
    parts
        Lowest and highest amount of each part.
    total
        Their sum.
    step
        Amounts are multiples of it (one atom of a supercell); bounds and total must be, too.
    """

    type: Literal["mixture"]
    name: Name
    parts: dict[Name, tuple[float, float]] = Field(min_length=2)
    total: float = Field(default=1.0, gt=0)
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for part, (low, high) in self.parts.items():
            if not 0 <= low < high <= self.total + _EPS:
                raise ValueError(f"{part}: needs 0 <= low < high <= total, not {low:g}, {high:g}")
        lows, highs = self._bounds()
        if lows.sum() >= self.total or highs.sum() <= self.total:
            raise ValueError(f"no amounts within these bounds can add up to {self.total:g} (least "
                             f"{lows.sum():g}, most {highs.sum():g})")
        if self.step is not None:
            if self.total / self.step > _MOST_PARTS:
                raise ValueError(f"step = {self.step:g} is finer than total / {_MOST_PARTS}")
            for number in (self.total, *lows, *highs):
                if abs(number / self.step - round(number / self.step)) > 1e-6:  # noqa: PLR2004  a hair
                    raise ValueError(f"{number:g} is not a multiple of step = {self.step:g}")
        return self

    def _bounds(self) -> tuple[FloatArray, FloatArray]:
        pairs = np.array(list(self.parts.values()), dtype=float)
        return pairs[:, 0], np.minimum(pairs[:, 1], self.total)

    @property
    def dimension(self) -> int:
        """Number of coordinates: one less than parts."""
        return len(self.parts) - 1

    @property
    def size(self) -> int | None:
        """Number of values, None for infinitely many."""
        if self.step is None:
            return None
        lows, highs = (np.rint(b / self.step).astype(int).tolist() for b in self._bounds())
        left: int = round(self.total / self.step) - sum(lows)
        # At n: ways to give away n steps above the lowest amounts.
        ways: list[int] = [1, *[0] * left]
        for low, high in zip(lows, highs, strict=True):
            sums = [0, *itertools.accumulate(ways)]
            ways = [sums[n + 1] - sums[max(n - (high - low), 0)] for n in range(left + 1)]
        return ways[left]

    def check(self, value: Any) -> dict[str, float]:
        """Return the amounts as stored; InputError when the sum or a bound is broken."""
        if not isinstance(value, dict):
            raise InputError(f"{self.name} = {value!r} is not a mixture",
                             hint=f"give an amount for each of {', '.join(self.parts)}")
        for part in value:
            if part not in self.parts:
                raise InputError(f"{self.name} has no part {part!r}",
                                 hint=suggest(str(part), self.parts))
        amounts = {p: _number(f"{self.name}.{p}", value.get(p, 0.0)) for p in self.parts}
        for part, amount in amounts.items():
            low, high = self.parts[part]
            if not low - 1e-6 <= amount <= high + 1e-6:
                raise InputError(f"{self.name}.{part} = {amount:g} is outside {low:g} ... {high:g}",
                                 hint="choose an amount inside")
        if abs(sum(amounts.values()) - self.total) > 1e-6 * self.total:
            raise InputError(f"{self.name} adds up to {sum(amounts.values()):g}, not "
                             f"{self.total:g}", hint="amounts must add up to the total")
        if self.step is not None:
            for part, amount in amounts.items():
                count = round(amount / self.step)
                if abs(amount / self.step - count) > 1e-4:  # noqa: PLR2004  a hair
                    raise InputError(f"{self.name}.{part} = {amount:g} is not a multiple of "
                                     f"{self.step:g}", hint=f"nearest: {count * self.step:g}")
                amounts[part] = count * self.step
        # Fewer digits than other numbers: amounts are computed as differences.
        return {p: round(a, _DIGITS - 1) + 0.0 for p, a in amounts.items()}

    def values(self) -> list[dict[str, float]]:
        """Return all mixtures of a stepped variable."""
        if self.step is None:
            return []
        lows, highs = (np.rint(b / self.step).astype(int) for b in self._bounds())
        found: list[list[int]] = [[]]
        for i in range(len(lows) - 1):
            found = [[*f, a] for f in found for a in range(lows[i], highs[i] + 1)]
        whole = round(self.total / self.step)
        complete = ([*f, whole - sum(f)] for f in found)
        return [self._named(np.array(f) * self.step) for f in complete
                if lows[-1] <= f[-1] <= highs[-1]]

    def from_unit(self, unit: FloatArray) -> list[dict[str, float]]:
        """Return mixtures for coordinates, shape (n, parts - 1)."""
        return [self._named(row) for row in self._amounts(unit)]

    def to_unit(self, values: Sequence[Any]) -> FloatArray:
        """Return coordinates, shape (n, parts - 1)."""
        lows, highs = self._bounds()
        amounts = np.array([[v[p] for p in self.parts] for v in values]
                           ).reshape(-1, len(self.parts))
        unit = np.zeros((len(amounts), self.dimension))
        rest = np.full(len(amounts), self.total)
        for i in range(self.dimension):
            low, high, free, power = self._range(i, rest, lows, highs)
            f_low, f_high, f = (_share(v - lows[i], free, power)
                                for v in (low, high, amounts[:, i]))
            span = f_high - f_low
            unit[:, i] = np.where(span > _EPS, (f - f_low) / np.where(span > _EPS, span, 1), 0.5)
            rest = rest - amounts[:, i]
        return np.clip(unit, 0.0, 1.0)

    def features(self, unit: FloatArray) -> FloatArray:
        """Return what a model sees, shape (n, parts): amounts scaled by their bounds."""
        lows, highs = self._bounds()
        scaled: FloatArray = (self._amounts(unit) - lows) / (highs - lows)
        return scaled

    def _amounts(self, unit: FloatArray) -> FloatArray:
        """Break a stick: uniform coordinates give uniform mixtures where no upper bound binds."""
        lows, highs = self._bounds()
        amounts = np.zeros((len(unit), len(self.parts)))
        rest = np.full(len(unit), self.total)
        for i in range(self.dimension):
            low, high, free, power = self._range(i, rest, lows, highs)
            f_low, f_high = (_share(v - lows[i], free, power) for v in (low, high))
            share = f_low + np.clip(unit[:, i], 0, 1) * (f_high - f_low)
            taken = lows[i] + free * (1 - (1 - np.clip(share, 0, 1)) ** (1 / power))
            amounts[:, i] = np.clip(taken, low, high)
            rest = rest - amounts[:, i]
        amounts[:, -1] = np.clip(rest, lows[-1], highs[-1])
        return amounts if self.step is None else np.array(
            [self._rounded(row, lows, highs) for row in amounts]).reshape(amounts.shape)

    def _range(self, i: int, rest: FloatArray, lows: FloatArray, highs: FloatArray
               ) -> tuple[FloatArray, FloatArray, FloatArray, int]:
        """Least and most of part i that leave the others possible; free amount; parts after i."""
        low = np.maximum(lows[i], rest - highs[i + 1:].sum())
        high = np.maximum(np.minimum(highs[i], rest - lows[i + 1:].sum()), low)
        free = np.maximum(rest - lows[i:].sum(), 1e-300)
        return low, high, free, len(lows) - 1 - i

    def _rounded(self, row: FloatArray, lows: FloatArray, highs: FloatArray) -> FloatArray:
        """Return the nearest multiples of the step that keep sum and bounds."""
        step = self.step or 1.0
        counts = np.floor(row / step + _EPS)
        missing = round(self.total / step - counts.sum())
        room = np.rint(highs / step)
        for _ in range(abs(missing)):
            gain = np.where(counts < room, row / step - counts, -np.inf)
            counts[int(np.argmax(gain))] += 1
        return np.maximum(counts, np.rint(lows / step)) * step

    def _named(self, row: FloatArray) -> dict[str, float]:
        return {p: round(float(a), _DIGITS - 1) + 0.0
                for p, a in zip(self.parts, row, strict=True)}


Variable = Annotated[Continuous | Integer | Categorical | Mixture, Field(discriminator="type")]


def _bins(unit: FloatArray, size: int) -> NDArray[np.int64]:
    return np.clip((unit * size).astype(np.int64), 0, size - 1)


def _share(amount: FloatArray, free: FloatArray, power: int) -> FloatArray:
    """Part of all ways to divide ``free`` among ``power + 1`` in which the first gets less."""
    share: FloatArray = 1 - (1 - np.clip(amount / free, 0.0, 1.0)) ** power
    return share
