"""Flows as fireworks: who may run them, with what, for whom; jobs made while running too."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobflow import Flow, job

from orionflow.errors import ConfigError, InputError
from orionflow.launchers.launchpad import open_launchpad
from orionflow.launchers.recovery import recover
from orionflow.workflows.compile import compile_flow, request_hash, submit

FAKES = Path(__file__).parents[1] / "fakes"
pytestmark = pytest.mark.needs_mongod


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.setenv("PYTHONPATH", str(FAKES))


@pytest.fixture
def pad(project):
    pad = open_launchpad(project)
    yield pad
    pad.connection.close()


def chain():
    from small_jobs import add

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
    import small_jobs

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
    from small_jobs import add

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
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from jobflow import Flow
from small_jobs import add
from orionflow.workflows.compile import submit

project = Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for n in range(15):
    first = add(1, 2)
    result = submit(Flow([first, add(first.output, 3)], name="chain"), project=project,
                    key=f"k{n}")
    print(int(result.created), *result.fw_ids, flush=True)
"""


def test_two_processes_with_the_same_keys_make_one_workflow_each(project, pad):
    both = [subprocess.Popen([sys.executable, "-c", SUBMIT_OFTEN, str(FAKES), str(project)],
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


KILLED_AT_CALL = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from pymongo import monitoring
from jobflow import Flow
from small_jobs import add
from orionflow.launchers import launchpad
from orionflow.workflows.compile import submit

class Killer(monitoring.CommandListener):
    calls = 0
    armed = False
    def started(self, event):
        if self.armed and event.command_name in {"insert", "update", "delete", "findAndModify"}:
            Killer.calls += 1
            if Killer.calls == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
    def succeeded(self, event): pass
    def failed(self, event): pass

killer = Killer()
monitoring.register(killer)
pad = launchpad.open_launchpad(Path(sys.argv[2]))
killer.armed = True
first = add(1, 2)
submit(Flow([first, add(first.output, 3)], name="chain"), project=Path(sys.argv[2]),
       key=sys.argv[4] or None, launchpad=pad)
"""


@pytest.mark.parametrize("key", ["k", ""])
def test_killed_at_every_write_of_a_submission_leaves_nothing_half_added(key, project, pad):
    """SIGKILL before the n-th write, for every n; then the same request, then recovery."""
    from fireworks import LaunchPad

    stock = LaunchPad.from_file(str(project / "my_launchpad.yaml"))
    for number in range(1, 9):
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT_CALL, str(FAKES), str(project), str(number), key],
            capture_output=True, text=True, check=False)
        survived = done.returncode == 0
        assert survived or done.returncode == -signal.SIGKILL, done.stderr
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
    from small_jobs import add

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
