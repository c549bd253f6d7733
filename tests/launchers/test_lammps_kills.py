"""Processes killed under LAMMPS: the right class, no orphan, no false success, and it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from killing import working_in

from orionflow.launchers.custodian.lammps_output import parse_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.needs_code("lmp", "mpirun")
DATA = Path(__file__).parents[1] / "data" / "lammps_failures"
RUN = """
import sys, time
from orionflow.launchers.context import JobContext
from orionflow.launchers.lammps import run_lammps
from orionflow.launchers.machine import load_machine
from orionflow.launchers.resources import Resources
from orionflow.settings import load_settings
record = run_lammps(sys.argv[1], context=JobContext(
    settings=load_settings(None), machine=load_machine("local"),
    resources=Resources(ranks=int(sys.argv[2]), walltime=300), deadline=None))
print(record.model_dump_json())
"""


def wait_until(condition: Callable[[], object], what: str, timeout: float = 30.0) -> object:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"not within {timeout} s: {what}")


def named(folder: Path, name: str) -> list[int]:
    return [pid for pid, n in working_in(folder).items() if n.startswith(name)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An input that takes some seconds and writes restart files every 500 steps."""
    place = tmp_path / "pro ject's"
    place.mkdir()
    script = (DATA / "LAMMPS_KILLED" / "in.lammps").read_text()
    (place / "in.lammps").write_text(script.replace("run 1000000", "run 16000"))
    yield place
    for pid in working_in(place):
        os.kill(pid, signal.SIGKILL)


def start(folder: Path, ranks: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(folder), str(ranks)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            start_new_session=True)


def under_way(folder: Path) -> bool:
    """Whether restart files were written a second time: both are complete then."""
    output = parse_output((folder / "lammps.out").read_text()) if (
        folder / "lammps.out").is_file() else None
    last = output.last_run if output else None
    return bool(last and (last.last_step or 0) > 1500)


@pytest.mark.parametrize("victim", ["lmp", "mpirun"])
def test_killed_rank_or_mpirun_is_continued_from_the_restart_file(
        folder: Path, victim: str) -> None:
    before = (folder / "in.lammps").read_bytes()
    process = start(folder)
    wait_until(lambda: under_way(folder), "first restart files")
    os.kill(named(folder, victim)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    record = json.loads(out)
    assert [c["failure_id"] for c in record["corrections"]] == ["LAMMPS_KILLED"]
    assert any("read_restart" in line for line in record["corrections"][0]["changes"])
    last = parse_output((folder / "lammps.out").read_text()).runs[-1]
    assert last.last_step == 16000
    assert last.first_step > 0
    assert (folder / "in.lammps").read_bytes() == before
    joined = parse_output((folder / "log.lammps").read_text()).runs[-1]
    assert [int(s) for s in joined.column("Step")] == list(range(0, 16001, 100))
    assert working_in(folder) == {}


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT])
def test_killed_launcher_leaves_no_orphan_and_the_next_goes_on(
        folder: Path, sig: signal.Signals) -> None:
    before = (folder / "in.lammps").read_bytes()
    process = start(folder)
    wait_until(lambda: under_way(folder), "first restart files")
    os.kill(process.pid, sig)
    process.communicate(timeout=30)
    assert process.returncode != 0
    wait_until(lambda: not working_in(folder), "no process left", timeout=10)
    assert json.loads((folder / "orionflow_run.json").read_text())["state"] != "done"
    reached = parse_output((folder / "lammps.out").read_text()).runs[-1].last_step
    again = start(folder)
    out, err = again.communicate(timeout=90)
    assert again.returncode == 0, err
    record = json.loads(out)
    assert record["continued"] == 1
    # The time of the launch that was killed is part of it.
    own = (datetime.fromisoformat(record["finished_at"])
           - datetime.fromisoformat(record["started_at"])).total_seconds()
    assert record["wall_seconds"] > own
    assert record["core_seconds"] == pytest.approx(record["wall_seconds"])
    last = parse_output((folder / "lammps.out").read_text()).runs[-1]
    assert last.last_step == 16000
    assert last.first_step > 0
    if sig == signal.SIGINT:  # asked, not killed: it has written where it was
        assert last.first_step == reached
    assert not (folder / "orionflow.stop").exists()
    assert (folder / "in.lammps").read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_full_disk_is_no_success(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", place],
                           check=False, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"no tmpfs here: {mount.stderr.strip()}")
    try:
        shutil.copy(DATA / "LAMMPS_DISK_FULL" / "in.lammps", place)
        process = start(place)
        _, err = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "LAMMPS_DISK_FULL" in err
        assert working_in(place) == {}
    finally:
        subprocess.run(["umount", place], check=True)
