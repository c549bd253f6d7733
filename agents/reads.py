"""What agents may read: short answers with a summary and the next step, rows by pages.

``summary`` and ``next`` are made of our own words, numbers and checked names. What comes from
results, files or other people stands in the rows, as data.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.agents.accounts import today
from orionflow.agents.answers import clean, clean_text, offset_of, paged, without_folders
from orionflow.agents.backend import OPEN_STATES
from orionflow.agents.campaign_document import CampaignState
from orionflow.agents.policy import owner_of
from orionflow.agents.refunds import standing
from orionflow.agents.status import status_of
from orionflow.agents.uncertainty import MEANING, noted
from orionflow.analysis.outcomes import judge
from orionflow.errors import InputError
from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.run_state import read_state
from orionflow.workflows.registry import get_recipe, recipes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orionflow.agents import requests
    from orionflow.agents.backend import Backend

    Answer = dict[str, Any]

_ALIVE = timedelta(seconds=60)
_RESULT_FIELDS = (
    "uuid", "completed_at", "metadata.campaign", "metadata.fw_id", "metadata.owner",
    "output.task_label", "output.formula_pretty", "output.nsites", "output.code",
    "output.output.energy", "output.output.energy_per_atom", "output.energy_per_atom",
    "output.a0", "output.b0", "output.v0", "output.warnings",
    "output.provenance.run.corrections.failure_id", "output.provenance.run.core_seconds")
_IS_RESULT: dict[str, Any] = {"$or": [{"output.provenance.run": {"$exists": True}},
                                      {"output.b0": {"$exists": True}}]}


def campaigns(backend: Backend, agent: str, request: requests.ListCampaigns) -> Answer:
    """Return all campaigns: those with a document, and names under which jobs were submitted."""
    documents = set(backend.ledger.names())
    names = sorted(documents | {t for t in backend.pad.fireworks.distinct("spec.campaign") if t})
    start = offset_of(request.cursor)
    page = names[start:start + request.limit + 1]
    counts = _states(backend, {"spec.campaign": {"$in": page}}, "$spec.campaign")
    rows = []
    for number, name in enumerate(page, start=start + 1):
        row: Answer = {"campaign": name, "jobs": counts.get(name, {}), "at": number}
        if name in documents:
            status = status_of(backend.views.get(name))
            row |= {"state": status.state, "done": status.done, "open": status.open,
                    "failed": status.failed, "yours": status.owner == owner_of(agent)}
        rows.append(row)
    answer = paged({"summary": f"{len(names)} campaign(s); {len(documents)} with a search space "
                    "and a budget of their own",
                    "next": ["campaign_digest tells more about one"]},
                   rows, cursor_of=lambda r: str(r["at"]), limit=request.limit)
    for row in answer["rows"]:
        row.pop("at")
    return answer


def digest(backend: Backend, agent: str, request: requests.OfCampaign) -> Answer:
    """Return where a campaign stands and what can be done next."""
    name = request.campaign
    jobs = _states(backend, {"spec.campaign": name}, None).get(None, {})
    if name not in backend.ledger.names():
        if not jobs:
            raise InputError(f"there is no campaign {name!r}", hint="list_campaigns shows them")
        return _tag_digest(backend, name, jobs)
    view = backend.views.get(name)
    status = status_of(view, sigma=noted(backend.database, view))
    left = backend.policy().campaign_share
    summary = (f"{status.state}: {status.evaluations} of {status.evaluations_allowed} candidates "
               f"proposed, {status.done} done, {status.open} open, {status.failed} failed; "
               f"{status.spent:.3g} of {status.core_hours:.3g} core-hours spent, "
               f"{status.reserved:.3g} reserved")
    steps = []
    if status.failed:
        steps.append(f"list_failures with campaign {name}: why {status.failed} candidate(s) failed")
    if status.done:
        steps.append(f"list_candidates with campaign {name}: points and values so far")
    yours = status.owner == owner_of(agent) or name in backend.policy().campaigns
    if yours and status.state == "RUNNING":
        steps.append("plan_candidates: points of your own")
    if yours and status.state in {"DRAFT", "PAUSED"}:
        action = "start" if status.state == "DRAFT" else "resume"
        steps.append(f"plan_control with action {action}")
    steps += _workers(backend, jobs)
    data = status.to_dict()
    shown = {k: data[k] for k in (
        "state", "reason", "owner", "recipe", "objectives", "core_hours", "spent", "reserved",
        "left", "evaluations", "evaluations_allowed", "open", "done", "failed",
        "awaiting_approval", "failures", "best", "front", "predicted_finish", "started_at",
        "changed_at")}
    variables = [_short(v) for v in view.campaign.space.to_data()["variables"]]
    return {"campaign": name, "summary": summary, "next": steps, "jobs": jobs,
            "yours": yours, "agents_share": left, "batch_size": view.campaign.batch_size,
            "sigma_of_best": MEANING,
            **clean({**shown, "front": shown["front"][:5], "failures": shown["failures"][:5]}),
            "variables": clean(variables, most=60, items=20)}


def _short(variable: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in variable.items() if k != "features_of"}


def _tag_digest(backend: Backend, name: str, jobs: dict[str, int]) -> Answer:
    found = backend.store.docs_store.count({"metadata.campaign": name, **_IS_RESULT})
    done = jobs.get("COMPLETED", 0)
    steps = []
    if jobs.get("FIZZLED"):
        steps.append(f"list_failures with campaign {name}: why {jobs['FIZZLED']} job(s) failed")
    if found:
        steps.append(f"list_results with campaign {name}: {found} result(s)")
    steps += _workers(backend, jobs)
    return {"campaign": name, "jobs": jobs, "results": found,
            "summary": f"{sum(jobs.values())} job(s) under this name, {done} completed, "
            f"{jobs.get('FIZZLED', 0)} failed; no search space or budget of its own",
            "next": steps}


def candidates(backend: Backend, agent: str, request: requests.Candidates) -> Answer:  # noqa: ARG001  one signature for all
    """Return the candidates of a campaign with their points and values, newest first."""
    view = backend.views.get(request.campaign)
    paths = [o.path for o in view.campaign.objectives]
    start = offset_of(request.cursor)
    rows = [{"candidate": c.seq, "point": c.point, "state": c.state.value, "source": c.source,
             **({"values": dict(zip(paths, c.values, strict=True))} if c.values else {}),
             **({"reason": c.reason} if c.reason else {}),
             **({"result": c.result} if c.result else {}),
             **({"fw_ids": c.fw_ids} if c.fw_ids else {}), "at": start + n}
            for n, c in enumerate(list(view.candidates.values())[::-1][start:], 1)]
    answer = paged({"summary": f"{len(view.candidates)} candidate(s), newest first",
                    "next": ["plan_candidates proposes others"]
                    if view.state is CampaignState.RUNNING else []},
                   rows, cursor_of=lambda r: str(r["at"]), limit=request.limit)
    for row in answer["rows"]:
        row.pop("at")
    return answer


def results(backend: Backend, agent: str, request: requests.Results) -> Answer:  # noqa: ARG001  one signature for all
    """Return results, newest first."""
    query = dict(_IS_RESULT)
    if request.campaign is not None:
        query["metadata.campaign"] = request.campaign
    if request.formula is not None:
        query["output.formula_pretty"] = request.formula
    start = offset_of(request.cursor)
    store = backend.store.docs_store
    found = store.query(query, properties=list(_RESULT_FIELDS), skip=start,
                        sort={"completed_at": -1, "_id": -1}, limit=request.limit + 1)
    rows = [{**_result_row(d), "at": start + n} for n, d in enumerate(found, 1)]
    answer = paged({"summary": f"{store.count(query)} result(s), newest first",
                    "next": ["provenance tells where one comes from"] if rows else []},
                   rows, cursor_of=lambda r: str(r["at"]), limit=request.limit)
    for row in answer["rows"]:
        row.pop("at")
    return answer


def _result_row(document: Mapping[str, Any]) -> Answer:
    output, metadata = document.get("output") or {}, document.get("metadata") or {}
    inner = output.get("output") or {}
    run = (output.get("provenance") or {}).get("run") or {}
    row = {
        "result": document.get("uuid"), "campaign": metadata.get("campaign"),
        "fw_id": metadata.get("fw_id"), "label": output.get("task_label"),
        "formula": output.get("formula_pretty"), "atoms": output.get("nsites"),
        "code": output.get("code"), "energy_ev": inner.get("energy"),
        "energy_per_atom_ev": inner.get("energy_per_atom", output.get("energy_per_atom")),
        "a0_angstrom": output.get("a0"), "b0_gpa": output.get("b0"), "v0_a3": output.get("v0"),
        "corrections": len(run.get("corrections") or ()),
        "core_seconds": run.get("core_seconds"),
        "warnings": (output.get("warnings") or [])[:3],
        "completed_at": document.get("completed_at"),
    }
    return {k: v for k, v in row.items() if v is not None and v != []}


def failures(backend: Backend, agent: str, request: requests.Failures) -> Answer:
    """Return failed jobs with what Custodian tried and what the catalogue advises."""
    query: dict[str, Any] = {"state": "FIZZLED"}
    if request.campaign is not None:
        query["spec.campaign"] = request.campaign
    start = offset_of(request.cursor)
    pad = backend.pad
    found = list(pad.fireworks.find(
        query, {"fw_id": 1, "name": 1, "launches": 1, "archived_launches": 1, "spec.campaign": 1,
                "spec.owner": 1, "spec._exception_details": 1, "updated_on": 1},
        sort=[("fw_id", -1)], skip=start, limit=request.limit + 1))
    last = [f["launches"][-1] for f in found if f.get("launches")]
    launches = {x["launch_id"]: x for x in pad.launches.find(
        {"launch_id": {"$in": last}},
        {"launch_id": 1, "launch_dir": 1, "host": 1, "action.stored_data": 1})}
    rows = [{**_failure_row(f, launches.get(f["launches"][-1], {}) if f.get("launches") else {},
                            agent), "at": start + n} for n, f in enumerate(found, 1)]
    total = pad.fireworks.count_documents(query)
    again = any(r["yours"] and r["kind"] == "infrastructure" for r in rows)
    answer = paged({"summary": f"{total} failed job(s), newest first", "next": (
        ["plan_control with action rerun, for your jobs that failed by their surroundings"]
        if again else [])}, rows, cursor_of=lambda r: str(r["at"]), limit=request.limit)
    for row in answer["rows"]:
        row.pop("at")
    return answer


def _failure_row(firework: Mapping[str, Any], launch: Mapping[str, Any], agent: str) -> Answer:
    job = judge(firework, launch)
    state = read_state(Path(job.folder)) if job.folder else None
    mode = CATALOGUE.get(job.failure_id)
    spec = firework.get("spec") or {}
    history = [{"attempt": c.attempt, "failure": c.failure_id, "changes": c.changes[:6]}
               for c in (state.corrections if state else [])][-8:]
    return {
        "fw_id": job.fw_id, "name": job.name, "campaign": spec.get("campaign"),
        "yours": spec.get("owner") == owner_of(agent), "kind": job.kind.value,
        "failure": job.failure_id or None, "message": without_folders(job.message),
        "what": mode.title if mode else None, "tried": list(mode.remedy) if mode else [],
        "advice": mode.advice if mode else None, "history": history,
        "launches": len(firework.get("launches") or ())
        + len(firework.get("archived_launches") or ()),
        "host": launch.get("host"), "since": firework.get("updated_on"),
    }


def queue(backend: Backend, agent: str, request: requests.Queue) -> Answer:
    """Return jobs by state, what runs now, and the launchers that live."""
    query = {} if request.campaign is None else {"spec.campaign": request.campaign}
    states = _states(backend, query, None).get(None, {})
    running = list(backend.pad.fireworks.find(
        {**query, "state": "RUNNING"}, {"fw_id": 1, "name": 1, "spec.campaign": 1, "_id": 0,
                                        "updated_on": 1}, sort=[("fw_id", 1)], limit=20))
    alive = launchers(backend)
    waiting = states.get("READY", 0) + states.get("WAITING", 0)
    rows = [{"fw_id": f["fw_id"], "name": f["name"], "campaign": f["spec"].get("campaign"),
             "since": f.get("updated_on")} for f in running]
    return {"summary": f"{states.get('RUNNING', 0)} job(s) run, {waiting} wait, "
            f"{states.get('COMPLETED', 0)} completed, {states.get('FIZZLED', 0)} failed; "
            f"{len(alive)} launcher(s) alive",
            "next": _workers(backend, states, alive), "states": states,
            "your_open_jobs": backend.open_fireworks(agent),
            "running": clean(rows, most=100), "launchers": clean(alive[:10], most=100)}


def launchers(backend: Backend) -> list[Answer]:
    """Return the launchers that gave a sign of life within a minute."""
    since = (datetime.now(UTC) - _ALIVE).isoformat()
    shown = ("host", "slurm_job_id", "state", "busy", "cores", "note", "beat")
    return [{k: d.get(k) for k in shown} for d in backend.database.orionflow_launchers.find(
                {"ended": {"$exists": False}, "state": {"$ne": "ended"}, "beat": {"$gt": since}},
                sort=[("beat", -1)], limit=50)]


def budgets(backend: Backend, agent: str, request: requests.Nothing) -> Answer:  # noqa: ARG001  one signature for all
    """Return what this agent may still ask for today, and the policy's limits."""
    account, policy = standing(backend), backend.policy()
    day = today()
    asked = account.asked(day, agent) / 3600
    left = max(policy.core_hours_per_day - asked, 0.0)
    if policy.core_hours_per_day_all is not None:
        left = min(left, max(policy.core_hours_per_day_all - account.asked(day) / 3600, 0.0))
    jobs = backend.open_fireworks(agent)
    stopped = account.stop is not None
    own = []
    for name in backend.ledger.names():
        view = backend.views.get(name)
        if view.campaign.owner == owner_of(agent) or name in policy.campaigns:
            status = status_of(view)
            own.append({"campaign": name, "state": status.state, "core_hours": status.core_hours,
                        "spent": status.spent, "reserved": status.reserved, "left": status.left})
    return {"summary": f"{asked:.3g} core-hours asked for today (UTC {day}), {left:.3g} left; "
            f"{jobs} of {policy.open_fireworks} jobs open" + (
                "; agents are stopped" if stopped else ""),
            "next": ["a person lets agents go on: orionflow agent resume"] if stopped else [],
            "day": day, "asked": asked, "left": left, "open_jobs": jobs, "stopped": stopped,
            "policy": clean(policy.describe()), "campaigns": clean(own[:30])}


