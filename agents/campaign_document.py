"""The campaign document: what is sought, where, how, and when it is enough. One YAML for all."""

from __future__ import annotations

import math
from datetime import date, datetime  # noqa: TC003  pydantic reads them at run time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from orionflow.agents.proposers import proposer_names
from orionflow.agents.space import Space  # noqa: TC001  pydantic reads it at run time
from orionflow.agents.strict import StrictModel, suggest
from orionflow.errors import InputError
from orionflow.launchers.resources import Resources
from orionflow.workflows.registry import recipe_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CampaignName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
_PLACE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$"


class CampaignState(StrEnum):
    """Where a campaign stands; `ENDED` ones never start again."""

    DRAFT = "DRAFT"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_NEXT: dict[CampaignState, frozenset[CampaignState]] = {
    CampaignState.DRAFT: frozenset({CampaignState.RUNNING, CampaignState.CANCELLED}),
    CampaignState.RUNNING: frozenset({CampaignState.PAUSED, CampaignState.COMPLETED,
                                      CampaignState.FAILED, CampaignState.CANCELLED}),
    CampaignState.PAUSED: frozenset({CampaignState.RUNNING, CampaignState.COMPLETED,
                                     CampaignState.FAILED, CampaignState.CANCELLED}),
}
ENDED = frozenset(CampaignState) - frozenset(_NEXT)


def check_transition(old: CampaignState, new: CampaignState) -> None:
    """Refuse what can't follow.

    Raises
    ------
    InputError
        Names the states that can.
    """
    allowed = _NEXT.get(old, frozenset())
    if new not in allowed:
        names = ", ".join(sorted(allowed))
        raise InputError(f"a campaign that is {old} can't become {new}",
                         hint=f"it can become {names}" if names else "it has ended; start another")


class Objective(StrictModel):
    """One number to be improved.

    Attributes
    ----------
    path
        Where it stands in the result document: ``output.energy_per_atom``, ``b0``.
    goal
        ``minimize``, ``maximize``, or ``match`` (as near to ``target`` as can be).
    target
        For ``match`` what to match; else good enough, for the stopping rule ``target_reached``.
    tolerance
        Within this of the target counts as reached.
    weight, scale
        With several objectives: loss = sum of weight * loss / scale.
    """

    path: str = Field(pattern=_PLACE)
    goal: Literal["minimize", "maximize", "match"] = "minimize"
    target: float | None = None
    tolerance: float = Field(default=0.0, ge=0)
    weight: float = Field(default=1.0, gt=0)
    scale: float = Field(default=1.0, gt=0)
    unit: str = ""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.goal == "match" and self.target is None:
            raise ValueError("goal match needs a target")
        return self

    def read(self, document: Mapping[str, Any]) -> float:
        """Return the number in a result document.

        Raises
        ------
        InputError
            It is not there, or no finite number: such a result has no value.
        """
        value: Any = document
        for part in self.path.split("."):
            try:
                value = value[int(part)] if isinstance(value, (list, tuple)) else value[part]
            except (KeyError, IndexError, TypeError, ValueError) as error:
                known = ", ".join(map(str, value)) if isinstance(value, dict) else "nothing"
                raise InputError(f"the result has no {self.path!r} (at {part!r})",
                                 hint=f"there it has {known}") from error
        if isinstance(value, bool) or not isinstance(value, (int, float)) \
                or not math.isfinite(value):
            raise InputError(f"{self.path} = {value!r} is not a finite number",
                             hint="choose another path")
        return float(value)

    def loss(self, value: float) -> float:
        """Return what is to be minimised."""
        if self.goal == "match":
            return abs(value - (self.target or 0.0))
        return value if self.goal == "minimize" else -value

    def reached(self, value: float) -> bool:
        """Whether a value is good enough; never without a target."""
        if self.target is None:
            return False
        if self.goal == "match":
            return abs(value - self.target) <= self.tolerance
        return self.loss(value) <= self.loss(self.target) + self.tolerance


