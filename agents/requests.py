"""What agents may ask, as strict models: no free text without a pattern, no open mapping.

These models are the tools' schemas. There is nowhere in them to put code, a command, an import
name or a path; a structure file is a name below a folder the policy opens.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from orionflow.agents.strict import StrictModel
from orionflow.workflows.structures import PROTOTYPES

CampaignName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
TagName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
ParameterName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
RecipeName = Annotated[str, Field(pattern=r"^[a-z]{1,20}\.[a-z_]{1,30}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$")]
# Letters, digits and signs of any script; no controls, and nothing that hides or turns text.
Line = Annotated[str, Field(
    pattern="^[ -~\u00a0-\u061b\u061d-\u1fff\u2010-\u2027\u2030-\u205e\u2070-\ud7ff]{1,300}$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{7,63}$",
                           description="Your name for this request, new for each: repeated with "
                           "the same key it is carried out once.")]
PlanId = Annotated[str, Field(pattern=r"^plan-[0-9a-f]{16}$")]
ResultId = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z-]{7,63}$",
                                description="`uuid` of a result.")]
Cursor = Annotated[str, Field(pattern=r"^[0-9]{1,12}$",
                              description="From the answer before; leave out to begin.")]
FwId = Annotated[int, Field(ge=1, le=2**40)]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
Whole = Annotated[int, Field(ge=-10**12, le=10**12)]
Scalar = bool | Whole | Number | Word
Symbol = Annotated[str, Field(pattern=r"^[A-Z][a-z]?$")]
Formula = Annotated[str, Field(pattern=r"^([A-Z][a-z]?[0-9]{0,3}){1,6}$")]
Length = Annotated[float, Field(ge=0.5, le=200.0, description="Å")]
Prototype = Literal["sc", "fcc", "bcc", "hcp", "diamond", "zincblende", "rocksalt",
                    "cesiumchloride", "fluorite", "wurtzite"]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1, description="Makes a random alloy of as many atoms "
                            "as the formula says: Cu24Ni8 on fcc.")]
FileName = Annotated[str, Field(
    pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,60}(\.[A-Za-z0-9_-]{1,40}){0,3}$")]
Limit = Annotated[int, Field(ge=1, le=100)]

if set(get_args(Prototype)) != set(PROTOTYPES):  # a schema needs them written out
    raise AssertionError(PROTOTYPES)


class NamedValue(StrictModel):
    """A parameter of a recipe and its value."""

    name: ParameterName
    value: Scalar


class JobResources(StrictModel):
    """What each job may take; cost = ranks x threads x walltime."""

    nodes: int = Field(default=1, ge=1, le=1000)
    ranks: int = Field(default=1, ge=1, le=100_000, description="MPI processes over all nodes.")
    threads: int = Field(default=1, ge=1, le=1000)
    memory: int | None = Field(default=None, ge=1, le=10**8, description="MiB on each node; as "
                               "much as agents may ask for unless given.")
    walltime: int = Field(ge=60, le=30 * 86_400, description="Longest time of one job, s.")


# ---------------------------------------------------------------------------------- structures


class FromPrototype(StrictModel):
    """A crystal by formula, prototype and lattice constants in Å."""

    type: Literal["prototype"]
    formula: Formula
    prototype: Prototype
    a: Length
    c: Length | None = None
    cubic: bool = False
    random: Seed | None = None


class FromResult(StrictModel):
    """The final structure of a stored result."""

    type: Literal["result"]
    result: ResultId


class FromFile(StrictModel):
    """A structure file by its name (.cif, .vasp, .xyz) in a folder the policy opens."""

    type: Literal["file"]
    name: FileName


Structure = Annotated[FromPrototype | FromResult | FromFile, Field(discriminator="type")]

# -------------------------------------------------------------------------------------- points


class Amount(StrictModel):
    """Part of a mixture."""

    part: Word
    amount: Number


class PointValue(StrictModel):
    """A variable of the search space and its value; for a mixture the amounts of its parts."""

    name: ParameterName
    value: Whole | Number | Word | None = None
    amounts: tuple[Amount, ...] | None = Field(default=None, min_length=1, max_length=12)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.value is None) == (self.amounts is None):
            raise ValueError("give either value or amounts")
        parts = [a.part for a in self.amounts or ()]
        if len(set(parts)) != len(parts):
            raise ValueError("amounts: a part is given twice")
        return self

    def plain(self) -> float | int | str | dict[str, float]:
        """Return the value as a search space takes it."""
        if self.amounts is not None:
            return {a.part: a.amount for a in self.amounts}
        return self.value if self.value is not None else ""


class Candidate(StrictModel):
    """A point of the search space: a value for each variable."""

    values: tuple[PointValue, ...] = Field(min_length=1, max_length=20)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [v.name for v in self.values]
        if len(set(names)) != len(names):
            raise ValueError("values: a variable is given twice")
        return self

    def plain(self) -> dict[str, float | int | str | dict[str, float]]:
        """Return the point as a search space takes it."""
        return {v.name: v.plain() for v in self.values}


# --------------------------------------------------------------------------------------- reads


class ListCampaigns(StrictModel):
    """Which page."""

    cursor: Cursor | None = None
    limit: Limit = 50


class OfCampaign(StrictModel):
    """Which campaign."""

    campaign: TagName


class Candidates(StrictModel):
    """Which candidates of a campaign; newest first."""

    campaign: CampaignName
    cursor: Cursor | None = None
    limit: Limit = 50


class Results(StrictModel):
    """Which results; newest first."""

    campaign: TagName | None = None
    formula: Formula | None = None
    cursor: Cursor | None = None
    limit: Limit = 25


class Failures(StrictModel):
    """Which failed jobs; newest first."""

    campaign: TagName | None = None
    cursor: Cursor | None = None
    limit: Limit = 10


class Queue(StrictModel):
    """Which jobs."""

    campaign: TagName | None = None


class Nothing(StrictModel):
    """No argument."""


class RecipeQuery(StrictModel):
    """Which recipe; all allowed ones without a name."""

    recipe: RecipeName | None = None


class ResultQuery(StrictModel):
    """Which result."""

    result: ResultId


class JobQuery(StrictModel):
    """Which workflow: by any of its jobs."""

    fw_id: FwId


class PlanQuery(StrictModel):
    """Which plan."""

    plan_id: PlanId


# -------------------------------------------------------------------------------------- writes


class PlanWorkflow(StrictModel):
    """A workflow of a recipe for one structure."""

    recipe: RecipeName
    structure: Structure
    parameters: tuple[NamedValue, ...] = Field(default=(), max_length=30)
    resources: JobResources
    campaign: TagName | None = Field(default=None, description="Name under which to find it.")


class PlanCandidates(StrictModel):
    """Points to be evaluated in a running campaign."""

    campaign: CampaignName
    points: tuple[Candidate, ...] = Field(min_length=1, max_length=50)
    why: Line = Field(description="Why these; kept in the audit trail.")


class PlanControl(StrictModel):
    """Start, advance, pause, resume or cancel a campaign; or cancel or rerun jobs of your own.

    Give `campaign` or `fw_ids`. `rerun` is for failed (FIZZLED) jobs, `cancel` also for those that
    wait or run.
    """

    action: Literal["start", "advance", "pause", "resume", "cancel", "rerun"]
    campaign: CampaignName | None = None
    fw_ids: tuple[FwId, ...] = Field(default=(), max_length=50)
    reason: Line

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.campaign is None) == (not self.fw_ids):
            raise ValueError("give campaign or fw_ids")
        allowed = ("cancel", "rerun") if self.fw_ids else (
            "start", "advance", "pause", "resume", "cancel")
        if self.action not in allowed:
            what = "jobs" if self.fw_ids else "a campaign"
            raise ValueError(f"action {self.action!r} is not for {what}: {', '.join(allowed)}")
        if len(set(self.fw_ids)) != len(self.fw_ids):
            raise ValueError("fw_ids: one is listed twice")
        return self


class Commit(StrictModel):
    """Carry out a plan."""

    plan_id: PlanId
    key: Key
