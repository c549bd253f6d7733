"""Launches that run in a launcher's name though it knows nothing of them.

A claim that MongoDB carried out after its client had given it up (mongod was frozen, the network
cut) belongs to a launcher that lives and does not run it: nobody takes it for lost, ever. So a
launcher looks for such itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fireworks.core.launchpad import LockedWorkflowError

from orionflow.launchers import cancel
from orionflow.launchers.identity import ENV_KEY
from orionflow.launchers.pad.documents import LIVE, as_time, finish_launch, message_action
from orionflow.launchers.raw_action import read_action
from orionflow.launchers.rocket import read_spool
from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Collection

    from orionflow.launchers.launchpad import ProjectLaunchPad
    from orionflow.launchers.pad.documents import Doc

log = get_logger(__name__)
# A claim may take so long between its writes, s.
_CLAIM = 30.0
_WHY = "claimed while MongoDB did not answer, and never started"


def put_back_unheld(pad: ProjectLaunchPad, held: Collection[int]) -> list[int]:
    """Put back what runs in our name and is not ours.

    Parameters
    ----------
    pad
        The LaunchPad, whose identity is ours. No other thread claims with this identity.
    held
        All launches we know of, ended or not.

    Returns
    -------
    list of int
        Fireworks put back, or stopped as somebody has asked meanwhile.
    """
    back = pad.give_back_unacknowledged()
    me = pad.identity
    mine = {f"fworker.env.{ENV_KEY}.{name}": getattr(me, name)
            for name in ("pid", "started", "boot", "host")}
    before = datetime.now(UTC) - timedelta(seconds=_CLAIM)
    for launch in list(pad.launches.find(
            {"state": "RUNNING", "launch_id": {"$nin": list(held)}, **mine}, {"action": 0})):
        begun = as_time(launch.get("time_start"))
        if begun is not None and begun > before:
            continue
        try:
            if _store(pad, launch):
                continue
            state, _ = cancel.put_back(pad, launch["fw_id"], launch["launch_id"], _WHY, folder="")
        except (LockedWorkflowError, ValueError) as error:  # another time, or it was deleted
            log.info("launch %d: %s", launch["launch_id"], error)
            continue
        if state:
            log.warning("firework %d was %s", launch["fw_id"], _WHY)
            back.append(launch["fw_id"])
        else:
            _close(pad, launch)
    return back


def _store(pad: ProjectLaunchPad, launch: Doc) -> bool:
    """Store the result of a job that ended under an earlier launcher in this process."""
    spool = read_spool(Path(launch["launch_dir"]), launch["launch_id"], pad.name)
    if spool is None or spool["state"] != "COMPLETED":
        return False
    try:
        pad.complete_launch(launch["launch_id"], read_action(spool["action"]))
    except (KeyError, TypeError, RuntimeError) as error:  # it can't be applied: once more then
        log.warning("launch %d: %s", launch["launch_id"], error)
        return False
    log.warning("firework %d: its result lay in %s", launch["fw_id"], launch["launch_dir"])
    return True


def _close(pad: ProjectLaunchPad, launch: Doc) -> None:
    """End a launch whose firework is another's by now."""
    fields, push = finish_launch(launch, "FIZZLED", message_action(_WHY))
    pad.launches.update_one({"launch_id": launch["launch_id"], "state": {"$in": list(LIVE)}},
                            {"$set": fields, "$push": push})
