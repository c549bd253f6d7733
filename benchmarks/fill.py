"""How much of an allocation simulates: LAMMPS and pw.x jobs of mixed sizes on the cores there are.

    python benchmarks/fill.py [--quick] [--jobs 40] [--cores 2]

Core-seconds in which pw.x and lmp ran (as the stored documents tell) over core-seconds held, from
the first claim to the last end. Stock `rlaunch rapidfire` runs one job after another on the same
cores; `rlaunch multi` runs as many at once as there are cores, whatever each needs.
"""

from __future__ import annotations

import argparse
import os
import random
from typing import Any

from common import print_json, show
from rig import Rig, launch_command, moment, opened, program, rig, run

from orionflow.launchers.project import project_environment
from orionflow.workflows.compile import compile_flow
from orionflow.workflows.registry import get_recipe

_LAMMPS = {"force_field": "Si.sw"}
_QE = {"functional": "pz", "ecutwfc": 14, "k_spacing": 0.5}


def work(jobs: int, cores: int, seed: int) -> list[Any]:
    """Return workflows of one job: short and longer, on one core and on more."""
    rng = random.Random(seed)  # noqa: S311  no secret
    found = []
    for _ in range(jobs):
        ranks = rng.choice([1, 1, min(2, cores)])
        if rng.random() < 0.5:  # noqa: PLR2004  half of them
            steps = rng.choice([2000, 6000, 12_000])
            flow = get_recipe("lammps.nvt").make(
                "Si diamond 5.43", {**_LAMMPS, "nsteps": steps, "temperature": 300.0})
        else:
            shift = rng.choice([5.40, 5.43, 5.46])
            flow = get_recipe("qe.static").make(f"Si diamond {shift}", _QE)
        found.append(compile_flow(flow, resources={"ranks": ranks, "walltime": 60}))
    return found


def held(pad: Any) -> float:
    """Return seconds from the first claim to the last end."""
    times = [[moment(x["time_start"]), moment(x["time_end"])] for x in pad.launches.find(
        {"state": "COMPLETED"}, {"time_start": 1, "time_end": 1})]
    return max(end for _, end in times) - min(begin for begin, _ in times)


def simulated(pad: Any) -> float:
    """Return core-seconds in which a code ran."""
    total = 0.0
    for doc in pad.db.outputs.find({}, {"output.provenance.run": 1}):
        record = ((doc.get("output") or {}).get("provenance") or {}).get("run") or {}
        total += float(record.get("core_seconds") or 0.0)
    return total


def measure(bench: Rig, kind: str, jobs: int, cores: int, seed: int) -> dict[str, float]:
    """Run the set with one engine."""
    project = bench.project("orion" if kind == "orion" else "stock+j")
    os.environ.update(project_environment(project))
    bench.add(project, work(jobs, cores, seed))
    command = {"orion": launch_command("orion", cores=cores),
               "stock rapidfire": launch_command("stock"),
               "stock multi": [program("rlaunch"), "-s", "multi", str(cores)]}[kind]
    run(command, project)
    with opened(project) as pad:
        done = pad.fireworks.count_documents({"state": "COMPLETED"})
        if done != jobs:
            raise RuntimeError(f"{done} of {jobs} jobs COMPLETED in {project}")
        wall, used = held(pad), simulated(pad)
    return {"held_s": round(wall, 1), "core_seconds": round(used, 1),
            "fill": round(used / (wall * cores), 3)}


def main() -> None:
    """Run the same set with each engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    jobs = options.jobs or (10 if options.quick else 60)
    with rig() as bench:
        found = {kind: measure(bench, kind, jobs, options.cores, options.seed)
                 for kind in ("stock rapidfire", "stock multi", "orion")}
    show(f"{jobs} LAMMPS and pw.x jobs on {options.cores} cores",
         ["engine", "held, s", "simulated, core-s", "fill"],
         [[kind, *values.values()] for kind, values in found.items()])
    print_json("fill", {"jobs": jobs, "cores": options.cores, **found})


if __name__ == "__main__":
    main()
