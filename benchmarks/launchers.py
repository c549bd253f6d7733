"""Many launchers on one database: jobs a second, and how much of their time they work.

    python benchmarks/launchers.py [--quick] [--launchers 1 2 4 8 16] [--jobs 192] [--size 2000]

Utilisation is that of 16 launchers with jobs of one second in one workflow of 2,000: seconds of
work over seconds held. Launchers are real processes; the clock runs from first claim to last
end, as the launches tell, so that imports on shared cores don't count.
"""

from __future__ import annotations

import argparse
import time
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


def span(bench: Rig, kind: str, launchers: int, jobs: int,
         workflows: list[Workflow]) -> tuple[float, int]:
    """Run jobs with so many launchers at once; return seconds and the number of COMPLETED."""
    project = bench.project(kind)
    bench.add(project, workflows)
    # The root of a wide workflow first; or one of many.
    bench.launch(kind, project, jobs=1)
    each = jobs // launchers
    running = [start(launch_command(kind, jobs=each), project) for _ in range(launchers)]
    end = time.monotonic() + 900
    for process in running:
        process.wait(max(1.0, end - time.monotonic()))
    with opened(project) as pad:
        done = sorted(pad.launches.find({"state": "COMPLETED"}, {"time_start": 1, "time_end": 1}),
                      key=lambda x: x["time_start"])[1:]
        twice = pad.launches.count_documents({}) - len(done) - 1
    if twice:
        raise RuntimeError(f"{twice} launches came to nothing, see {project}")
    return (moment(max(x["time_end"] for x in done)) - moment(done[0]["time_start"])), len(done)


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
            rate = []
            for launchers in counts:
                seconds, done = span(bench, kind, launchers, jobs,
                                     [pytask() for _ in range(jobs + 1)])
                rate.append(done / seconds)
            seconds, done = span(bench, kind, counts[-1], jobs, [sleepers(size, options.seconds)])
            used = done * options.seconds / (seconds * counts[-1])
            rows.append([kind, *rate, used])
            results[kind] = {"jobs_per_s": [round(x, 1) for x in rate],
                             "utilisation": round(used, 3)}
    show(f"Jobs a second (empty, {jobs} in workflows of their own) and utilisation of {counts[-1]} "
         f"launchers ({options.seconds:g} s jobs, one workflow of {size})",
         ["engine", *(f"{n} launcher(s)" for n in counts), "utilisation"], rows)
    print_json("launchers", {"launchers": counts, "jobs": jobs, "size": size, **results})


if __name__ == "__main__":
    main()