class CandidateMapping(StrictModel):
    """How a candidate becomes a run of the recipe.

    Attributes
    ----------
    structure
        What the recipe starts from; ``{variable}`` is replaced by its value.
    parameters
        Recipe parameters that are the same for all.
    variables
        Variables handed on as parameters: ``{temperature: temperature}`` (parameter: variable).
    """

    structure: str = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)
    variables: dict[str, str] = Field(default_factory=dict)


class CampaignResources(StrictModel):
    """What each job of a candidate asks for, unless its recipe says otherwise.

    Attributes
    ----------
    nodes, ranks, threads
        Compute nodes; MPI processes over all nodes; threads of each.
    memory
        On each node: MiB, or a text such as ``4GB``.
    walltime
        Longest time of one job: seconds, or ``HH:MM:SS``.
    """

    nodes: int = Field(default=1, ge=1)
    ranks: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)
    memory: int | str | None = None
    walltime: int | str | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        try:
            self.parsed()
        except InputError as error:
            raise ValueError(error.message) from error
        return self

    def parsed(self) -> Resources:
        """Return them as the launcher knows them."""
        return Resources.parse(self.model_dump(exclude_none=True))


class InitialDesign(StrictModel):
    """What is tried before the proposer learns."""

    points: int = Field(default=0, ge=0, le=10_000)
    method: Literal["sobol", "latin", "random", "grid"] = "sobol"
    given: tuple[dict[str, float | int | str | dict[str, float]], ...] = ()


class ProposerChoice(StrictModel):
    """Search strategy and the seed of its draws."""

    name: str = "bayesian"
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.name not in proposer_names():
            raise ValueError(f"there is no proposer {self.name!r}. "
                             f"{suggest(self.name, proposer_names())}")
        return self


class Budget(StrictModel):
    """What may be spent at most; hard limits.

    Attributes
    ----------
    core_hours
        Of all candidates together.
    core_hours_each
        Reserved for a candidate until its real cost is known, its jobs share it alike; one that
        needs more is stopped, and goes on once more is reserved. Without it each job may take
        ranks times threads times ``resources.walltime``, which must be given then.
    evaluations
        Candidates.
    until
        Nothing is proposed after this moment (a date means its end, in UTC).
    """

    core_hours: float = Field(gt=0)
    core_hours_each: float | None = Field(default=None, gt=0)
    evaluations: int = Field(gt=0, le=100_000)
    until: datetime | date | None = None

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.core_hours_each is not None and self.core_hours_each > self.core_hours:
            raise ValueError(f"core_hours = {self.core_hours:g} do not suffice for one candidate "
                             f"of {self.core_hours_each:g}")
        return self


class Stopping(StrictModel):
    """When it is enough.

    Attributes
    ----------
    target_reached
        All objectives with a target have reached it in one candidate.
    no_improvement_in
        So many finished candidates in a row did not better the best by ``improvement``.
    failure_rate
        More than this share of at least ``failure_rate_after`` candidates failed: the campaign
        FAILED.
    """

    target_reached: bool = True
    no_improvement_in: int | None = Field(default=None, ge=1)
    improvement: float = Field(default=0.0, ge=0)
    failure_rate: float = Field(default=0.5, gt=0, le=1)
    failure_rate_after: int = Field(default=5, ge=1)


