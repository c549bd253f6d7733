"""Whether a launcher is dead: known, or not known; never guessed.

Asked are, in this order: the process table of the same host; the launcher's own last word; Slurm,
for one in an allocation; else its heartbeat, watched for `LOST` seconds while MongoDB answers. See
`lease` for why such silence is enough.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo.errors import DuplicateKeyError

from orionflow.errors import LaunchError
from orionflow.launchers.lease import GIVEN_UP, LOST
from orionflow.launchers.pulse import COLLECTION
from orionflow.launchers.retry import FailureInfo
from orionflow.launchers.services.processes import ProcessIdentity
from orionflow.launchers.slurm import Fate
from orionflow.log import get_logger

if TYPE_CHECKING:
    from orionflow.launchers.identity import LauncherIdentity
    from orionflow.launchers.scheduler import Scheduler

log = get_logger(__name__)
# Stock `rlaunch` says once an hour that it lives. It, and a launcher that holds no lease, is given
# up after this silence, s.
SILENT = 4 * 3600.0
# The same for one without lease where Slurm or a reboot has made its end likely.
LIKELY = 600.0
# One look counts for no more than this, s: between two, MongoDB may have stood still for hours.
_STEP = 20.0
# slurmctld has lost a node, perhaps not the processes on it.
_NODE_LOST = frozenset({"NODE_FAIL", "BOOT_FAIL"})


@dataclass(frozen=True)
class Death:
    """How we know that a launcher is dead.

    Attributes
    ----------
    why
        For people.
    failure
        What it means for its jobs.
    from_silence
        Concluded from its silence: it must be told (`Deaths.declare`) before its jobs are given
        to others.
    """

    why: str
    failure: FailureInfo
    from_silence: bool = False


@dataclass
class _Watch:
    """A heartbeat that stands still: its value, for how long it was watched, the last look."""

    beat: Any
    seconds: float
    at: float
    changed: bool = False


@dataclass
class Deaths:
    """Finds out which launchers are dead.

    Parameters
    ----------
    scheduler
        The Slurm to ask.
    pad
        The project's LaunchPad.
    lost_after
        Watched silence that is enough, s.

    Attributes
    ----------
    suspects
        Hosts of launchers that are silent and were not watched for long enough.
    """

    scheduler: Scheduler
    pad: Any
    lost_after: float = LOST
    suspects: set[str] = field(default_factory=set)
    _dead: dict[LauncherIdentity, Death] = field(default_factory=dict)
    _seen: dict[LauncherIdentity, Death | None] = field(default_factory=dict)
    _watched: dict[str, _Watch] = field(default_factory=dict)
    _cluster: str | None = None
    _said: set[str] = field(default_factory=set)

    def look_again(self) -> None:
        """Begin another round: who lived in the last one is asked anew."""
        self._seen.clear()
        self.suspects.clear()


    def death(self, owner: LauncherIdentity | None, sign: datetime | None,
              host: str | None = None) -> Death | None:
        """Return how we know that a launcher is dead; None while it may be alive.

        Parameters
        ----------
        owner
            Who it is; None for a stock `rlaunch`.
        sign
            Its last sign of life; None for a process that gives none.
        host
            Its host, for people.
        """
        if owner is None:
            return _of_old(sign, SILENT, f"no sign of life from {host}")
        if owner in self._dead:
            return self._dead[owner]
        if sign is not None and owner in self._seen:
            return self._seen[owner]
        found = self._verdict(owner, sign)
        if sign is not None:  # what its document tells may be of one before it in its process
            self._seen[owner] = found
        elif found is not None:
            self._dead[owner] = found
        return found

    def declare(self, owner: LauncherIdentity | None, death: Death) -> bool:
        """Tell a launcher that it is given up, in the moment in which it is; False if it lives.

        Whoever is silent and not dead learns it with its next heartbeat, and stops its jobs. The
        heartbeat and this exclude each other: MongoDB takes the one or the other first.
        """
        if owner is None or not death.from_silence:
            return True
        launchers = self.pad.db[COLLECTION]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        mark = {GIVEN_UP: {"by": socket.gethostname(), "at": now, "why": death.why},
                "state": "dead", "ended": now, "note": death.why}
        same = {"_id": owner.token, "beat": self._watched[owner.token].beat}
        if launchers.update_one(same, {"$set": mark}).matched_count:
            return True
        try:
            launchers.insert_one({"_id": owner.token, "host": owner.host,
                                  "identity": owner.to_dict(), **mark})
        except DuplicateKeyError:
            if launchers.find_one({"_id": owner.token, GIVEN_UP: {"$exists": True}}):
                return True  # another was faster
            self._seen[owner] = None
            return False
        return True

    # ------------------------------------------------------------------------ helpers

    def _verdict(self, owner: LauncherIdentity, sign: datetime | None) -> Death | None:
        here = owner.alive_here()
        if here is not None:
            return None if here else _lost(f"process {owner.pid} on {owner.host} is gone")
        if sign is not None and (told := self._look_at_heart(owner, sign)):
            return told
        if owner.slurm_job_id is not None:
            return self._slurm_verdict(owner, sign)
        if owner.lease is None and owner.rebooted_here():
            return _of_old(sign, LIKELY, f"{owner.host} was started anew and it has been silent")
        return self._silence(owner, sign, SILENT, f"no sign of life from {owner.host}")

    def _look_at_heart(self, owner: LauncherIdentity, sign: datetime) -> Death | None:
        """Watch its heartbeat; return its death where its own document tells of it."""
        doc = self.pad.db[COLLECTION].find_one(
            {"_id": owner.token}, {"beat": 1, "ended": 1, GIVEN_UP: 1})
        if doc is not None and GIVEN_UP in doc:
            return _lost("it was given up before")
        if doc is not None and doc.get("ended"):
            return _lost(f"it ended at {doc['ended']}")
        beat, now = doc.get("beat") if doc is not None else sign, time.monotonic()
        watch = self._watched.get(owner.token)
        if watch is None or watch.beat != beat:
            self._watched[owner.token] = _Watch(beat, 0.0, now, changed=watch is not None)
        else:
            watch.seconds += min(now - watch.at, _STEP)
            watch.at, watch.changed = now, False
        return None

    def _slurm_verdict(self, owner: LauncherIdentity, sign: datetime | None) -> Death | None:
        job = str(owner.slurm_job_id)
        fate, state = self._ask_slurm(owner, job)
        if fate is Fate.UNKNOWN:
            return self._silence(owner, sign, LIKELY, f"Slurm has forgotten job {job} and it has "
                                 "been silent")
        if fate is not Fate.OVER:
            return None
        failure = FailureInfo.from_slurm(state, job)
        if state.split(" ")[0] not in _NODE_LOST:
            return Death(f"Slurm job {job} is over", failure)
        found = self._silence(owner, sign, LIKELY, f"Slurm job {job} is over ({state}) and no "
                              f"sign of life from {owner.host}")
        return found and replace(found, failure=failure)

    def _ask_slurm(self, owner: LauncherIdentity, job: str) -> tuple[Fate | None, str]:
        """Return what Slurm says of a launcher's job; None where its word is not to be had."""
        watch = self._watched.get(owner.token)
        if watch is not None and watch.changed:
            return Fate.ALIVE, ""  # its heart beats: no need to ask
        try:
            if owner.slurm_cluster and self._own_cluster() != owner.slurm_cluster:
                return None, ""  # another job of that number; its own cron knows
            return self.scheduler.look(job, owner.slurm_restarts)
        except LaunchError as error:
            if error.message not in self._said:
                self._said.add(error.message)
                log.warning("Slurm job %s: %s", job, error.message)
            return None, ""

    def _own_cluster(self) -> str:
        if self._cluster is None:
            self._cluster = self.scheduler.cluster()
        return self._cluster

    def _silence(self, owner: LauncherIdentity, sign: datetime | None, old: float,
                 what: str) -> Death | None:
        """Return the death of one whose heartbeat has stood still for long enough."""
        if owner.lease is None:
            return _of_old(sign, old, what)
        watch = self._watched.get(owner.token)
        if sign is None or watch is None:
            return None
        if watch.seconds < self.lost_after:
            if not watch.changed:
                self.suspects.add(owner.host)
            return None
        return Death(f"{what} for {watch.seconds:.0f} s while MongoDB answered",
                     FailureInfo.launcher_lost(what), from_silence=True)


