"""Many processes, ours and stock, on the same workflows at once."""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
from fireworks import FWAction, LaunchPad, Workflow
from pad_tools import WORKER, noop, problems, run_all, states
from pymongo.errors import PyMongoError

from orionflow.errors import LaunchError
from orionflow.launchers.pad import LaunchRefusedError, OrionLaunchPad, Outcome
from orionflow.launchers.services.mongod import Mongod
from orionflow.launchers.services.processes import ProcessIdentity

pytestmark = pytest.mark.needs_mongod
FORK = multiprocessing.get_context("fork")


def open_pad(cls, access, **options):
    return cls(host=access.host, port=access.port, name=access.name, username=access.username,
               password=access.password, authsource=access.auth_source, strm_lvl="CRITICAL",
               mongoclient_kwargs={"journal": True, **options})


def act(name):
    """Jobs named grow* add one; every job counts itself into its children."""
    count = {"mod_spec": [{"_inc": {"count": 1}}]}
    if name == "grow":
        return FWAction(additions=[noop("added")], **count)
    if name == "detour":
        return FWAction(detours=[noop("added")], **count)
    return FWAction(**count)


def singly(cls, access, seconds):
    pad = open_pad(cls, access)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        fw, launch_id = pad.checkout_fw(WORKER, "/nowhere")
        if fw is None:
            if not pad.future_run_exists(WORKER):
                break
            time.sleep(0.02)
            continue
        pad.db.marks.insert_one({"fw_id": fw.fw_id})
        pad.complete_launch(launch_id, act(fw.name), "COMPLETED")
    os._exit(0)


def in_groups(cls, access, seconds):
    pad = open_pad(cls, access)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        claims = pad.claim(WORKER, "/nowhere", limit=5)
        if not claims:
            if not pad.future_run_exists(WORKER):
                break
            time.sleep(0.02)
            continue
        pad.db.marks.insert_many([{"fw_id": c.fw_id} for c in claims])
        done = pad.complete_launches(
            [Outcome(c.launch_id, "COMPLETED", act(c.name)) for c in claims])
        assert not done.errors, done.errors
    os._exit(0)


def start(jobs):
    children = [FORK.Process(target=work, args=(cls, *args)) for work, cls, *args in jobs]
    for child in children:
        child.start()
    return children


def join(children, seconds):
    for child in children:
        child.join(seconds)
        assert child.exitcode == 0, f"{child} ended with {child.exitcode}"


def mixed_workflow(width):
    first, last = noop("first"), noop("last")
    kinds = random.Random(0)  # noqa: S311  it must be repeatable
    middle = [noop(kinds.choice(["plain", "plain", "grow", "detour"])) for _ in range(width)]
    return Workflow([first, *middle, last],
                    {first: middle, **{fw: [last] for fw in middle}}), first, last


def expect_all_ran_once(pad):
    assert problems(pad) == []
    assert set(states(pad).values()) == {"COMPLETED"}
    marks = [m["fw_id"] for m in pad.db.marks.find()]
    assert len(marks) == len(set(marks)), "a job ran twice"
    assert set(marks) == set(pad.get_fw_ids())


@pytest.mark.parametrize("with_stock", [False, True], ids=["ours", "with stock"])
def test_eight_launchers_on_one_workflow_run_each_job_once(pad, database, with_stock):
    width = 24 if with_stock else 60
    wf, _, _ = mixed_workflow(width)
    pad.add_wf(wf)
    pad.bulk_add_wfs([noop("plain") for _ in range(20)])
    work = [(singly, OrionLaunchPad, database, 90)] * 4 + [
        (in_groups, OrionLaunchPad, database, 90)] * 2
    work += [(singly, LaunchPad if with_stock else OrionLaunchPad, database, 90)] * 2
    join(start(work), 120)
    expect_all_ran_once(pad)
    last = pad.fireworks.find_one({"name": "last"})
    wf = pad.workflows.find_one({"nodes": last["fw_id"]})
    detours = {fw["fw_id"] for fw in pad.fireworks.find({"name": "added"})}
    assert last["spec"]["count"] == len(wf["parent_links"][str(last["fw_id"])])
    assert detours


