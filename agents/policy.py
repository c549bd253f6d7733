"""What agents may do in a project: ``agent_policy.yaml``, read strictly; without it, only read.

Everything not named there is refused: recipes, parameters, folders. All checks here are pure;
what has to hold under any number of processes at once is counted in `accounts`.
"""

from __future__ import annotations

import stat
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from orionflow.agents.strict import StrictModel, suggest
from orionflow.errors import ConfigError, InputError, PolicyError
from orionflow.workflows.registry import get_recipe, recipe_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orionflow.launchers.resources import Resources

POLICY_FILE = "agent_policy.yaml"
Scalar = bool | int | float | str
EXAMPLE = """\
# What agents may do in this project. What is not named here is refused; delete this file, and
# agents may only read. Read at every request: a change holds at once.

# Recipes, and of each the parameters an agent may set, with the values it may choose.
recipes:
  lammps.static:
    parameters:
      force_field: {choices: [Cu_mishin, CuNi, Si.sw]}
  lammps.minimize:
    parameters:
      force_field: {choices: [Cu_mishin, CuNi, Si.sw]}
      relax_cell: {choices: [true, false]}
      pressure: {low: -100000.0, high: 100000.0}  # bar

# Folders, relative to the project, from which an agent may name structure files.
structure_folders: []

# Most that one job may ask for.
job: {nodes: 1, ranks: 2, threads: 1, memory: 4096, walltime: 3600}

core_hours_per_day: 10.0       # of one agent, UTC day: set aside by what runs, used by what ended
core_hours_per_day_all: 20.0   # of all agents together
open_fireworks: 50             # of one agent
approval_above: 2.0            # core-hours of one request above which a person must approve

# Campaigns of people that agents may add points to and steer, beside their own.
campaigns: []
campaign_core_hours: 10.0      # largest budget of a campaign an agent may draft
campaign_share: 0.25           # share of a person's campaign that agents' points may take
"""


