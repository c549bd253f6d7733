"""How much of an allocation simulates: LAMMPS and pw.x jobs of mixed sizes on the cores there are.

    python benchmarks/fill.py [--quick] [--short] [--jobs 40] [--cores 2]

Core-seconds in which pw.x and lmp ran (as the stored documents tell) over core-seconds held, from
the first claim to the last end, and to the start of the last job: what the end of a set leaves
empty depends on its last jobs alone. Stock `rlaunch rapidfire` runs one job after another on the
same cores; `rlaunch multi` runs as many at once as there are cores, whatever each needs.
"""

from __future__ import annotations

import argparse
import os
import random
from typing import TYPE_CHECKING, Any

from common import print_json, show
from rig import Rig, launch_command, moment, opened, program, rig, run

from orionflow.launchers.project import project_environment
from orionflow.workflows.compile import compile_flow
from orionflow.workflows.registry import get_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

_LAMMPS = {"force_field": "Si.sw", "temperature": 300.0}
# Steps of LAMMPS; cutoff, Ry, and distance of k-points, 1/A, of pw.x: below a second, or 1 to 10 s.
_SHORT: dict[str, Sequence[Any]] = {"lammps": (2000, 6000, 12_000), "qe": ((14, 0.5),)}
_MIXED: dict[str, Sequence[Any]] = {"lammps": (20_000, 60_000, 100_000),
                                   "qe": ((25, 0.25), (25, 0.18), (40, 0.15))}


def work(jobs: int, cores: int, seed: int, *, short: bool) -> list[Any]:
    """Return workflows of one job: shorter and longer, on one core and on two."""
    rng = random.Random(seed)  # noqa: S311  no secret
    sizes = _SHORT if short else _MIXED
    found = []
    for _ in range(jobs):
        ranks = rng.choice([1, 1, min(2, cores)])
        code = rng.choice(["lammps", "qe"])
        size = rng.choice(sizes[code])
        if code == "lammps":
            flow = get_recipe("lammps.nvt").make("Si diamond 5.43", {**_LAMMPS, "nsteps": size})
        else:
            flow = get_recipe("qe.static").make(
                f"Si diamond {rng.choice([5.40, 5.43, 5.46])}",
                {"functional": "pz", "ecutwfc": size[0], "k_spacing": size[1]})
        found.append(compile_flow(flow, resources={"ranks": ranks, "walltime": 120}))
    return found


def times(pad: Any) -> tuple[float, float, float]:
    """Return the first claim, the last claim and the last end, unix time."""
    found = [[moment(x["time_start"]), moment(x["time_end"])] for x in pad.launches.find(
        {"state": "COMPLETED"}, {"time_start": 1, "time_end": 1})]
    begins = [begin for begin, _ in found]
    return min(begins), max(begins), max(end for _, end in found)


def simulated(pad: Any, until: float) -> float:
    """Return core-seconds in which a code ran before that moment."""
    total = 0.0
    for doc in pad.db.outputs.find({}, {"output.provenance.run": 1}):
        run_ = ((doc.get("output") or {}).get("provenance") or {}).get("run")
        if run_:
            begin = moment(run_["started_at"])
            seconds = min(run_["wall_seconds"], until - begin)
            total += max(0.0, seconds) * run_["core_seconds"] / run_["wall_seconds"]
    return total


def measure(bench: Rig, kind: str, jobs: int, cores: int, seed: int, *,
            short: bool) -> dict[str, float]:
    """Run the set with one engine."""
    project = bench.project("orion" if kind == "orion" else "stock+j")
    os.environ.update(project_environment(project))
    bench.add(project, work(jobs, cores, seed, short=short))
    command = {"orion": launch_command("orion", cores=cores),
               "stock rapidfire": launch_command("stock"),
               "stock multi": [program("rlaunch"), "-s", "multi", str(cores)]}[kind]
    run(command, project)
    with opened(project) as pad:
        done = pad.fireworks.count_documents({"state": "COMPLETED"})
        if done != jobs:
            raise RuntimeError(f"{done} of {jobs} jobs COMPLETED in {project}")
        begin, last, end = times(pad)
        used, while_waiting = simulated(pad, end), simulated(pad, last)
    return {"held_s": round(end - begin, 1), "core_seconds": round(used, 1),
            "fill": round(used / ((end - begin) * cores), 3),
            "fill_while_jobs_waited": round(while_waiting / ((last - begin) * cores), 3)}


def main() -> None:
    """Run the same set with each engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--short", action="store_true", help="jobs below a second")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    jobs = options.jobs or (10 if options.quick else 60 if options.short else 40)
    with rig() as bench:
        found = {kind: measure(bench, kind, jobs, options.cores, options.seed,
                               short=options.short or options.quick)
                 for kind in ("stock rapidfire", "stock multi", "orion")}
    show(f"{jobs} LAMMPS and pw.x jobs on {options.cores} cores",
         ["engine", "held, s", "simulated, core-s", "fill", "until the last started"],
         [[kind, *values.values()] for kind, values in found.items()])
    print_json("fill", {"jobs": jobs, "cores": options.cores, **found})


if __name__ == "__main__":
    main()
