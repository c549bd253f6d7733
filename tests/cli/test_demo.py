"""The demo as `make demo` runs it, and what it does when something is in the way."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fireworks import Firework, LaunchPad, ScriptTask, Workflow
from matplotlib.image import imread

from orionflow.analysis.tables import campaign_table, jobs
from orionflow.cli import demo
from orionflow.cli.watch import Snapshot
from orionflow.errors import InputError
from orionflow.launchers.project import init_project
from orionflow.launchers.services.mongod import Mongod
from orionflow.launchers.services.processes import find_processes

ORIONFLOW = Path(sys.executable).with_name("orionflow")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    folder.parent.mkdir(exist_ok=True)
    # Alone on two cores it takes two to three minutes; here other tests run beside it.
    return subprocess.run([ORIONFLOW, "demo", folder.name, *words], cwd=folder.parent, text=True,
                          capture_output=True, timeout=450, check=False)


@pytest.mark.validation
@pytest.mark.needs_mongod
@pytest.mark.needs_slurm
@pytest.mark.needs_code("pw.x", "lmp", "mpirun")
def test_demo_runs_through_slurm_and_ends_with_numbers_like_the_published_ones(
        tmp_path: Path) -> None:
    project = tmp_path / "a demo" / "here"
    done = run(project, "--stop", "--nodes", "4")
    assert done.returncode == 0, done.stderr

    # What a newcomer reads.
    assert "39 of 39 jobs completed" in done.stdout
    assert int(re.search(r"(\d+) Slurm jobs", done.stdout)[1]) >= 1
    assert "failed at first and was healed" in done.stdout
    assert "electron_maxstep: 3 ->" in done.stdout
    assert "doi:10.1103/PhysRevB.63.224106" in done.stdout
    # The search ends by itself at the alloy whose atoms have the mass the measurements mean.
    assert "ended    COMPLETED: target_reached" in done.stdout
    nickel = int(re.search(r"found .*alloy.Ni (\d+)", done.stdout)[1])
    mass = 9.20 * 3.53**3 / 4 / 1.66053906892
    assert abs(nickel - 32 * (63.546 - mass) / (63.546 - 58.6934)) < 1
    assert "data:image/png" in (project / "figures" / "alloy.html").read_text()
    for name in ("eos", "deviation"):
        assert imread(project / "figures" / f"demo-{name}.png").std() > 0.01  # not blank

    # Everything has ended, and nothing is lost.
    mongod = ("--dbpath", str(project / ".orionflow" / "mongo" / "data"))
    assert find_processes(*mongod) == []
    assert not any(str(project) in p.cmdline() for p in _processes())
    Mongod(project / ".orionflow" / "mongo").start()
    try:
        table = campaign_table("demo", project=project).set_index(["formula", "code"])
        states = jobs(campaign="demo", project=project)["state"]
    finally:
        Mongod(project / ".orionflow" / "mongo").stop()
    assert set(states) == {"COMPLETED"}
    eos = table[table["points"] > 1]
    a0, b0 = eos["a0_angstrom"], eos["b0_gpa"]
    assert a0["Si", "lmp"] == pytest.approx(5.431, abs=1e-3)
    assert b0["Si", "lmp"] == pytest.approx(101.4, rel=0.01)
    assert a0["Cu", "lmp"] == pytest.approx(3.615, abs=1e-3)
    assert b0["Cu", "lmp"] == pytest.approx(138.4, rel=0.01)
    # LDA against experiment: it binds a little too strongly.
    assert a0["Si", "pw.x"] == pytest.approx(5.431, rel=0.02)
    assert b0["Si", "pw.x"] == pytest.approx(97.9, rel=0.05)
    assert a0["Al", "pw.x"] == pytest.approx(4.032, rel=0.025)
    assert b0["Al", "pw.x"] == pytest.approx(79.4, rel=0.1)


class _Process:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cmdline(self) -> str:
        try:
            return (self.folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return ""


def _processes() -> list[_Process]:
    return [_Process(p) for p in Path("/proc").iterdir()
            if p.name.isdigit() and int(p.name) != os.getpid()]


@pytest.mark.needs_mongod
@pytest.mark.needs_code("pw.x", "lmp")
def test_demo_on_a_node_without_the_codes_ends_and_names_them(tmp_path: Path) -> None:
    project = tmp_path / "demo"
    init_project(project)
    (project / "machines").mkdir()
    (project / "machines" / "local.yaml").write_text(
        "executables: {pw.x: /nowhere/pw.x, lmp: /nowhere/lmp}\n")
    done = run(project, "--no-slurm", "--stop")
    assert done.returncode == 1
    assert "this node can't run jobs: " in done.stderr
    assert "executable 'lmp' (/nowhere/lmp) not found" in done.stderr
    assert "services stopped; all results are kept" in done.stderr
    assert "Traceback" not in done.stderr


def test_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    done = run(tmp_path, "--no-slurm")
    assert done.returncode == 1
    assert "not empty and no orionflow project" in done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_project_for_a_cluster_is_left_alone(tmp_path: Path) -> None:
    init_project(tmp_path, machine="private-slurm")
    text = (tmp_path / "orionflow.yaml").read_text().replace("private-slurm", "my-cluster")
    (tmp_path / "orionflow.yaml").write_text(text)
    with pytest.raises(InputError, match="machine 'my-cluster'"):
        demo._project(tmp_path)
    assert (tmp_path / "orionflow.yaml").read_text() == text


@pytest.mark.needs_mongod
def test_each_demo_is_a_campaign_of_its_own_and_an_unfinished_one_goes_on(
        project: Path, launchpad: LaunchPad) -> None:
    def add(campaign: str) -> int:
        (fw_id,) = launchpad.add_wf(Workflow([Firework(
            ScriptTask.from_str("true"), spec={"campaign": campaign})])).values()
        return fw_id

    assert demo._campaign(launchpad) == "demo"
    fw_id = add("demo")
    assert demo._campaign(launchpad) == "demo"
    launchpad.defuse_fw(fw_id)
    assert demo._campaign(launchpad) == "demo-2"
    add("demo-9")
    add("other")
    assert demo._campaign(launchpad) == "demo-9"
    launchpad.fireworks.update_many({"spec.campaign": "demo-9"}, {"$set": {"state": "FIZZLED"}})
    assert demo._campaign(launchpad) == "demo-10"


@pytest.mark.needs_mongod
@pytest.mark.needs_code("pw.x", "lmp")
def test_submitting_twice_adds_nothing(project: Path) -> None:
    demo._submit(project, "demo")
    first = jobs(campaign="demo")
    demo._submit(project, "demo")
    assert list(jobs(campaign="demo")["fw_id"]) == list(first["fw_id"])


@pytest.mark.parametrize(("states", "over"), [
    ([], False), (["READY", "COMPLETED"], False), (["RUNNING", "FIZZLED"], False),
    (["COMPLETED"], True), (["COMPLETED", "FIZZLED", "WAITING"], True),
    # Between a parent's end and its child's start there may be a moment like this.
    (["COMPLETED", "WAITING"], False)])
def test_campaign_is_over_when_nothing_can_move(states: list[str], over: bool) -> None:  # noqa: FBT001  a case
    assert Snapshot(dict(enumerate(states))).over == over
