"""What `orionflow top` knows: from heartbeats, from folders, from the queue of jobs."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fireworks import Firework, FWorker
from typer.testing import CliRunner

from orionflow.cli import app
from orionflow.launchers.identity import LauncherIdentity
from orionflow.launchers.status import COLLECTION, StatusReader

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs_mongod


def launcher(pad: Any, *, ago: float = 0.0, **fields: Any) -> None:
    """Store what a launcher writes in its heartbeat."""
    me = LauncherIdentity.of_this_process()
    now = datetime.now(UTC)
    pad.db[COLLECTION].insert_one({
        "_id": f"{me.token}{len(fields)}{ago}", "identity": me.to_dict(), "host": "node1",
        "project": ".", "slurm_job_id": "12", "nodes": 1, "cores": 4, "memory": None,
        "started": now.isoformat(), "deadline": time.time() + 100,
        "beat": (now - timedelta(seconds=ago)).isoformat(), "busy": 2, "state": "running",
        "note": "", "counts": {"COMPLETED": 3, "FIZZLED": 0, "put_back": 1}, "jobs": [], **fields})


def test_top_shows_launchers_with_their_jobs_and_codes(project: Path, pad: Any) -> None:
    folder = project / "run"
    folder.mkdir()
    (folder / "log.lammps").write_text("   Step Temp E_pair\n   100  300.0  -8.5\n")
    launcher(pad, jobs=[
        {"fw_id": 7, "launch_id": 3, "name": "lammps nvt", "cores": 2, "core_ids": [0, 1],
         "since": datetime.now(UTC).isoformat(), "folder": str(folder), "line": "old"},
        {"fw_id": 8, "launch_id": 4, "name": "qe relax", "cores": 1, "core_ids": [2],
         "since": datetime.now(UTC).isoformat(), "folder": "/not/here", "line": "-15.8 Ry"}])
    launcher(pad, ended=datetime.now(UTC).isoformat(), state="ended")
    result = CliRunner().invoke(app, ["top", "--once"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("node1, Slurm job 12  running  2/4 cores busy  1:")
    assert "3 done" in lines[0]
    assert "1 put back" in lines[0]
    seen = next(line for line in lines if "lammps nvt" in line)
    assert "100" in seen
    assert "-8.5" in seen
    assert any("qe relax" in line and "-15.8 Ry" in line for line in lines)
    assert result.stdout.count("node1") == 1
    data = json.loads(CliRunner().invoke(app, ["top", "-o", "json"]).stdout)
    assert [j["fw_id"] for j in data["launchers"][0]["jobs"]] == [7, 8]


def test_status_tells_silent_and_dead_launchers(project: Path, pad: Any) -> None:
    dead = {**LauncherIdentity.of_this_process().to_dict(), "started": 1}
    launcher(pad, ago=60)
    launcher(pad, ago=61, identity=dead)
    launcher(pad, ago=7200)
    status = StatusReader(project, pad).read()
    assert sorted(i.state for i in status.launchers) == ["dead", "silent"]
    assert "orionflow recover" in status.hint


def test_top_without_launcher_says_what_to_do(project: Path, pad: Any) -> None:
    assert StatusReader(project, pad).read().hint.startswith("nothing to run")
    pad.add_wf(Firework([], name="later"))
    reader = StatusReader(project, pad)
    status = reader.read()
    assert status.states == {"READY": 1}
    assert "`orionflow launch`" in status.hint
    # Under a stock rlaunch there is no heartbeat of ours.
    fw, _ = pad.checkout_fw(FWorker("stock"), str(project), host="node9")
    status = reader.read()
    assert [(j.fw_id, j.name, j.host) for j in status.elsewhere] == [(fw.fw_id, "later", "node9")]
    assert not status.hint
    # As no FireWorks writes them.
    pad.launches.update_one({"fw_id": fw.fw_id}, {
        "$set": {"state_history": 3, "time_start": "long ago"}, "$unset": {"launch_dir": ""}})
    pad.fireworks.update_one({"fw_id": fw.fw_id}, {"$set": {"spec": [1]}, "$unset": {"name": ""}})
    (job,) = StatusReader(project, pad).read().elsewhere
    assert (job.fw_id, job.name, job.seconds) == (fw.fw_id, "", 0.0)
