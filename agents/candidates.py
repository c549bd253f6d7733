"""From a point of the search space to the workflow that evaluates it, written down as text.

A flow is built once, when its candidate is proposed, and kept in the candidate's row. Whoever
submits it, in whatever try, submits that text: jobflow's ids are in it, so it is one workflow.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING, Any

from orionflow.agents.constraints import lookup
from orionflow.agents.strict import suggest
from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobflow import Flow, Job

    from orionflow.agents.campaign_document import Campaign
    from orionflow.agents.space import Point


@dataclass(frozen=True)
class Built:
    """The workflow of a candidate.

    Attributes
    ----------
    text
        The flow as JSON.
    expects
        Id (uuid) of the job whose result holds the values.
    jobs
        Number of jobs at most, those made while it runs included.
    """

    text: str
    expects: str
    jobs: int


def fill(campaign: Campaign, point: Point) -> tuple[str, dict[str, Any]]:
    """Return the structure and the recipe's parameters for a point.

    Parameters
    ----------
    campaign
        Its mapping tells how.
    point
        In canonical form, see `Space.check`.
    """
    structure = "".join(
        literal + ("" if name is None else number_text(_value(point, name)))
        for literal, name, _, _ in Formatter().parse(campaign.mapping.structure))
    parameters = dict(campaign.mapping.parameters)
    for parameter, name in campaign.mapping.variables.items():
        parameters[parameter] = _value(point, name)
    return structure, parameters


def _value(point: Point, name: str) -> Any:
    return point[name] if name in point else lookup(point, name)


def number_text(value: float | str | dict[str, float]) -> str:
    """Return a value as a person writes it: ``0.3``, not ``0.30000000000000004`` or ``1e-05``."""
    if isinstance(value, dict):
        # A formula: parts that are not there are left out.
        return "".join(f"{part}{number_text(x)}" for part, x in value.items() if x > 0)
    if isinstance(value, float):
        text = f"{value:.10f}".rstrip("0").rstrip(".")
        return "0" if text in {"", "-0"} else text
    return str(value)


def build(campaign: Campaign, point: Point) -> Built:
    """Build and check the workflow of a point.

    Raises
    ------
    InputError
        No workflow can be made of this point; nothing has been stored.
    """
    from monty.json import MontyEncoder

    from orionflow.workflows.registry import make

    structure, parameters = fill(campaign, point)
    flow = make(campaign.recipe, structure, parameters)
    jobs = _jobs(flow)
    expects = _output_uuid(flow) or jobs[-1].uuid
    return Built(json.dumps(flow, cls=MontyEncoder, allow_nan=False), expects,
                 max(len(jobs), most_jobs(campaign.recipe, parameters)))


def most_jobs(recipe: str, parameters: Mapping[str, Any]) -> int:
    """Return how many jobs a workflow of a recipe has at most, those made while it runs too."""
    from orionflow.workflows.registry import get_recipe

    found = get_recipe(recipe)
    if found.step is None:
        return 1
    frames = parameters.get("number_of_frames", found.parameters()["number_of_frames"].default)
    return int(frames) + 3  # a relaxation before, the job that makes the points, the fit


def load(text: str) -> Flow | Job:
    """Return the flow of a row's text: a new object with the same ids.

    Raises
    ------
    InputError
        It holds no flow.
    """
    from jobflow import Flow, Job
    from monty.json import MontyDecoder

    flow = json.loads(text, cls=MontyDecoder)
    if not isinstance(flow, Flow | Job):
        raise InputError("the row holds no flow", hint="was it written by a newer version?")
    return flow


def _jobs(flow: Flow | Job) -> list[Job]:
    from jobflow import Flow

    if not isinstance(flow, Flow):
        return [flow]
    return [job for child in flow.jobs for job in _jobs(child)]


def _output_uuid(flow: Flow | Job) -> str | None:
    from jobflow import OutputReference

    output = flow.output
    return output.uuid if isinstance(output, OutputReference) else None


def check_objectives(campaign: Campaign, built: Built) -> None:
    """Refuse objectives that the recipe's result can't hold, as far as its schema tells.

    Raises
    ------
    InputError
        Names the path and what there is instead.
    """
    job = next(j for j in _jobs(load(built.text)) if j.uuid == built.expects)
    schema = job.output_schema
    for objective in campaign.objectives:
        _check_path(schema, objective.path, campaign.recipe)


def _check_path(schema: Any, path: str, recipe: str) -> None:
    from pydantic import BaseModel

    for part in path.split("."):
        if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
            return  # what lies deeper is known only when there is a result
        fields = schema.model_fields
        if part not in fields:
            raise InputError(f"objectives: the result of {recipe} has no {path!r} (at {part!r})",
                             hint=suggest(part, fields))
        schema = fields[part].annotation
