"""Memory of an engine over 10,000 jobs: whether it grows.

    python benchmarks/memory.py [--quick] [--jobs 10000] [--every 1.0]

The memory of all processes of the engine (proportional set size: shared pages counted once) is
looked at while it runs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import print_json, show
from rig import Rig, launch_command, opened, pytask, rig, start

from orionflow.launchers.process_tree import descendants

if TYPE_CHECKING:
    import subprocess


def proportional(pid: int) -> float:
    """Return the memory of a process, MiB; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in text.splitlines()
                 if line.startswith("Pss:")), 0.0) / 1024


def watch(bench: Rig, kind: str, jobs: int, every: float) -> list[tuple[int, float]]:
    """Return jobs done and MiB used, from start to end."""
    project = bench.project(kind)
    for begin in range(0, jobs, 1000):
        bench.add(project, [pytask() for _ in range(min(1000, jobs - begin))])
    process: subprocess.Popen[bytes] = start(launch_command(kind, cores=2), project)
    found: list[tuple[int, float]] = []
    with opened(project) as pad:
        while process.poll() is None:
            used = sum(proportional(p) for p in [process.pid, *descendants(process.pid)])
            found.append((pad.fireworks.count_documents({"state": "COMPLETED"}), used))
            time.sleep(every)
        done = pad.fireworks.count_documents({"state": "COMPLETED"})
    if done != jobs:
        raise RuntimeError(f"{done} of {jobs} jobs COMPLETED, see {project}/launcher.out")
    return found


def main() -> None:
    """Run stock rapidfire and our launcher on the same work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--every", type=float, default=0.5, help="s between two looks")
    options = parser.parse_args()
    jobs = options.jobs or (200 if options.quick else 10_000)
    rows: list[list[Any]] = []
    results: dict[str, Any] = {}
    with rig() as bench:
        for kind in ("stock+j", "orion"):
            seen = [x for x in watch(bench, kind, jobs, options.every) if x[0]]
            if not seen:
                raise RuntimeError("it ended before anybody looked: more --jobs")
            # The first tenth warms up; at the end workers leave one by one.
            warm = [used for done, used in seen if jobs / 10 <= done < jobs] or [seen[0][1]]
            peak = max(used for _, used in seen)
            growth = 1e3 * (warm[-1] - warm[0]) / jobs
            rows.append([kind, seen[0][1], peak, warm[-1], growth])
            results[kind] = {"first": round(seen[0][1], 1), "peak": round(peak, 1),
                             "last": round(warm[-1], 1), "KiB_a_job": round(1.024 * growth, 2)}
    show(f"Memory of all processes over {jobs} jobs, MiB",
         ["engine", "at first", "peak", "at the end", "growth per 1,000 jobs"], rows)
    print_json("memory", {"jobs": jobs, **results})


if __name__ == "__main__":
    main()
