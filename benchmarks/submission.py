"""How many jobs a second can be submitted.

    python benchmarks/submission.py [--quick] [--jobs 1000] [--remote VENV]

Beside stock `add_wf` and `bulk_add_wfs`: ours, `add_once` (a submission with a key, safe to repeat)
and `submit`, which also checks resources, stores and names. Of LaunchPads alone see also
`launchpad.py adding`.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import print_json, quiet_folder, show
from fireworks import LaunchPad
from remote import Remote
from rig import Rig, jobflow, rig
from rig_jobs import nothing

from orionflow.launchers.launchpad import LAUNCHPAD_FILE, open_launchpad
from orionflow.launchers.project import project_environment
from orionflow.workflows.compile import compile_flow, submit

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """Return how long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def stock(bench: Rig, kind: str, jobs: int) -> dict[str, float]:
    """Return jobs/s of stock FireWorks; building the flow counts."""
    project = bench.project(kind)
    with closing(LaunchPad.from_file(str(project / LAUNCHPAD_FILE)).connection) as _:
        pad = LaunchPad.from_file(str(project / LAUNCHPAD_FILE))
        pad.m_logger.disabled = True
        with quiet_folder():
            single = seconds(lambda: [pad.add_wf(jobflow(nothing())) for _ in range(jobs)])
            bulk = seconds(lambda: pad.bulk_add_wfs([jobflow(nothing()) for _ in range(jobs)]))
        pad.connection.close()
    return {"one by one": jobs / single, "bulk": jobs / bulk}


def ours(bench: Rig, jobs: int) -> dict[str, float]:
    """Return jobs/s of our ways."""
    project = bench.project("orion")
    os.environ.update(project_environment(project))

    def keyed(number: int) -> Any:
        return compile_flow(nothing(), project=project, key=f"once-{number}")

    with closing(open_launchpad(project)) as pad:
        single = seconds(lambda: [pad.add_wf(jobflow(nothing())) for _ in range(jobs)])
        bulk = seconds(lambda: pad.bulk_add_wfs([jobflow(nothing()) for _ in range(jobs)]))
        once = seconds(lambda: [pad.add_once(keyed(n)) for n in range(jobs)])
        again = seconds(lambda: [pad.add_once(keyed(n)) for n in range(jobs)])
        full = seconds(lambda: [submit(nothing(), project=project, launchpad=pad)
                                for _ in range(jobs)])
    return {"one by one": jobs / single, "bulk": jobs / bulk, "with key": jobs / once,
            "key known": jobs / again, "submit": jobs / full}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--remote", type=Path, help="virtual environment for jobflow-remote")
    options = parser.parse_args()
    jobs = options.jobs or (100 if options.quick else 1000)
    with rig() as bench:
        found = {"stock": stock(bench, "stock", jobs), "stock+j": stock(bench, "stock+j", jobs),
                 "orion": ours(bench, jobs)}
        if options.remote:
            engine = Remote(bench, options.remote, batch=False)
            start = seconds(lambda: engine.submit("single", 1))
            many = seconds(lambda: engine.submit("single", 1 + jobs))
            found["remote"] = {"one by one": jobs / max(many - start, 1e-3)}
    ways = list(found["orion"])
    show(f"Submitted jobflow jobs a second ({jobs}, in workflows of their own)",
         ["engine", *ways], [[k, *(v.get(w) for w in ways)] for k, v in found.items()])
    print_json("submission", {"jobs": jobs, **{
        k: {w: round(x) for w, x in v.items()} for k, v in found.items()}})


if __name__ == "__main__":
    main()
