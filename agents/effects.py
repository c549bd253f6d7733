"""What a commit does. Each effect may be repeated after a crash and is there once."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from orionflow.agents.campaign_document import Campaign
from orionflow.agents.policy import owner_of
from orionflow.errors import InputError, PolicyError
from orionflow.launchers.spending import SET_ASIDE

if TYPE_CHECKING:
    from orionflow.agents.backend import Backend
    from orionflow.agents.plans import Plan


def carry_out(backend: Backend, plan: Plan, key: str) -> dict[str, Any]:
    """Carry out a plan and return what came of it.

    Parameters
    ----------
    key
        The commit's; names what is stored.

    Raises
    ------
    InputError, PolicyError
        It can't be done any more; nothing has been changed.
    StoreError
        MongoDB does not answer; what has been done is not known. Again with the same key.
    """
    return {"workflow": _workflow, "campaign": _campaign, "candidates": _candidates,
            "control": _control}[plan.kind](backend, plan, key)


def _workflow(backend: Backend, plan: Plan, key: str) -> dict[str, Any]:
    from fireworks.core.firework import Workflow

    from orionflow.workflows.compile import store_workflow

    wf = Workflow.from_format(plan.payload, "json")
    wf.metadata |= {"submit_key": f"{owner_of(plan.agent)}:{key}", "agent": plan.agent,
                    "plan": plan.id}
    done = store_workflow(wf, project=backend.project, launchpad=backend.pad)
    return {"fw_ids": done.fw_ids, "name": done.name,
            "next": [f"job_status with fw_id {done.workflow_id} tells how it goes on"]}


def _campaign(backend: Backend, plan: Plan, key: str) -> dict[str, Any]:  # noqa: ARG001  one signature for all
    document = Campaign.from_data(json.loads(plan.payload))
    backend.campaigns.create(document, owner_of(plan.agent))
    return {"campaign": document.name, "state": "DRAFT",
            "next": ["plan_control with action start"]}


def _candidates(backend: Backend, plan: Plan, key: str) -> dict[str, Any]:  # noqa: ARG001  one signature for all
    from orionflow.agents.requests import PlanCandidates

    name, who = str(plan.campaign), owner_of(plan.agent)
    request = PlanCandidates.from_data(plan.request)
    points = [p.plain() for p in request.points]
    refused = ""
    try:
        found = backend.campaigns.add_points(name, points, who, who)
    except (InputError, PolicyError) as error:
        # Those before it have been added; a commit that has done something is no failure.
        view = backend.ledger.view(name)
        wanted = {view.campaign.space.x_hash(p) for p in points}
        found = [c.seq for c in view.candidates.values() if c.x_hash in wanted]
        if not found:
            raise
        refused = error.message
    return {"campaign": name, "candidates": found, **({"refused": refused} if refused else {}),
            "next": ["the next advance submits them; campaign_digest tells how they do"]}


def _control(backend: Backend, plan: Plan, key: str) -> dict[str, Any]:  # noqa: ARG001  one signature for all
    from orionflow.launchers.again import withdraw

    request, who = plan.request, owner_of(plan.agent)
    action, reason = request["action"], request["reason"]
    if plan.campaign is None:
        if action == "rerun":
            return {"ready": _again(backend, json.loads(plan.payload)),
                    "next": ["job_status tells how they go on"]}
        stopped = withdraw(backend.pad, request["fw_ids"], stop_running=True, who=who, why=reason)
        return {"defused": stopped, "next": ["job_status tells when the running ones have stopped"]}
    if action == "advance":
        report = backend.campaigns.advance(plan.campaign, who)
        return {"did": report.describe(), "next": ["campaign_digest"]}
    change = getattr(backend.campaigns, action)  # one of the request's Literal
    return {"changed": change(plan.campaign, who, reason), "next": ["campaign_digest"]}


def _again(backend: Backend, launches: list[int]) -> list[int]:
    """Run failed jobs again, each with a whole try beside what it has taken."""
    from orionflow.agents.planning import whole_try
    from orionflow.analysis.outcomes import spent_by
    from orionflow.launchers.again import run_again

    found = {fw["fw_id"]: fw["spec"] for fw in backend.pad.fireworks.find(
        {"launches": {"$in": launches}, f"spec.{SET_ASIDE}": {"$exists": True}},
        {"fw_id": 1, "spec.resources": 1})}
    spent = spent_by(backend.pad.db, found)
    return run_again(backend.pad, launches, {
        fw_id: math.floor(spent[fw_id]) + whole_try(spec) for fw_id, spec in found.items()})
