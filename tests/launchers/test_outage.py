"""MongoDB goes away and comes back: results wait for it, nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import small_jobs
from fireworks import Firework
from plain_tasks import Wait

from orionflow.launchers.launchpad import open_launchpad
from orionflow.launchers.project import init_project, project_environment
from orionflow.launchers.recovery import recover
from orionflow.launchers.rocket import SPOOL_FILE, read_spool
from orionflow.launchers.services.mongod import Mongod
from orionflow.launchers.services.processes import port_taken, wait_for
from orionflow.workflows.compile import submit

FAKES = Path(__file__).parents[1] / "fakes"
pytestmark = pytest.mark.needs_mongod


@pytest.fixture
def server(tmp_path):
    """A MongoDB of the test's own, to be stopped and killed."""
    server = Mongod(tmp_path / "mongo", cache_gb=0.25)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_project(server, tmp_path, monkeypatch):
    folder = tmp_path / "pro ject's"
    init_project(folder, machine="local", database=server.access())
    for name, value in project_environment(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(FAKES))
    monkeypatch.chdir(folder)
    return folder


def states(project):
    pad = open_launchpad(project)
    found = [fw["state"] for fw in pad.fireworks.find(sort=[("fw_id", 1)])]
    pad.close()
    return found


def kill_server(server):
    status = server.status()
    os.kill(status.pid, signal.SIGKILL)
    # Its first thread is gone before the last one, which still holds the port.
    assert wait_for(lambda: not port_taken(status.port), 10)


@pytest.mark.parametrize(("how", "more"), [
    ("stop", 1),
    ("kill", 35),  # pymongo gives up after 30 s
])
def test_a_job_that_ends_during_an_outage_is_completed_when_mongodb_is_back(
        server, own_project, marks, wait_until, *, how, more):
    submit(small_jobs.wait(str(marks)))
    process = small_jobs.command("orionflow", "launch")
    wait_until((marks / "started").exists, timeout=60)
    if how == "stop":
        server.stop()
    else:
        kill_server(server)
    (marks / "go").touch()
    wait_until((marks / "ended").exists, timeout=60)
    time.sleep(more)
    assert process.poll() is None
    server.start()
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert states(own_project) == ["COMPLETED"], err
    assert "1 completed" in out
    assert (marks / "ended").read_text() == "x"


def test_restarts_of_mongodb_between_and_during_jobs_lose_nothing(
        server, own_project, wait_until):
    for n in range(12):
        submit(small_jobs.add(n, 1))
    process = small_jobs.command("orionflow", "launch")
    for done in (2, 6, 9):
        wait_until(lambda done=done: (states(own_project).count("COMPLETED") >= done,
                                      states(own_project)), timeout=60)
        kill_server(server)
        server.start()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    pad = open_launchpad(own_project)
    recover(own_project, pad)
    small_jobs.run("orionflow", "launch")
    assert states(own_project) == ["COMPLETED"] * 12, err
    for n in range(1, 13):
        assert pad.launches.count_documents({"fw_id": n, "state": "COMPLETED"}) == 1
    assert pad.launches.count_documents({"state": "RUNNING"}) == 0
    pad.close()


def test_a_launcher_that_must_end_before_mongodb_is_back_leaves_the_result_in_the_folder(
        server, own_project, marks, wait_until):
    pad = open_launchpad(own_project)
    # One that writes to no JobStore: it ends while MongoDB is away.
    pad.add_wf(Firework(Wait(folder=str(marks)), spec={"_category": "compute"}))
    pad.close()
    process = small_jobs.command("orionflow", "launch")
    wait_until((marks / "started").exists, timeout=60)
    folder = Path((marks / "started").read_text().strip())
    server.stop()
    (marks / "go").touch()
    wait_until((folder / SPOOL_FILE).exists, timeout=90)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "orionflow recover" in out
    assert read_spool(folder, 1, "orionflow")["state"] == "COMPLETED"
    server.start()
    pad = open_launchpad(own_project)
    (step,) = recover(own_project, pad)
    assert step.what == "settled"
    pad.close()
    assert states(own_project) == ["COMPLETED"]
    assert (marks / "ended").read_text() == "x"
