"""What a launcher tells of its jobs: to its heartbeat, and to whoever looks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.launchers.progress import last_line
from orionflow.launchers.pulse import Vital, Watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from orionflow.launchers.crew import Crew
    from orionflow.launchers.workers import WorkerProcess


def vital_of(crew: Crew) -> Vital:
    """Return what the heartbeat must know of all jobs now."""
    jobs = [j for j in (*crew.running.values(), *crew.waiting) if not j.ended]
    held = [r.job for r in (*crew.desk.pending, *crew.suspicion.held)]
    return Vital(
        launches=frozenset(j.launch_id for j in (*jobs, *held)),
        tracked=frozenset(j.launch_id for j in jobs if j.launch.get("trackers")),
        watched=tuple(Watched(j.launch_id, j.need.memory, _processes(crew, j.worker))
                      for j in jobs if j.need.memory and j.worker is not None),
        document=lambda: document_of(crew))


def document_of(crew: Crew) -> dict[str, Any]:
    """Return the launcher's document; called in the thread of its heartbeat, too."""
    jobs = [j for j in list(crew.running.values()) if not j.ended]
    described = [j.describe(last_line(Path(j.folder))) for j in jobs]
    states, worker = crew.report.states, crew.fworker
    return {**crew.launcher.describe(), "busy": sum(d["cores"] for d in described),
            "state": crew.state, "note": crew.unfit or _note_of_wait(crew),
            "counts": {"COMPLETED": states["COMPLETED"], "FIZZLED": states["FIZZLED"],
                       "put_back": states["READY"]},
            "jobs": described,
            # For those who ask for allocations: what it can still take.
            "free": [{"cores": len(n.cores), "memory": n.memory, "gpus": len(n.gpus),
                      "all_cores": n.all_cores, "all_memory": n.all_memory}
                     for n in crew.room.nodes],
            "takes": crew.may_claim(), "longest": crew.allocation.time_for_a_job(time.time()),
            "worker": {k: worker.get(k) for k in ("name", "category", "query")}}


def _processes(crew: Crew, worker: WorkerProcess) -> Callable[[], list[int]]:
    return lambda: crew.pool.processes(worker)


def _note_of_wait(crew: Crew) -> str:
    if crew.desk.away_since is not None:
        return "waits for MongoDB"
    if crew.desk.locked:
        return "waits for workflows that others have locked"
    if (reserved := crew.intake.reserved) is not None:
        return f"keeps room for firework {reserved[0].key}"
    return ""
