"""Which READY jobs a launcher claims, of more than it can look at."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from fireworks import FWorker
from pad_tools import noop

from orionflow.launchers import intake, packing
from orionflow.launchers.allocation import Allocation
from orionflow.launchers.identity import LauncherIdentity
from orionflow.launchers.intake import Intake
from orionflow.launchers.packing import Need, Running
from orionflow.launchers.recovery import recover

pytestmark = pytest.mark.needs_mongod


@pytest.fixture
def few(monkeypatch):
    """Look at fewer, so that fewer are needed to hide others."""
    monkeypatch.setattr(intake, "_FEW", 4)
    monkeypatch.setattr(intake, "_MANY", 8)


def taking(pad, folder, **options):
    now = time.time()
    options = {"nodes": 1, "cores": 8, "memory": None, "started": now, "deadline": None, **options}
    return Intake(pad, FWorker(), Allocation(**options), folder, lambda _: None)


def add(pad, count, priority=0, **resources):
    pad.bulk_add_wfs([noop(resources=resources, _priority=priority) for _ in range(count)])


def test_small_jobs_fill_gaps_behind_more_big_ones_than_are_looked_at(pad, tmp_path, few,
                                                                      monkeypatch):
    """And when the big ones have waited for long, only such as are done before their turn."""
    add(pad, 20, priority=2, ranks=8, walltime=500)
    add(pad, 10, priority=1, ranks=1, walltime=200)
    add(pad, 1, ranks=1, walltime=50)
    here = taking(pad, tmp_path)
    room = here.allocation.room()
    place = room.place(Need(0, cores=6))
    room.take(place)
    running = [Running(time.time() + 100, place)]
    monkeypatch.setattr(packing, "PATIENCE", -1.0)
    (small,) = here.take(room, running, limit=2)
    assert small.need.seconds == 50
    assert here.reserved[0].cores == 8
    room.take(small.placement)
    monkeypatch.setattr(packing, "PATIENCE", 60.0)
    (small,) = here.take(room, running, limit=1)
    assert small.need.seconds == 200


def test_short_jobs_are_found_behind_more_long_ones_than_are_looked_at(pad, tmp_path, few,
                                                                       monkeypatch):
    """The first big one that could still end in time has its room kept."""
    monkeypatch.setattr(packing, "PATIENCE", 200.0)
    now = time.time()
    add(pad, 20, priority=2, ranks=1, walltime=5000)
    add(pad, 10, priority=1, ranks=8, walltime=500)
    add(pad, 1, ranks=1, walltime=500)
    here = taking(pad, tmp_path, started=now - 1000, deadline=now + 610)
    room = here.allocation.room()
    place = room.place(Need(0, cores=6))
    room.take(place)
    running = [Running(now + 100, place)]
    assert here.take(room, running, limit=2) == []
    assert here.reserved[0].cores == 8
    (short,) = here.take(room, [Running(now + 200, place)], limit=2)
    assert short.need.seconds == 500


def test_job_claimed_ahead_of_its_turn_that_never_started_loses_no_rerun(project, pad, tmp_path):
    """Unless it may have started, or the proof has failed too often."""
    me = LauncherIdentity.of_this_process()
    dead = replace(me, started=me.started - 1)
    add(pad, 5, ranks=1)
    here = taking(pad, tmp_path, cores=1)
    here.fworker = FWorker(env={"orionflow": dead.to_dict()})
    first, *ahead = here.take(here.allocation.room(), [], limit=1, ahead=4)
    assert [Path(j.folder).is_dir() for j in (first, *ahead)] == [True, *[False] * 4]
    assert len({j.folder for j in ahead}) == 4
    Path(ahead[0].folder).mkdir()
    pad.fireworks.update_one({"fw_id": ahead[1].fw_id}, {"$set": {"spec._unstarted": 10}})
    pad.launches.update_one({"fw_id": ahead[2].fw_id}, {"$set": {"ahead": "/nowhere/to/be/seen"}})
    recover(project, pad)
    counts = {fw["fw_id"]: (fw["state"], fw["spec"].get("_reruns"), fw["spec"].get("_unstarted"))
              for fw in pad.fireworks.find()}
    assert counts == {
        first.fw_id: ("READY", 1, None), ahead[0].fw_id: ("READY", 1, None),
        ahead[1].fw_id: ("READY", 1, 10), ahead[2].fw_id: ("READY", 1, None),
        ahead[3].fw_id: ("READY", None, 1)}