class Rule(StrictModel):
    """Values an agent may give a parameter: choices, or numbers in an interval."""

    low: float | None = None
    high: float | None = None
    choices: tuple[Scalar, ...] = ()

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        numbers = self.low is not None and self.high is not None
        if numbers == bool(self.choices) or (self.low is None) != (self.high is None):
            raise ValueError("give choices, or low and high")
        if numbers and self.low > self.high:  # type: ignore[operator]  # neither is None here
            raise ValueError("low is above high")
        return self

    def allows(self, value: object) -> bool:
        """Whether a value may be given."""
        if self.choices:
            # True == 1 in Python, and not here.
            return any(isinstance(c, bool) is isinstance(value, bool) and c == value
                       for c in self.choices)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return (self.low or 0.0) <= value <= (self.high or 0.0)

    def as_schema(self) -> dict[str, Any]:
        """Return the rule as a JSON schema."""
        if self.choices:
            return {"enum": list(self.choices)}
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def describe(self) -> str:
        """Return the rule in words."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        return f"{self.low:g} to {self.high:g}"


class RecipeRule(StrictModel):
    """Parameters of a recipe that an agent may set; others keep their defaults."""

    parameters: dict[str, Rule] = Field(default_factory=dict)


class JobLimit(StrictModel):
    """Most that one job may ask for; memory in MiB on each node, walltime in s."""

    nodes: int = Field(default=1, ge=1)
    ranks: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)
    memory: int = Field(default=4096, ge=1)
    walltime: int = Field(default=3600, ge=1)


class AgentPolicy(StrictModel):
    """What agents may do; `EXAMPLE` says what each entry means."""

    recipes: dict[str, RecipeRule] = Field(default_factory=dict)
    structure_folders: tuple[str, ...] = ()
    job: JobLimit = JobLimit()
    core_hours_per_day: float = Field(default=0.0, ge=0)
    core_hours_per_day_all: float | None = Field(default=None, ge=0)
    open_fireworks: int = Field(default=0, ge=0)
    approval_above: float = Field(default=0.0, ge=0)
    campaigns: tuple[str, ...] = ()
    campaign_core_hours: float = Field(default=0.0, ge=0)
    campaign_share: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name, rule in self.recipes.items():
            if name not in recipe_names():
                raise ValueError(f"recipes: there is no {name!r}. {suggest(name, recipe_names())}")
            if get_recipe(name).takes_input:
                raise ValueError(f"recipes: {name} takes input files as they are, which may hold "
                                 "any command; it can't be given to agents")
            if "name" in rule.parameters:
                raise ValueError(f"recipes: {name}: `name` is set by orionflow")
        return self

    # ---------------------------------------------------------------------------- checks

    def check_recipe(self, name: str) -> RecipeRule:
        """Return the rule of a recipe.

        Raises
        ------
        PolicyError
            Agents may not use it.
        """
        if name not in self.recipes:
            raise PolicyError(f"agents may not use the recipe {name!r}", rule="recipes",
                              asked=name, allowed=list(self.recipes),
                              hint=f"allowed: {', '.join(self.recipes) or 'none'}")
        return self.recipes[name]

    def check_parameter(self, recipe: str, name: str, value: object) -> None:
        """Check one value of one parameter.

        Raises
        ------
        PolicyError
            The parameter is not named in the policy, or the value lies outside.
        """
        rules = self.check_recipe(recipe).parameters
        if name not in rules:
            raise PolicyError(f"agents may not set {name!r} of {recipe}", rule="parameters",
                              asked=name, allowed=list(rules),
                              hint=f"they may set: {', '.join(rules) or 'nothing'}")
        if not rules[name].allows(value):
            raise PolicyError(f"{recipe}: {name} = {value!r} is not allowed", rule="parameters",
                              asked=value, allowed=rules[name].describe(),
                              hint=f"allowed: {rules[name].describe()}")

    def check_parameters(self, recipe: str, values: Mapping[str, object]) -> None:
        """Check all parameters of a request; see `check_parameter`."""
        self.check_recipe(recipe)
        for name, value in values.items():
            self.check_parameter(recipe, name, value)

    def check_resources(self, asked: Resources) -> None:
        """Check what one job asks for.

        Raises
        ------
        PolicyError
            Names the first entry above its limit.
        """
        for name in JobLimit.model_fields:
            most, value = getattr(self.job, name), getattr(asked, name)
            if value is not None and value > most:
                raise PolicyError(f"{name} = {value} is more than agents may ask for",
                                  rule=f"job.{name}", asked=value, allowed=most,
                                  hint=f"at most {most}")

    def confine(self, asked: Resources, node_memory: int | None = None) -> Resources:
        """Return what one job asks for, with a limit on its memory.

        Parameters
        ----------
        asked
            What names no memory gets, and may take, as much as agents may ask for.
        node_memory
            What a node has, MiB, where that is known.

        Raises
        ------
        PolicyError
            See `check_resources`.
        """
        self.check_resources(asked)
        if asked.memory is not None:
            return asked
        return asked.model_copy(update={
            "memory": min(self.job.memory, node_memory or self.job.memory)})

    def check_campaign_budget(self, core_hours: float) -> None:
        """Check the budget of a campaign draft; PolicyError when it is too large."""
        if core_hours > self.campaign_core_hours:
            raise PolicyError(f"a budget of {core_hours:g} core-hours is more than agents may "
                              "give a campaign", rule="campaign_core_hours", asked=core_hours,
                              allowed=self.campaign_core_hours,
                              hint=f"at most {self.campaign_core_hours:g}")

    def check_owner(self, agent: str, what: str, owner: str, campaign: str | None) -> None:
        """Check that something is the agent's own, or of a campaign opened to agents.

        Raises
        ------
        PolicyError
            It is somebody else's.
        """
        if owner != owner_of(agent) and (campaign is None or campaign not in self.campaigns):
            raise PolicyError(f"{what} is not this agent's", rule="owner", asked=what,
                              allowed=owner_of(agent), hint="agents steer what they made, and the "
                              f"campaigns the policy opens to them: "
                              f"{', '.join(self.campaigns) or 'none'}")

    def needs_approval(self, core_seconds: int) -> bool:
        """Whether a person must approve a request of this cost."""
        return core_seconds > self.approval_above * 3600

    def describe(self) -> dict[str, Any]:
        """Return the limits as an agent is told them."""
        return {
            "recipes": list(self.recipes), "job": self.job.model_dump(),
            "core_hours_per_day": self.core_hours_per_day,
            "core_hours_per_day_all": self.core_hours_per_day_all,
            "open_fireworks": self.open_fireworks, "approval_above": self.approval_above,
            "campaigns": list(self.campaigns), "campaign_core_hours": self.campaign_core_hours,
            "campaign_share": self.campaign_share,
            "structure_folders": len(self.structure_folders),
        }


def owner_of(agent: str) -> str:
    """Return the owner written on what an agent makes."""
    return f"agent:{agent}"


def load_policy(project: Path) -> AgentPolicy:
    """Return the policy of a project; without a file nothing may be written.

    Raises
    ------
    ConfigError
        The file is wrong, or everybody may write it.
    """
    path = project / POLICY_FILE
    try:
        status = path.stat()
    except FileNotFoundError:
        return AgentPolicy()
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    if status.st_mode & stat.S_IWOTH:
        raise ConfigError(f"everybody may write {path}", hint=f"chmod o-w {path}")
    return _load(path, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=8)
def _load(path: Path, *_changed: int) -> AgentPolicy:
    try:
        return AgentPolicy.from_file(path)
    except InputError as error:
        raise ConfigError(error.message, hint=error.hint) from error
