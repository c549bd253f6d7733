"""How long commands take that have nothing, or one job, to do.

python benchmarks/startup.py [--quick] [--rounds 5] [--remote VENV]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import middle, print_json, show
from remote import Remote
from rig import check_done, jobflow, launch_command, program, pytask, rig
from rig_jobs import nothing


def cases() -> dict[str, tuple[str, list[str], list[Any]]]:
    """Return by name: engine, command, work."""
    rlaunch = [program("rlaunch"), "-s", "singleshot"]
    launch = launch_command("orion", jobs=1)
    orionflow = program("orionflow")
    return {
        "rlaunch, no job": ("stock", rlaunch, []),
        "orionflow launch, no job": ("orion", launch, []),
        "rlaunch, one PyTask": ("stock", rlaunch, [pytask]),
        "orionflow launch, one PyTask": ("orion", launch, [pytask]),
        "rlaunch, one jobflow job": ("stock", rlaunch, [lambda: jobflow(nothing())]),
        "orionflow launch, one jobflow job": ("orion", launch, [lambda: jobflow(nothing())]),
        "lpad get_fws": ("stock", [program("lpad"), "get_fws"], [pytask]),
        "orionflow show": ("orion", [orionflow, "show"], [pytask]),
        "orionflow --help": ("orion", [orionflow, "--help"], []),
        "orionflow recover": ("orion", [orionflow, "recover"], []),
    }


def main() -> None:
    """Measure each several times; the median counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--remote", type=Path, help="virtual environment for jobflow-remote")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    rows: list[list[Any]] = []
    results: dict[str, Any] = {}
    with rig() as bench:
        for name, (kind, command, work) in cases().items():
            costs = []
            for _ in range(rounds):
                project = bench.project(kind)
                bench.add(project, [make() for make in work])
                costs.append(bench.measure(command, project))
                if "launch" in name:
                    check_done(project, len(work))
            rows.append([name, middle([c.wall for c in costs]), middle([c.cpu for c in costs]),
                         middle([c.trips for c in costs])])
            results[name] = [round(x, 2) for x in rows[-1][1:]]
        if options.remote:
            engine = Remote(bench, options.remote, batch=False)
            engine.submit("single", 1)
            done = engine.work(1)
            rows.append(["jobflow-remote runner, one job", done.wall, None, done.trips])
            results["jobflow-remote"] = [round(done.wall, 2), None, done.trips]
    show("Commands from start to end", ["command", "s", "CPU s", "trips"], rows)
    print_json("startup", results)


if __name__ == "__main__":
    main()
