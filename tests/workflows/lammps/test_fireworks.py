"""The whole way of a LAMMPS flow through MongoDB, FireWorks and GridFS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from monty.json import MontyDecoder

from orionflow.analysis.store import open_store
from orionflow.launchers.launchpad import open_launchpad
from orionflow.workflows.compile import submit
from orionflow.workflows.registry import make
from orionflow.workflows.schemas.eos import EosDocument
from orionflow.workflows.schemas.lammps import LammpsDocument, ThermoTable, Trajectory

pytestmark = [pytest.mark.needs_mongod, pytest.mark.needs_code("lmp")]


def finish(project):
    """Run all with FireWorks' own command, in a process with the project's own JobStore."""
    rlaunch = Path(sys.executable).parent / "rlaunch"
    subprocess.run([rlaunch, "-s", "rapidfire"], cwd=project, check=True, capture_output=True,
                   timeout=300)
    pad = open_launchpad(project)
    states = {fw["name"]: fw["state"] for fw in pad.fireworks.find()}
    pad.connection.close()
    return states


def test_dynamics_keeps_table_and_trajectory_in_gridfs(project):
    job = make("lammps.nvt", "Si diamond 5.431 cubic",
               {"force_field": "Si.sw", "nsteps": 200, "dump_every": 100})
    submit(job, campaign="heat", tags=["one"])

    assert finish(project) == {"lammps nvt": "COMPLETED"}

    store = open_store(project)
    plain = store.query_one({"uuid": job.uuid}, load=False)["output"]
    assert set(plain["thermo"]) >= {"blob_uuid", "store"}
    document = MontyDecoder().process_decoded(store.get_output(job.uuid, load=True))
    store.close()
    assert isinstance(document, LammpsDocument)
    assert isinstance(document.thermo, ThermoTable)
    assert isinstance(document.trajectory, Trajectory)
    assert document.trajectory.positions.shape == (3, 8, 3)
    assert document.thermo["pe"][-1] == document.output.energy
    assert np.allclose(document.trajectory.positions[-1], document.structure.cart_coords)


def test_equation_of_state_runs_through_the_queue(project):
    flow = make("lammps.eos", "Cu fcc 3.70", {"force_field": "Cu_mishin", "number_of_frames": 5})
    submit(flow, campaign="eos")

    states = finish(project)

    assert set(states.values()) == {"COMPLETED"}
    store = open_store(project)
    document = MontyDecoder().process_decoded(store.get_output(flow.output.uuid, load=True))
    store.close()
    assert isinstance(document, EosDocument)
    assert document.a0 == pytest.approx(3.615, abs=0.001)
    assert document.code == "lmp"
    assert len(document.dir_names) == 5
    assert document.relax_dir_name not in {None, *document.dir_names}
