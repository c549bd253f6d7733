"""Checks of the jobs in the database: those that will never run, and those left behind."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orionflow.errors import ConfigError, InputError
from orionflow.launchers.doctor.database import connection
from orionflow.launchers.doctor.finding import Finding
from orionflow.launchers.project import PING_SECONDS
from orionflow.launchers.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fireworks.core.fworker import FWorker

    from orionflow.launchers.doctor.finding import Site

_HALF_ADDED_AGE = timedelta(minutes=1)
_LOCK_LOOK = 3.0
_RECOVER = "orionflow recover"


def workers(project: Path) -> list[FWorker]:
    """Return every worker described in the project folder (``*fworker*.yaml``).

    Raises
    ------
    ConfigError
        A file is not a worker's.
    """
    from fireworks.core.fworker import FWorker

    found = []
    for path in sorted(project.glob("*fworker*.yaml")):
        try:
            found.append(FWorker.from_file(str(path)))
        except Exception as error:
            raise ConfigError(f"{path} is not a FireWorks worker: {error!r}",
                              hint="make it anew: orionflow init") from error
    return found


def ready_jobs(site: Site) -> Iterator[Finding]:
    """Look for READY and WAITING jobs that no worker of this project will ever take."""
    known = workers(site.project)
    if not known:
        yield Finding("workers", "broken", "no worker is described in the project folder",
                      "make my_fworker.yaml: orionflow init")
        return
    with connection(site) as (client, name):
        fireworks = client[name]["fireworks"]
        live = {"state": {"$in": ["READY", "WAITING"]}}
        total = fireworks.count_documents(live)
        never = list(fireworks.find(
            {**live, "$nor": [_wanted(worker) for worker in known]},
            {"fw_id": 1, "spec._category": 1, "spec._fworker": 1}, sort=[("fw_id", 1)]))
        asked = list(fireworks.aggregate([
            {"$match": live},
            {"$group": {"_id": "$spec.resources", "jobs": {"$sum": 1},
                        "fw_id": {"$min": "$fw_id"}}}]))
    categories = ", ".join(f"{w.name}: {_category(w.category)}" for w in known)
    if not never:
        waiting = f"all {total} waiting jobs have a worker" if total else "no job waits"
        yield Finding("workers", "ok", f"{waiting} ({categories})")
    for why, group in _reasons(never).items():
        yield Finding("workers", "broken", f"{len(group)} jobs {why}, which no worker takes "
                      f"({categories}); first: {group[0]}",
                      "set `category` in my_fworker.yaml, or give the jobs another: "
                      f"lpad update_fws -i {group[0]} -u '{{\"_category\": \"{_first(known)}\"}}'")
    yield from _impossible(site, asked)


def _impossible(site: Site, asked: list[dict[str, Any]]) -> Iterator[Finding]:
    bad = 0
    for group in asked:
        try:
            site.machine.check(Resources.parse(group["_id"]))
        except InputError as error:
            bad += 1
            yield Finding("resources", "broken", f"{group['jobs']} jobs can never start: "
                          f"{error.message}; first: {group['fw_id']}",
                          f"change them: lpad update_fws -i {group['fw_id']} -u "
                          "'{\"resources\": {...}}', or correct the machine profile")
    if asked and not bad:
        yield Finding("resources", "ok", f"machine {site.machine.name!r} can give what waiting "
                      "jobs ask for")


def leftovers(site: Site) -> Iterator[Finding]:
    """Look for what killed processes leave: half-added workflows, locks, lost runs."""
    with connection(site) as (client, name):
        database = client[name]
        yield _half_added(database)
        yield _locks(database)
        yield _lost(database)


def _half_added(database: Any) -> Finding:
    before = datetime.now(UTC) - _HALF_ADDED_AGE
    inside = set(database["workflows"].distinct("nodes"))
    alone = [f["fw_id"] for f in database["fireworks"].find({}, {"fw_id": 1, "created_on": 1})
             if f["fw_id"] not in inside and _time(f.get("created_on")) < before]
    half = database["workflows"].count_documents({"submitting": {"$exists": True}})
    if alone:
        return Finding("half-added workflows", "warn",
                       f"{len(alone)} fireworks belong to no workflow; first: {min(alone)}",
                       f"a submission was killed half-way: {_RECOVER} removes them, then submit "
                       "again")
    if half:
        return Finding("half-added workflows", "warn", f"{half} workflows are not released yet",
                       f"a submission was killed half-way: {_RECOVER} finishes it")
    return Finding("half-added workflows", "ok", "none")


def _locks(database: Any) -> Finding:
    def held() -> dict[Any, Any]:
        return {w["_id"]: w for w in database["workflows"].find(
            {"locked": {"$exists": True}}, {"locked": 1, "nodes": 1})}

    first = held()
    if first:
        # A lock is held for some milliseconds; only one that stays is a dead process's.
        time.sleep(_LOCK_LOOK)
    stale = [w for key, w in held().items() if key in first and first[key] == w]
    if stale:
        return Finding("locked workflows", "warn", f"{len(stale)} workflows stay locked; the first "
                       f"has firework {min(stale[0]['nodes'])}",
                       f"if nothing works on them: {_RECOVER}, or lpad admin unlock -i "
                       f"{min(stale[0]['nodes'])}")
    return Finding("locked workflows", "ok", "none")


def _lost(database: Any) -> Finding:
    silent = datetime.now(UTC) - timedelta(seconds=4 * PING_SECONDS)
    running = list(database["launches"].find({"state": "RUNNING"},
                                             {"fw_id": 1, "state_history": 1}))
    lost = [r["fw_id"] for r in running
            if _time(r["state_history"][-1].get("updated_on")) < silent]
    claimed = [f["fw_id"] for f in database["fireworks"].find(
        {"state": "RESERVED", "launches": []}, {"fw_id": 1, "updated_on": 1})
        if _time(f.get("updated_on")) < silent]
    if lost or claimed:
        return Finding("lost runs", "warn", f"{len(lost)} jobs RUNNING without a sign of life for "
                       f"{4 * PING_SECONDS} s, {len(claimed)} claimed and never started",
                       f"{_RECOVER} (cron does it as well)")
    return Finding("lost runs", "ok", f"none; {len(running)} running")


def _wanted(worker: FWorker) -> dict[str, Any]:
    """Return the worker's query without the state it asks for."""
    return {k: v for k, v in worker.query.items() if k != "state"}


def _reasons(never: list[dict[str, Any]]) -> dict[str, list[int]]:
    reasons: dict[str, list[int]] = {}
    for firework in never:
        spec = firework.get("spec", {})
        if "_category" not in spec:
            why = "have no category"
        else:
            why = f"have category {spec['_category']!r}"
        if spec.get("_fworker"):
            why += f" and are bound to worker {spec['_fworker']!r}"
        reasons.setdefault(why, []).append(firework["fw_id"])
    return dict(sorted(reasons.items(), key=lambda item: -len(item[1])))


def _category(category: Any) -> str:
    names = [category] if isinstance(category, str) else list(category)
    return ", ".join(names) if any(names) else "every category"


def _first(known: list[FWorker]) -> str:
    names = Counter(c for w in known
                    for c in ([w.category] if isinstance(w.category, str) else w.category) if c)
    return next(iter(names), "compute")


def _time(value: Any) -> datetime:
    """Return a stored time (a date or ISO text, UTC); the beginning of time without one."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return datetime.min.replace(tzinfo=UTC)
    return value if value.tzinfo else value.replace(tzinfo=UTC)