def recipe_list(backend: Backend, agent: str, request: requests.RecipeQuery) -> Answer:  # noqa: ARG001  one signature for all
    """Return the recipes agents may use, or one with its parameters and their limits."""
    policy = backend.policy()
    if request.recipe is None:
        rows: list[Answer] = [
            {"recipe": r.name, "code": r.code, "gives": r.summary,
             "you_may_set": list(policy.recipes[r.name].parameters)}
            for r in recipes() if r.name in policy.recipes]
        return {"summary": f"{len(rows)} recipe(s) are open to agents",
                "next": ["list_recipes with a recipe shows its parameters"] if rows else
                ["a person opens recipes to agents in agent_policy.yaml"],
                "job": policy.job.model_dump(), "rows": clean(rows)}
    rule = policy.check_recipe(request.recipe)
    recipe = get_recipe(request.recipe)
    known = recipe.parameters()
    rows = [{"name": name, "type": known[name].type, "required": known[name].required,
             "default": known[name].default, "meaning": known[name].description,
             "allowed": one.describe(), "schema": one.as_schema()}
            for name, one in rule.parameters.items() if name in known]
    fixed = {n: p.default for n, p in known.items() if n not in rule.parameters and n != "name"}
    return {"summary": f"{recipe.name}: {recipe.summary} ({recipe.code})",
            "next": ["plan_workflow with this recipe"], "job": policy.job.model_dump(),
            "rows": clean(rows, most=400), "fixed": clean(fixed, most=60, depth=2)}


