"""From a request to a plan: checked against recipe, space, owner and policy; nothing is changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orionflow.agents.campaign_document import ENDED, CampaignState
from orionflow.agents.candidates import most_jobs
from orionflow.agents.drafts import named
from orionflow.agents.policy import owner_of
from orionflow.agents.records import SETTLED, budget_seconds
from orionflow.agents.requests import FromFile, FromPrototype, FromResult
from orionflow.errors import ConfigError, InputError, PolicyError
from orionflow.launchers.machine import load_machine
from orionflow.launchers.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pymatgen.core import Structure

    from orionflow.agents.accounts import Account
    from orionflow.agents.backend import Backend
    from orionflow.agents.drafts import PlanCampaign
    from orionflow.agents.plans import Kind, Plan
    from orionflow.agents.policy import AgentPolicy
    from orionflow.agents.records import View
    from orionflow.agents.requests import PlanCandidates, PlanControl, PlanWorkflow

_SUFFIXES = (".cif", ".vasp", ".xyz")
_SHOWN = 4
_LARGEST_FILE = 2_000_000
# More memory than the policy gives is nothing a launcher may take for a second try.
RETRY = {"memory": 0}


@dataclass(frozen=True)
class Proposal:
    """What a plan will say; see `plans.Plan`."""

    kind: Kind
    effect: str
    core_seconds: int
    fireworks: int
    campaign: str | None = None
    payload: str = ""


def workflow(backend: Backend, agent: str, request: PlanWorkflow, policy: AgentPolicy) -> Proposal:
    """Plan a workflow of a recipe; it is built here, and stored as it is by the commit."""
    from orionflow.workflows.compile import compile_flow
    from orionflow.workflows.registry import get_recipe

    parameters = named(request.parameters)
    policy.check_parameters(request.recipe, parameters)
    resources = policy.confine(Resources.parse(request.resources.model_dump(exclude_none=True)),
                               load_machine(project=backend.project).memory_per_node)
    if request.campaign is not None:
        _check_name(backend, agent, request.campaign, policy)
    structure = read_structure(backend, request.structure, policy)
    flow = get_recipe(request.recipe).make(structure, parameters)
    formula = structure.composition.reduced_formula
    each = resources.cores * resources.walltime
    wf = compile_flow(flow, project=backend.project, campaign=request.campaign,
                      resources=resources, owner=owner_of(agent), core_seconds=each,
                      retry=RETRY, name=f"{request.recipe} {formula}")
    jobs = most_jobs(request.recipe, parameters)
    cost = jobs * each
    return Proposal(
        "workflow", f"adds one workflow of {request.recipe} for {formula} ({len(structure)} "
        f"atoms), at most {jobs} job(s) of {resources.cores} core(s) and {resources.walltime} s",
        cost, jobs, request.campaign, wf.to_format("json"))


def campaign(backend: Backend, agent: str, request: PlanCampaign, policy: AgentPolicy) -> Proposal:
    """Plan the creation of a campaign; a sample candidate is built to see that it can run."""
    document = request.campaign(agent, policy,
                                load_machine(project=backend.project).memory_per_node)
    if document.name in backend.ledger.names():
        raise InputError(f"another campaign is called {document.name!r}",
                         hint="choose another name")
    _check_name(backend, agent, document.name, policy)
    _check_choices(document.space.to_data()["variables"])
    backend.campaigns.check(document)
    return Proposal(
        "campaign", f"creates the campaign {document.name} as DRAFT: {document.recipe}, at most "
        f"{document.budget.evaluations} candidates and {document.budget.core_hours:g} core-hours "
        "once it is started", 0, 0, document.name, json.dumps(document.to_data()))


def candidates(backend: Backend, agent: str, request: PlanCandidates, policy: AgentPolicy
               ) -> Proposal:
    """Plan points for a running campaign."""
    from orionflow.agents.candidates import build, fill

    view = owned_view(backend, agent, request.campaign, policy)
    if view.state is not CampaignState.RUNNING:
        raise InputError(f"campaign {request.campaign!r} is {view.state}",
                         hint="points are added to a campaign that runs")
    space, seen = view.campaign.space, {c.x_hash: c.seq for c in view.candidates.values()}
    points = [space.check(p.plain()) for p in request.points]
    for n, point in enumerate(points):
        x_hash = space.x_hash(point)
        if x_hash in seen:
            raise InputError(f"points.{n} is there already" + (
                f": candidate {seen[x_hash]}" if seen[x_hash] >= 0 else " in this request"),
                hint="leave it out")
        seen[x_hash] = -1
    build(view.campaign, points[0])
    jobs = [most_jobs(view.campaign.recipe, fill(view.campaign, p)[1]) for p in points]
    cost = sum(view.campaign.reservation(n) for n in jobs)
    shown = "; ".join(json.dumps(p) for p in points[:_SHOWN])
    more = f" and {len(points) - _SHOWN} more" if len(points) > _SHOWN else ""
    proposal = Proposal(
        "candidates", f"adds {len(points)} candidate(s) to the campaign {request.campaign}: "
        f"{shown}{more}", cost, sum(jobs), request.campaign)
    check_share(view, agent, proposal.core_seconds, policy, 0)
    return proposal


def control(backend: Backend, agent: str, request: PlanControl, policy: AgentPolicy) -> Proposal:
    """Plan a change of state: of a campaign, or of jobs."""
    if request.campaign is not None:
        return _control_campaign(backend, agent, request.campaign, request.action, policy)
    found = owned_jobs(backend, agent, request.fw_ids, policy)
    if request.action == "rerun":
        wrong = [f["fw_id"] for f in found if f["state"] != "FIZZLED" or not f.get("launches")]
        if wrong:
            raise InputError(f"job {wrong[0]} did not fail", hint="only FIZZLED jobs that were "
                             "launched are run again")
        _refuse_candidates(backend, request.fw_ids)
        cost = sum(whole_try(f["spec"]) for f in found)
        return Proposal("control", f"runs {len(found)} failed job(s) again: {_ids(request.fw_ids)}",
                        cost, len(found), None, json.dumps([f["launches"][-1] for f in found]))
    return Proposal("control", f"cancels {len(found)} job(s): {_ids(request.fw_ids)}; those that "
                    "run are asked to stop", 0, 0, None)


def whole_try(spec: Mapping[str, Any]) -> int:
    """Return the core-seconds a job may take from its start to the end of its walltime."""
    asked = Resources.parse(spec.get("resources"))
    return asked.cores * asked.walltime


def _refuse_candidates(backend: Backend, fw_ids: Sequence[int]) -> None:
    """Refuse to run jobs again that are paid for, and tried again, by their campaign."""
    names = backend.ledger.names()
    theirs = backend.pad.workflows.find_one(
        {"nodes": {"$in": list(fw_ids)}, "metadata.campaign": {"$in": names},
         "metadata.agent": {"$exists": False}}, {"metadata.campaign": 1, "nodes": 1})
    if theirs is not None:
        (job, *_) = sorted(set(theirs["nodes"]) & set(fw_ids))
        raise InputError(
            f"job {job} is a candidate of the campaign {theirs['metadata']['campaign']!r}, which "
            "tries it again by itself as far as its budget goes",
            hint="leave it out; plan_candidates plans other points")


def _control_campaign(backend: Backend, agent: str, name: str, action: str,
                      policy: AgentPolicy) -> Proposal:
    view = owned_view(backend, agent, name, policy)
    needed = {"start": {CampaignState.DRAFT}, "pause": {CampaignState.RUNNING},
              "resume": {CampaignState.PAUSED}, "advance": {CampaignState.RUNNING},
              "cancel": set(CampaignState) - ENDED}[action]
    if view.state not in needed:
        raise InputError(f"campaign {name!r} is {view.state}; {action} does not apply",
                         hint=f"it must be {' or '.join(sorted(needed))}")
    document = view.campaign
    does, cost = {
        "start": (f"starts the campaign {name}: up to {document.budget.evaluations} candidates",
                  budget_seconds(document)),
        "advance": (f"collects, proposes and submits for the campaign {name}, once", 0),
        "pause": (f"pauses the campaign {name}: nothing more is proposed or submitted", 0),
        "resume": (f"lets the campaign {name} go on", 0),
        "cancel": (
            f"ends the campaign {name} for good: withdraws what waits, stops what runs", 0),
    }[action]
    return Proposal("control", does, cost, 0, name)


# ----------------------------------------------------------------------------- shared checks


def limits(backend: Backend, agent: str, plan: Plan | Proposal, policy: AgentPolicy,
           account: Account) -> None:
    """Check what depends on all other requests: open jobs, and the share of a campaign.

    Raises
    ------
    PolicyError
        A limit would be passed, counting commits that are under way.
    """
    if plan.fireworks:
        waiting = sum(e.fireworks for e in account.in_flight(agent))
        count = backend.open_fireworks(agent) + waiting
        if count + plan.fireworks > policy.open_fireworks:
            raise PolicyError(f"{plan.fireworks} more jobs than the {count} open ones",
                              rule="open_fireworks", asked=count + plan.fireworks,
                              allowed=policy.open_fireworks,
                              hint=f"at most {policy.open_fireworks} at once; wait for some to end")
    if plan.kind == "candidates" and plan.campaign is not None:
        # The share is of all agents together.
        waiting = sum(e.core_seconds for e in account.in_flight(None, plan.campaign))
        check_share(backend.ledger.view(plan.campaign), agent, plan.core_seconds, policy, waiting)


def check_share(view: View, agent: str, cost: int, policy: AgentPolicy, waiting: int) -> None:
    """Check that agents' points take no more of a person's campaign than the policy gives them."""
    document = view.campaign
    if document.owner == owner_of(agent):
        return
    taken = waiting + sum(c.spent if c.state in SETTLED else c.reserved
                          for c in view.candidates.values() if c.source.startswith("agent:"))
    allowed = policy.campaign_share * budget_seconds(document)
    if taken + cost > allowed:
        raise PolicyError(
            f"agents' points may take {allowed / 3600:.3g} core-hours of {document.name!r}, and "
            f"have {taken / 3600:.3g}", rule="campaign_share", asked=(taken + cost) / 3600,
            allowed=allowed / 3600, hint="propose fewer points")


def owned_view(backend: Backend, agent: str, name: str, policy: AgentPolicy) -> View:
    """Return a campaign this agent may write to; PolicyError for any other."""
    view = backend.ledger.view(name)
    policy.check_owner(agent, f"campaign {name!r}", view.campaign.owner, name)
    return view


def owned_jobs(backend: Backend, agent: str, fw_ids: Sequence[int], policy: AgentPolicy
               ) -> list[dict[str, Any]]:
    """Return fireworks this agent may steer; PolicyError for any other."""
    found = {f["fw_id"]: f for f in backend.pad.fireworks.find(
        {"fw_id": {"$in": list(fw_ids)}},
        {"fw_id": 1, "state": 1, "launches": 1, "spec.owner": 1, "spec.campaign": 1,
         "spec.resources": 1})}
    for fw_id in fw_ids:
        spec = found.get(fw_id, {}).get("spec", {})
        # The same words for what is not there: ids of others are nobody's business.
        policy.check_owner(agent, f"job {fw_id}", str(spec.get("owner")), spec.get("campaign"))
    return [found[i] for i in fw_ids]


def read_structure(backend: Backend, given: FromPrototype | FromResult | FromFile,
                   policy: AgentPolicy) -> Structure:
    """Return the structure a request names.

    Raises
    ------
    InputError
        There is none, or it is not one.
    """
    from pymatgen.core import Structure as Crystal

    from orionflow.workflows.structures import read_structure as read

    if isinstance(given, FromFile):
        return read(find_file(backend.project, given.name, policy))
    if isinstance(given, FromPrototype):
        words = [given.formula, given.prototype, repr(given.a),
                 *([repr(given.c)] if given.c is not None else []),
                 *(["cubic"] if given.cubic else []),
                 *([f"random {given.random}"] if given.random is not None else [])]
        return read(" ".join(words))
    document = backend.store.docs_store.query_one(
        {"uuid": given.result}, properties=["output.structure", "output.output.structure"],
        sort={"index": -1})
    output = (document or {}).get("output") or {}
    data = (output.get("output") or {}).get("structure") or output.get("structure")
    if not isinstance(data, dict) or "sites" not in data:
        raise InputError(f"result {given.result!r} holds no structure",
                         hint="list_results shows results")
    return read(Crystal.from_dict(data))


def find_file(project: Path, name: str, policy: AgentPolicy) -> Path:
    """Return a structure file in one of the folders the policy opens.

    Raises
    ------
    InputError
        There is none of this name that lies, links followed, in such a folder.
    """
    if name.endswith(_SUFFIXES):
        for folder in policy.structure_folders:
            root = (project / folder).resolve()
            path = (root / name).resolve()
            if path.parent == root and path.is_file() and path.stat().st_size <= _LARGEST_FILE:
                return path
    raise InputError(f"there is no structure file {name!r} for agents",
                     hint=f"files {', '.join(_SUFFIXES)} in a folder of structure_folders")


def _check_name(backend: Backend, agent: str, name: str, policy: AgentPolicy) -> None:
    """Refuse the name of somebody else's campaign for new work."""
    if name in backend.ledger.names():
        owned_view(backend, agent, name, policy)
    other = backend.pad.fireworks.find_one(
        {"spec.campaign": name, "spec.owner": {"$ne": owner_of(agent)}}, {"spec.owner": 1})
    if other is not None:
        policy.check_owner(agent, f"campaign {name!r}", str(other["spec"].get("owner")), name)


def _check_choices(variables: list[dict[str, Any]]) -> None:
    # They may become part of a structure's name, which otherwise could be that of a file.
    for variable in variables:
        for choice in variable.get("choices", ()):
            if "/" in choice or choice.startswith("."):
                raise ConfigError(f"choice {choice!r}")  # the request's pattern excludes it


def _ids(fw_ids: Sequence[int]) -> str:
    return ", ".join(map(str, fw_ids))
