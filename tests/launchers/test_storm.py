"""A short storm with a fixed seed; the long one is ``python benchmarks/storm.py``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orionflow.launchers.project import init_project, project_environment
from orionflow.launchers.services.mongod import Mongod
from orionflow.launchers.services.slurm import slurm_environment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import storm  # noqa: E402


@pytest.fixture
def stormy(slurm, tmp_path, monkeypatch):
    """A project on the session's Slurm with a MongoDB of its own: both are killed."""
    server = Mongod(tmp_path / "mongo", cache_gb=0.25)
    project = tmp_path / "pro ject's"
    init_project(project, machine="local", database=server.start())
    slurm.start()
    (project / ".orionflow" / "slurm").symlink_to(slurm.folder)
    init_project(project, machine="private-slurm")
    for name, value in {**project_environment(project), **slurm_environment(project)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project)
    yield project, server
    slurm.start()
    slurm.cancel_jobs()
    server.stop()


@pytest.mark.needs_mongod
@pytest.mark.needs_slurm
@pytest.mark.needs_code("lmp")
def test_nothing_is_lost_or_counted_twice_in_a_storm(stormy, slurm):
    project, server = stormy
    plan = replace(storm.QUICK, jobs=40, seconds=20.0)
    damage = storm.Storm(project, server, slurm, plan).run()
    assert damage.problems == [], damage
    assert sum(damage.blows.values()) >= 3, damage
    # One kill repeats at most what ran beside it.
    assert damage.repeated <= 2 * sum(damage.blows.values()), damage
    assert damage.recovery < 120, damage
