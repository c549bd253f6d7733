"""The database side of a job: stock LaunchPad, stock with journaled writes, and OrionLaunchPad.

    python benchmarks/launchpad.py [--quick] [case ...]

Cases: empty growth wide bulk listing adding idle. All on one throw-away MongoDB, one after the
other; compare figures of one run only.
"""

from __future__ import annotations

import argparse
import logging
import time
from itertools import pairwise
from typing import Any

from common import WORKER, cpu, middle, open_pad, print_json, quiet_folder, server, show
from fireworks import Firework, FWAction, PyTask, Workflow
from fireworks.core.rocket_launcher import rapidfire

from orionflow.launchers.pad import Outcome

KINDS = ("stock", "stock+j", "orion")
GROUP = 20
ROUNDS = 3  # the best, or the middle one, counts: these machines are shared


def noop() -> Firework:
    """Return a firework that does nothing."""
    return Firework([PyTask(func="builtins.abs", args=[1])])


def one_by_one(pad: Any, jobs: int, fw_ids: list[int] | None = None) -> None:
    """Claim, one sign of life with a checkpoint, complete: what a job needs, singly."""
    for number in range(jobs):
        _, launch_id = pad.checkout_fw(WORKER, "/nowhere", fw_id=fw_ids[number] if fw_ids else None)
        pad.ping_launch(launch_id, checkpoint={"_task_n": 0})
        pad.complete_launch(launch_id, FWAction(), "COMPLETED")


def in_groups(pad: Any, jobs: int) -> None:
    """Claim and complete groups, with one sign of life for each group."""
    while jobs > 0:
        claims = pad.claim(WORKER, "/nowhere", limit=min(GROUP, jobs))
        pad.ping_launches([c.launch_id for c in claims])
        done = pad.complete_launches([Outcome(c.launch_id, "COMPLETED", FWAction())
                                      for c in claims])
        if done.errors or not claims:
            raise RuntimeError(f"{done.errors or 'nothing to claim'}")
        jobs -= len(claims)


def timed(pad: Any, jobs: int, run: Any) -> tuple[float, float, float]:
    """Return wall ms, CPU ms (this process and mongod) and round trips a job."""
    trips, used, begin = pad.trips.count, cpu(pad), time.perf_counter()
    run(pad, jobs)
    return (1e3 * (time.perf_counter() - begin) / jobs, 1e3 * (cpu(pad) - used) / jobs,
            (pad.trips.count - trips) / jobs)


def empty(mongod: Any, *, quick: bool) -> dict[str, Any]:
    """Empty jobs in workflows of their own."""
    jobs = 60 if quick else 120
    rows: list[list[Any]] = []
    results: dict[str, Any] = {}

    def rocket(pad: Any, count: int) -> None:
        with quiet_folder():
            rapidfire(pad, WORKER, nlaunches=count, strm_lvl="CRITICAL")

    cases = [(kind, how, run) for kind in KINDS for how, run in (
        ("rapidfire", rocket), ("claim and complete", one_by_one), ("groups of 20", in_groups))
        if kind == "orion" or run is not in_groups]
    best: dict[tuple[str, str], tuple[float, float, float]] = {}
    for _ in range(ROUNDS):
        for kind, how, run in cases:
            pad = open_pad(mongod, kind)
            with quiet_folder():
                pad.bulk_add_wfs([noop() for _ in range(jobs + 10)])
            run(pad, 10)
            best[kind, how] = min(best.get((kind, how), (1e9, 0.0, 0.0)), timed(pad, jobs, run))
    base = best["stock", "rapidfire"]
    for (kind, how), (ms, used, trips) in best.items():
        rows.append([kind, how, ms, used, trips, base[0] / ms, base[1] / used])
        results[f"{kind} {how}"] = [round(ms, 2), round(used, 2), round(trips, 2)]
    show("Empty job, workflows of one", ["LaunchPad", "driver", "ms", "CPU ms", "trips",
                                         "stock/this", "by CPU"], rows)
    return results


