"""Asking for the state of things with 100,000 fireworks in the database.

    python benchmarks/status.py [--quick] [--size 100000]

Nine tenths are COMPLETED. Stock `lpad` beside our commands and our Python API, on one database.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from typing import TYPE_CHECKING, Any

from common import WORKER, print_json, show
from fireworks import FWAction
from rig import Rig, environment, opened, program, pytask, rig

from orionflow.launchers.pad import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_GROUP = 500
_LONGEST = 600


def fill(bench: Rig, size: int) -> Path:
    """Return a project with so many fireworks."""
    project = bench.project("orion")
    with opened(project) as pad:
        for begin in range(0, size, 5000):
            pad.bulk_add_wfs([pytask() for _ in range(min(5000, size - begin))])
        left = size * 9 // 10
        worker = WORKER
        while left:
            claims = pad.claim(worker, "/nowhere", limit=min(_GROUP, left))
            done = pad.complete_launches([Outcome(c.launch_id, "COMPLETED", FWAction())
                                          for c in claims])
            if done.errors or not claims:
                raise RuntimeError(str(done.errors))
            left -= len(claims)
    return project


def command(project: Path, *words: str) -> float | None:
    """Return how long a command takes, s; None when it is longer than we wait."""
    begin = time.perf_counter()
    try:
        done = subprocess.run([program(words[0]), *words[1:]], cwd=project, check=False,
                              env=environment(project), capture_output=True, timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        raise RuntimeError(f"{words}: {done.stderr.decode()[-2000:]}")
    return time.perf_counter() - begin


def seconds(work: Callable[[], object]) -> float:
    """Return how long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    """Fill, ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--size", type=int)
    options = parser.parse_args()
    size = options.size or (3000 if options.quick else 100_000)
    rows: list[list[Any]] = []
    with rig() as bench:
        filling = seconds(lambda: bench.__setattr__("filled", fill(bench, size)))
        project: Path = bench.filled  # type: ignore[attr-defined]  # set just now
        with opened(project) as pad:
            done = {"state": "COMPLETED"}
            asked: dict[str, Callable[[], object]] = {
                "count by state": lambda: [pad.fireworks.count_documents({"state": s})
                                           for s in ("READY", "RUNNING", "FIZZLED")],
                "list_fireworks, all COMPLETED": lambda: pad.list_fireworks(done),
                "list_fireworks, newest 100": lambda: pad.list_fireworks(limit=100),
                "list_workflows, all COMPLETED": lambda: pad.list_workflows(done),
                "get_fw_ids READY": lambda: pad.get_fw_ids({"state": "READY"}),
                "sweep (look for what was left half done)": pad.sweep,
            }
            rows += [[f"Python: {name}", seconds(work)] for name, work in asked.items()]
        rows += [[" ".join(words), command(project, *words)] for words in (
            ("lpad", "get_fws", "-s", "READY", "-d", "count"),
            ("lpad", "get_fws", "-i", str(size // 2), "-d", "more"),
            ("lpad", "get_fws", "-s", "COMPLETED", "-d", "ids"),
            ("lpad", "get_fws", "-s", "READY", "-d", "less"),
            ("lpad", "get_wflows", "-s", "READY", "-d", "less"),
            ("lpad", "report"),
            ("lpad", "detect_lostruns"),
            ("orionflow", "show"),
            ("orionflow", "show", "-i", str(size // 2)),
            ("orionflow", "recover", "--dry-run"),
        )]
    rows.append(["filling it", filling])
    show(f"{size} fireworks, s", ["what", "s"], rows)
    print_json("status", {"size": size, **{name: v and round(v, 3) for name, v in rows}})


if __name__ == "__main__":
    main()
