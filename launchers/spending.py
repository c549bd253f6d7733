"""What launches cost, and that no job takes more core-seconds than were set aside for it.

``core_seconds`` in a firework's spec is what all its launches together may take: who made the job
has reserved as much before. It is held here, where cores are really used, whatever puts the job
back: a lost node, a longer allocation, more memory, a person.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from orionflow.launchers.cancel import CANCELLED_KEY
from orionflow.launchers.identity import ENV_KEY
from orionflow.launchers.jobs import Result, failed_action
from orionflow.launchers.pad.documents import as_time
from orionflow.launchers.pulse import BEAT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orionflow.launchers.jobs import ClaimedJob

SET_ASIDE = "core_seconds"
"""In a firework's spec: whole core-seconds that all its launches together may take."""
GRANTED = "granted"
"""In a launch: ``cores``, and the ``seconds`` from its claim on after which it is over."""
USED_UP = "used_up"
"""In the details of a failure: what was set aside is used up; with more the job goes on."""
COST_FIELDS = {"_id": 0, "launch_id": 1, "fw_id": 1, "state": 1, "runtime_secs": 1, GRANTED: 1,
               "state_history.state": 1, "state_history.created_on": 1,
               "state_history.updated_on": 1, "action.stored_data._message": 1,
               f"action.stored_data.{CANCELLED_KEY}": 1, f"fworker.env.{ENV_KEY}": 1}
"""Of a launch's document, for `core_seconds_of`."""
# A job that goes on gets no rest that is too short to get further in: less than this share of a
# whole try, or so many s.
_WORTH, _SHORTEST = 0.25, 5.0
# As `FailureInfo.launcher_lost` says it, and who gives up a job that was lost too often.
_LOST = re.compile(r"(?:^|; )lost\b")
# Codes end by themselves so long before their time is over, s.
_SHARE_OF_NOTICE, _LEAST_NOTICE, _MOST_NOTICE = 0.1, 3.0, 60.0


def grant(pad: Any, job: ClaimedJob) -> Result | None:
    """Note what a claimed job may take, in its launch and in ``job.ends``.

    Returns
    -------
    Result or None
        None: it may start. Else what becomes of it instead: nothing is left of what was set aside
        for it, or MongoDB could not be asked.
    """
    allowed = job.spec.get(SET_ASIDE)
    if not isinstance(allowed, int):
        return None
    cores = _cores(job.spec)
    try:
        earlier = list(pad.launches.find(
            {"fw_id": job.fw_id, "launch_id": {"$ne": job.launch_id}}, COST_FIELDS))
        rest = allowed - sum(core_seconds_of(e, job.spec) for e in earlier)
        seconds = rest / cores
        begun = as_time(job.launch.get("time_start")) or datetime.now(UTC)
        left = seconds - max((datetime.now(UTC) - begun).total_seconds(), 0.0)
        whole = _whole_try(earlier, job.spec, allowed, rest) / cores
        enough = max(_SHORTEST, _WORTH * min(job.need.seconds, whole))
        pad.launches.update_one({"launch_id": job.launch_id}, {"$set": {
            GRANTED: {"cores": cores, "seconds": seconds if left >= enough else 0.0}}})
    except PyMongoError:  # it is away, or refuses: its disk is full, say
        return Result(job, "READY", "claimed, but not started")
    if left >= enough:
        job.ends = time.monotonic() + left
        job.notice = min(_MOST_NOTICE, max(_LEAST_NOTICE, _SHARE_OF_NOTICE * left))
        return None
    job.problem = f"the {allowed / 3600:.3g} core-hours set aside for it are used up"
    action = failed_action(job.problem)
    action["stored_data"]["_exception"]["_details"] = {
        "message": job.problem, "transient": True, USED_UP: True}
    return Result(job, "FIZZLED", job.problem, action)


def _whole_try(earlier: Sequence[Mapping[str, Any]], spec: Mapping[str, Any], allowed: int,
               rest: float) -> float:
    """Return the core-seconds of the try that goes on; 0 when a new one begins."""
    noted = sorted((e for e in earlier if isinstance(e.get(GRANTED), dict)),
                   key=lambda e: int(e["launch_id"]))
    if not noted:
        return float(allowed) if earlier else 0.0
    sizes = [float(e[GRANTED]["cores"] * e[GRANTED]["seconds"]) for e in noted]
    left = sizes[-1] - core_seconds_of(noted[-1], spec)
    # More was set aside since the last launch: what earlier tries took is no measure for this one.
    return 0.0 if rest - left > _SHORTEST * _cores(spec) else max(sizes)


def core_seconds_of(launch: Mapping[str, Any], spec: Mapping[str, Any]) -> float:
    """Return what a launch has cost so far, core-seconds.

    Parameters
    ----------
    launch
        Its document, at least `COST_FIELDS`.
    spec
        Of its firework. It says how many cores a launch had that does not say so itself.
    """
    granted = launch.get(GRANTED)
    if not isinstance(granted, dict):
        ours = ((launch.get("fworker") or {}).get("env") or {}).get(ENV_KEY)
        # Our launchers start nothing before they have noted what it may take.
        return 0.0 if ours and SET_ASIDE in spec else _cores(spec) * launch_seconds(launch)
    # Its launcher has ended it by then, even if it could write so only later.
    return float(granted["cores"] * min(launch_seconds(launch), granted["seconds"]))


def launch_seconds(launch: Mapping[str, Any]) -> float:
    """Return how long a launch ran, s; up to its last sign of life while it runs or is lost."""
    start = sign = end = None
    for entry in launch.get("state_history") or ():
        if entry.get("state") == "RUNNING":
            start = start or as_time(entry.get("created_on"))
            sign = end = as_time(entry.get("updated_on")) or start
        elif start is not None:
            end = as_time(entry.get("created_on"))
    known = launch.get("runtime_secs")
    seconds = (float(known) if isinstance(known, (int, float)) and known >= 0
               else _between(start, end))
    if sign is not None and _ended_by_others(launch):
        # Found lost an hour later; it may have lived until just before its next heartbeat.
        seconds = min(seconds, _between(start, sign) + BEAT)
    return seconds


def _ended_by_others(launch: Mapping[str, Any]) -> bool:
    """Whether somebody else than its own launcher may have written how a launch ended."""
    stored = (launch.get("action") or {}).get("stored_data") or {}
    return launch.get("state") == "FIZZLED" and (
        CANCELLED_KEY in stored or bool(_LOST.search(str(stored.get("_message", "")))))


def _between(start: datetime | None, end: datetime | None) -> float:
    return 0.0 if start is None or end is None else max((end - start).total_seconds(), 0.0)


def _cores(spec: Mapping[str, Any]) -> int:
    asked = spec.get("resources") or {}
    return int(asked.get("ranks") or 1) * int(asked.get("threads") or 1)