def provenance(backend: Backend, agent: str, request: requests.ResultQuery) -> Answer:  # noqa: ARG001  one signature for all
    """Return where a result comes from: input, files, run, corrections, job and workflow."""
    document = backend.store.docs_store.query_one(
        {"uuid": request.result}, properties=[
            "uuid", "index", "name", "completed_at", "metadata", "output.task_label",
            "output.formula_pretty", "output.code", "output.code_version", "output.provenance",
            "output.warnings", "output.recipe", "output.b0", "output.energy_per_atom"],
        sort={"index": -1})
    if document is None:
        raise InputError(f"there is no result {request.result!r}", hint="list_results shows them")
    output, metadata = document.get("output") or {}, document.get("metadata") or {}
    output = output if isinstance(output, dict) else {}
    origin = output.get("provenance") or {}
    run = origin.get("run") or {}
    fw_id = metadata.get("fw_id")
    workflow = backend.pad.workflows.find_one(
        {"nodes": fw_id}, {"name": 1, "metadata": 1, "created_on": 1}) or {}
    wf_data = workflow.get("metadata") or {}
    asked = {k: wf_data.get(k) for k in ("owner", "campaign", "submit_key", "agent", "plan")}
    return {
        "result": request.result, "fw_id": fw_id,
        "summary": f"job {fw_id}; {len(run.get('corrections') or ())} correction(s)",
        "next": [], "label": clean_text(output.get("task_label") or document.get("name") or ""),
        "formula": clean(output.get("formula_pretty")), "code": clean(output.get("code")),
        "code_version": clean(output.get("code_version")),
        "completed_at": clean(document.get("completed_at")),
        "orionflow_version": clean(origin.get("orionflow_version")),
        "input_sha256": clean(origin.get("input_sha256")),
        "structure_sha256": clean(origin.get("structure_sha256")),
        "files": clean((origin.get("files") or [])[:20], most=100),
        "run": clean({k: run.get(k) for k in (
            "hostname", "slurm_job_id", "nodes", "ranks", "threads", "started_at", "finished_at",
            "wall_seconds", "core_seconds", "attempts", "continued")}),
        "corrections": clean([{k: c.get(k) for k in ("attempt", "failure_id", "changes",
                                                     "evidence")}
                              for c in (run.get("corrections") or [])[:10]], items=10),
        "recipe": clean(output.get("recipe"), depth=2), "warnings": clean(
            (output.get("warnings") or [])[:10]),
        "workflow": clean({"name": workflow.get("name"), "submitted": workflow.get("created_on"),
                           **{k: v for k, v in asked.items() if v is not None}}),
    }


