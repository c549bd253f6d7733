"""BayBE as a proposer: its Gaussian process and acquisition function on our spaces (extra `baybe`).

M. Fitzner, A. Šošić, A. V. Hopp et al., Digital Discovery 4, 1991 (2025), doi:10.1039/D5DD00050E.

A finite space (a pool, or few enough combinations) is handed over point by point, so that any
constraint holds. In a space with free variables BayBE optimises those for every combination of the
others, and knows fewer constraints; what it can't is refused by `check`, before a campaign begins.
"""

from __future__ import annotations

import itertools
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from orionflow.agents.constraints import Elements, Linear
from orionflow.agents.proposers import Trial, known_hashes, sobol
from orionflow.agents.proposers import random as uniform
from orionflow.agents.space import hash_point
from orionflow.agents.variables import Categorical, Mixture
from orionflow.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orionflow.agents.constraints import Constraint
    from orionflow.agents.space import Point, Space
    from orionflow.agents.variables import Variable

START = 2
"""So many Sobol points come first; BayBE itself begins with one random point."""
_MOST_COMBINATIONS = 50
_RESTARTS = 10  # of its optimiser: BayBE's default, shared among combinations
_LOSS = "loss"
_MARGIN = 1e-7  # of the span: rounding must not carry a point across a constraint


@dataclass
class _Task:
    """A space in BayBE's terms.

    Attributes
    ----------
    fixed
        Combinations of all variables that take single values; without free ones, whole points.
    free
        Continuous variables, and mixtures without steps.
    linear
        Parameters, operator, coefficients, right-hand side.
    """

    fixed: list[Point]
    free: list[Variable]
    linear: list[tuple[list[str], str, list[float], float]] = field(default_factory=list)


def check(space: Space) -> None:
    """Refuse what can't be searched here.

    Raises
    ------
    ConfigError
        BayBE is not installed.
    InputError
        The space has a constraint that BayBE does not know, or too many combinations.
    """
    if find_spec("baybe") is None:
        raise ConfigError("the proposer 'baybe' needs BayBE, which is not installed",
                          hint="pip install 'orionflow[baybe]' (with PyTorch: a gigabyte), or "
                          "choose the proposer 'bayesian'")
    if space.candidates() is None:
        _task(space)


def propose(space: Space, rows: Sequence[Trial], pending: Sequence[Point], k: int,
            seed: int) -> list[Point]:
    """Return ``k`` points that BayBE recommends.

    Pending points are handed over as such. Failed ones count as bad as the worst. A point that is
    known, or that rounding has carried across a constraint, is replaced by one by chance.
    Parameters as in ``random.propose``.

    Raises
    ------
    ConfigError, InputError
        See `check`.
    """
    if k <= 0:
        return []
    check(space)
    done = [t for t in rows if t.loss is not None]
    start = START - len(rows) - len(pending)
    chosen = sobol.propose(space, rows, pending, k if not done else min(k, max(start, 0)), seed)
    seen = known_hashes(rows, [*pending, *chosen])
    if len(chosen) < k:
        for point in _recommended(space, rows, [*pending, *chosen], k - len(chosen), seed):
            x_hash = hash_point(point)
            if x_hash not in seen and space.feasible(point):
                chosen.append(point)
                seen.add(x_hash)
    return chosen + uniform.propose(space, rows, [*pending, *chosen], k - len(chosen), seed)


