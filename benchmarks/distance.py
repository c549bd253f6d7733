"""A database far away: cost of an empty job at round-trip times of 0, 8 and 23 ms.

python benchmarks/distance.py [--quick] [--jobs 60] [--times 0 8 23]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from common import print_json, show
from rig import HERE, Rig, check_done, pace, pytask, ratio, rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orionflow.launchers.project import DatabaseAccess

KINDS = ("stock", "orion")
FEW = 4


@contextmanager
def far(access: DatabaseAccess, milliseconds: float) -> Iterator[DatabaseAccess]:
    """Give the same database, so far away."""
    if not milliseconds:
        yield access
        return
    proxy = subprocess.Popen(
        [sys.executable, str(HERE / "proxy.py"), access.host, str(access.port),
         str(milliseconds)], stdout=subprocess.PIPE, text=True)
    try:
        if proxy.stdout is None:
            raise RuntimeError("no pipe")
        yield replace(access, port=int(proxy.stdout.readline()))
    finally:
        proxy.terminate()
        proxy.communicate()


def cost(bench: Rig, kind: str, milliseconds: float, jobs: int) -> float:
    """Return ms of wall time of a job."""
    count = FEW + jobs
    near = bench.mongod.access(f"far_{kind}_{milliseconds:g}".replace(".", "_"))
    with far(near, milliseconds) as access:
        project = bench.project(kind, access)
        bench.add(project, [pytask() for _ in range(count)])
        bench.launch(kind, project)
        check_done(project, count)
        return 1e3 * pace(project, FEW)


def main() -> None:
    """Measure all distances."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--times", type=float, nargs="+", default=[0.0, 8.0, 23.0],
                        help="round-trip times, ms")
    options = parser.parse_args()
    jobs = options.jobs or (20 if options.quick else 60)
    with rig() as bench:
        found = {kind: [cost(bench, kind, t, jobs) for t in options.times] for kind in KINDS}
    rows: list[list[Any]] = [[kind, *row] for kind, row in found.items()]
    rows.append(["stock / orion", *(ratio(a, b) for a, b in zip(
        found["orion"], found["stock"], strict=True))])
    show(f"ms of an empty job ({jobs} jobs) at a database so far away",
         ["engine", *(f"{t:g} ms" for t in options.times)], rows)
    print_json("distance", {"times_ms": options.times, **{
        kind: [round(v, 1) for v in row] for kind, row in found.items()}})


if __name__ == "__main__":
    main()
