"""The jobs of the storm: short, real, and counted where they took effect.

Every run writes when it began and when it ended into one file, with O_APPEND. That two runs of a
job overlap, or that a job ran again after its end, is seen there, whatever the database says.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireworks import FiretaskBase, Firework, FWAction, Workflow, explicit_serialize
from jobflow import Flow, Response, job

from orionflow.errors import CodeError
from orionflow.launchers.custodian.jobs import CodeJob
from orionflow.workflows.compile import compile_flow
from orionflow.workflows.registry import get_recipe

if TYPE_CHECKING:
    from random import Random

SHORT = {"ranks": 1, "walltime": 5}
PARTS = 8  # jobs between the root of a fan and its sum


def note(effects: str, what: str, name: str) -> None:
    """Append one line to the file of effects."""
    line = json.dumps({"what": what, "name": name, "pid": os.getpid(), "time": time.time(),
                       "folder": str(Path.cwd())}) + "\n"
    file = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def execute(command: list[str]) -> None:
    """Run a program as codes are run, under the eyes of a guard; its death is nobody's fault."""
    process = CodeJob(command, stdout="out", stderr="err").run(".")
    if process.returncode != 0:
        raise CodeError(f"{command[0]} ended with code {process.returncode}",
                        failure_id="LAMMPS_KILLED", folder=Path.cwd(), transient=True)


@explicit_serialize
class Tally(FiretaskBase):
    """Run a program, then raise a counter of each child by one."""

    required_params = ("name", "effects", "command")

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:  # noqa: ARG002  FireWorks passes it
        """Run it."""
        note(self["effects"], "begin", self["name"])
        execute(list(self["command"]))
        note(self["effects"], "end", self["name"])
        return FWAction(stored_data={"name": self["name"]}, mod_spec=[{"_inc": {"total": 1}}])


@explicit_serialize
class Total(FiretaskBase):
    """Store what the parents have counted."""

    required_params = ("name", "effects")

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        """Store it."""
        note(self["effects"], "begin", self["name"])
        note(self["effects"], "end", self["name"])
        return FWAction(stored_data={"name": self["name"], "total": fw_spec.get("total")})


@job
def link(before: int, name: str, effects: str) -> int:
    """One link of a chain: what came before, and one."""
    note(effects, "begin", name)
    execute(["true"])
    note(effects, "end", name)
    return before + 1


@job
def grow(name: str, effects: str) -> Response:
    """Replace itself by a chain of two."""
    note(effects, "begin", name)
    first = link(0, f"{name}.1", effects)
    second = link(first.output, f"{name}.2", effects)
    note(effects, "end", name)
    return Response(replace=Flow([first, second], output=second.output))


@job
def steps(count: int, name: str, effects: str) -> int:
    """Take longer than an allocation lasts; goes on where it was stopped."""
    note(effects, "begin", name)
    progress = Path("progress")
    done = len(progress.read_text()) if progress.exists() else 0
    for _ in range(done, count):
        time.sleep(1.0)
        with progress.open("a") as file:
            file.write("x")
    note(effects, "end", name)
    return len(progress.read_text())


@job
def wrong(name: str, effects: str) -> None:
    """Fail for good."""
    note(effects, "begin", name)
    raise ValueError("this input can't be right")


def workflows(jobs: int, effects: str, rng: Random, long: int) -> list[Workflow]:
    """Return workflows of about so many jobs: fans, chains, growing ones, LAMMPS, long, wrong.

    Parameters
    ----------
    long
        Seconds a long job takes.
    """
    found: list[Workflow] = []
    count = 0
    kinds = {"fan": 3, "chain": 4, "grow": 3, "lammps": 2, "long": 1, "wrong": 1}
    every = list(kinds)  # each at least once, whatever the dice say
    while count < jobs:
        kind = every.pop() if every else rng.choices(list(kinds), list(kinds.values()))[0]
        name = f"{kind}-{len(found)}"
        wf = _workflow(kind, name, effects, rng, long)
        found.append(wf)
        count += len(wf)
    rng.shuffle(found)
    return found


def _workflow(kind: str, name: str, effects: str, rng: Random, long: int) -> Workflow:
    if kind == "fan":
        return _fan(name, effects, rng)
    if kind == "lammps":
        ranks = rng.choice((1, 2))
        flow = get_recipe("lammps.static").make("Si diamond 5.43", {"force_field": "Si.sw"})
        return compile_flow(flow, name=name, resources={"ranks": ranks, "walltime": 8})
    if kind == "chain":
        links = [link(0, f"{name}.0", effects)]
        for number in (1, 2, 3):
            links.append(link(links[-1].output, f"{name}.{number}", effects))
        return compile_flow(Flow(links), name=name, resources=SHORT)
    made = {"grow": lambda: grow(name, effects), "long": lambda: steps(long, name, effects),
            "wrong": lambda: wrong(name, effects)}[kind]()
    return compile_flow(made, name=name, resources=SHORT)


def _fan(name: str, effects: str, rng: Random) -> Workflow:
    spec = {"_category": "compute", "resources": SHORT, "_priority": rng.randrange(3)}

    def part(number: int) -> Firework:
        command = rng.choice((["true"], ["true"], ["sleep", "0.3"]))
        own = f"{name}.{number}"
        return Firework(Tally(name=own, effects=effects, command=command), spec=dict(spec),
                        name=own)

    root, *parts = [part(number) for number in range(PARTS + 1)]
    total = Firework(Total(name=f"{name}.total", effects=effects), spec=dict(spec),
                     name=f"{name}.total")
    return Workflow([root, *parts, total], {root: parts, **{p: [total] for p in parts}},
                    name=name)
