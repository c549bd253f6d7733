"""One MPI rank killed under the launcher: the job is corrected, then put back, and ends well."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from orionflow.launchers.launchpad import open_launchpad
from orionflow.workflows.compile import submit
from orionflow.workflows.registry import make

FAKES = Path(__file__).parents[1] / "fakes"
sys.path.append(str(FAKES))
import small_jobs  # noqa: E402

pytestmark = [pytest.mark.needs_mongod, pytest.mark.needs_code("lmp", "pw.x", "mpirun")]


def working_in(folder, name=""):
    """Return the processes that work in a folder, or below it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and name in (entry / "comm").read_text() and (
                    Path(folder) in [(here := (entry / "cwd").readlink()), *here.parents]):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                found += [int(entry.name)] if state not in "ZX" else []
        except OSError:  # gone meanwhile
            continue
    return sorted(found)


def in_midst(project, known):
    """Return both ranks of a pw.x not known yet that has begun its iterations."""
    ranks = [p for p in working_in(project, "pw.x") if p not in known]
    try:
        output = Path(f"/proc/{ranks[0]}/cwd/pw.out").read_text() if ranks else ""
    except OSError:  # ended meanwhile
        return None
    return ranks if len(ranks) == 2 and "iteration #" in output else None


def test_rank_killed_again_and_again_is_put_back_and_its_neighbour_knows_nothing(
        project, wait_until):
    local = yaml.safe_load((files("orionflow.fw_config") / "machines" / "local.yaml").read_text())
    (project / "machines").mkdir()
    (project / "machines" / "local.yaml").write_text(yaml.safe_dump(
        {**local, "cores_per_node": 3}))
    doomed = submit(make("qe.static", "Si diamond 5.43", {
        "functional": "pz", "ecutwfc": 50, "kpoints": [4, 4, 4], "occupations": "fixed"}),
        resources={"ranks": 2}).fw_ids[0]
    neighbour = submit(make("lammps.nve", "Si diamond 5.43", {
        "force_field": "Si.sw", "nsteps": 1000, "thermo_every": 200})).fw_ids[0]
    launcher = small_jobs.command("orionflow", "launch", start_new_session=True)
    killed = set()
    try:
        for _ in range(3):  # the third is more than corrections mend
            ranks = wait_until(lambda: in_midst(project, killed), timeout=60, pause=0.01)
            os.kill(ranks[-1], signal.SIGKILL)
            killed.update(ranks)
        out, err = launcher.communicate(timeout=120)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
    assert launcher.returncode == 0, err
    assert "2 completed" in out, err
    assert "1 put back" in out, err
    assert set(working_in(project)) <= {os.getpid()}
    with closing(open_launchpad(project)) as pad:
        spec = pad.fireworks.find_one({"fw_id": doomed})["spec"]
        assert spec["_retries"]["counts"] == {"infrastructure": 1}
        assert spec["_retries"]["history"][0]["failure_id"] == "QE_KILLED"
        assert pad.launches.count_documents({"fw_id": neighbour}) == 1
