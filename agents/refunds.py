"""What agents' commits have really cost: the rest of what was set aside is theirs again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orionflow.agents.accounts import today
from orionflow.agents.campaign_document import ENDED
from orionflow.agents.policy import owner_of
from orionflow.agents.records import SETTLED
from orionflow.agents.requests import PlanCandidates
from orionflow.analysis.outcomes import Fate, fates, spent_by
from orionflow.errors import InputError

if TYPE_CHECKING:
    from orionflow.agents.accounts import Account, Entry
    from orionflow.agents.backend import Backend
    from orionflow.agents.plans import Plan

_OVER = frozenset({"COMPLETED", "FIZZLED", "DEFUSED"})


def refund(backend: Backend) -> Account:
    """Give back what today's commits have not used and can't use any more.

    Any number of processes may do it at once: a commit is settled once.

    Returns
    -------
    Account
        As it stands now.
    """
    account = backend.accounts.read()
    costs = _costs(backend, account)
    return backend.accounts.correct(costs) if costs else account


def standing(backend: Backend) -> Account:
    """Return the account as `refund` would leave it; nothing is written."""
    account = backend.accounts.read()
    for (agent, key), cost in _costs(backend, account).items():
        if (entry := account.find(agent, key)) is not None:
            entry.core_seconds = cost
    return account


def _costs(backend: Backend, account: Account) -> dict[tuple[str, str], int]:
    """Return what today's commits have cost that are over, by agent and key."""
    waiting = account.unsettled(today())
    if not waiting:
        return {}
    plans = {e.plan: plan for e in waiting if (plan := _plan(backend, e)) is not None}
    keys = {e.plan: f"{owner_of(e.agent)}:{e.key}" for e in waiting}
    known = fates(backend.pad.db, [keys[p.id] for p in plans.values() if p.kind == "workflow"])
    costs: dict[tuple[str, str], int] = {}
    for entry in waiting:
        plan = plans.get(entry.plan)
        cost = None if plan is None else (
            _of_workflow(known.get(keys[plan.id])) if plan.kind == "workflow"
            else _of_campaign(backend, plan) if plan.campaign is not None
            else _of_jobs(backend, plan, entry.before))
        if cost is not None:
            costs[entry.agent, entry.key] = cost
    return costs


def _plan(backend: Backend, entry: Entry) -> Plan | None:
    try:
        return backend.plans.get(entry.plan, entry.agent)
    except InputError:
        return None


def _of_workflow(fate: Fate | None) -> int | None:
    return fate.core_seconds if fate is not None and fate.state in _OVER else None


def _of_campaign(backend: Backend, plan: Plan) -> int | None:
    """Return the cost of a campaign that was started, or of the points given to one."""
    view = backend.views.get(str(plan.campaign))
    if plan.kind != "candidates":
        return view.spent if view.state in ENDED and not view.open else None
    wanted = {view.campaign.space.x_hash(p.plain())
              for p in PlanCandidates.from_data(plan.request).points}
    # A point that was there before, or found no budget, is not this agent's.
    mine = [c for c in view.candidates.values()
            if c.x_hash in wanted and c.source == owner_of(plan.agent)]
    if any(c.state not in SETTLED for c in mine):
        return None
    return sum(c.spent for c in mine)


def _of_jobs(backend: Backend, plan: Plan, before: float) -> int | None:
    """Return the cost of jobs that were run again."""
    fw_ids = plan.request["fw_ids"]
    states = {fw["state"] for fw in backend.pad.fireworks.find(
        {"fw_id": {"$in": fw_ids}}, {"state": 1})}
    if not states <= _OVER:
        return None
    return Fate({}, {0: max(sum(spent_by(backend.pad.db, fw_ids).values()) - before, 0.0)}
                ).core_seconds