def append_many(cls, access, fw_ids):
    pad = open_pad(cls, access)
    for fw_id in fw_ids:
        pad.append_wf(Workflow([noop("appended")]), [fw_id])
    os._exit(0)


def test_append_while_jobs_complete_strands_no_child(pad, database):
    """Stock FireWorks reads outside the lock, and overwrites what completed meanwhile."""
    fws = [noop("plain") for _ in range(30)]
    pad.add_wf(Workflow(fws))
    ids = pad.get_fw_ids()
    join(start([(append_many, OrionLaunchPad, database, ids[::2]),
                (append_many, OrionLaunchPad, database, ids[1::2]),
                (singly, OrionLaunchPad, database, 60), (singly, LaunchPad, database, 60)]), 90)
    run_all(pad, act=lambda fw: pad.db.marks.insert_one({"fw_id": fw.fw_id}) and FWAction())
    expect_all_ran_once(pad)
    assert len(states(pad)) == 60


def stubborn(access, seconds):
    """Go on through outages, as a launcher does: tell the same end until somebody listens."""
    pad = open_pad(OrionLaunchPad, access, serverSelectionTimeoutMS=1000)
    end = time.monotonic() + seconds
    told = []
    while time.monotonic() < end:
        try:
            if told:
                done = pad.complete_launches(told)
                refused = [e for e in done.errors.values() if not isinstance(e, LaunchRefusedError)]
                assert not refused, refused
                told = []
            claims = pad.claim(WORKER, "/nowhere", limit=3)
            if not claims and not pad.future_run_exists(WORKER):
                break
            told = [Outcome(c.launch_id, "COMPLETED", act(c.name)) for c in claims]
        except PyMongoError:
            time.sleep(0.1)
    os._exit(0)


def start_again(server, port):
    """Start a killed mongod; its port may be taken for a moment yet."""
    end = time.monotonic() + 30
    while True:
        try:
            return server.start(port=port)
        except LaunchError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_mongod_killed_loses_nothing_that_was_acknowledged(tmp_path):
    server = Mongod(tmp_path / "mongo", cache_gb=0.25)
    access = server.start()
    try:
        pad = open_pad(OrionLaunchPad, access)
        pad.reset("", require_password=False)
        wf, _, _ = mixed_workflow(40)
        pad.add_wf(wf)
        pad.bulk_add_wfs([noop("plain") for _ in range(60)])
        children = start([(lambda _cls, *args: stubborn(*args), None, access, 60)] * 3)
        for _ in range(3):
            time.sleep(0.5)
            state = json.loads((tmp_path / "mongo" / "server.json").read_text())
            process = ProcessIdentity.from_dict(state["process"])
            os.kill(process.pid, signal.SIGKILL)
            while process.alive():
                time.sleep(0.02)
            start_again(server, access.port)
        join(children, 90)
        time.sleep(0.1)
        # A claim whose acknowledgement was lost is nobody's, fireworks of an addition cut before
        # its workflow knew of them belong to nothing; that is what sweeping is for.
        pad.sweep(grace=0.0, stock_grace=0.0, orphan_age=0.0)
        for launch in list(pad.launches.find({"state": "RUNNING"})):
            pad.put_back(launch["fw_id"], launch["launch_id"], "claimed during an outage")
        run_all(pad, act=lambda fw: act(fw.name))
        assert problems(pad) == []
        assert set(states(pad).values()) == {"COMPLETED"}
        for fw_id in pad.get_fw_ids():
            ended = pad.launches.count_documents({"fw_id": fw_id, "state": "COMPLETED"})
            assert ended == 1, f"{fw_id} completed {ended} times"
        last = pad.fireworks.find_one({"name": "last"})
        wf = pad.workflows.find_one({"nodes": last["fw_id"]})
        assert last["spec"]["count"] == len(wf["parent_links"][str(last["fw_id"])])
        pad.connection.close()
    finally:
        server.stop()
