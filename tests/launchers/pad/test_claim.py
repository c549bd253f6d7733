import pytest
from fireworks import FWAction, FWorker, LaunchPad, Workflow
from fireworks.features.dupefinder import DupeFinderBase
from fireworks.utilities.fw_utilities import explicit_serialize
from pad_tools import WORKER, noop, problems, run_all, states
from pymongo.monitoring import CommandListener

from orionflow.launchers.pad import OrionLaunchPad, Outcome
from orionflow.launchers.pad.claim import worker_query

pytestmark = pytest.mark.needs_mongod


class Counter(CommandListener):
    def __init__(self):
        self.count = 0

    def started(self, event):
        self.count += event is not None

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


@pytest.fixture
def counted(database):
    counter = Counter()
    pad = OrionLaunchPad(host=database.host, port=database.port, name=database.name,
                         username=database.username, password=database.password,
                         authsource=database.auth_source, strm_lvl="CRITICAL",
                         mongoclient_kwargs={"event_listeners": [counter]})
    pad.reset("", require_password=False)
    pad.counter = counter
    yield pad
    pad.connection.close()


def trips_of_singles(pad, jobs):
    before = pad.counter.count
    for _ in range(jobs):
        _, launch_id = pad.checkout_fw(WORKER, "/nowhere")
        pad.ping_launch(launch_id, checkpoint={"_task_n": 0})
        pad.complete_launch(launch_id, FWAction(), "COMPLETED")
    return (pad.counter.count - before) / jobs


