"""Run times are learned from finished jobs of the same recipe and size."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fireworks import FWorker
from fireworks.core.firework import Firework

from orionflow.launchers.pad import OrionLaunchPad, Outcome
from orionflow.launchers.runtimes import COLLECTION, JobKind, RunTimes
from orionflow.workflows.compile import compile_flow
from orionflow.workflows.registry import make

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pad(project: Path) -> Iterator[OrionLaunchPad]:
    pad = OrionLaunchPad.from_file(str(project / "my_launchpad.yaml"))
    pad.fw_id_assigner.insert_one({"_id": -1, "next_fw_id": 1, "next_launch_id": 1})
    yield pad
    pad.connection.close()


def add(pad: OrionLaunchPad, project: Path, structure: str, **parameters: Any) -> int:
    flow = make("lammps.nve", structure, {"force_field": "Si.sw", **parameters})
    (fw_id,) = pad.add_wf(compile_flow(flow, project=project)).values()
    return int(fw_id)


def finish(pad: OrionLaunchPad, fw_id: int, seconds: float) -> None:
    """Complete a job that took so long."""
    (claim,) = pad.claim(FWorker(), "/nowhere", limit=1, query={"fw_id": fw_id})
    start = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    claim.launch["state_history"][0]["created_on"] = start
    pad.launches.update_one({"launch_id": claim.launch_id}, {"$set": {
        "state_history.0.created_on": start, "time_start": start}})
    claim.launch["time_start"] = start
    assert not pad.complete_launches([Outcome(claim.launch_id)]).errors


def stored(pad: OrionLaunchPad, fw_id: int) -> dict[str, Any]:
    found: dict[str, Any] = pad.fireworks.find_one({"fw_id": fw_id})
    return found


def test_kind_knows_recipe_parameters_size_and_cores() -> None:
    def kind(sites: int, ranks: int = 1, **bound: Any) -> JobKind:
        job = {"function": {"@module": "m", "@callable": "M.make", "@bound": {
            "@class": "M", "@version": "1", "steps": 5, "name": "a", "seed": 1, **bound}},
            "function_args": [{"sites": [{}] * sites}, None, [[1.0]]]}
        return JobKind.of({"name": "x", "spec": {"_tasks": [{"job": job}],
                                                 "resources": {"ranks": ranks}}})

    assert kind(8, name="b", seed=2) == kind(8)
    assert kind(8, **{"@version": "2"}) == kind(8)
    assert kind(8, steps=6).fingerprint != kind(8).fingerprint
    assert (kind(8).atoms, kind(9, 4).cores, kind(8).recipe) == (8, 4, "m.M.M.make")
    odd = JobKind.of({"name": "echo", "spec": {"_tasks": [], "resources": "many"}})
    assert (odd.recipe, odd.atoms, odd.cores) == ("echo", 0, 1)


@pytest.mark.needs_mongod
def test_seconds_is_above_all_that_was_seen_and_none_before(project: Path,
                                                            pad: OrionLaunchPad) -> None:
    times = RunTimes(pad, every=0)
    jobs = [add(pad, project, "Si diamond 5.43", seed=n + 1) for n in range(4)]
    assert times.seconds(stored(pad, jobs[3])) is None
    for fw_id, took in zip(jobs, (100.0, 120.0), strict=False):
        finish(pad, fw_id, took)
    assert times.seconds(stored(pad, jobs[3])) is None  # two are too few
    finish(pad, jobs[2], 90.0)
    found = times.seconds(stored(pad, jobs[3]))
    assert found == pytest.approx(1.5 * 120, rel=0.02)
    # Each finished job counts once, whoever looks.
    assert RunTimes(pad, every=0).seconds(stored(pad, jobs[3])) == found
    assert len(pad.db[COLLECTION].find_one({"atoms": 2})["samples"]) == 3
    other = add(pad, project, "Si diamond 5.43", nsteps=7)
    assert times.seconds(stored(pad, other)) is None
    going_on = stored(pad, jobs[3])
    going_on["spec"]["_continued"] = 1
    assert times.seconds(going_on) is None


@pytest.mark.needs_mongod
def test_seconds_grows_with_atoms_and_fewer_cores_never_shrinks(project: Path,
                                                                pad: OrionLaunchPad) -> None:
    for n in range(3):
        finish(pad, add(pad, project, "Si diamond 5.43", seed=n + 1), 10.0)
    times = RunTimes(pad)
    doc = stored(pad, add(pad, project, "Si diamond 5.43"))
    base = times.seconds(doc)
    assert base is not None
    (sites,) = [a["sites"] for a in doc["spec"]["_tasks"][0]["job"]["function_args"]
                if isinstance(a, dict) and "sites" in a]
    sites *= 2  # the same list
    assert times.seconds(doc) == pytest.approx(8 * base)
    del sites[1:]
    assert times.seconds(doc) == pytest.approx(base)
    doc["spec"]["resources"]["ranks"] = 4
    assert times.seconds(doc) == pytest.approx(base)


@pytest.mark.needs_mongod
def test_learn_takes_jobs_of_other_tools(pad: OrionLaunchPad) -> None:
    ids = [i for n in range(3) for i in pad.add_wf(
        Firework([], name="echo", spec={"note": n})).values()]
    for fw_id in ids:
        finish(pad, fw_id, 3.0)
    times = RunTimes(pad)
    assert times.seconds(stored(pad, ids[0])) == pytest.approx(4.5, rel=0.1)
