"""Flows as fireworks: who may run them, with what, for whom; jobs made while running too."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing

import pytest
import small_jobs
from jobflow import Flow, job
from killing import WRITES, Killer, killed
from pymongo import monitoring
from small_jobs import add

from orionflow.errors import ConfigError, InputError
from orionflow.launchers.launchpad import open_launchpad
from orionflow.launchers.recovery import recover
from orionflow.workflows.compile import compile_flow, request_hash, submit

pytestmark = [pytest.mark.needs_mongod, pytest.mark.usefixtures("importable")]


def chain():
    first = add(1, 2)
    return Flow([first, add(first.output, 3)], name="chain")


def specs(pad):
    return [fw["spec"] for fw in pad.fireworks.find(sort=[("fw_id", 1)])]


def test_submit_writes_category_resources_and_labels_on_every_firework(project, pad):
    result = submit(chain(), resources={"ranks": 2, "walltime": "00:10:00"}, campaign="first",
                    priority=7, tags=["a", "b"], owner="ann")
    assert result.created
    assert result.fw_ids == [1, 2]
    for spec in specs(pad):
        assert spec["_category"] == "compute"
        assert spec["_priority"] == 7
        assert spec["resources"] == {"nodes": 1, "ranks": 2, "threads": 1, "walltime": 600}
        assert spec["_queueadapter"]["ntasks"] == 2
        assert (spec["campaign"], spec["owner"], spec["tags"]) == ("first", "ann", ["a", "b"])
    wf = pad.workflows.find_one()
    assert wf["metadata"]["campaign"] == "first"
    assert wf["metadata"]["owner"] == "ann"
    assert [fw["state"] for fw in pad.fireworks.find(sort=[("fw_id", 1)])] == ["READY", "WAITING"]


@pytest.mark.parametrize("kind", ["replaces", "detours", "adds"])
def test_jobs_made_while_running_carry_the_same_labels(kind, project, pad, job_store):
    submit(getattr(small_jobs, kind)(), resources={"ranks": 2}, campaign="c", priority=3,
           tags=["t"], owner="ann")
    code, _, err = small_jobs.run("orionflow", "launch")
    assert code == 0, err
    assert pad.fireworks.count_documents({}) >= 2
    assert pad.fireworks.count_documents({"state": {"$ne": "COMPLETED"}}) == 0, err
    for spec in specs(pad):
        assert spec["_category"] == "compute"
        assert spec["_priority"] == 3
        assert spec["resources"]["ranks"] == 2
        assert (spec["campaign"], spec["owner"], spec["tags"]) == ("c", "ann", ["t"])
    documents = list(job_store.query({}))
    assert documents
    assert all(d["metadata"]["campaign"] == "c" and d["metadata"]["tags"] == ["t"]
               for d in documents)


def test_category_and_resources_of_a_job_of_its_own_are_kept(project, pad):
    flow = chain()
    flow.jobs[0].config.manager_config = {"_category": "lab", "resources": {"ranks": 1}}
    submit(flow, resources={"ranks": 2})
    first, second = specs(pad)
    assert (first["_category"], first["resources"]["ranks"]) == ("lab", 1)
    assert (second["_category"], second["resources"]["ranks"]) == ("compute", 2)


@pytest.mark.parametrize(("resources", "named"), [
    ({"ranks": 9999}, "ranks x threads = 9999"),
    ({"nodes": 2}, "nodes = 2"),
    ({"walltime": -1}, "walltime"),
    ({"cpus": 4}, "cpus"),
])
def test_impossible_resources_are_refused_and_nothing_is_stored(resources, named, project, pad):
    with pytest.raises(InputError, match=named) as caught:
        submit(chain(), resources=resources)
    assert caught.value.hint
    assert pad.fireworks.count_documents({}) == pad.workflows.count_documents({}) == 0


def test_impossible_resources_of_one_job_name_the_job(project):
    flow = chain()
    flow.jobs[1].config.manager_config = {"resources": {"ranks": 9999}}
    with pytest.raises(InputError, match="job 'add': ranks"):
        compile_flow(flow)


@pytest.mark.parametrize(("wrong", "named"), [
    ({"flow": None}, "NoneType can't be submitted"), ({"flow": "qe.static"}, "str can't be"),
    ({"key": 5}, "key = 5"), ({"campaign": 7}, "campaign = 7"), ({"tags": "abc"}, "tags = 'abc'"),
    ({"priority": "high"}, "priority = 'high'")])
def test_wrong_kinds_of_values_are_refused_by_name(wrong, named, project):
    with pytest.raises(InputError, match=named):
        compile_flow(**{"flow": chain(), **wrong})


def test_single_job_gives_its_workflow_its_name(project):
    assert compile_flow(add(1, 2)).name == "add"


def test_unknown_additional_store_is_refused_before_the_calculation(project):
    @job(trajectory="frames")
    def writes():
        return {}

    with pytest.raises(InputError, match="'trajectory'") as caught:
        compile_flow(writes())
    assert "data" in caught.value.hint


def test_submit_outside_a_project_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("ORIONFLOW_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no project"):
        submit(chain())


def test_hash_is_equal_for_two_builds_and_differs_for_another_request(project):
    one, two = compile_flow(chain()), compile_flow(chain())
    uuids = {wf.fws[0].tasks[0]["job"].uuid for wf in (one, two)}
    assert len(uuids) == 2
    assert request_hash(one) == request_hash(two)
    assert request_hash(one) != request_hash(compile_flow(chain(), priority=1))
    assert request_hash(one) != request_hash(compile_flow(chain(), resources={"ranks": 2}))


def test_same_key_twice_is_one_workflow(project, pad):
    first, second = submit(chain(), key="k"), submit(chain(), key="k")
    assert (first.created, second.created) == (True, False)
    assert first.fw_ids == second.fw_ids
    assert pad.workflows.count_documents({}) == 1
    assert pad.fireworks.count_documents({}) == 2


def test_without_key_every_call_is_a_new_workflow(project, pad):
    assert submit(chain()).fw_ids != submit(chain()).fw_ids
    assert pad.workflows.count_documents({}) == 2


def test_key_of_another_request_is_refused(project, pad):
    submit(chain(), key="k")
    with pytest.raises(InputError, match="key 'k' belongs to another request"):
        submit(chain(), key="k", priority=5)
    assert pad.workflows.count_documents({}) == 1


SUBMIT_OFTEN = """
import sys
from pathlib import Path
from jobflow import Flow
from small_jobs import add
from orionflow.workflows.compile import submit

project = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for n in range(15):
    first = add(1, 2)
    result = submit(Flow([first, add(first.output, 3)], name="chain"), project=project,
                    key=f"k{n}")
    print(int(result.created), *result.fw_ids, flush=True)
"""


def test_two_processes_with_the_same_keys_make_one_workflow_each(project, pad):
    both = [subprocess.Popen([sys.executable, "-c", SUBMIT_OFTEN, str(project)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    one, two = ([line.split() for line in process.communicate(timeout=120)[0].splitlines()]
                for process in both)
    assert [ids for _, *ids in one] == [ids for _, *ids in two]
    assert all({a[0], b[0]} == {"0", "1"} for a, b in zip(one, two, strict=True))
    assert pad.workflows.count_documents({}) == 15
    assert pad.fireworks.count_documents({}) == 30
    assert pad.fireworks.count_documents({"state": "READY"}) == 15


def _submit_killed(project, key, number):
    killer = Killer(only=WRITES)
    monitoring.register(killer)
    with closing(open_launchpad(project)) as pad:
        killer.left = number - 1
        submit(chain(), project=project, key=key or None, launchpad=pad)


@pytest.mark.parametrize("key", ["k", ""])
def test_killed_at_every_write_of_a_submission_leaves_nothing_half_added(key, project, pad):
    """SIGKILL before the n-th write, for every n; then the same request, then recovery."""
    from fireworks import LaunchPad

    stock = LaunchPad.from_file(str(project / "my_launchpad.yaml"))
    for number in range(1, 9):
        survived = not killed(_submit_killed, project, key, number)
        # What is left disturbs no stock tool: all READY fireworks have a workflow, all
        # workflows all their fireworks.
        for fw_id in stock.get_fw_ids({"state": "READY"}):
            assert stock.get_wf_by_fw_id(fw_id)
        for fw_id in stock.get_wf_ids():
            stock.get_wf_by_fw_id(fw_id)
        if key:
            result = submit(chain(), key=key)
            assert pad.fireworks.find_one({"fw_id": result.fw_ids[0]})["state"] == "READY"
            assert pad.workflows.count_documents({}) == 1
            pad.workflows.delete_many({})
            pad.fireworks.delete_many({"fw_id": {"$in": result.fw_ids}})
        pad.fireworks.update_many({}, {"$set": {"created_on": "2020-01-01T00:00:00+00:00"}})
        recover(project, pad)
        assert pad.fireworks.count_documents({}) == 2 * pad.workflows.count_documents({})
        roots = [wf["nodes"][0] for wf in pad.workflows.find()]
        assert pad.fireworks.count_documents({"state": "READY"}) == len(roots)
        if survived:
            break
    else:
        pytest.fail("eight writes were not enough for a submission")
    assert number > 4  # the kills happened
    stock.connection.close()


def test_submission_of_500_jobs_takes_seconds(project, pad):
    began = time.monotonic()
    result = submit(Flow([add(1, n) for n in range(500)]))
    assert len(result.fw_ids) == 500
    assert time.monotonic() - began < 30


def test_retry_is_stored_and_a_jobs_own_goes_first(project, pad):
    flow = chain()
    flow.jobs[1].config.manager_config = {"retry": {"memory": 5}}
    submit(flow, retry={"memory": 0, "node": 1})
    assert [spec["retry"] for spec in specs(pad)] == [
        {"memory": 0, "node": 1}, {"memory": 5, "node": 1}]
    submit(chain())
    assert "retry" not in specs(pad)[2]


@pytest.mark.parametrize(("config", "message"), [
    ({"resource": {"ranks": 2}}, r"unknown name 'resource' .*did you mean 'resources'"),
    ({"_catgory": "lab"}, r"unknown name '_catgory' .*did you mean '_category'"),
    ({"retry": {"memori": 1}}, r"retry: memori.*valid: node"),
    ({"resources": {"gpus": 1}}, "gpus = 1, but machine 'local' has at most 0"),
    ({"campaign": "x"}, r"'campaign' stands in its manager_config.*campaign="),
])
def test_a_wrong_word_in_a_jobs_own_configuration_is_refused(project, config, message):
    flow = chain()
    flow.jobs[1].config.manager_config = config
    with pytest.raises(InputError, match=f"(?s)job 'add': {message}"):
        compile_flow(flow, project=project)
