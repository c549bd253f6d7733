"""A process is killed before each command it sends; a sweep must put everything right."""

import pytest
from fireworks import FWAction, LaunchPad, Workflow
from killing import Killer, killed
from pad_tools import WORKER, noop, problems, run_all, states

from orionflow.launchers.pad import OrionLaunchPad, Outcome, locks

pytestmark = pytest.mark.needs_mongod


def _work_killed(cls, access, work, commands):
    killer = Killer()
    pad = cls(host=access.host, port=access.port, name=access.name, username=access.username,
              password=access.password, authsource=access.auth_source, strm_lvl="CRITICAL",
              mongoclient_kwargs={"event_listeners": [killer], "journal": True})
    pad.fireworks.find_one()  # connect first
    killer.left = commands
    work(pad)


def clean_up(pad):
    """What a launcher or `orionflow recover` does within two minutes."""
    pad.sweep(grace=0.0, stock_grace=0.0)
    for launch in list(pad.launches.find({"state": "RUNNING"})):
        pad.put_back(launch["fw_id"], launch["launch_id"], "its launcher was killed")
    pad.sweep(grace=0.0, stock_grace=0.0)


def act(fw):
    """Every job counts itself into its children; `adds` grows the workflow twice."""
    count = {"mod_spec": [{"_inc": {"count": 1}}]}
    if fw.name == "adds":
        return FWAction(additions=[noop("added")], detours=[noop("detour")], **count)
    return FWAction(**count)


def one_job(pad):
    fw, launch_id = pad.checkout_fw(WORKER, "/nowhere")
    pad.ping_launch(launch_id, checkpoint={"_task_n": 0})
    pad.complete_launch(launch_id, act(fw), "COMPLETED")


def a_group(pad):
    claims = pad.claim(WORKER, "/nowhere", limit=4)
    done = pad.complete_launches(
        [Outcome(c.launch_id, "COMPLETED", FWAction(mod_spec=[{"_inc": {"count": 1}}]))
         for c in claims])
    assert not done.errors


def diamond(first="first"):
    top, left, right, bottom = noop(first), noop("left"), noop("right"), noop("bottom")
    return Workflow([top, left, right, bottom],
                    {top: [left, right], left: [bottom], right: [bottom]})


def expect_each_once(pad, number):
    fws = list(pad.fireworks.find())
    assert problems(pad) == []
    known = {i for wf in pad.workflows.find() for i in wf["nodes"]}
    assert len(known) == number
    assert {fw["state"] for fw in fws if fw["fw_id"] in known} == {"COMPLETED"}
    for wf in pad.workflows.find():
        for fw in fws:
            if fw["fw_id"] in wf["nodes"]:
                parents = wf["parent_links"].get(str(fw["fw_id"]), [])
                # A job counts itself into the children it had when it ended, and `detour`
                # counts nothing.
                counted = [p for p in parents
                           if next(f for f in fws if f["fw_id"] == p)["name"] != "detour"]
                expected = 0 if fw["name"] in {"added", "detour"} else len(counted)
                assert fw["spec"].get("count", 0) == expected, fw["name"]


@pytest.fixture
def no_patience(monkeypatch):
    monkeypatch.setattr(locks, "LEASE", 0.0)
    monkeypatch.setattr(locks, "STOCK_LEASE", 0.0)


def every_moment(cls, access, pad, *, prepare, work, check):
    commands = 0
    while True:
        pad.reset("", require_password=False)
        prepare(pad)
        was_killed = killed(_work_killed, cls, access, work, commands)
        clean_up(pad)
        check(commands)
        if not was_killed:
            return commands
        commands += 1


def finish(pad, number):
    def check(commands):
        run_all(pad, act=lambda fw: act(fw) if fw.name != "detour" else FWAction())
        expect_each_once(pad, number)
    return check


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize(("name", "number", "least"), [("first", 4, 7), ("adds", 6, 9)])
def test_job_killed_anywhere_counts_once(database, pad, name, number, least):
    moments = every_moment(OrionLaunchPad, database, pad, work=one_job, check=finish(pad, number),
                           prepare=lambda p: p.add_wf(diamond(name)))
    assert moments >= least


def test_group_killed_anywhere_counts_once(database, pad, no_patience):
    def prepare(pad):
        pad.add_wf(diamond())
        run_all(pad, act=act, limit=1)  # left and right will end together, above the same child
        pad.bulk_add_wfs([noop("single"), Workflow([noop("a"), noop("b")])])

    every_moment(OrionLaunchPad, database, pad, prepare=prepare, work=a_group,
                 check=finish(pad, 7))


def test_submission_killed_anywhere_leaves_all_or_nothing(database, pad, no_patience):
    def check(commands):
        run_all(pad, act=act)
        there = pad.workflows.count_documents({})
        assert there in {0, 1}
        assert problems(pad) == []
        if there:
            expect_each_once(pad, 4)

    every_moment(OrionLaunchPad, database, pad, prepare=lambda _: None,
                 work=lambda p: p.add_wf(diamond()), check=check)


def test_defuse_killed_anywhere_can_be_repeated(database, pad, no_patience):
    def prepare(pad):
        pad.add_wf(diamond())
        run_all(pad, limit=2)

    def check(commands):
        pad.defuse_wf(min(pad.get_fw_ids()))
        assert set(states(pad).values()) == {"DEFUSED"}
        assert problems(pad) == [] or all("parents" in p for p in problems(pad))
        assert pad.workflows.find_one()["state"] == "DEFUSED"

    every_moment(OrionLaunchPad, database, pad, prepare=prepare, check=check,
                 work=lambda p: p.defuse_wf(min(p.get_fw_ids())))


def test_rerun_killed_anywhere_ends_completed(database, pad, no_patience):
    def prepare(pad):
        pad.add_wf(diamond())
        run_all(pad)

    def check(commands):
        run_all(pad)
        assert problems(pad) == []
        assert set(states(pad).values()) == {"COMPLETED"}

    every_moment(OrionLaunchPad, database, pad, prepare=prepare, check=check,
                 work=lambda p: p.rerun_fw(max(p.get_fw_ids({"name": "first"}))))


def test_stock_rocket_killed_anywhere_ends_completed(database, pad, no_patience):
    """Also FireWorks' own LaunchPad, which knows nothing of us."""
    def plain_job(stock):
        _, launch_id = stock.checkout_fw(WORKER, "/nowhere")
        stock.complete_launch(launch_id, FWAction(), "COMPLETED")

    def check(commands):
        clean_up(pad)
        run_all(pad)
        assert problems(pad) == []
        assert set(states(pad).values()) == {"COMPLETED"}

    assert every_moment(LaunchPad, database, pad, prepare=lambda p: p.add_wf(diamond()),
                        work=plain_job, check=check) > 20
