"""What a launcher may use: from Slurm's variables, from the machine, from the user."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from orionflow.errors import InputError
from orionflow.launchers.allocation import Allocation, expand_hosts, read_allocation
from orionflow.launchers.cores import CoreLease, open_mpi_numbers
from orionflow.launchers.jobs import ClaimedJob
from orionflow.launchers.machine import MachineProfile, load_machine
from orionflow.launchers.mpi import mpi_command
from orionflow.launchers.packing import Need
from orionflow.launchers.resources import Resources
from orionflow.launchers.surroundings import job_environment


@pytest.fixture
def local():
    return load_machine("local")


def test_without_slurm_it_is_this_machine_without_an_end(local):
    found = read_allocation(local, environment={})
    assert (found.nodes, found.cores, found.deadline) == (1, local.cores, None)
    assert found.time_for_a_job(time.time()) is None
    assert "walltime" not in str(found.query())


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
    # The first minutes are most of a short one.
    short = replace(found, deadline=now + 20)
    assert short.time_for_a_job(now + 1) >= 20
    assert short.time_for_a_job(now + 19) < 5


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
    ({"walltime": 4000}, False), ({"gpus": 1}, False), ({"ranks": "4"}, True),
    # Whoever takes these says what is wrong with them.
    ({"ranks": "many"}, True), ("odd", True),
])
def test_query_finds_the_fireworks_that_fit(resources, fits, launchpad):
    now = time.time()
    room = Allocation(nodes=1, cores=4, memory=1000, started=now - 1000, deadline=now + 3700)
    spec = {} if resources is None else {"resources": resources}
    launchpad.fireworks.insert_one({"fw_id": 1, "state": "READY", "spec": spec})
    launchpad.fireworks.insert_one({"fw_id": 2, "state": "READY",
                                    "spec": {"resources": {"ranks": 1, "walltime": 60}}})
    query = room.query(longest=room.time_for_a_job(now))
    found = {fw["fw_id"] for fw in launchpad.fireworks.find(query)}
    assert found == ({1, 2} if fits else {2})


@pytest.mark.needs_mongod
def test_query_counts_ranks_on_each_node_and_what_is_free_there(launchpad):
    two = Allocation(nodes=2, cores=8, memory=1000, started=0.0, deadline=None)
    asked = [
        {"nodes": 2, "ranks": 3, "threads": 3},   # 6 cores on one of the nodes: eight, but not so
        {"nodes": 2, "ranks": 4, "threads": 2}, {"nodes": 2, "ranks": 2}, {"ranks": 3},
        {"ranks": 2, "memory": 100}, {"ranks": 2}, {"ranks": 1}]
    launchpad.fireworks.insert_many([
        {"fw_id": n, "state": "READY", "spec": {"resources": r}} for n, r in enumerate(asked)])

    def found(room=None):
        return [fw["fw_id"] for fw in launchpad.fireworks.find(two.query(room=room),
                                                               sort=[("fw_id", 1)])]

    assert found() == [1, 2, 3, 4, 5, 6]
    room = two.room()
    room.take(room.place(Need(0, nodes=2, cores=2)))
    assert found(room) == [2, 4, 5, 6]
    room.take(room.place(Need(0, cores=2, memory=0)))
    for node in room.nodes:
        node.memory = 300.0  # what asks for none needs 250 MiB for each core
    assert found(room) == [4, 6]


@pytest.mark.parametrize(("text", "names"), [
    ("", []), ("login", ["login"]), ("n1,n2", ["n1", "n2"]),
    ("n[1-3,07],m9", ["n1", "n2", "n3", "n07", "m9"]),
    ("a[01-02]-ib,b3", ["a01-ib", "a02-ib", "b3"]),
])
def test_slurms_list_of_nodes_is_spelt_out(text, names):
    assert expand_hosts(text) == names


def test_nodes_of_an_allocation_keep_their_cores_and_names(local):
    found = read_allocation(local, cores=10, environment={
        "SLURM_JOB_ID": "17", "SLURM_JOB_CPUS_PER_NODE": "8,4", "SLURM_MEM_PER_CPU": "1000",
        "SLURM_JOB_NODELIST": "n[7-8]", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_END_TIME": "1"})
    room = found.room((5, 6, 7, 8, 9, 10, 11, 12))
    assert [(n.name, n.cores, n.gpus) for n in room.nodes] == [
        ("n7", list(range(5, 13)), [0, 1]), ("n8", [0, 1], [0, 1])]
    assert found.memory == 4000


def test_cores_are_leased_once_and_free_again_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 8})
    first = CoreLease.take(2)
    assert first.ids == (3, 5)
    assert CoreLease.take(2).ids == ()  # one is left: nothing is bound
    second = CoreLease.take(1)
    assert second.ids == (8,)
    first.release()
    third = CoreLease.take(2)
    assert third.ids == (3, 5)
    assert CoreLease.take(2, exclusive=False).ids == ()
    second.release()
    third.release()


@pytest.mark.parametrize(("cpus", "numbers"), [
    ([(0, 0, 0), (0, 1, 0), (0, 2, 1), (0, 3, 1)], (1, 2)),      # one package, two caches
    ([(0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)], None),        # the kernel alternates packages
    ([(0, 0, 0), (0, 1, 0), (0, 0, 0), (0, 1, 0)], None),        # two threads a core
    ([(0, 0, 0), (0, 8, 0), (1, 0, 1), (1, 8, 1)], (1, 2)),      # two packages, core ids with gaps
])
def test_open_mpi_is_given_its_own_numbers_or_none(cpus, numbers, tmp_path):
    for cpu, (package, core, cache) in enumerate(cpus):
        for name, value in (("topology/physical_package_id", package), ("topology/core_id", core),
                            ("cache/index3/id", cache)):
            file = tmp_path / f"cpu{cpu}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
    assert open_mpi_numbers((1, 2), tmp_path) == numbers


def test_a_job_learns_what_it_was_given_and_starts_its_ranks_there(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    there = Allocation(nodes=2, cores=8, memory=8000, started=0.0, deadline=None, gpus=2,
                       slurm_job_id="1", hosts=("n1", "n2"), cores_of=(4, 4))
    room = there.room()

    def given(resources):
        need = Need.of(1, resources)
        job = ClaimedJob(1, 7, "job", "/x", {}, {}, need)
        place = room.place(need)
        room.take(place)
        machine = MachineProfile(name="m", mpi="srun", gpus_per_node=2, cores_per_node=4)
        seen = job_environment(machine, there, job, place, bound=False)
        return seen, mpi_command(machine, resources, ["pw.x"], seen)

    small = Resources(ranks=1, gpus=1)
    assert given(small)[0]["CUDA_VISIBLE_DEVICES"] == "4"
    seen, command = given(small)
    assert seen["CUDA_VISIBLE_DEVICES"] == "6"
    assert command == ["srun", "--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--exact",
                       "--nodelist=n1", "--mem=2000M", "--gres=gpu:1", "pw.x"]
    wide = Resources(nodes=2, ranks=4)
    seen, command = given(wide)
    assert seen["ORIONFLOW_NODES"] == "n1,n2"
    mpirun = mpi_command(MachineProfile(name="m"), wide, ["pw.x"], seen)
    assert mpirun == ["mpirun", "-np", "4", "--host", "n1:2,n2:2", "pw.x"]
