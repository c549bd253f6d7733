"""What a job costs inside workflows of different sizes, with real launchers.

    python benchmarks/growth.py [--quick] [--sizes 10 100 1000] [--remote VENV]

Runs K jobs of a workflow of N (flat, fan, chain), and a job that appends N (dynamic). What the
LaunchPads alone cost is in `launchpad.py growth`.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import print_json, show
from fireworks import Firework, PyTask, Workflow
from remote import Remote
from rig import (
    SPEC,
    Rig,
    check_done,
    jobflow,
    launch_command,
    moment,
    opened,
    pace,
    rig,
    start,
)
from rig_jobs import many

MOST_STOCK = 2000  # minutes beyond
_LOOK = 0.01
SHAPES = ("flat", "fan", "chain", "dynamic")


def workflow(shape: str, size: int) -> Workflow:
    """Return a workflow of about this size."""
    if shape == "dynamic":
        return jobflow(many(size))
    fws = [Firework([PyTask(func="builtins.abs", args=[1])], spec=dict(SPEC))
           for _ in range(size)]
    if shape == "flat":
        return Workflow(fws)
    if shape == "fan":
        first, *rest, last = fws
        return Workflow(fws, {first: rest, **{fw: [last] for fw in rest}})
    return Workflow(fws, {a: [b] for a, b in pairwise(fws)})


def cost(bench: Rig, kind: str, shape: str, size: int, jobs: int) -> float:
    """Return milliseconds of a job inside, or of the one that appends so many."""
    if shape == "dynamic":
        return appending(bench, kind, size)
    few = min(3, size // 3)  # a fan's root has ended then
    jobs = min(jobs, size - few - 2)
    project = bench.project(kind)
    bench.add(project, [workflow(shape, size)])
    bench.launch(kind, project, jobs=few + jobs)
    check_done(project, few + jobs)
    return 1e3 * pace(project, few)


def appending(bench: Rig, kind: str, size: int) -> float:
    """Return milliseconds from the start of a job until all it appends can run.

    Looked at from outside: stock stores the end of the launch, and only then what it appends.
    """
    project = bench.project(kind)
    bench.add(project, [workflow("dynamic", size)])
    engine = start(launch_command(kind, jobs=1), project)
    with opened(project) as pad:
        wanted = {"state": "READY", "fw_id": {"$gt": 1}}
        while True:
            ended = engine.poll() is not None
            if pad.fireworks.count_documents(wanted) >= size:
                break
            if ended:
                raise RuntimeError(f"{size} jobs were not appended in {project}")
            time.sleep(_LOOK)
        now = time.time()
        begin = moment(pad.launches.find_one({"fw_id": 1})["time_start"])
    engine.wait()
    return 1e3 * (now - begin)


def main() -> None:
    """Measure all shapes and sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--remote", type=Path, help="virtual environment for jobflow-remote")
    options = parser.parse_args()
    sizes = options.sizes or ([10, 300] if options.quick else [10, 100, 1000, 2000, 10_000])
    jobs = options.jobs or (40 if options.quick else 100)
    rows: list[list[Any]] = []
    results: dict[str, Any] = {}
    with rig() as bench:
        for shape in options.shapes:
            for kind in ("stock+j", "orion"):
                row = [cost(bench, kind, shape, size, jobs)
                       if kind == "orion" or size <= MOST_STOCK else None for size in sizes]
                known = [v for v in row if v is not None]
                rows.append([shape, kind, *row, known[-1] / known[0] if known[0] > 0 else None])
                results[f"{shape}, {kind}"] = [v and round(v, 2) for v in row]
        if options.remote:
            few = 5
            for shape in ("flat", "chain"):
                engine = Remote(bench, options.remote, batch=True)
                engine.submit(shape, few)
                wall = engine.work(few).wall
                rows.append([shape, "remote batch", 1e3 * wall / few,
                             *[None] * (len(sizes) - 1), None])
                results[f"{shape}, remote batch of {few}"] = round(1e3 * wall / few, 1)
    show(f"ms a job inside one workflow ({jobs} jobs run); dynamic: ms until N are appended",
         ["shape", "engine", *(f"N={n}" for n in sizes), "last / first"], rows)
    print_json("growth", {"sizes": sizes, "jobs": jobs, **results})


if __name__ == "__main__":
    main()
