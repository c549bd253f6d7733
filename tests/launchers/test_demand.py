"""Allocations are as large as the work that waits for them, and no larger."""

from __future__ import annotations

from typing import Any

import pytest

from orionflow.launchers.cron import free_in
from orionflow.launchers.demand import Group, Offer, Shape, kinds, plan
from orionflow.launchers.machine import MachineProfile
from orionflow.launchers.resources import Resources
from orionflow.launchers.sbatch import sized_qadapter

HOUR = 3600
BIG = MachineProfile.model_validate({
    "name": "big", "scheduler": "slurm", "nodes": 8, "cores_per_node": 64,
    "memory_per_node": "128GB", "max_walltime": "48:00:00", "gpus_per_node": 4,
    "allocation": {"nodes": 2, "walltime": "12:00:00", "classes": [
        {"name": "short", "cores_per_node": 16, "memory_per_node": "32GB",
         "gpus_per_node": 0, "walltime": "02:00:00", "partition": "express"},
        {"name": "gpu", "cores_per_node": 32, "gpus_per_node": 4, "walltime": "06:00:00",
         "partition": "gpu", "qos": "accelerated"}]},
})


def group(count: int = 1, *, priority: float = 0, **asked: Any) -> Group:
    return Group(Resources.parse({"walltime": HOUR, **asked}), count, priority, 1)


def wanted(*groups: Group, **more: Any) -> list[tuple[str, int, int, int]]:
    return [(s.name, s.nodes, s.cores, s.walltime) for s in plan(BIG, groups, **more).wanted]


def test_sixteen_cores_get_sixteen_and_the_time_they_need() -> None:
    assert wanted(group(ranks=16)) == [("short", 1, 16, HOUR + 180)]
    assert wanted(group(ranks=16, walltime=5 * HOUR)) == [("default", 1, 16, 5 * HOUR + 180)]
    assert wanted(group(ranks=32)) == [("default", 1, 32, HOUR + 180)]
    assert wanted(group(ranks=16), more_to_come=True) == [("short", 1, 16, 2 * HOUR)]
    assert wanted(group(3, ranks=1)) == [("short", 1, 3, HOUR + 180)]


def test_many_jobs_get_whole_allocations_side_by_side() -> None:
    # 40 x 32 cores; an allocation has 128.
    assert wanted(group(40, ranks=32)) == [("default", 2, 64, HOUR + 180)] * 10
    # 1,000 cores for a minute each are not worth more than one.
    assert wanted(group(1000, ranks=1, walltime=60)) == [("short", 1, 16, 2 * HOUR)] * 7
    assert wanted(group(100, ranks=32, walltime=60)) == [("default", 2, 64, 12 * HOUR)] * 3


def test_a_job_beyond_the_usual_gets_one_of_its_own() -> None:
    assert wanted(group(nodes=4, ranks=200)) == [("own", 4, 64, HOUR + 180)]
    assert wanted(group(ranks=8, walltime=40 * HOUR)) == [("own", 1, 8, 40 * HOUR + 180)]


def test_gpus_are_asked_for_only_by_those_who_use_them() -> None:
    (shape,) = plan(BIG, [group(gpus=1, ranks=2)]).wanted
    assert (shape.name, shape.gpus, shape.cores) == ("gpu", 1, 2)
    cpu_only = BIG.model_copy(update={"gpus_per_node": 0})
    ((_, said),) = plan(cpu_only, [group(gpus=5)]).impossible
    assert "gpus = 5" in said
    (shape,) = plan(cpu_only, [group(gpus=4)]).wanted
    assert (shape.name, shape.partition, shape.gpus) == ("gpu", "gpu", 4)
    (shape,) = plan(BIG, [group(ranks=20)]).wanted
    assert (shape.name, shape.gpus) == ("default", 0)
    assert [k.name for k in kinds(BIG)] == ["short", "default", "gpu"]


@pytest.mark.parametrize(("asked", "why"), [
    ({"nodes": 9, "ranks": 9}, "nodes = 9"),
    ({"ranks": 65}, "ranks x threads = 65"),
    ({"memory": "200GB"}, "memory"),
    ({"walltime": 49 * HOUR}, "walltime"),
    ({"nodes": 2, "ranks": 3, "threads": 40}, "80 cores on a node"),
])
def test_what_no_allocation_can_take_is_named(asked: dict[str, Any], why: str) -> None:
    made = plan(BIG, [group(2, **asked), group()])
    assert len(made.wanted) == 1
    assert made.possible == 1
    ((bad, said),) = made.impossible
    assert bad.count == 2
    assert why in said