def _recommended(space: Space, rows: Sequence[Trial], pending: list[Point], k: int, seed: int
                 ) -> list[Point]:
    import pandas as pd
    from baybe.recommenders import BotorchRecommender
    from baybe.settings import Settings
    from baybe.targets import NumericalTarget

    from orionflow.agents.proposers.bayesian import tamed

    seen = known_hashes(rows, pending)
    finite = space.candidates()
    task = (_task(space) if finite is None else
            _Task([p for p in finite if hash_point(p) not in seen], []))
    if not task.fixed:
        return []
    losses = tamed(np.array([t.loss for t in rows if t.loss is not None], dtype=float))
    worst = float(losses.max())
    measured = pd.DataFrame([_columns(space, t.point) for t in rows])
    known = iter(losses.tolist())
    measured[_LOSS] = [worst if t.loss is None else next(known) for t in rows]
    waiting = pd.DataFrame([_columns(space, p) for p in pending]) if pending else None
    draw = int(np.random.default_rng([seed, len(seen)]).integers(2**31))
    with _one_thread(), warnings.catch_warnings(), Settings(random_seed=draw):
        warnings.simplefilter("ignore")  # of numerics it has cured itself
        searched = _search_space(space, task)
        names = [p.name for p in searched.parameters]
        restarts = max(_RESTARTS // len(task.fixed), 2) if task.free else _RESTARTS
        found = BotorchRecommender(n_restarts=restarts).recommend(
            min(k, len(task.fixed)) if not task.free else k, searched,
            NumericalTarget(_LOSS, minimize=True).to_objective(), measured[[*names, _LOSS]],
            None if waiting is None else waiting[names])
    if not task.free:
        return [task.fixed[int(n)] for n in found.index]
    points = [{**task.fixed[int(n) if len(task.fixed) > 1 else 0],
               **{v.name: _value(v, row) for v in task.free}}
              for n, row in zip(found.index, found.to_dict("records"), strict=True)]
    # There and back: amounts that add up, values within their bounds, no noise in the last digits.
    return space.decode(space.encode(points))


def _task(space: Space) -> _Task:
    """Return the task of a space that is not finite; InputError for what BayBE can't do."""
    free: list[Variable] = [v for v in space.variables if v.size is None]
    fixed = [v for v in space.variables if v.size is not None]
    count = int(np.prod([float(v.size or 1) for v in fixed]))
    if not free or count > _MOST_COMBINATIONS:
        raise InputError(f"proposer 'baybe': {count} combinations of "
                         f"{', '.join(v.name for v in fixed)} are too many", hint="it optimises "
                         f"the rest for each of them; at most {_MOST_COMBINATIONS}, or choose the "
                         "proposer 'bayesian'")
    task = _Task([], free)
    names = {v.name for v in fixed}
    judges: list[Constraint] = []
    for constraint in space.constraints:
        own = {n.partition(".")[0] for n in constraint.names}
        if own <= names:
            judges.append(constraint)
        elif own & names or not _translated(task, constraint, space):
            raise InputError(
                f"proposer 'baybe': BayBE does not know the constraint {constraint.to_data()} "
                "among variables without steps", hint="give the variables steps, or choose the "
                "proposer 'bayesian'")
    values: list[list[Any]] = [list(v.values()) for v in fixed]
    points: list[Point] = [dict(zip((v.name for v in fixed), row, strict=True))
                           for row in itertools.product(*values)]
    task.fixed = [p for p in points if all(c.holds(p) for c in judges)]
    return task


def _translated(task: _Task, constraint: Constraint, space: Space) -> bool:
    """Add a constraint among free variables to the task; False when BayBE has none like it."""
    if isinstance(constraint, Linear):
        named = {n: next(v for v in space.variables if v.name == n.partition(".")[0])
                 for n in constraint.weights}
        if any(getattr(v, "scale", "linear") == "log" for v in named.values()):
            return False
        weights = list(constraint.weights.values())
        room = _MARGIN * sum(abs(w) * _span(named[n], n) for n, w in constraint.weights.items())
        for operator, bound, inwards in ((">=", constraint.at_least, room),
                                         ("<=", constraint.at_most, -room)):
            if bound is not None:
                task.linear.append((list(constraint.weights), operator, weights, bound + inwards))
        return True
    if isinstance(constraint, Elements):
        # Hardly ever is one of freely varied amounts zero: at least so many is no constraint, and
        # at most so many leaves nothing that could be drawn.
        mixture = next(v for v in task.free if v.name == constraint.mixture)
        return constraint.at_most is None or constraint.at_most > mixture.dimension
    return False


def _span(variable: Any, path: str) -> float:
    low, high = (variable.parts[path.partition(".")[2]] if isinstance(variable, Mixture)
                 else (variable.low, variable.high))
    return float(high - low)


def _search_space(space: Space, task: _Task) -> Any:
    import pandas as pd
    from baybe.constraints import ContinuousLinearConstraint
    from baybe.parameters import NumericalContinuousParameter
    from baybe.searchspace import SearchSpace, SubspaceContinuous, SubspaceDiscrete

    table = pd.DataFrame([_columns(space, p) for p in task.fixed])
    discrete = list(_discrete(space, {v.name for v in space.variables}
                              - {v.name for v in task.free}))
    free, sums = [], []
    for v in task.free:
        bounds = ({f"{v.name}.{p}": (low, min(high, v.total)) for p, (low, high)
                   in v.parts.items()} if isinstance(v, Mixture) else
                  {v.name: tuple(_scaled(v, x) for x in (v.low, v.high))})  # type: ignore[union-attr]  # free ones are continuous or mixtures
        free += [NumericalContinuousParameter(n, b) for n, b in bounds.items()]
        if isinstance(v, Mixture):
            sums.append(ContinuousLinearConstraint(list(bounds), "=", [1.0] * len(bounds),
                                                   v.total))
    subspace = SubspaceDiscrete.from_dataframe(table[[p.name for p in discrete]], discrete) \
        if discrete else SubspaceDiscrete.empty()
    return SearchSpace(discrete=subspace, continuous=SubspaceContinuous(
        parameters=free, constraints_lin_eq=sums,
        constraints_lin_ineq=[ContinuousLinearConstraint(*c) for c in task.linear]))


def _discrete(space: Space, names: set[str]) -> Iterator[Any]:
    """Yield BayBE's parameters of variables that take single values."""
    import pandas as pd
    from baybe.parameters import (
        CategoricalParameter,
        CustomDiscreteParameter,
        NumericalDiscreteParameter,
    )

    for v in space.variables:
        if v.name not in names:
            continue
        if isinstance(v, Categorical):
            known = pd.DataFrame.from_dict(v.features_of or {}, orient="index")
            # Features that don't tell the choices apart are of no use to it.
            known = known.loc[:, known.min() < known.max()]
            if len(known) and known.shape[1] and not known.duplicated().any():
                known.columns = [f"{v.name} {n}" for n in known.columns]
                yield CustomDiscreteParameter(v.name, data=known, decorrelate=False)
            else:
                yield CategoricalParameter(v.name, values=v.choices)
            continue
        if space.pool is not None:
            rows = [_columns(space, p) for p in space.candidates() or []]
        elif v.size is not None:
            rows = [_columns(space, {v.name: x}) for x in v.values()]
        for name in rows[0] if rows else ():
            if name.partition(".")[0] == v.name and len(values := {r[name] for r in rows}) > 1:
                yield NumericalDiscreteParameter(name, values=sorted(values))


def _columns(space: Space, point: Point) -> dict[str, float | str]:
    """Return a point, or a part of one, as BayBE sees it: a column for each part of a mixture."""
    found: dict[str, float | str] = {}
    for v in space.variables:
        value = point.get(v.name)
        if isinstance(value, dict):
            found |= {f"{v.name}.{part}": float(x) for part, x in value.items()}
        elif isinstance(value, str):
            found[v.name] = value
        elif value is not None:
            found[v.name] = _scaled(v, value)
    return found


def _scaled(variable: Variable, value: float) -> float:
    return float(np.log10(value)) if getattr(variable, "scale", "") == "log" else float(value)


def _value(variable: Variable, row: dict[Any, Any]) -> float | dict[str, float]:
    if isinstance(variable, Mixture):
        return {p: float(row[f"{variable.name}.{p}"]) for p in variable.parts}
    value = float(row[variable.name])
    return 10**value if getattr(variable, "scale", "") == "log" else value


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep PyTorch on one core, as the rest of an `advance` is: on a login node others work too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
