"""What the launcher knows of the jobs it has claimed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from orionflow.launchers.cancel import CancelRequest
    from orionflow.launchers.packing import Need, Placement
    from orionflow.launchers.workers import WorkerProcess

StopKind = Literal["time", "signal", "cancel", "lost", "memory"]


@dataclass(frozen=True)
class Stop:
    """Why a running job is asked to stop.

    Attributes
    ----------
    kind
        ``time`` (the allocation ends), ``signal`` (the launcher was told to), ``cancel``, ``lost``
        (the launch was given to another), ``memory`` (it took more than it asked for).
    """

    kind: StopKind
    reason: str
    request: CancelRequest | None = None


@dataclass(eq=False)
class ClaimedJob:
    """A launch of ours, from its claim to the moment its cores are free again.

    Attributes
    ----------
    doc
        The firework as stored.
    launch
        The launch as stored.
    placement
        Where it runs; None while it waits for its turn.
    checkpoint
        What FireWorks' Rocket last said, as far as MongoDB does not know it yet.
    ended, ended_at
        It has said how it ended, and when (monotonic); its process may still clean up.
    ends, notice
        When what was set aside for it is used up (monotonic), and how long before it is asked to
        stop, s; see `spending`.
    spooled
        Its result lies in its folder.
    asked
        When it was last asked to stop (monotonic), and how often.
    """

    fw_id: int
    launch_id: int
    name: str
    folder: str
    doc: dict[str, Any]
    launch: dict[str, Any]
    need: Need
    placement: Placement | None = None
    worker: WorkerProcess | None = None
    started: float = 0.0
    since: str = ""
    checkpoint: dict[str, Any] | None = None
    stop: Stop | None = None
    asked: float = 0.0
    times_asked: int = 0
    ended: bool = False
    ended_at: float = 0.0
    ends: float = math.inf
    notice: float = 0.0
    spooled: bool = False
    problem: str = ""

    @property
    def spec(self) -> dict[str, Any]:
        """Spec of the firework as claimed."""
        spec: dict[str, Any] = self.doc["spec"]
        return spec

    @property
    def time_left(self) -> float:
        """Seconds until it must stop by itself, because no more was set aside for it."""
        return self.ends - self.notice - time.monotonic()

    @property
    def is_lost(self) -> bool:
        """Whether its launch was given to another launcher."""
        return self.stop is not None and self.stop.kind == "lost"

    def begin(self, placement: Placement, worker: WorkerProcess) -> None:
        """Note that it runs now."""
        self.placement, self.worker = placement, worker
        self.started = time.monotonic()
        self.since = datetime.now(UTC).isoformat(timespec="seconds")

    def describe(self, line: str = "") -> dict[str, Any]:
        """Return what the launcher's document says of it."""
        shares = self.placement or ()
        return {"fw_id": self.fw_id, "launch_id": self.launch_id, "name": self.name,
                "cores": sum(len(s.cores) for s in shares),
                "core_ids": [c for s in shares if s.node == 0 for c in s.cores],
                "since": self.since, "folder": self.folder, "line": line}


@dataclass
class Result:
    """How a launch of ours ended, to be written into MongoDB.

    Attributes
    ----------
    state
        COMPLETED or FIZZLED; READY to put it back; CANCELLED as its request says.
    action
        Stored form of its FWAction.
    reason
        For people.
    spec
        Entries of the firework's spec to set when it is put back.
    """

    job: ClaimedJob
    state: Literal["COMPLETED", "FIZZLED", "READY", "CANCELLED"]
    reason: str = ""
    action: dict[str, Any] | None = None
    spec: dict[str, Any] = field(default_factory=dict)


def failed_action(message: str, trace: str = "") -> dict[str, Any]:
    """Return the action of a job that ended without giving one, as FireWorks words it."""
    return {"stored_data": {"_message": message, "_task": None, "_exception": {
                "_stacktrace": trace or message, "_details": None}},
            "exit": True, "update_spec": {}, "mod_spec": [], "additions": [], "detours": [],
            "append_wfs": [], "defuse_children": False, "defuse_workflow": False,
            "propagate": False}


def blame_surroundings(action: dict[str, Any], reason: str) -> dict[str, Any]:
    """Return the action of a failed job with the word that its input is not to blame.

    What a job raised itself says so already, or says more.
    """
    stored = action.get("stored_data") or {}
    exception = stored.get("_exception")
    if not isinstance(exception, dict) or exception.get("_details"):
        return action
    told = {**exception, "_details": {"message": reason, "transient": True}}
    return {**action, "stored_data": {**stored, "_exception": told}}
