"""Which failures are run again, how often and with what changed."""

from __future__ import annotations

import errno
import pickle
from typing import TYPE_CHECKING

import pytest
from pymongo.errors import AutoReconnect

from orionflow.errors import CodeError, ConfigError, InputError, LaunchError, OrionflowError
from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.retry import (
    CLASS_OF_FAILURE,
    Decision,
    FailureClass,
    FailureInfo,
    RetryPolicy,
    decide,
    parse_retry,
)
from orionflow.settings import RetrySettings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

POLICY = RetryPolicy(max_reruns=3, memory_per_node=8000, cores_per_node=8)


def code_error(failure_id: str, *, transient: bool) -> CodeError:
    return CodeError(f"{failure_id}: seen", failure_id=failure_id, folder="/f",
                     transient=transient)


def until_given_up(failure: FailureInfo, spec: dict[str, object], policy: RetryPolicy = POLICY,
                   most: int = 200) -> list[Decision]:
    """Return the decisions for a job that fails in this way again and again."""
    spec, made = dict(spec), []
    for _ in range(most):
        made.append(decide(failure, spec, policy))
        if not made[-1].put_back:
            break
        spec.update(made[-1].spec)
    return made


@pytest.mark.parametrize(("error", "kind"), [
    (code_error("QE_KILLED", transient=True), "infrastructure"),
    (code_error("QE_OUT_OF_MEMORY", transient=True), "memory"),
    (code_error("LAMMPS_MEMORY", transient=False), "memory"),
    (code_error("QE_NOT_STARTED", transient=False), "node"),
    (code_error("QE_WALLTIME", transient=True), "walltime"),
    (code_error("QE_WALLTIME", transient=False), "user"),
    (code_error("CODE_UNKNOWN", transient=False), "user"),
    (InputError("no such lattice"), "user"),
    (ValueError("a bug of the recipe"), "user"),
    (ConfigError("executable 'pw.x' not found"), "node"),
    (LaunchError("mpirun failed", transient=True), "infrastructure"),
    (AutoReconnect("gone"), "database"),
    (MemoryError(), "memory"),
    (OSError(errno.ENOSPC, "full"), "infrastructure"),
    (OSError(errno.ESTALE, "stale"), "node"),
    (FileNotFoundError("x"), "user"),
])
def test_from_exception_names_the_class(error: Exception, kind: str) -> None:
    info = FailureInfo.from_exception(error, folder="/f")
    assert info.kind == kind
    assert pickle.loads(pickle.dumps(info)) == info  # noqa: S301  our own, made here


def test_classes_of_failures_exist_and_no_transient_one_is_the_users() -> None:
    assert set(CLASS_OF_FAILURE) <= set(CATALOGUE)
    for mode in CATALOGUE.values():
        info = FailureInfo.from_exception(code_error(mode.id, transient=mode.transient))
        assert not (mode.transient and info.kind is FailureClass.USER), mode.id


@pytest.mark.parametrize(("info", "kind"), [
    (FailureInfo.from_exit(-9), "infrastructure"),
    (FailureInfo.from_exit(-9, out_of_memory=True), "memory"),
    (FailureInfo.from_exit(-11), "unknown"),
    (FailureInfo.from_exit(3), "unknown"),
    (FailureInfo.from_slurm("NODE_FAIL", "7"), "node"),
    (FailureInfo.from_slurm("CANCELLED by 1000", "7"), "preemption"),
    (FailureInfo.from_slurm("PREEMPTED", "7"), "preemption"),
    (FailureInfo.from_slurm("OUT_OF_ME+", "7"), "infrastructure"),
    (FailureInfo.from_slurm("OUT_OF_MEMORY", "7"), "memory"),
    (FailureInfo.from_slurm("TIMEOUT", "7"), "walltime"),
    (FailureInfo.stopped("told to", time_over=True), "walltime"),
    (FailureInfo.stopped("told to"), "preemption"),
    (FailureInfo.launcher_lost("gone"), "node"),
])
def test_ends_of_processes_and_allocations_name_the_class(info: FailureInfo, kind: str) -> None:
    assert info.kind == kind


