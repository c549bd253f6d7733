"""Many launchers on one database: jobs a second, and how much of their time they work.

    python benchmarks/launchers.py [--quick] [--launchers 1 2 4 8 16] [--jobs 192] [--size 2000]

Utilisation is that of 16 launchers with jobs of one second in one workflow of 2,000: seconds of
work over seconds held. Launchers are real processes; the clock of each runs from its first claim
to its last end, as the launches tell, so that imports on shared cores don't count.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from typing import Any

from common import print_json, show
from fireworks import Firework, PyTask, Workflow
from rig import SPEC, Rig, launch_command, moment, opened, pytask, rig, start

KINDS = ("stock+j", "orion")


def sleepers(size: int, seconds: float) -> Workflow:
    """Return one workflow: a root that does nothing, and jobs that sleep."""
    first = Firework([PyTask(func="builtins.abs", args=[1])], spec=dict(SPEC))
    rest = [Firework([PyTask(func="time.sleep", args=[seconds])], spec=dict(SPEC))
            for _ in range(size - 1)]
    return Workflow([first, *rest], {first: rest})


def shifts(bench: Rig, kind: str, launchers: int, jobs: int,
           workflows: list[Workflow]) -> list[tuple[int, float]]:
    """Run jobs with so many launchers at once; return jobs and seconds of each launcher.

    Its seconds go from its first claim to its last end: on shared cores launchers start one after
    another.
    """
    project = bench.project(kind)
    bench.add(project, workflows)
    bench.launch(kind, project, jobs=1)  # the root of a wide workflow first; or one of many
    running = []
    for number in range(launchers):
        command = launch_command(kind, jobs=jobs // launchers)
        if kind != "orion":  # ours tell themselves apart
            worker = project / f"worker-{number}.yaml"
            worker.write_text(json.dumps({"name": str(number), "category": "compute",
                                          "query": "{}"}))
            command[1:1] = ["-w", str(worker)]
        running.append(start(command, project))
    end = time.monotonic() + 900
    for process in running:
        process.wait(max(1.0, end - time.monotonic()))
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with opened(project) as pad:
        for la in pad.launches.find(sort=[("launch_id", 1)], skip=1):
            if la["state"] != "COMPLETED":
                raise RuntimeError(f"launch {la['launch_id']} is {la['state']}, see {project}")
            who = la["fworker"]["env"].get("orionflow", {}).get("pid", la["fworker"]["name"])
            found[str(who)].append((moment(la["time_start"]), moment(la["time_end"])))
    return [(len(times), max(e for _, e in times) - min(b for b, _ in times))
            for times in found.values()]


def main() -> None:
    """Run both engines on the same work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--launchers", type=int, nargs="+")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    counts = options.launchers or ([1, 2] if options.quick else [1, 2, 4, 8, 16])
    jobs = options.jobs or (48 if options.quick else 192)
    size = options.size or (200 if options.quick else 2000)
    rows: list[list[Any]] = []
    results: dict[str, Any] = {}
    with rig() as bench:
        for kind in KINDS:
            rate = [sum(n / s for n, s in shifts(
                bench, kind, launchers, jobs, [pytask() for _ in range(jobs + 1)]))
                for launchers in counts]
            held = shifts(bench, kind, counts[-1], jobs, [sleepers(size, options.seconds)])
            used = sum(n for n, _ in held) * options.seconds / sum(s for _, s in held)
            rows.append([kind, *rate, used])
            results[kind] = {"jobs_per_s": [round(x, 1) for x in rate],
                             "utilisation": round(used, 3)}
    show(f"Jobs a second (empty, {jobs} in workflows of their own) and utilisation of {counts[-1]} "
         f"launchers ({options.seconds:g} s jobs, one workflow of {size})",
         ["engine", *(f"{n} launcher(s)" for n in counts), "utilisation"], rows)
    print_json("launchers", {"launchers": counts, "jobs": jobs, "size": size, **results})


if __name__ == "__main__":
    main()