def shape(name: str, size: int) -> tuple[Workflow, int]:
    """Return a workflow and how many of its jobs to run before measuring."""
    fws = [noop() for _ in range(size)]
    if name == "flat":
        return Workflow(fws), 0
    if name == "fan":
        first, *rest, last = fws
        return Workflow(fws, {first: rest, **{fw: [last] for fw in rest}}), 1
    return Workflow(fws, {a: [b] for a, b in pairwise(fws)}), 0


def growth(mongod: Any, *, quick: bool) -> dict[str, Any]:
    """Cost of a job inside workflows of different sizes."""
    sizes = (100, 1000) if quick else (100, 1000, 2000, 10_000)
    jobs = 30 if quick else 60
    rows: list[list[Any]] = []
    results: dict[str, Any] = {}
    for name in ("flat", "fan", "chain"):
        for kind, how, run in (("stock+j", "singly", one_by_one), ("orion", "singly", one_by_one),
                               ("orion", "groups of 20", in_groups)):
            if name == "chain" and run is in_groups:
                continue
            row: list[Any] = [name, kind, how]
            for size in sizes:
                if kind != "orion" and size > 2000:  # noqa: PLR2004  minutes
                    row.append(None)
                    continue
                pad = open_pad(mongod, kind)
                wf, before = shape(name, size)
                pad.add_wf(wf)
                one_by_one(pad, before)
                run(pad, 8)  # the first ones start the workflow
                rounds = [timed(pad, jobs // ROUNDS, run) for _ in range(ROUNDS)]
                row.append([middle([r[i] for r in rounds]) for i in range(3)])
            known = [v for v in row[3:] if v is not None]
            rows.append([*row[:3], *(v and f"{v[0]:.1f} / {v[1]:.1f} / {v[2]:.1f}"
                                     for v in row[3:]),
                         f"{known[-1][0] / known[0][0]:.2f} / {known[-1][1] / known[0][1]:.2f}"])
            results[f"{name} {kind} {how}"] = [v and [round(x, 2) for x in v] for v in row[3:]]
    show(f"Wall ms / CPU ms / round trips a job inside one workflow ({jobs} jobs run)",
         ["shape", "LaunchPad", "how", *(f"N={s}" for s in sizes), "growth"], rows)
    return {"sizes": sizes, **results}


def wide(mongod: Any, *, quick: bool) -> dict[str, Any]:
    """Finish a root with many children, a job that appends many, a detour around many."""
    size = 300 if quick else 2000
    rows, results = [], {}
    for kind in ("stock+j", "orion"):
        row: list[Any] = [kind]
        fws = [noop() for _ in range(size + 1)]
        pad = open_pad(mongod, kind)
        pad.add_wf(Workflow(fws, {fws[0]: fws[1:]}))
        _, launch_id = pad.checkout_fw(WORKER, "/nowhere")
        row.append(_seconds(pad.complete_launch, launch_id, FWAction()))
        for how in ("additions", "detours"):
            pad = open_pad(mongod, kind)
            first, last = noop(), noop()
            pad.add_wf(Workflow([first, last], {first: [last]}))
            _, launch_id = pad.checkout_fw(WORKER, "/nowhere")
            new = Workflow([noop() for _ in range(size)])
            row.append(_seconds(pad.complete_launch, launch_id, FWAction(**{how: [new]})))
        pad = open_pad(mongod, kind)
        first = noop()
        pad.add_wf(Workflow([first]))
        new = Workflow([noop() for _ in range(size)])
        row.append(_seconds(pad.append_wf, new, [min(pad.get_fw_ids())]))
        rows.append(row)
        results[kind] = [round(v, 3) for v in row[1:]]
    show(f"{size} fireworks at once, s", ["LaunchPad", "root with children", "additions",
                                          "detours", "append_wf"], rows)
    return {"size": size, **results}


def bulk(mongod: Any, *, quick: bool) -> dict[str, Any]:
    """Defuse, reignite, pause and archive a big workflow."""
    rows, results = [], {}
    sizes = (("stock+j", 100 if quick else 1000), ("orion", 1000), ("orion", 10_000))
    for kind, size in sizes:
        pad = open_pad(mongod, kind)
        wf, _ = shape("fan", size)
        pad.add_wf(wf)
        row: list[Any] = [kind, size]
        names = ("defuse_wf", "reignite_wf", "pause_wf", "archive_wf")
        for name in names:
            if kind != "orion" and name in {"reignite_wf", "archive_wf"} and not quick:
                row.append(None)  # minutes
                continue
            row.append(_seconds(getattr(pad, name), min(pad.get_fw_ids())))
        rows.append(row)
        results[f"{kind} {size}"] = [v and round(v, 3) for v in row[2:]]
    show("Whole workflow, s", ["LaunchPad", "fireworks", "defuse", "reignite", "pause", "archive"],
         rows)
    return results


def listing(mongod: Any, *, quick: bool) -> dict[str, Any]:
    """List finished fireworks."""
    size = 2000 if quick else 40_000
    pad = open_pad(mongod, "orion")
    pad.bulk_add_wfs([noop() for _ in range(size)])
    for _ in range(size // 500):
        claims = pad.claim(WORKER, "/nowhere", limit=500)
        pad.complete_launches([Outcome(c.launch_id, "COMPLETED", FWAction()) for c in claims])
    query = {"state": "COMPLETED"}
    ours = _seconds(pad.list_fireworks, query)
    count = len(pad.list_fireworks(query))
    flows = _seconds(pad.list_workflows, query)
    part = pad.get_fw_ids(query)[:size // 20]
    stock = 20 * _seconds(lambda: [pad.get_fw_dict_by_id(i) for i in part])
    show(f"List {count} finished, s", ["what", "s"], [
        ["list_fireworks", ours], ["list_workflows", flows],
        ["what `lpad get_fws -d less` does (from a twentieth)", stock]])
    return {"listed": count, "fireworks": round(ours, 2), "workflows": round(flows, 2),
            "stock": round(stock, 1)}


def adding(mongod: Any, *, quick: bool) -> dict[str, Any]:
    """Add workflows."""
    size = 200 if quick else 1000
    rows, results = [], {}
    for kind in KINDS:
        pad = open_pad(mongod, kind)
        singles = [noop() for _ in range(size)]
        many = [noop() for _ in range(size)]
        with quiet_folder():
            row = [1e3 / size * _seconds(lambda p=pad, s=singles: [p.add_wf(fw) for fw in s]),
                   1e3 / size * _seconds(pad.bulk_add_wfs, many)]
        row += [1e3 / size * _seconds(pad.add_wf, shape(name, size)[0])
                for name in ("flat", "chain")]
        rows.append([kind, *row])
        results[kind] = [round(v, 3) for v in row]
    show(f"Adding {size} fireworks, ms each", ["LaunchPad", "one by one", "bulk", "one flat",
                                               "one chain"], rows)
    return results


def idle(mongod: Any, *, quick: bool) -> dict[str, Any]:
    """Poll of a worker for whom nothing is ready."""
    size = 1000 if quick else 20_000
    rows, results = [], {}
    for kind in ("stock+j", "orion"):
        pad = open_pad(mongod, kind)
        with quiet_folder():
            pad.bulk_add_wfs([Firework([PyTask(func="builtins.abs", args=[1])],
                                       spec={"_fworker": "other"}) for _ in range(size)])
        ms = 1e3 * middle([_seconds(pad.checkout_fw, WORKER, "/nowhere") for _ in range(10)])
        rows.append([kind, ms])
        results[kind] = round(ms, 2)
    show(f"Poll beside {size} READY fireworks of another worker", ["LaunchPad", "ms"], rows)
    return results


def _seconds(function: Any, *args: Any) -> float:
    begin = time.perf_counter()
    function(*args)
    return time.perf_counter() - begin


CASES = {f.__name__: f for f in (empty, growth, wide, bulk, listing, adding, idle)}


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with server() as mongod:
        results = {name: CASES[name](mongod, quick=options.quick)
                   for name in options.cases or CASES}
    print_json("launchpad", results)


if __name__ == "__main__":
    main()