class Campaign(StrictModel):
    """A campaign: objective, search space, recipe, strategy, budget, end.

    Attributes
    ----------
    combine
        Of several objectives: ``sum`` (weighted), or ``pareto`` (in each step another weighting,
        so that the front is covered).
    resources
        For each job.
    retries
        How often a candidate is tried again that failed for a reason outside itself (a node, the
        walltime), beyond what launchers do by themselves.
    approval_above
        Core-hours reserved for one candidate above which a person must agree before it is
        submitted; never when None.
    """

    name: CampaignName
    owner: str = Field(min_length=1, max_length=64)
    description: str = ""
    objectives: tuple[Objective, ...] = Field(min_length=1)
    combine: Literal["sum", "pareto"] = "sum"
    space: Space
    recipe: str
    mapping: CandidateMapping
    initial: InitialDesign = InitialDesign()
    proposer: ProposerChoice = ProposerChoice()
    batch_size: int = Field(default=1, ge=1, le=1000)
    budget: Budget
    stopping: Stopping = Stopping()
    resources: CampaignResources = CampaignResources()
    retries: int = Field(default=2, ge=0, le=10)
    approval_above: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.recipe not in recipe_names():
            raise ValueError(f"recipe: there is no {self.recipe!r}. "
                             f"{suggest(self.recipe, recipe_names())}")
        paths = [o.path for o in self.objectives]
        if len(set(paths)) != len(paths):
            raise ValueError("objectives: a path is listed twice")
        if self.combine == "pareto" and len(paths) < 2:  # noqa: PLR2004  a front needs two
            raise ValueError("combine: pareto needs at least two objectives")
        if self.budget.core_hours_each is None and self.resources.walltime is None:
            raise ValueError("budget.core_hours_each: is missing; or give resources.walltime, and "
                             "as much as that allows is reserved")
        self._check_mapping()
        for n, point in enumerate(self.initial.given):
            try:
                self.space.check(point)
            except InputError as error:
                raise ValueError(f"initial.given.{n}: {error.message}") from error
        return self

    def _check_mapping(self) -> None:
        names = _paths(self.space)
        used = {*self.mapping.variables.values(), *_placeholders(self.mapping.structure)}
        for name in sorted(used):
            if name not in names:
                raise ValueError(f"mapping: there is no variable {name!r}. "
                                 f"{suggest(name, names)}")
        for variable in self.space.variables:
            if not any(name.partition(".")[0] == variable.name for name in used):
                raise ValueError(f"mapping: the variable {variable.name!r} changes nothing; name "
                                 "it in mapping.structure or mapping.variables")
        both = set(self.mapping.parameters) & set(self.mapping.variables)
        if both:
            raise ValueError(f"mapping: {', '.join(sorted(both))} is both fixed and varied")

    def reservation(self, jobs: int = 1) -> int:
        """Return the core-seconds set aside for a candidate of so many jobs."""
        if self.budget.core_hours_each is not None:
            return max(math.ceil(round(self.budget.core_hours_each * 3600, 3)), 1)
        asked = self.resources.parsed()
        return jobs * asked.cores * asked.walltime

    def reservation_of_job(self, jobs: int = 1) -> int:
        """Return the core-seconds that one of so many jobs may take before it asks for more."""
        return max(self.reservation(jobs) // jobs, 1)

    def loss(self, values: Sequence[float], weights: Sequence[float] | None = None) -> float:
        """Return the one number to be minimised.

        Parameters
        ----------
        values
            Of the objectives, in their order.
        weights
            For `pareto`: of each objective, adding up to one; see `pareto_weights`.
        """
        losses = [o.loss(v) / o.scale for o, v in zip(self.objectives, values, strict=True)]
        if weights is None:
            return sum(o.weight * x for o, x in zip(self.objectives, losses, strict=True))
        # Augmented Chebyshev, J. Knowles, IEEE Trans. Evol. Comput. 10, 50 (2006),
        # doi:10.1109/TEVC.2005.851274.
        weighted = [w * x for w, x in zip(weights, losses, strict=True)]
        return max(weighted) + 0.05 * sum(weighted)

    def pareto_weights(self, step: int) -> list[float] | None:
        """Return the weights of a step, the same whenever asked; None unless `pareto`."""
        if self.combine != "pareto":
            return None
        rng = np.random.default_rng([self.proposer.seed, step])
        return [float(w) for w in rng.dirichlet([o.weight for o in self.objectives])]

    def reached(self, values: Sequence[float]) -> bool:
        """Whether one candidate's values reach every target there is."""
        pairs = [(o, v) for o, v in zip(self.objectives, values, strict=True)
                 if o.target is not None]
        return bool(pairs) and all(o.reached(v) for o, v in pairs)


def _paths(space: Space) -> list[str]:
    return [n for v in space.variables
            for n in (v.name, *(f"{v.name}.{p}" for p in getattr(v, "parts", ())))]


def _placeholders(text: str) -> list[str]:
    from string import Formatter

    try:
        found = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"mapping.structure: {error}") from error
    for _, field, spec, conversion in found:
        if spec or conversion:
            raise ValueError(f"mapping.structure: write {{{field}}} alone; numbers are written in "
                             "full")
    return [field for _, field, _, _ in found if field is not None]