def test_walltime_is_bounded_by_the_longest_allocation_without_a_limit() -> None:
    machine = BIG.model_copy(update={"max_walltime": None})
    ((_, said),) = plan(machine, [group(walltime=13 * HOUR)]).impossible
    assert "no allocation is longer than 43200 s" in said


def test_what_is_there_takes_jobs_first_if_they_fit() -> None:
    waits = Offer.of(Shape("short", 1, 16, 32768, 0, 2 * HOUR))
    assert wanted(group(ranks=16), there=[waits]) == []
    assert wanted(group(20, ranks=1), there=[waits]) == [("short", 1, 4, HOUR + 180)]
    nearly_over = Offer.of(Shape("free", 1, 64, None, 0, 600))
    assert wanted(group(ranks=16), there=[nearly_over]) == [("short", 1, 16, HOUR + 180)]
    # 160 one-minute jobs are ten minutes' work for it: not worth another.
    assert wanted(group(160, ranks=1, walltime=60), there=[waits]) == []
    assert len(wanted(group(161, ranks=1, walltime=60), there=[waits])) == 1


NODE = {"cores": 8, "memory": 16000.0, "gpus": 0, "all_cores": 16, "all_memory": 32000.0}
WORKER = {"name": "big", "category": "compute", "query": "{}"}


@pytest.mark.parametrize(("told", "job", "missing"), [
    ({"free": [NODE]}, {"ranks": 8}, 0),
    ({"free": [NODE]}, {"ranks": 8, "memory": 16000}, 0),
    ({"free": [NODE]}, {"ranks": 1, "memory": 20000}, 1),  # cores enough, memory not
    ({"free": [{**NODE, "memory": 1000.0}]}, {"ranks": 8}, 1),  # its share of the memory is taken
    ({"free": [NODE]}, {"ranks": 1, "gpus": 1}, 1),
    ({"free": [{**NODE, "gpus": 1}]}, {"ranks": 1, "gpus": 1}, 0),
    ({"free": [NODE, NODE]}, {"ranks": 12}, 1),  # no node has twelve
    ({"free": [NODE, NODE]}, {"ranks": 12, "nodes": 2}, 0),
    ({"free": [NODE]}, {"ranks": 12, "nodes": 2}, 1),
    ({"free": [NODE], "takes": 0}, {"ranks": 1}, 1),  # --max-jobs or --parallel
    ({"free": [NODE], "longest": 600.0}, {"ranks": 1}, 1),
    ({"free": [NODE], "longest": None}, {"ranks": 1}, 0),
    ({"free": [NODE], "worker": {**WORKER, "category": "lab"}}, {"ranks": 1}, 1),
    ({"free": [NODE], "worker": WORKER}, {"ranks": 1}, 0),
    ({"cores": 16, "busy": 8, "deadline": 10 * HOUR}, {"ranks": 8}, 0),  # of an earlier version
    ({"cores": 16, "busy": 16}, {"ranks": 1}, 1),
])
def test_what_runs_counts_for_what_it_can_still_take(told: dict[str, Any], job: dict[str, Any],
                                                     missing: int) -> None:
    offer = free_in(told, HOUR, WORKER)
    assert len(wanted(group(**job), there=[offer] if offer else [])) == missing


def test_most_jobs_of_a_launcher_are_counted_once_and_by_priority() -> None:
    offer = free_in({"free": [NODE], "takes": 2}, 0.0, WORKER)
    assert offer is not None
    rest = wanted(group(2, ranks=1), group(2, ranks=20, priority=9), there=[offer])
    assert rest == [("default", 1, 40, HOUR + 180)]
    rest = wanted(group(3, ranks=1), there=[offer])
    assert rest == [("short", 1, 1, HOUR + 180)]


def test_urgent_work_is_asked_for_first() -> None:
    made = wanted(group(ranks=16), group(ranks=64, priority=5))
    assert [name for name, *_ in made] == ["default", "short"]


def test_sized_qadapter_keeps_what_was_edited_by_hand() -> None:
    config = {"_fw_name": "CommonAdapter", "nodes": 2, "ntasks_per_node": 60, "mem": "0",
              "walltime": "12:00:00", "queue": "standard", "gres": "gpu:4", "account": "a"}
    (whole,) = plan(BIG, [group(2, ranks=64)], more_to_come=True).wanted
    assert sized_qadapter(config, whole) == {
        **{k: v for k, v in config.items() if k != "gres"}, "nodes": 2}
    (small,) = plan(BIG, [group(ranks=8, memory="20GB")]).wanted
    made = sized_qadapter(config, small)
    assert (made["nodes"], made["ntasks_per_node"], made["mem"], made["queue"]) == (
        1, 8, "20480M", "express")
    assert made["walltime"] == "01:03:00"