def job_status(backend: Backend, agent: str, request: requests.JobQuery) -> Answer:  # noqa: ARG001  one signature for all
    """Return the jobs of a workflow with their states and results: to be asked again and again."""
    workflow = backend.pad.workflows.find_one({"nodes": request.fw_id},
                                              {"nodes": 1, "name": 1, "state": 1})
    if workflow is None:
        raise InputError(f"there is no job {request.fw_id}", hint="commit returns the ids")
    found = list(backend.pad.fireworks.find(
        {"fw_id": {"$in": workflow["nodes"]}},
        {"fw_id": 1, "name": 1, "state": 1, "spec._tasks.job.uuid": 1}, sort=[("fw_id", 1)],
        limit=100))
    rows = [{"fw_id": f["fw_id"], "name": f["name"], "state": f["state"],
             **({"result": uuid} if f["state"] == "COMPLETED" and (uuid := _uuid(f)) else {})}
            for f in found]
    states: dict[str, int] = {}
    for row in rows:
        states[row["state"]] = states.get(row["state"], 0) + 1
    steps = _workers(backend, states)
    if states.get("FIZZLED"):
        steps.append("list_failures tells why a job failed")
    if set(states) == {"COMPLETED"}:
        steps.append("provenance, or list_results, with a `result` of these jobs")
    listed = ", ".join(f"{n} {s}" for s, n in sorted(states.items()))
    ended = not set(states) & set(OPEN_STATES)
    return paged({"summary": f"{len(workflow['nodes'])} job(s): {listed}", "next": steps,
                  "workflow": clean_text(workflow.get("name") or ""), "states": states,
                  "ended": ended}, rows, cursor_of=lambda r: str(r["fw_id"]), limit=100)


