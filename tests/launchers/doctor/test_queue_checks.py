"""Jobs that wait for ever and what killed processes leave, made for real with FireWorks."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from fireworks import Firework, LaunchPad, ScriptTask, Workflow

from orionflow.errors import ConfigError
from orionflow.launchers.doctor import queue
from orionflow.launchers.doctor.finding import Finding, Site

pytestmark = pytest.mark.needs_mongod


def add(pad: LaunchPad, n: int = 1, **spec: object) -> list[int]:
    ids = []
    for _ in range(n):
        made = pad.add_wf(Workflow([Firework(ScriptTask.from_str("true"), spec=dict(spec))]))
        ids += made.values()
    return ids


def find(findings: object, name: str) -> list[Finding]:
    return [f for f in findings if f.name == name]


def test_jobs_a_worker_takes_are_ok(project: Path, launchpad: LaunchPad) -> None:
    add(launchpad, 2, _category="compute", resources={"ranks": 1})
    states = {f.name: f.state for f in queue.ready_jobs(Site.of(project))}
    assert states == {"workers": "ok", "resources": "ok"}


def test_empty_queue_is_ok(project: Path, launchpad: LaunchPad) -> None:
    assert [f.state for f in queue.ready_jobs(Site.of(project))] == ["ok"]


def test_misspelt_category_is_broken_with_its_name_and_a_fix_that_works(
        project: Path, launchpad: LaunchPad) -> None:
    ids = add(launchpad, 3, _category="computte")
    (found,) = find(queue.ready_jobs(Site.of(project)), "workers")
    assert found.state == "broken"
    assert "3 jobs have category 'computte'" in found.seen
    assert f"first: {ids[0]}" in found.seen
    assert "lpad update_fws" in found.advice
    launchpad.update_spec(ids, {"_category": "compute"})
    assert find(queue.ready_jobs(Site.of(project)), "workers")[0].state == "ok"


@pytest.mark.parametrize("category", ["compute", ["compute", "lab"]])
def test_job_without_category_is_never_taken(project: Path, launchpad: LaunchPad,
                                             category: object) -> None:
    # FireWorks turns a worker's list into $in, which a missing category never matches.
    path = project / "my_fworker.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "category": category}))
    add(launchpad)
    (found,) = find(queue.ready_jobs(Site.of(project)), "workers")
    assert found.state == "broken"
    assert "have no category" in found.seen


def test_query_of_the_worker_counts_too(project: Path, launchpad: LaunchPad) -> None:
    path = project / "my_fworker.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()),
                                    "query": '{"spec.owner": "ada"}'}))
    add(launchpad, _category="compute", owner="bob")
    assert find(queue.ready_jobs(Site.of(project)), "workers")[0].state == "broken"


def test_job_bound_to_another_worker_is_named(project: Path, launchpad: LaunchPad) -> None:
    add(launchpad, _category="compute", _fworker="elsewhere")
    (found,) = find(queue.ready_jobs(Site.of(project)), "workers")
    assert "bound to worker 'elsewhere'" in found.seen


def test_second_worker_file_covers_its_category(project: Path, launchpad: LaunchPad) -> None:
    add(launchpad, _category="lab")
    (project / "lab_fworker.yaml").write_text("{name: lab, category: lab, query: '{}'}\n")
    assert find(queue.ready_jobs(Site.of(project)), "workers")[0].state == "ok"


def test_finished_jobs_of_a_strange_category_don_t_matter(project: Path,
                                                          launchpad: LaunchPad) -> None:
    (fw_id,) = add(launchpad, _category="old")
    launchpad.defuse_fw(fw_id)
    assert find(queue.ready_jobs(Site.of(project)), "workers")[0].state == "ok"


def test_no_worker_file_is_broken(project: Path, launchpad: LaunchPad) -> None:
    (project / "my_fworker.yaml").unlink()
    (found,) = queue.ready_jobs(Site.of(project))
    assert found.state == "broken"
    assert "orionflow init" in found.advice


def test_worker_file_that_is_none_is_named(project: Path, launchpad: LaunchPad) -> None:
    (project / "my_fworker.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match=r"my_fworker\.yaml is not a FireWorks worker"):
        list(queue.ready_jobs(Site.of(project)))


def test_resources_the_machine_can_never_give_are_broken(project: Path,
                                                         launchpad: LaunchPad) -> None:
    ids = add(launchpad, 2, _category="compute", resources={"nodes": 64, "ranks": 64})
    (found,) = find(queue.ready_jobs(Site.of(project)), "resources")
    assert found.state == "broken"
    assert "2 jobs can never start: nodes = 64" in found.seen
    assert f"first: {ids[0]}" in found.seen


def test_resources_that_can_t_be_read_are_broken(project: Path, launchpad: LaunchPad) -> None:
    add(launchpad, _category="compute", resources={"rank": 2})
    (found,) = find(queue.ready_jobs(Site.of(project)), "resources")
    assert found.state == "broken"
    assert "rank" in found.seen


def test_clean_queue_has_no_leftovers(project: Path, launchpad: LaunchPad) -> None:
    add(launchpad, _category="compute")
    assert {f.state for f in queue.leftovers(Site.of(project))} == {"ok"}


def test_half_added_workflow_is_found_once_it_is_old_enough(project: Path,
                                                            launchpad: LaunchPad) -> None:
    # What stock add_wf leaves when it is killed between its two writes.
    (fw_id,) = add(launchpad, _category="compute")
    launchpad.workflows.delete_one({"nodes": fw_id})
    assert find(queue.leftovers(Site.of(project)), "half-added workflows")[0].state == "ok"
    old = datetime.now(UTC) - timedelta(minutes=5)
    launchpad.fireworks.update_one({"fw_id": fw_id}, {"$set": {"created_on": old}})
    (found,) = find(queue.leftovers(Site.of(project)), "half-added workflows")
    assert found.state == "warn"
    assert f"first: {fw_id}" in found.seen
    assert "orionflow recover" in found.advice


def test_lock_of_a_dead_process_is_found(project: Path, launchpad: LaunchPad) -> None:
    (fw_id,) = add(launchpad, _category="compute")
    launchpad.workflows.update_one({"nodes": fw_id}, {"$set": {"locked": True}})
    (found,) = find(queue.leftovers(Site.of(project)), "locked workflows")
    assert found.state == "warn"
    assert f"lpad admin unlock -i {fw_id}" in found.advice


def test_killed_run_is_found_when_its_pings_are_old(project: Path, launchpad: LaunchPad,
                                                   wait_until: object) -> None:
    (fw_id,) = ids = add(launchpad, _category="compute")
    launchpad.update_spec(ids, {"_tasks": [ScriptTask.from_str("sleep 60").to_dict()]})
    rlaunch = subprocess.Popen(  # stock FireWorks
        [Path(sys.executable).with_name("rlaunch"), "singleshot"], cwd=project,
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: launchpad.launches.find_one({"fw_id": fw_id, "state": "RUNNING"}))
    finally:
        os.killpg(rlaunch.pid, signal.SIGKILL)
        rlaunch.wait()
    (found,) = find(queue.leftovers(Site.of(project)), "lost runs")
    assert (found.state, found.seen) == ("ok", "none; 1 running")
    silent = datetime.now(UTC) - timedelta(minutes=10)
    launchpad.launches.update_one(
        {"fw_id": fw_id}, {"$set": {"state_history.$[].updated_on": silent}})
    (found,) = find(queue.leftovers(Site.of(project)), "lost runs")
    assert found.state == "warn"
    assert "1 jobs RUNNING without a sign of life" in found.seen


def test_job_claimed_and_never_started_is_found(project: Path, launchpad: LaunchPad) -> None:
    (fw_id,) = add(launchpad, _category="compute")
    launchpad.fireworks.update_one({"fw_id": fw_id}, {"$set": {
        "state": "RESERVED", "updated_on": datetime.now(UTC) - timedelta(minutes=10)}})
    (found,) = find(queue.leftovers(Site.of(project)), "lost runs")
    assert found.state == "warn"
    assert "1 claimed and never started" in found.seen