def trips_of_groups(pad, jobs, size=20):
    before = pad.counter.count
    for _ in range(jobs // size):
        claims = pad.claim(WORKER, "/nowhere", limit=size)
        assert pad.ping_launches([c.launch_id for c in claims]) == set()
        outcomes = [Outcome(c.launch_id, "COMPLETED", FWAction()) for c in claims]
        assert not pad.complete_launches(outcomes).errors
    return (pad.counter.count - before) / jobs


def small_flow():
    a, b, c = noop("a"), noop("b"), noop("c")
    return Workflow([a, b, c], {a: [c], b: [c]})


def test_job_of_its_own_takes_at_most_eight_round_trips(counted):
    counted.bulk_add_wfs([noop() for _ in range(40)])
    assert trips_of_singles(counted, 40) <= 8
    assert problems(counted) == []


@pytest.mark.parametrize("make", [noop, small_flow], ids=["single", "small flows"])
def test_jobs_in_groups_take_at_most_two_and_a_half_round_trips(counted, make):
    counted.bulk_add_wfs([make() for _ in range(20)])
    jobs = len(counted.get_fw_ids())
    assert trips_of_groups(counted, jobs) <= 2.5
    assert problems(counted) == []


def test_jobs_inside_a_big_fan_take_at_most_eight_round_trips(counted):
    first, *middle, last = [noop() for _ in range(602)]
    counted.add_wf(Workflow([first, *middle, last],
                            {first: middle, **{fw: [last] for fw in middle}}))
    trips_of_singles(counted, 5)
    assert trips_of_singles(counted, 40) <= 8
    assert trips_of_groups(counted, 40) <= 2.5
    assert len(run_all(counted)) == 517
    assert problems(counted) == []
    assert counted.workflows.find_one()["state"] == "COMPLETED"


def test_highest_priority_is_claimed_first(pad):
    pad.bulk_add_wfs([noop(_priority=p) for p in (1, 5, 3)] + [noop()])
    assert [c.spec.get("_priority") for c in pad.claim(WORKER, "/nowhere", limit=4)] == [
        5, 3, 1, None]


@pytest.mark.parametrize(("worker", "expected"), [
    (FWorker("here"), {"free", "mine", "large", "null"}),
    (FWorker("here", category="large"), {"large"}),
    (FWorker("here", category=["large", "none of these"]), {"large"}),
    (FWorker("here", category="__none__"), {"free", "mine", "null"}),
    (FWorker("here", query={"$or": [{"name": "mine"}, {"name": "theirs"}]}), {"mine"}),
    (FWorker("there"), {"free", "theirs", "large", "null"}),
])
def test_worker_gets_what_stock_would_give_it(pad, stock, worker, expected):
    pad.bulk_add_wfs([noop("free"), noop("mine", _fworker="here"), noop("theirs", _fworker="there"),
                      noop("large", _category="large"), noop("null", _fworker=None)])
    by_stock = {fw["name"] for fw in stock.fireworks.find({**worker.query, "state": "READY"})}
    assert by_stock == expected
    rewritten = {**worker_query(worker.query), "state": "READY"}
    assert {fw["name"] for fw in pad.fireworks.find(rewritten)} == expected
    assert {c.name for c in pad.claim(worker, "/nowhere", limit=9)} == expected


def test_worker_with_nothing_to_do_looks_at_no_firework(pad):
    pad.bulk_add_wfs([noop(_fworker="other", _category="x") for _ in range(50)])
    for worker in (FWorker("w"), FWorker("w", category="x"), FWorker("w", category="y")):
        query = {**worker_query(worker.query), "state": "READY"}
        plan = pad.fireworks.find(query).sort([("spec._priority", -1)]).explain()
        assert plan["executionStats"]["totalDocsExamined"] == 0, worker.category


def test_chosen_among_candidates_are_claimed(pad):
    pad.bulk_add_wfs([noop(size=n) for n in range(10)])
    claims = pad.claim(WORKER, lambda doc: f"/run/{doc['fw_id']}", limit=3, candidates=10,
                       query={"spec.size": {"$gte": 4}},
                       choose=lambda docs: [d for d in docs if d["spec"]["size"] % 2])
    assert {c.spec["size"] for c in claims} == {5, 7, 9}
    for claim in claims:
        assert pad.get_launchdir(claim.fw_id) == f"/run/{claim.fw_id}"


def test_reserved_launch_is_taken_over(pad, stock):
    """`qlaunch -r` reserves, the job in the queue runs: one launch, both times in its history."""
    pad.add_wf(noop())
    fw, launch_id = stock.reserve_fw(WORKER, "/queue")
    stock.set_reservation_id(launch_id, "4711")
    again, running_id = pad.checkout_fw(WORKER, "/node", fw_id=fw.fw_id)
    assert running_id == launch_id
    launch = pad.get_launch_by_id(launch_id)
    assert [s["state"] for s in launch.state_history] == ["RESERVED", "RUNNING"]
    assert launch.state_history[0]["reservation_id"] == "4711"
    assert launch.launch_dir == "/node"
    assert pad.checkout_fw(WORKER, "/node", fw_id=fw.fw_id) == (None, None)
    pad.complete_launch(launch_id, FWAction(), "COMPLETED")
    assert states(pad) == {again.fw_id: "COMPLETED"}
    assert problems(pad) == []


@explicit_serialize
class SameName(DupeFinderBase):
    """Fireworks with the same `job` are the same."""

    def query(self, spec):
        return {"spec.job": spec["job"], "launches": {"$ne": []}}

    def verify(self, spec1, spec2):  # noqa: ARG002  FireWorks' signature
        return True


@pytest.mark.parametrize("grouped", [False, True])
def test_duplicate_gets_the_result_of_the_first(pad, grouped):
    for _ in range(2):
        child = noop("child")
        fw = noop("twin", job="x", _dupefinder=SameName())
        pad.add_wf(Workflow([fw, child], {fw: [child]}))
    pad.add_wf(noop("twin", job="x", _dupefinder=SameName()))
    fw, launch_id = pad.checkout_fw(WORKER, "/nowhere", fw_id=min(pad.get_fw_ids()))
    # The second is found to be a duplicate of a running one; the third of a completed one.
    second = sorted(pad.get_fw_ids({"name": "twin"}))[1]
    assert pad.checkout_fw(WORKER, "/nowhere", fw_id=second) == (None, None)
    assert states(pad)[second] == "RUNNING"
    outcome = Outcome(launch_id, "COMPLETED", FWAction(update_spec={"result": 42}))
    if grouped:
        assert not pad.complete_launches([outcome]).errors
        pad.claim(WORKER, "/nowhere", limit=10)
    else:
        pad.complete_launch(launch_id, outcome.action)
        run_all(pad)
    assert {fw["state"] for fw in pad.fireworks.find({"name": "twin"})} == {"COMPLETED"}
    assert [fw["spec"]["result"] for fw in pad.fireworks.find({"name": "child"})] == [42, 42]
    assert pad.launches.count_documents({"state": {"$ne": "COMPLETED"}}) == (2 if grouped else 0)


def test_undecodable_firework_fizzles_and_the_next_is_taken(pad):
    pad.add_wf(noop("bad", _priority=9))
    pad.fireworks.update_one({"name": "bad"},
                             {"$set": {"spec._tasks.0._fw_name": "{{no_such.Module}}"}})
    pad.add_wf(noop("good"))
    fw, _ = pad.checkout_fw(WORKER, "/nowhere")
    assert fw.name == "good"
    assert pad.fireworks.find_one({"name": "bad"})["state"] == "FIZZLED"


def test_dict_and_file_give_the_same_class_with_journaled_writes(pad, tmp_path):
    path = tmp_path / "my_launchpad.yaml"
    pad.to_file(str(path))
    for copy in (OrionLaunchPad.from_file(str(path)), OrionLaunchPad.from_dict(pad.to_dict())):
        assert type(copy) is OrionLaunchPad
        assert copy.connection.write_concern.document == {"j": True}
        copy.connection.close()


def test_nothing_is_kept_of_jobs_that_ended(pad):
    pad.bulk_add_wfs([noop() for _ in range(30)])
    run_all(pad, limit=10)
    trips_of = pad.claim(WORKER, "/nowhere", limit=20)
    pad.complete_launches([Outcome(c.launch_id) for c in trips_of])
    assert not pad.backup_launch_data
    assert not pad.backup_fw_data
    assert not pad.claims


def test_heartbeat_and_checkpoint_are_stored_as_stock_does(pad, stock):
    pad.bulk_add_wfs([noop(), noop()])
    launches = []
    for each in (pad, stock):
        _, launch_id = each.checkout_fw(WORKER, "/nowhere")
        each.ping_launch(launch_id, checkpoint={"_task_n": 1, "_all_stored_data": {"a": 1}})
        launches.append(stock.launches.find_one({"launch_id": launch_id}))
    ours, theirs = launches
    assert set(ours) == set(theirs)
    assert [set(s) for s in ours["state_history"]] == [set(s) for s in theirs["state_history"]]
    assert ours["state_history"][0]["checkpoint"] == theirs["state_history"][0]["checkpoint"]
    assert pad.get_recovery(ours["launch_id"])["_task_n"] == 1


def test_listing_tells_states_and_folders(pad):
    pad.add_wf(Workflow([noop("a", campaign="x"), noop("b")], name="flow", metadata={"k": 1}))
    run_all(pad, limit=1)
    listed = pad.list_fireworks(spec=["campaign"])
    assert sorted(str(f["launch_dir"]) for f in listed) == ["/nowhere", "None"]
    assert {f.get("spec", {}).get("campaign") for f in listed} == {"x", None}
    (wf,) = pad.list_workflows({"name": "flow"})
    assert (wf["size"], wf["states"], wf["metadata"]) == (
        2, {"COMPLETED": 1, "READY": 1}, {"k": 1})


def test_stock_class_reads_what_ours_wrote(pad, stock):
    pad.add_wf(small_flow())
    run_all(pad, limit=2)
    assert isinstance(stock, LaunchPad)
    wf = stock.get_wf_by_fw_id(min(pad.get_fw_ids()))
    assert wf.state == "RUNNING"
    assert pad.get_wf_by_fw_id(min(pad.get_fw_ids())).to_dict() == wf.to_dict()
    assert stock.get_wf_summary_dict(min(pad.get_fw_ids()), mode="all")["state"] == "RUNNING"