def _uuid(firework: Mapping[str, Any]) -> str | None:
    for task in (firework.get("spec") or {}).get("_tasks", ()):
        if isinstance(task.get("job"), dict):
            return str(task["job"].get("uuid"))
    return None


def plan_status(backend: Backend, agent: str, request: requests.PlanQuery) -> Answer:
    """Return whether a plan waits for a person, can be committed, or has been."""
    plan = backend.plans.get(request.plan_id, agent)
    if plan.key is not None:
        state, step = "committed", "job_status, or campaign_digest, tells how it goes on"
    elif plan.refused_by is not None:
        state, step = "refused", "plan something else"
    elif plan.expires < datetime.now(UTC):
        state, step = "expired", "plan again"
    elif plan.needs_approval and not plan.approved:
        state, step = "waits for a person", (f"a person approves it: orionflow agent approve "
                                             f"{plan.id}; then commit")
    else:
        state, step = "ready", "commit"
    return {"summary": f"{plan.id}: {state}", "next": [step], "state": state,
            "effect": clean_text(plan.effect, 600), "core_hours": plan.core_seconds / 3600,
            "hash": plan.hash, "expires": clean(plan.expires)}


# -------------------------------------------------------------------------------------- helpers


def _states(backend: Backend, query: Mapping[str, Any], key: str | None
            ) -> dict[str | None, dict[str, int]]:
    """Return the number of jobs in each state for each value of ``key``."""
    found: dict[str | None, dict[str, int]] = {}
    for group in backend.pad.fireworks.aggregate([
            {"$match": dict(query)},
            {"$group": {"_id": {"key": key, "state": "$state"}, "n": {"$sum": 1}}}]):
        one = found.setdefault(group["_id"].get("key"), {})
        one[str(group["_id"]["state"])] = int(group["n"])
    return found


def _workers(backend: Backend, states: Mapping[str, int],
             alive: Iterable[Answer] | None = None) -> list[str]:
    waiting = states.get("READY", 0) + states.get("RESERVED", 0)
    if not waiting and not states.get("RUNNING"):
        return []
    if list(launchers(backend) if alive is None else alive) or states.get("RUNNING"):
        return ["jobs are under way: look again later"]
    advice = "a person starts one (orionflow launch, or orionflow cron on a cluster)"
    return [f"{waiting} job(s) wait and no launcher is alive: {advice}"]