def _lost(why: str) -> Death:
    return Death(why, FailureInfo.launcher_lost(why))


def _of_old(sign: datetime | None, most: float, what: str) -> Death | None:
    """Return the death of one that holds no lease, by the age of its last sign."""
    if sign is None or (silence := (datetime.now(UTC) - sign).total_seconds()) <= most:
        return None
    return _lost(f"{what} for {silence:.0f} s")


def processes_of(owner: LauncherIdentity) -> list[ProcessIdentity]:
    """Return this host's processes that a launcher started, itself excepted.

    They inherit ``ORIONFLOW_LAUNCHER``; a launcher sets it anew for its own jobs.
    """
    return list(launches_of(owner))


def launches_of(owner: LauncherIdentity) -> dict[ProcessIdentity, int | None]:
    """Return the processes of `processes_of`, each with its launch; None where it names none."""
    mark, launch = f"ORIONFLOW_LAUNCHER={owner.token}".encode(), b"ORIONFLOW_LAUNCH="
    found: dict[ProcessIdentity, int | None] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in {os.getpid(), owner.pid}:
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or another user's
            continue
        if mark in variables and (process := ProcessIdentity.of(int(entry.name))) is not None:
            number = next((v.removeprefix(launch) for v in variables if v.startswith(launch)), b"")
            found[process] = int(number) if number.isdigit() else None
    return found
