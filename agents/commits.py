"""Planning and committing: each write is checked twice, paid for first, and carried out once."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orionflow.agents import planning
from orionflow.agents.accounts import Entry, check_day, refuse_when_stopped, today
from orionflow.agents.answers import clean, clean_text
from orionflow.agents.effects import carry_out
from orionflow.agents.refunds import refund
from orionflow.analysis.outcomes import spent_by
from orionflow.errors import InputError, PolicyError

if TYPE_CHECKING:
    from orionflow.agents.backend import Backend
    from orionflow.agents.planning import Proposal
    from orionflow.agents.plans import Plan
    from orionflow.agents.strict import StrictModel

SCOPE_OF = {"workflow": "propose", "campaign": "propose", "candidates": "propose",
            "control": "control"}
_EFFECT = 1_500


def make_plan(backend: Backend, agent: str, request: StrictModel) -> dict[str, Any]:
    """Check a request, say what it would do and cost, and keep it under an id.

    Raises
    ------
    InputError, PolicyError
        It can't or may not be done.
    """
    policy, account = backend.policy(), backend.accounts.read()
    refuse_when_stopped(account)
    account = refund(backend)
    proposal = _propose(backend, agent, request)
    planning.limits(backend, agent, proposal, policy, account)
    _check_day(backend, agent, proposal)
    plan = backend.plans.add(
        agent=agent, kind=proposal.kind, request=request.model_dump(mode="json"),
        effect=clean_text(proposal.effect, _EFFECT), core_seconds=proposal.core_seconds,
        fireworks=proposal.fireworks, campaign=proposal.campaign, payload=proposal.payload,
        needs_approval=policy.needs_approval(proposal.core_seconds))
    steps = [f"commit with plan_id {plan.id} and a key of yours"]
    if plan.needs_approval:
        steps.insert(0, f"a person must approve it first: orionflow agent approve {plan.id}")
    return {"summary": f"{plan.id}: nothing has been done yet; {plan.effect}", "next": steps,
            "plan_id": plan.id, "core_hours": plan.core_seconds / 3600, "jobs": plan.fireworks,
            "needs_approval": plan.needs_approval, "hash": plan.hash,
            "expires": clean(plan.expires)}


def commit(backend: Backend, agent: str, scopes: tuple[str, ...], plan_id: str, key: str
           ) -> dict[str, Any]:
    """Carry out a plan once.

    Parameters
    ----------
    scopes
        The caller's; the plan's kind needs one of them.
    key
        The caller's name for this request. Again with the same key: the same receipt.

    Raises
    ------
    InputError, PolicyError
        Refused; nothing has been done, and nothing has been paid for.
    StoreError
        MongoDB does not answer, or somebody else commits this at the moment; what has been done
        is not known. Again with the same key.
    """
    plan = backend.plans.get(plan_id, agent)
    if SCOPE_OF[plan.kind] not in scopes:
        raise PolicyError(f"this agent may not commit {plan_id}", rule="scope",
                          asked=SCOPE_OF[plan.kind], allowed=list(scopes),
                          hint=f"it needs the scope {SCOPE_OF[plan.kind]}")
    refuse_when_stopped(backend.accounts.read())
    runner = secrets.token_hex(8)
    if (receipt := backend.plans.begin(plan, key, runner)) is not None:
        backend.accounts.settle(agent, key, keep=True)  # perhaps killed before its last line
        return receipt
    resumed = plan.key == key and backend.accounts.read().find(agent, key) is not None
    try:
        if not resumed:  # else it was begun and paid for, and a crash came between
            _pay(backend, plan, key)
        receipt = {"summary": f"{plan.id} has been carried out: {plan.effect}", "plan_id": plan.id,
                   "key": key, **clean(carry_out(backend, plan, key))}
    except (InputError, PolicyError):
        # Refused for certain; after any other error the money stays set aside, and the same key
        # goes on. Of one that was resumed, the first try may have done something.
        backend.accounts.settle(agent, key, keep=resumed)
        if not resumed:
            backend.plans.free(plan, key)
        backend.plans.give_up(plan, key, runner)
        raise
    backend.plans.finish(plan, key, receipt)
    backend.accounts.settle(agent, key, keep=True)
    return receipt


def _pay(backend: Backend, plan: Plan, key: str) -> None:
    """Check everything again, and set aside what it costs, in one step of the database."""
    policy = backend.policy()
    plan.check(key)
    _check_again(backend, plan)
    if policy.needs_approval(plan.core_seconds) and not plan.approved:
        if not plan.needs_approval:
            backend.plans.require_approval(plan.id)
        raise PolicyError(f"{plan.id} needs a person's approval ({plan.core_seconds / 3600:.3g} "
                          "core-hours)", rule="approval_above",
                          asked=plan.core_seconds / 3600, allowed=policy.approval_above,
                          hint=f"orionflow agent approve {plan.id}, then commit again")
    refund(backend)
    entry = Entry(agent=plan.agent, key=key, day=today(), core_seconds=plan.core_seconds,
                  fireworks=plan.fireworks, campaign=plan.campaign, at=datetime.now(UTC),
                  plan=plan.id, before=_before(backend, plan))
    backend.accounts.reserve(
        entry, policy, lambda now: planning.limits(backend, plan.agent, plan, policy, now))
    backend.plans.use(plan, key)


def _before(backend: Backend, plan: Plan) -> float:
    """Return what jobs that are to run again have taken so far, core-seconds."""
    rerun = plan.kind == "control" and plan.core_seconds and plan.campaign is None
    return sum(spent_by(backend.pad.db, plan.request["fw_ids"]).values()) if rerun else 0.0


def _check_again(backend: Backend, plan: Plan) -> None:
    """Plan the same request anew: policy, owner and state may have changed since.

    What was built then is what is carried out; only a commit that would cost more is refused.
    """
    from orionflow.agents.tools import request_of

    proposal = _propose(backend, plan.agent, request_of(plan.kind, plan.request))
    if proposal.core_seconds > plan.core_seconds or proposal.fireworks > plan.fireworks:
        raise InputError(f"{plan.id} would cost more than when it was planned", hint="plan again")


def _propose(backend: Backend, agent: str, request: StrictModel) -> Proposal:
    from orionflow.agents.tools import planner_of

    proposal: Proposal = planner_of(request)(backend, agent, request, backend.policy())
    return proposal


def _check_day(backend: Backend, agent: str, proposal: Proposal) -> None:
    """Say now what the commit would say: a plan that can't be paid for helps nobody."""
    entry = Entry(agent=agent, key="", day=today(), core_seconds=proposal.core_seconds,
                  fireworks=proposal.fireworks, at=datetime.now(UTC))
    check_day(backend.accounts.read(), entry, backend.policy())