@pytest.mark.parametrize(("failure", "runs", "counts"), [
    (FailureInfo(FailureClass.USER, "typo"), 0, "lost"),
    (FailureInfo(FailureClass.NODE, "mpirun not there"), 3, "lost"),
    (FailureInfo(FailureClass.DATABASE, "gone"), 3, "lost"),
    (FailureInfo(FailureClass.UNKNOWN, "crashed"), 1, "lost"),
    (FailureInfo(FailureClass.WALLTIME, "over"), 3, "lost"),
    (FailureInfo(FailureClass.WALLTIME, "over", progressed=True), 60, "continued"),
])
def test_decide_ends_after_the_limit_of_the_class(failure: FailureInfo, runs: int,
                                                  counts: str) -> None:
    made = until_given_up(failure, {})
    assert len(made) == runs + 1
    assert {d.counts for d in made} == {counts}
    if runs:
        assert "given up" in made[-1].reason
        assert not made[-1].spec


def test_decide_lets_preempted_jobs_go_on_for_ever() -> None:
    made = until_given_up(FailureInfo(FailureClass.PREEMPTION, "preempted", folder="/a"), {})
    assert all(d.put_back and d.counts == "stopped" for d in made)
    assert "_reruns" not in made[-1].spec
    assert len(made[-1].spec["_retries"]["history"]) < len(made)  # the spec does not grow


def test_decide_adds_lost_launches_of_all_classes_up() -> None:
    spec: dict[str, object] = {}
    for kind in ("node", "infrastructure", "database"):
        made = decide(FailureInfo(FailureClass(kind), kind), spec, POLICY)
        assert made.put_back
        spec.update(made.spec)
    last = decide(FailureInfo(FailureClass.NODE, "node"), spec, POLICY)
    assert not last.put_back
    assert "max_reruns 3" in last.reason
    assert [h["class"] for h in spec["_retries"]["history"]] == [  # type: ignore[index]  # a dict
        "node", "infrastructure", "database"]


def test_decide_gives_more_memory_then_fewer_ranks_then_up() -> None:
    policy = RetryPolicy(max_reruns=9, memory_per_node=8000, cores_per_node=8,
                         limits=RetrySettings(memory=9, memory_factor=2))
    made = until_given_up(FailureInfo(FailureClass.MEMORY, "oom"),
                          {"resources": {"ranks": 4}}, policy)
    asked = [(d.spec["resources"]["memory"], d.spec["resources"]["ranks"])
             for d in made if d.put_back]
    # 4 of 8 cores have half of the node's memory; twice that is all there is.
    assert asked == [(8000, 4), (8000, 2), (8000, 1)]
    assert made[0].spec["_queueadapter"]["mem"] == "8000M"
    assert "8000 MiB on a node instead of 4000" in made[0].reason
    assert "no fewer ranks" in made[-1].reason


def test_decide_takes_fewer_ranks_where_memory_is_not_known() -> None:
    made = decide(FailureInfo(FailureClass.MEMORY, "oom"), {"resources": {"ranks": 2}},
                  RetryPolicy())
    assert made.spec["resources"] == {"nodes": 1, "ranks": 1, "threads": 1, "walltime": 3600}


def test_decide_goes_on_in_the_first_folder() -> None:
    failure = FailureInfo.stopped("preempted", folder="/new")
    assert decide(failure, {}, POLICY).spec["_launch_dir"] == "/new"
    assert decide(failure, {"_launch_dir": "/old"}, POLICY).spec["_launch_dir"] == "/old"


def test_decide_heeds_what_the_job_says() -> None:
    failure = FailureInfo(FailureClass.NODE, "gone")
    assert not decide(failure, {"retry": {"node": 0}}, POLICY).put_back
    assert decide(failure, {"retry": {"nodes": 0}}, POLICY).put_back  # not ours: ignored


def test_parse_retry_names_what_is_valid() -> None:
    with pytest.raises(InputError, match=r"(?s)retry: nodes.*valid: node, preemption"):
        parse_retry({"nodes": 1})


def test_settings_read_the_retry_block(tmp_path: Path) -> None:
    file = tmp_path / "orionflow.yaml"
    file.write_text("machine: local\nretry: {memory: 0, node: 7}\n")
    assert load_settings(tmp_path).retry == RetrySettings(memory=0, node=7)
    file.write_text("machine: local\nretry: {memori: 0}\n")
    with pytest.raises(OrionflowError, match=r"(?s)retry.memori.*valid: node, preemption"):
        load_settings(tmp_path)
