"""Another try for jobs that failed, and the withdrawal of jobs nobody needs any more."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orionflow.launchers.ahead import UNSTARTED
from orionflow.launchers.cancel import CANCEL_FIELD, CancelRequest, ask
from orionflow.launchers.spending import SET_ASIDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_IDLE = ("WAITING", "READY", "PAUSED")
# What is between two writes of a launcher can't be asked yet; it is asked again for so long, s.
_PATIENCE, _PAUSE = 10.0, 0.1


def run_again(pad: Any, launches: Sequence[int],
              core_seconds: Mapping[int, int] | None = None) -> list[int]:
    """Make READY again the fireworks that are FIZZLED with one of these launches.

    Any number of processes may ask for the same at once, and ask again after a crash: a launch
    is given up once. The job continues in its folder.

    Parameters
    ----------
    pad
        The project's LaunchPad, open.
    launches
        Last launches of the fireworks meant.
    core_seconds
        What some of these fireworks may take from now on in all their launches, old ones included;
        it must have been reserved. See `spending`.

    Returns
    -------
    list of int
        Fireworks this call made READY.
    """
    done, more = [], core_seconds or {}
    for launch in pad.launches.find({"launch_id": {"$in": list(launches)}},
                                    {"launch_id": 1, "fw_id": 1, "launch_dir": 1}):
        fw_id, current = launch["fw_id"], {"state": "FIZZLED", "launches": launch["launch_id"]}
        if pad.fireworks.find_one({"fw_id": fw_id, **current}, {"_id": 1}) is None:
            continue
        with pad.locked(fw_id):
            fw = pad.fireworks.find_one({"fw_id": fw_id, **current}, {"launches": 1, "spec": 1})
            if fw is None:
                continue
            folder = fw["spec"].get("_launch_dir") or launch.get("launch_dir")
            update: dict[str, Any] = {
                "$set": {"state": "READY", "launches": [], "updated_on": datetime.now(UTC),
                         **({"spec._launch_dir": folder} if folder else {}),
                         **({f"spec.{SET_ASIDE}": more[fw_id]} if fw_id in more else {})},
                "$push": {"archived_launches": {"$each": fw["launches"]}},
                "$unset": {"spec._exception_details": "", "spec._reruns": "", "spec._retries": "",
                           "spec._continued": "", f"spec.{UNSTARTED}": ""}}
            # The workflow first: should we be killed between the two, the firework still says
            # FIZZLED, and the same call finds it again.
            _tell(pad, fw_id, "READY", "RUNNING")
            pad.fireworks.update_one({"fw_id": fw_id, **current}, update)
            done.append(fw_id)
    return done


def withdraw(pad: Any, fw_ids: Iterable[int], *, stop_running: bool = False, who: str = "",
             why: str = "") -> list[int]:
    """Defuse fireworks that have not started; ask the running ones to stop if wished.

    Parameters
    ----------
    pad
        The project's LaunchPad, open.
    fw_ids
        Fireworks of workflows that are not needed any more.
    stop_running
        Ask whoever runs one of them to stop, too.
    who, why
        Left with a launch that is asked to stop.

    Returns
    -------
    list of int
        Fireworks this call defused.
    """
    wanted = list(fw_ids)
    done = _defuse_idle(pad, wanted)
    if not stop_running:
        return done
    request = CancelRequest.now(who, why)
    end = time.monotonic() + _PATIENCE
    # What a launcher puts back meanwhile is READY again; what it claims has no launch at first.
    while _ask_running(pad, wanted, request) and time.monotonic() < end:
        done += _defuse_idle(pad, wanted)
        time.sleep(_PAUSE)
    return done


def _defuse_idle(pad: Any, wanted: list[int]) -> list[int]:
    idle = {"state": {"$in": list(_IDLE)}}
    done = []
    for fw in list(pad.fireworks.find({"fw_id": {"$in": wanted}, **idle}, {"fw_id": 1})):
        fw_id = fw["fw_id"]
        with pad.locked(fw_id):
            changed = pad.fireworks.update_one(
                {"fw_id": fw_id, **idle},
                {"$set": {"state": "DEFUSED", "updated_on": datetime.now(UTC)}})
            if changed.modified_count:
                _tell(pad, fw_id, "DEFUSED", None)
                done.append(fw_id)
    return done


def _ask_running(pad: Any, wanted: list[int], request: CancelRequest) -> bool:
    """Ask those that run to stop; return whether there are some that can't be asked yet."""
    left = list(pad.fireworks.find(
        {"fw_id": {"$in": wanted}, "state": {"$in": [*_IDLE, "RUNNING"]}},
        {"state": 1, "launches": 1}))
    current = {fw["launches"][-1] for fw in left if fw["state"] == "RUNNING" and fw["launches"]}
    ask(pad, [d["launch_id"] for d in pad.launches.find(
        {"launch_id": {"$in": list(current)}, CANCEL_FIELD: {"$exists": False}},
        {"launch_id": 1})], request)
    asked = {d["launch_id"] for d in pad.launches.find(
        {"launch_id": {"$in": list(current)}, CANCEL_FIELD: {"$exists": True}},
        {"launch_id": 1})}
    return any(fw["state"] != "RUNNING" or not asked.intersection(fw["launches"]) for fw in left)


