"""A real private Slurm: healthy, without a usable partition, without nodes, and down."""

import subprocess
from pathlib import Path

import pytest
import yaml

from orionflow.launchers.doctor import machine
from orionflow.launchers.doctor.finding import Finding, Site
from orionflow.launchers.project import init_project
from orionflow.launchers.sbatch import slurm_commands

pytestmark = [pytest.mark.needs_slurm, pytest.mark.needs_mongod]


def check(project: Path) -> dict[str, Finding]:
    return {f.name: f for f in machine.slurm(Site.of(project))}


def profile(project: Path, **values: object) -> None:
    """Give the project a copy of its profile with other values."""
    here = Site.of(project).machine.model_dump(mode="json", exclude={"name"})
    (project / "machines").mkdir(exist_ok=True)
    (project / "machines" / "other.yaml").write_text(yaml.safe_dump({**here, **values}))
    init_project(project, machine="other")


def test_healthy_slurm_would_take_an_allocation(slurm_project: Path) -> None:
    found = check(slurm_project)
    assert {name: f.state for name, f in found.items()} == {"Slurm": "ok", "allocations": "ok"}


def test_unknown_partition_is_broken_and_the_known_ones_are_listed(slurm_project: Path) -> None:
    profile(slurm_project, partition="gpu")
    (found,) = check(slurm_project).values()
    assert found.state == "broken"
    assert "no partition 'gpu' (there are: main)" in found.seen


def test_allocation_sbatch_refuses_is_broken_with_its_words(slurm_project: Path) -> None:
    profile(slurm_project, allocation={"nodes": 60, "walltime": 3600, "max_queued": 1})
    found = check(slurm_project)
    assert found["Slurm"].state == "ok"
    assert found["allocations"].state == "broken"
    assert "sbatch refuses them" in found["allocations"].seen
    assert "ode" in found["allocations"].seen


def test_nodes_out_of_service_are_broken(slurm_project: Path) -> None:
    scontrol = slurm_commands(slurm_project)["scontrol"]
    nodes = ["update", "nodename=ALL"]
    subprocess.run([scontrol, *nodes, "state=drain", "reason=test"], check=True, timeout=30)
    try:
        (found,) = check(slurm_project).values()
    finally:
        subprocess.run([scontrol, *nodes, "state=resume"], check=True, timeout=30)
    assert found.state == "broken"
    assert "no node is in service" in found.seen


def test_slurm_that_is_down_is_broken(slurm_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = slurm_project / "nowhere.conf"
    conf.write_text("ClusterName=x\nSlurmctldHost=localhost\nSlurmctldPort=1\nAuthType=auth/none\n"
                    "MessageTimeout=2\nNodeName=n1\nPartitionName=main Nodes=n1\n")
    (slurm_project / ".orionflow" / "slurm").unlink()
    monkeypatch.setenv("SLURM_CONF", str(conf))
    (found,) = check(slurm_project).values()
    assert found.state == "broken"
    assert "orionflow slurm start" in found.advice
