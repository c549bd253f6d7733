"""Runs of four times the walltime: several allocations give what one uninterrupted run gives."""

from __future__ import annotations

import math
import signal
from contextlib import closing
from datetime import datetime

import numpy as np
import pytest
import small_jobs
from monty.json import MontyDecoder
from pymatgen.core import Lattice, Structure

from orionflow.analysis.store import open_store
from orionflow.launchers.launchpad import open_launchpad
from orionflow.units import RYDBERG_EV
from orionflow.workflows.compile import submit
from orionflow.workflows.registry import make

pytestmark = pytest.mark.needs_mongod
LAUNCHES = 25
# What codes need at least to start, look at their clocks and write restart files, s.
MARGIN = 3


def finish(project):
    """Start launchers, each for one job, as allocations come; return how many it took."""
    for count in range(1, LAUNCHES + 1):
        code, out, err = small_jobs.run("orionflow", "launch", "--max-jobs", 1, timeout=300)
        assert code == 0, out + err
        with closing(open_launchpad(project)) as pad:
            states = [fw["state"] for fw in pad.fireworks.find()]
        if set(states) == {"COMPLETED"}:
            return count
        assert "FIZZLED" not in states, err
    return pytest.fail(f"not done after {LAUNCHES} allocations")


def seconds(project, job):
    """How long the job ran."""
    with closing(open_launchpad(project)) as pad:
        fw = pad.fireworks.find_one({"name": job.name})
        launch = pad.launches.find_one({"launch_id": fw["launches"][-1]})
    begin, end = (datetime.fromisoformat(str(launch[k])) for k in ("time_start", "time_end"))
    return (end - begin).total_seconds()


def documents(project, jobs):
    with closing(open_store(project)) as store:
        return [MontyDecoder().process_decoded(store.get_output(job.uuid, load=True))
                for job in jobs]


def both_ways(project, build):
    """Return the document of a whole run, that of one in parts, and the number of allocations."""
    whole, parts = build(), build()
    submit(whole)
    assert finish(project) == 1
    quarter = math.ceil(seconds(project, whole) / 4) + MARGIN
    submit(parts, resources={"walltime": quarter})
    count = finish(project)
    one, several = documents(project, (whole, parts))
    return one, several, count


@pytest.mark.needs_code("lmp")
def test_dynamics_over_several_allocations_is_the_whole_run(project):
    cell = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.431), ["Si"], [[0, 0, 0]]) * [3, 3, 2]
    whole, parts, count = both_ways(project, lambda: make("lammps.nve", cell, {
        "force_field": "Si.sw", "nsteps": 60_000, "thermo_every": 1000, "dump_every": 1000,
        "restart_every": 250}))
    assert count >= 3
    assert parts.provenance.run.continued == count - 1
    assert parts.steps == whole.steps == 60_000
    assert list(parts.thermo["step"]) == list(whole.thermo["step"]) == list(range(0, 60_001, 1000))
    assert list(parts.trajectory.steps) == list(whole.trajectory.steps)
    # Chaos makes the last digit large after some picoseconds; until then it is the same run.
    early = slice(0, 3)
    assert np.allclose(parts.trajectory.positions[early], whole.trajectory.positions[early],
                       atol=1e-6)
    total = np.array([whole.thermo["etotal"], parts.thermo["etotal"]])
    assert np.allclose(total, total[0, 0], rtol=2e-5)


@pytest.mark.needs_code("pw.x")
def test_relaxation_over_four_allocations_ends_at_the_same_energy(project, wait_until):
    """Each of the first three ends, as Slurm announces it, in the midst of the next step."""
    # No symmetry left: many k-points, some steps.
    cell = Structure(Lattice([[0, 2.7, 2.7], [2.7, 0, 2.7], [2.7, 2.7, 0]]), ["Si", "Si"],
                     [[0, 0, 0], [0.28, 0.25, 0.23]])
    whole, parts = (make("qe.relax", cell, {
        "functional": "pz", "ecutwfc": 24, "kpoints": [4, 4, 4], "occupations": "fixed",
        "force_threshold": 0.002}) for _ in range(2))
    submit(whole)
    assert finish(project) == 1
    once = iterations(project)
    submit(parts)
    for number in (1, 2, 3):
        process = small_jobs.command("orionflow", "launch", "--max-jobs", 1)
        wait_until(lambda n=number: (iterations(project) >= once + n * once // 4,
                                     iterations(project)), timeout=120, pause=0.02)
        process.send_signal(signal.SIGUSR1)
        out, err = process.communicate(timeout=120)
        assert "1 put back" in out, err
    assert finish(project) == 1
    one, several = documents(project, (whole, parts))
    assert several.output.energy == pytest.approx(one.output.energy, abs=1e-6 * RYDBERG_EV)
    assert several.provenance.run.continued == 3
    # An iteration that was cut is printed twice; mixing that begins anew may take some more.
    assert iterations(project) - once <= once + 3 * 3
    with closing(open_launchpad(project)) as pad:
        spec = pad.fireworks.find_one({"name": parts.name}, sort=[("fw_id", -1)])["spec"]
    assert spec["_continued"] == 3
    assert "_reruns" not in spec  # nothing was lost


def iterations(project):
    """How many iterations all relaxations together have begun."""
    return sum(file.read_text(errors="replace").count("     iteration #") for file in
               project.rglob("pw.out") if file.is_file())
