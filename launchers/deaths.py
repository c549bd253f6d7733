"""Whether a launcher is dead: known, or not known; never guessed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import LaunchError
from orionflow.launchers.services.processes import ProcessIdentity
from orionflow.launchers.slurm import Fate
from orionflow.log import get_logger

if TYPE_CHECKING:
    from orionflow.launchers.identity import LauncherIdentity
    from orionflow.launchers.scheduler import Scheduler

log = get_logger(__name__)
# Heartbeats come every minute. A launcher that nothing else is known of (another host without
# Slurm, a stock `rlaunch`) is given up after this silence, s.
SILENT = 4 * 3600.0
# The same where Slurm or a reboot has already made its end likely.
LIKELY = 600.0


class Deaths:
    """Finds out which launchers are dead, each once.

    Parameters
    ----------
    scheduler
        The Slurm to ask.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._known: dict[LauncherIdentity, str] = {}

    def dead(self, owner: LauncherIdentity | None, sign: datetime | None,
              host: str | None = None) -> str:
        """Return how we know that a launcher is dead; empty while it may be alive.

        Parameters
        ----------
        owner
            Who it is; None for a stock `rlaunch`.
        sign
            Its last sign of life.
        host
            Its host, for people.
        """
        silence = (datetime.now(UTC) - sign).total_seconds() if sign is not None else None
        if owner is None:
            return (f"no sign of life from {host} for {silence:.0f} s"
                    if silence is not None and silence > SILENT else "")
        if owner in self._known:
            return self._known[owner]
        verdict = self._verdict(owner, silence)
        if silence is None or verdict:
            self._known[owner] = verdict
        return verdict

    def _verdict(self, owner: LauncherIdentity, silence: float | None) -> str:
        here = owner.alive_here()
        if here is not None:
            return "" if here else f"process {owner.pid} on {owner.host} is gone"
        silent = silence or 0.0
        if owner.slurm_job_id is not None:
            return self._slurm_verdict(owner.slurm_job_id, owner.slurm_restarts, silent)
        if owner.rebooted_here() and silent > LIKELY:
            return f"{owner.host} was started anew and it has been silent for {silent:.0f} s"
        return (f"no sign of life from {owner.host} for {silent:.0f} s"
                if silent > SILENT else "")

    def _slurm_verdict(self, job: str, restarts: int, silent: float) -> str:
        try:
            fate = self.scheduler.fate(job, restarts)
        except LaunchError as error:
            log.warning("Slurm job %s: %s", job, error.message)
            return ""
        if fate is Fate.OVER:
            return f"Slurm job {job} is over"
        if fate is Fate.UNKNOWN and silent > LIKELY:
            return f"Slurm has forgotten job {job} and it has been silent for {silent:.0f} s"
        return ""


def processes_of(owner: LauncherIdentity) -> list[ProcessIdentity]:
    """Return this host's processes that a launcher started, itself excepted.

    They inherit ``ORIONFLOW_LAUNCHER``; a launcher sets it anew for its own jobs.
    """
    mark = f"ORIONFLOW_LAUNCHER={owner.token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in {os.getpid(), owner.pid}:
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or another user's
            continue
        if mark in variables and (process := ProcessIdentity.of(int(entry.name))) is not None:
            found.append(process)
    return found
