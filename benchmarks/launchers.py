"""Many launchers on one workflow: how much of their time they work.

    python benchmarks/launchers.py [--launchers 16] [--jobs 192] [--size 2000] [--seconds 1]

Each launcher is a process that claims a job, sleeps, completes it. Ideal time is
jobs * seconds / launchers.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import time
from typing import Any

from common import WORKER, open_pad, print_json, server, show
from fireworks import FWAction, LaunchPad, Workflow
from launchpad import noop

from orionflow.launchers.pad import OrionLaunchPad


def launcher(cls: Any, access: Any, seconds: float, budget: Any) -> None:
    """Claim, sleep, complete, while there is budget."""
    pad = cls(host=access.host, port=access.port, name=access.name, username=access.username,
              password=access.password, authsource=access.auth_source, strm_lvl="CRITICAL",
              mongoclient_kwargs={"journal": True})
    while True:
        with budget.get_lock():
            if budget.value <= 0:
                os._exit(0)
            budget.value -= 1
        _, launch_id = pad.checkout_fw(WORKER, "/nowhere")
        time.sleep(seconds)
        pad.complete_launch(launch_id, FWAction(), "COMPLETED")


def main() -> None:
    """Run both classes on the same work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--launchers", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=192)
    parser.add_argument("--size", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    fork = multiprocessing.get_context("fork")
    ideal = options.jobs * options.seconds / options.launchers
    rows, results = [], {}
    with server() as mongod:
        for kind, cls in (("stock+j", LaunchPad), ("orion", OrionLaunchPad)):
            pad = open_pad(mongod, kind)
            first, *rest = [noop() for _ in range(options.size)]
            pad.add_wf(Workflow([first, *rest], {first: rest}))
            _, launch_id = pad.checkout_fw(WORKER, "/nowhere")
            pad.complete_launch(launch_id, FWAction(), "COMPLETED")
            budget = fork.Value("i", options.jobs)
            access = mongod.access(pad.name)
            children = [fork.Process(target=launcher, args=(cls, access, options.seconds, budget))
                        for _ in range(options.launchers)]
            begin = time.perf_counter()
            for child in children:
                child.start()
            for child in children:
                child.join()
            wall = time.perf_counter() - begin
            done = pad.fireworks.count_documents({"state": "COMPLETED"}) - 1
            rows.append([kind, done, wall, ideal / wall])
            results[kind] = {"completed": done, "wall": round(wall, 2),
                             "utilisation": round(ideal / wall, 3)}
    show(f"{options.launchers} launchers, {options.jobs} jobs of {options.seconds:g} s in one "
         f"workflow of {options.size}", ["LaunchPad", "completed", "wall s", "utilisation"], rows)
    print_json("launchers", {**vars(options), **results})


if __name__ == "__main__":
    main()
