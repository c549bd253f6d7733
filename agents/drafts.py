"""A campaign as an agent may draft it: the campaign document without free mappings and texts."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from orionflow.agents.campaign_document import Campaign
from orionflow.agents.candidates import most_jobs
from orionflow.agents.policy import AgentPolicy, Rule, owner_of
from orionflow.agents.requests import (  # noqa: TC001  pydantic reads them at run time
    CampaignName,
    Candidate,
    Formula,
    JobResources,
    Length,
    Line,
    NamedValue,
    Number,
    ParameterName,
    Prototype,
    RecipeName,
    Seed,
    Whole,
    Word,
)
from orionflow.agents.strict import StrictModel
from orionflow.errors import InputError, PolicyError
from orionflow.launchers.resources import Resources
from orionflow.workflows.registry import get_recipe

Place = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,39}(\.[A-Za-z0-9_]{1,40}){0,6}$")]
VariablePath = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}(\.[A-Za-z0-9_]{1,40})?$")]


class DraftObjective(StrictModel):
    """A number of the result document to be improved, such as `output.energy_per_atom`."""

    path: Place
    goal: Literal["minimize", "maximize", "match"] = "minimize"
    target: Number | None = None
    tolerance: float = Field(default=0.0, ge=0, le=1e12)
    weight: float = Field(default=1.0, gt=0, le=1e6)
    scale: float = Field(default=1.0, gt=0, le=1e12)


class DraftContinuous(StrictModel):
    """A real number between low and high, perhaps in steps."""

    type: Literal["continuous"]
    name: ParameterName
    low: Number
    high: Number
    scale: Literal["linear", "log"] = "linear"
    step: float | None = Field(default=None, gt=0, le=1e12)


class DraftInteger(StrictModel):
    """A whole number between low and high."""

    type: Literal["integer"]
    name: ParameterName
    low: Whole
    high: Whole


class DraftCategorical(StrictModel):
    """One of several names."""

    type: Literal["categorical"]
    name: ParameterName
    choices: tuple[Word, ...] = Field(min_length=2, max_length=50)


class DraftPart(StrictModel):
    """Lowest and highest amount of a part of a mixture."""

    part: ParameterName
    low: Number
    high: Number


class DraftMixture(StrictModel):
    """Amounts that add up to a total, perhaps in steps."""

    type: Literal["mixture"]
    name: ParameterName
    parts: tuple[DraftPart, ...] = Field(min_length=2, max_length=12)
    total: float = Field(default=1.0, gt=0, le=1e12)
    step: float | None = Field(default=None, gt=0, le=1e12)


DraftVariable = Annotated[DraftContinuous | DraftInteger | DraftCategorical | DraftMixture,
                          Field(discriminator="type")]


class DraftWeight(StrictModel):
    """A variable, or `mixture.part`, and its weight in a sum."""

    name: VariablePath
    weight: Number


class DraftLinear(StrictModel):
    """at_least <= sum of weight x value <= at_most."""

    weights: tuple[DraftWeight, ...] = Field(min_length=1, max_length=20)
    at_least: Number | None = None
    at_most: Number | None = None


class VariableHere(StrictModel):
    """Stands for the value of a variable."""

    variable: VariablePath


class DraftStructure(StrictModel):
    """The structure of a candidate; each entry may be a variable of the space."""

    formula: Formula | VariableHere
    prototype: Prototype | VariableHere
    a: Length | VariableHere
    c: Length | VariableHere | None = None
    cubic: bool = False
    random: Seed | None = None

    def template(self) -> str:
        """Return it as the campaign document has it."""
        slots = [self.formula, self.prototype, self.a, *([self.c] if self.c is not None else [])]
        words = [f"{{{s.variable}}}" if isinstance(s, VariableHere)
                 else s if isinstance(s, str) else f"{s:.10f}".rstrip("0") + "0" for s in slots]
        return " ".join([*words, *(["cubic"] if self.cubic else []),
                         *([f"random {self.random}"] if self.random is not None else [])])


class DraftParameter(StrictModel):
    """A parameter of the recipe that follows a variable."""

    parameter: ParameterName
    variable: VariablePath


class DraftStopping(StrictModel):
    """When it is enough."""

    target_reached: bool = True
    no_improvement_in: int | None = Field(default=None, ge=1, le=10_000)
    improvement: float = Field(default=0.0, ge=0, le=1e12)
    failure_rate: float = Field(default=0.5, gt=0, le=1)


class PlanCampaign(StrictModel):
    """A campaign to be created as DRAFT; `plan_control` with action `start` starts it."""

    name: CampaignName
    description: Line
    objectives: tuple[DraftObjective, ...] = Field(min_length=1, max_length=5)
    combine: Literal["sum", "pareto"] = "sum"
    variables: tuple[DraftVariable, ...] = Field(min_length=1, max_length=12)
    linear: tuple[DraftLinear, ...] = Field(default=(), max_length=10)
    recipe: RecipeName
    structure: DraftStructure
    parameters: tuple[NamedValue, ...] = Field(default=(), max_length=30)
    varied: tuple[DraftParameter, ...] = Field(default=(), max_length=12)
    initial_points: int = Field(default=0, ge=0, le=1000)
    initial: tuple[Candidate, ...] = Field(default=(), max_length=20)
    proposer: Literal["random", "sobol", "latin", "grid", "bayesian", "genetic"] = "bayesian"
    seed: int = Field(default=0, ge=0, le=2**31)
    batch_size: int = Field(default=1, ge=1, le=100)
    core_hours: float = Field(gt=0, le=1e6, description="Budget of all candidates together.")
    evaluations: int = Field(gt=0, le=10_000)
    stopping: DraftStopping = DraftStopping()
    resources: JobResources

    @model_validator(mode="after")
    def _unique(self) -> Self:
        named(self.parameters)
        return self

    def campaign(self, agent: str, policy: AgentPolicy,
                 node_memory: int | None = None) -> Campaign:
        """Return the campaign document, checked against recipe and policy.

        Parameters
        ----------
        agent, policy
            Who drafts it, and what agents may do.
        node_memory
            What a node has, MiB, where that is known.

        Raises
        ------
        InputError
            It is no campaign: a name or a value is wrong.
        PolicyError
            The policy does not allow it.
        """
        fixed = named(self.parameters)
        resources = policy.confine(
            Resources.parse(self.resources.model_dump(exclude_none=True)), node_memory)
        policy.check_campaign_budget(self.core_hours)
        policy.check_parameters(self.recipe, fixed)
        for entry in self.varied:
            self._check_varied(entry, policy)
        recipe = get_recipe(self.recipe)
        recipe.check({**fixed, **{v.parameter: self._example(v.variable) for v in self.varied}})
        # A variable may decide how many jobs there are: the most it can ask for is set aside.
        highest = {v.parameter: found.high for v in self.varied if not isinstance(
            found := self._find(v.variable), DraftCategorical)}
        jobs = most_jobs(self.recipe, {**fixed, **highest})
        each = jobs * resources.cores * resources.walltime / 3600
        return Campaign.from_data({
            "name": self.name, "owner": owner_of(agent), "description": self.description,
            "objectives": [o.model_dump(exclude_none=True) for o in self.objectives],
            "combine": self.combine,
            "space": {"variables": [_variable(v) for v in self.variables],
                      "constraints": [_linear(c) for c in self.linear]},
            "recipe": self.recipe,
            "mapping": {"structure": self.structure.template(), "parameters": fixed,
                        "variables": {v.parameter: v.variable for v in self.varied}},
            "initial": {"points": self.initial_points,
                        "given": [c.plain() for c in self.initial]},
            "proposer": {"name": self.proposer, "seed": self.seed},
            "batch_size": self.batch_size,
            "budget": {"core_hours": self.core_hours, "core_hours_each": each,
                       "evaluations": self.evaluations},
            "stopping": self.stopping.model_dump(exclude_none=True),
            "resources": self.resources.model_dump(exclude_none=True) | {
                "memory": resources.memory},
            "approval_above": policy.approval_above or None,
        }, source="campaign")

    def _find(self, path: str) -> Any:
        name, _, part = path.partition(".")
        found = next((v for v in self.variables if v.name == name), None)
        if found is None:
            raise InputError(f"there is no variable {name!r}",
                             hint=f"variables: {', '.join(v.name for v in self.variables)}")
        if isinstance(found, DraftMixture):
            whole = next((p for p in found.parts if p.part == part), None)
            if whole is None:
                raise InputError(f"the mixture {name!r} has no part {part!r}",
                                 hint=f"parts: {', '.join(p.part for p in found.parts)}")
            return whole
        return found

    def _example(self, path: str) -> Any:
        found = self._find(path)
        return found.choices[0] if isinstance(found, DraftCategorical) else found.low

    def _check_varied(self, entry: DraftParameter, policy: AgentPolicy) -> None:
        found = self._find(entry.variable)
        values = (found.choices if isinstance(found, DraftCategorical)
                  else (found.low, found.high))
        rule = policy.check_recipe(self.recipe).parameters.get(entry.parameter)
        if isinstance(rule, Rule) and rule.choices and not isinstance(found, DraftCategorical):
            raise PolicyError(f"{entry.parameter} of {self.recipe} can't be varied freely",
                              rule="parameters", asked=entry.variable, allowed=rule.describe(),
                              hint=f"make {entry.variable!r} categorical: {rule.describe()}")
        for value in values:
            policy.check_parameter(self.recipe, entry.parameter, value)


def named(values: tuple[NamedValue, ...]) -> dict[str, Any]:
    """Return named values as a mapping; InputError when a name is given twice."""
    names = [v.name for v in values]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise InputError(f"parameter {twice[0]!r} is given twice", hint="give it once")
    return {v.name: v.value for v in values}


def _variable(variable: Any) -> dict[str, Any]:
    data: dict[str, Any] = variable.model_dump(exclude_none=True)
    if isinstance(variable, DraftMixture):
        data["parts"] = {p.part: [p.low, p.high] for p in variable.parts}
    elif isinstance(variable, DraftCategorical):
        data["choices"] = list(variable.choices)
    return data


def _linear(constraint: DraftLinear) -> dict[str, Any]:
    return {"type": "linear", "weights": {w.name: w.weight for w in constraint.weights},
            **constraint.model_dump(include={"at_least", "at_most"}, exclude_none=True)}


__all__ = ["PlanCampaign", "named"]
