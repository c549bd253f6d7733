import pytest

from orionflow.errors import ConfigError, InputError
from orionflow.launchers.machine import MachineProfile, load_machine
from orionflow.launchers.mpi import mpi_command
from orionflow.launchers.resources import Resources


@pytest.mark.parametrize(("text", "seconds"), [
    ("00:30", 1800), ("01:00:00", 3600), ("2-00:00:00", 172800), (90, 90), ("1-12:30:15", 131415),
])
def test_walltime_is_read_as_slurm_writes_it(text, seconds):
    assert Resources.parse({"walltime": text}).walltime == seconds


@pytest.mark.parametrize(("text", "mib"), [("4GB", 4096), ("512M", 512), ("1.5 GiB", 1536), (7, 7)])
def test_memory_units_become_mib(text, mib):
    assert Resources.parse({"memory": text}).memory == mib


@pytest.mark.parametrize("bad", [
    {"walltime": -5}, {"walltime": 0}, {"ranks": 0}, {"nodes": -1}, {"walltime": "soon"},
    {"memory": "lots"}, {"rank": 2},
])
def test_impossible_resources_are_refused_by_name(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Resources.parse(bad)


def test_more_ranks_than_the_machine_has_is_refused():
    machine = MachineProfile(name="small", cores_per_node=4, nodes=2)
    machine.check(Resources(nodes=2, ranks=8))
    with pytest.raises(InputError, match=r"ranks x threads = 9.*'small'.*at most 8"):
        machine.check(Resources(nodes=2, ranks=9))


def test_longer_than_the_longest_job_is_refused():
    machine = MachineProfile(name="small", max_walltime="01:00:00")
    with pytest.raises(InputError, match="walltime"):
        machine.check(Resources(walltime="02:00:00"))


def test_mpi_commands_are_argument_lists():
    two = Resources(nodes=1, ranks=2, threads=3)
    mpirun = MachineProfile(name="a", mpi="mpirun", mpi_options=("--bind-to", "core"))
    assert mpi_command(mpirun, two, ["/x y/pw.x", "-in", "a'b"]) == [
        "mpirun", "-np", "2", "--bind-to", "core", "/x y/pw.x", "-in", "a'b"]
    srun = MachineProfile(name="b", mpi="srun")
    assert mpi_command(srun, two, ["lmp"])[:4] == [
        "srun", "--nodes=1", "--ntasks=2", "--cpus-per-task=3"]


def test_ranks_without_mpi_are_refused():
    with pytest.raises(ConfigError, match="mpi: none"):
        mpi_command(MachineProfile(name="c", mpi="none"), Resources(ranks=2), ["lmp"])


def test_unknown_profile_lists_the_known():
    with pytest.raises(ConfigError, match="locall") as caught:
        load_machine("locall")
    assert "did you mean 'local'" in caught.value.hint


def test_misspelt_key_in_a_profile_is_refused(tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text("partitio: main\n")
    with pytest.raises(ConfigError, match="partitio"):
        load_machine(str(path))


def test_missing_executable_names_the_profile(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match=r"'pw\.x'.*'bare'"):
        MachineProfile(name="bare").executable("pw.x")
