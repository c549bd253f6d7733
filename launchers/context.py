"""What a running job can know of its surroundings: resources, machine, time left."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from orionflow.launchers.machine import MachineProfile, load_machine
from orionflow.launchers.resources import Resources
from orionflow.settings import Settings, find_project, load_settings


@dataclass(frozen=True)
class JobContext:
    """Surroundings of one job.

    Attributes
    ----------
    deadline
        Unix time at which the allocation ends, or None when it has no end.
    """

    settings: Settings
    machine: MachineProfile
    resources: Resources
    deadline: float | None

    def seconds_left(self) -> float:
        """Return how long this job may still run: its walltime, or less near the deadline, s."""
        own = float(self.resources.walltime)
        return own if self.deadline is None else min(own, self.deadline - time.time())


def job_context(directory: Path | None = None) -> JobContext:
    """Return the surroundings of the job that runs in ``directory`` (the current folder).

    Resources are read from ``FW.json``, which FireWorks writes before it starts a job, so that
    stock `rlaunch` and our launcher give the same answer.
    """
    folder = directory or Path.cwd()
    project = find_project() or find_project(folder)
    deadline = os.environ.get("ORIONFLOW_DEADLINE")
    return JobContext(
        settings=load_settings(project),
        machine=load_machine(project=project),
        resources=_resources(folder),
        deadline=float(deadline) if deadline else None,
    )


def _resources(folder: Path) -> Resources:
    try:
        spec = json.loads((folder / "FW.json").read_text())["spec"]
    except FileNotFoundError:
        return Resources()
    return Resources.parse(spec.get("resources"))
