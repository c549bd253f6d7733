"""What a job costs above its own work: empty jobs in workflows of their own, real processes.

    python benchmarks/overhead.py [--quick] [--jobs 300] [--remote VENV]

Starting the engine does not count; that is `startup.py`'s business: times are those between the
ends of jobs as stored, CPU time and round trips (as MongoDB tells) those of a run with many jobs
less those of one with few.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import print_json, show
from remote import Remote
from rig import KINDS, Cost, Rig, check_done, jobflow, pace, pytask, ratio, rig
from rig_jobs import nothing

FEW = 10


def ours(bench: Rig, kind: str, what: str, jobs: int) -> Cost:
    """Return the cost of a job with FireWorks' tools or our launcher."""
    costs = []
    for count in (FEW, FEW + jobs):
        project = bench.project(kind)
        bench.add(project, [pytask() if what == "PyTask" else jobflow(nothing())
                            for _ in range(count)])
        costs.append(bench.launch(kind, project))
        check_done(project, count)
    return costs[1].per_job(costs[0], jobs, pace(project, FEW))


def theirs(bench: Rig, venv: Path, jobs: int, *, batch: bool) -> Cost:
    """Return the cost of a job with jobflow-remote, its start included: it never stops polling."""
    engine = Remote(bench, venv, batch=batch)
    engine.submit("single", jobs)
    done = engine.work(jobs)
    return Cost(done.wall / jobs, done.cpu / jobs, done.trips / jobs)


def main() -> None:
    """Measure all engines, best of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--remote", type=Path, help="virtual environment for jobflow-remote")
    options = parser.parse_args()
    jobs = options.jobs or (40 if options.quick else 300)
    rounds = options.rounds or (1 if options.quick else 3)
    best: dict[tuple[str, str], Cost] = {}
    with rig() as bench:
        for _ in range(rounds):
            for what in ("PyTask", "jobflow job"):
                for kind in KINDS:
                    cost = ours(bench, kind, what, jobs)
                    best[what, kind] = min(best.get((what, kind), cost), cost,
                                           key=lambda c: c.wall)
        if options.remote:
            few = 4 if options.quick else 20
            for batch in (False, True):
                best["jobflow job", "remote" + " batch" * batch] = theirs(
                    bench, options.remote, few, batch=batch)
    rows: list[list[Any]] = []
    for (what, kind), cost in best.items():
        base = best[what, "orion"]
        rows.append([what, kind, 1e3 * cost.wall, 1e3 * cost.cpu, cost.trips,
                     ratio(base.wall, cost.wall), ratio(base.trips, cost.trips)])
    show(f"Cost of an empty job ({jobs} jobs, one core)",
         ["job", "engine", "ms", "CPU ms", "trips", "time / ours", "trips / ours"], rows)
    print_json("overhead", {"jobs": jobs, **{
        f"{what}, {kind}": [round(1e3 * c.wall, 2), round(1e3 * c.cpu, 2), round(c.trips, 2)]
        for (what, kind), c in best.items()}})


if __name__ == "__main__":
    main()
