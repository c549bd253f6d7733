"""What a launcher may use: from Slurm's variables, from the machine, from the user."""

from __future__ import annotations

import time

import pytest

from orionflow.errors import InputError
from orionflow.launchers.allocation import Allocation, read_allocation
from orionflow.launchers.machine import load_machine


@pytest.fixture
def local():
    return load_machine("local")


def test_without_slurm_it_is_this_machine_without_an_end(local):
    found = read_allocation(local, environment={})
    assert (found.nodes, found.cores, found.deadline) == (1, local.cores, None)
    assert found.time_for_a_job(time.time()) is None
    assert "walltime" not in str(found.query(time.time()))


def test_slurm_variables_give_nodes_cores_memory_and_end(local):
    end = time.time() + 3600
    found = read_allocation(local, environment={
        "SLURM_JOB_ID": "17", "SLURM_JOB_CPUS_PER_NODE": "8(x2),4", "SLURM_MEM_PER_NODE": "2048",
        "SLURM_JOB_END_TIME": f"{end:.0f}"})
    assert (found.nodes, found.cores, found.memory, found.slurm_job_id) == (3, 20, 2048, "17")
    assert end - 120 < found.deadline < end - 60  # before Slurm's notice


def test_a_job_as_long_as_the_allocation_is_started_at_its_beginning_only():
    now = time.time()
    found = Allocation(nodes=1, cores=1, memory=None, started=now, deadline=now + 3600 - 75,
                       slurm_job_id="1")
    assert found.time_for_a_job(now + 10) >= 3600
    assert found.time_for_a_job(now + 1800) <= 1800
    assert found.time_for_a_job(now + 4000) == 0


def test_limits_of_the_user_are_obeyed_and_checked(local):
    found = read_allocation(local, environment={}, cores=1, time_limit=60)
    assert found.cores == 1
    assert found.deadline == pytest.approx(time.time() + 60, abs=5)
    with pytest.raises(InputError, match="cores = 0"):
        read_allocation(local, environment={}, cores=0)
    with pytest.raises(InputError, match="cores = 9999"):
        read_allocation(local, environment={}, cores=9999)
    with pytest.raises(InputError, match="time = -1"):
        read_allocation(local, environment={}, time_limit=-1)


@pytest.mark.needs_mongod
@pytest.mark.parametrize(("resources", "fits"), [
    (None, True), ({}, True), ({"ranks": 4}, True), ({"ranks": 2, "threads": 2}, True),
    ({"ranks": 5}, False), ({"ranks": 4, "threads": 2}, False), ({"nodes": 2}, False),
    ({"memory": 1000}, True), ({"memory": 1001}, False), ({"walltime": 3600}, True),
    ({"walltime": 4000}, False), ({"ranks": "many"}, False), ("odd", True),
])
def test_query_finds_the_fireworks_that_fit(resources, fits, launchpad):
    now = time.time()
    room = Allocation(nodes=1, cores=4, memory=1000, started=now - 1000, deadline=now + 3700)
    spec = {} if resources is None else {"resources": resources}
    launchpad.fireworks.insert_one({"fw_id": 1, "state": "READY", "spec": spec})
    launchpad.fireworks.insert_one({"fw_id": 2, "state": "READY",
                                    "spec": {"resources": {"ranks": 1, "walltime": 60}}})
    found = {fw["fw_id"] for fw in launchpad.fireworks.find(room.query(now))}
    assert found == ({1, 2} if fits else {2})
