"""Two LAMMPS jobs in one launcher: one is cancelled, the other knows nothing of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from elsewhere import elsewhere
from killing import working_in

from orionflow.launchers.launchpad import open_launchpad
from orionflow.workflows.compile import submit
from orionflow.workflows.registry import make

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.needs_mongod, pytest.mark.needs_code("lmp", "mpirun")]
ORIONFLOW = Path(sys.executable).with_name("orionflow")


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ORIONFLOW, *arguments], capture_output=True, text=True, check=False,
                          timeout=120)


def job(seed: int, nsteps: int) -> int:
    flow = make("lammps.nve", "Si diamond 5.43", {
        "force_field": "Si.sw", "seed": seed, "nsteps": nsteps, "dump_every": 1000,
        "thermo_every": 200})
    return submit(flow, campaign="two").fw_ids[0]


def test_cancel_stops_one_lammps_within_15_s_and_its_neighbour_finishes(
        project: Path, wait_until: Callable[..., Any]) -> None:
    doomed, neighbour = job(1, 1_000_000_000), job(2, 400_000)
    launcher = subprocess.Popen([ORIONFLOW, "launch", "--cores", "2"], cwd=project,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                start_new_session=True)
    try:
        with closing(open_launchpad(project)) as pad:
            def folder_of(fw_id: int) -> str:
                launch = pad.launches.find_one({"fw_id": fw_id})
                return str(launch["launch_dir"]) if launch else ""

            folder = wait_until(lambda: folder_of(doomed), timeout=120)
            wait_until(lambda: "lmp" in working_in(folder).values(), timeout=120)
            wait_until((Path(folder) / "restart.a").exists, timeout=60)
            seen = wait_until(lambda: [
                j for i in json.loads(call("top", "-o", "json").stdout)["launchers"]
                for j in i["jobs"] if j["fw_id"] == doomed and "Step" in j["line"]], timeout=60)
            assert seen[0]["folder"] == folder
            began = time.monotonic()
            there = elsewhere([ORIONFLOW, "cancel", "-i", doomed, "--why", "wrong seed"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            said, err = there.communicate(timeout=60)
            assert time.monotonic() - began < 15
            assert there.returncode == 0, err
            assert said.startswith(f"{doomed} lammps nve: stopped, now DEFUSED")
            assert working_in(folder) == {}
            out, err = launcher.communicate(timeout=120)
            assert launcher.returncode == 0, err
            assert "1 completed" in out
            assert "1 cancelled" in out
            states = {fw["fw_id"]: fw["state"] for fw in pad.fireworks.find()}
            assert states == {doomed: "DEFUSED", neighbour: "COMPLETED"}
            assert (Path(folder) / "restart.a").exists()  # what it had is kept
            assert pad.launches.count_documents({"fw_id": neighbour}) == 1
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
    told = call("show", "-i", str(doomed)).stdout
    assert "wrong seed" in told
    assert "@elsewhere" in told