def remove_strays(pad: Any, campaign: str) -> list[int]:
    """Remove fireworks that a killed submission of a campaign left without a workflow.

    Only those whose job stands in a workflow as another firework: the submission they belonged to
    has been made again and can't be finished any more, so that nobody is disturbed.

    Parameters
    ----------
    pad
        The project's LaunchPad, open.
    campaign
        As in the spec of the fireworks.

    Returns
    -------
    list of int
        What was removed.
    """
    job = "spec._tasks.job"
    # Only jobs as they were submitted: what a running job adds has other ids or a higher index.
    waiting = {fw["fw_id"]: _uuids(fw) for fw in pad.fireworks.find(
        {"state": "WAITING", "spec.campaign": campaign, f"{job}.index": 1},
        {"fw_id": 1, f"{job}.uuid": 1})}
    homeless = set(waiting) - _housed(pad, waiting)
    if not homeless:
        return []
    uuids = sorted({u for i in homeless for u in waiting[i]})
    twins = {fw["fw_id"]: _uuids(fw) for fw in pad.fireworks.find(
        {"spec.campaign": campaign, f"{job}.uuid": {"$in": uuids}}, {"fw_id": 1, f"{job}.uuid": 1})}
    known = {u for i in _housed(pad, twins) - homeless for u in twins[i]}
    strays = sorted(i for i in homeless if known & set(waiting[i]))
    pad.fireworks.delete_many({"fw_id": {"$in": strays}, "state": "WAITING"})
    return strays


def _housed(pad: Any, fw_ids: Iterable[int]) -> set[int]:
    wanted = set(fw_ids)
    return {i for wf in pad.workflows.find({"nodes": {"$in": sorted(wanted)}}, {"nodes": 1})
            for i in wf["nodes"]} & wanted


def _uuids(fw: dict[str, Any]) -> list[str]:
    jobs = [task.get("job") for task in fw["spec"].get("_tasks") or () if isinstance(task, dict)]
    return [job["uuid"] for job in jobs if isinstance(job, dict) and "uuid" in job]


def _tell(pad: Any, fw_id: int, state: str, whole: str | None) -> None:
    """Write a firework's state into its workflow, as FireWorks' own refresh would."""
    wf = pad.workflows.find_one({"nodes": fw_id}, {"fw_states": 1})
    if wf is None:
        return
    states = set({**wf["fw_states"], str(fw_id): state}.values())
    if whole is None:
        whole = ("RUNNING" if states & {"RUNNING", "READY", "RESERVED"}
                 else "FIZZLED" if "FIZZLED" in states
                 else "DEFUSED" if "DEFUSED" in states else "COMPLETED")
    pad.workflows.update_one({"nodes": fw_id}, {"$set": {
        f"fw_states.{fw_id}": state, "state": whole, "updated_on": datetime.now(UTC)}})
