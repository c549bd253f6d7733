"""What is read from a user's command line."""

from __future__ import annotations

import pytest

from orionflow.errors import InputError
from orionflow.launchers.mpi_ranks import pool_option, rank_count
from orionflow.launchers.run_input import parse_steps


@pytest.mark.parametrize(("command", "ranks"), [
    ("mpirun -np 4 pw.x -in pw.in", 4), ("srun -n 8 pw.x", 8), ("srun --ntasks=16 pw.x", 16),
    ("pw.x -in pw.in", 1),
])
def test_ranks_are_counted(command, ranks):
    assert rank_count(command.split()) == ranks


def test_pools_are_found():
    assert pool_option(["mpirun", "-np", "4", "pw.x", "-nk", "3", "-in", "pw.in"]) == (5, 3)
    assert pool_option(["pw.x", "-in", "pw.in"]) is None


@pytest.mark.parametrize("separator", [":::", "&&", "--"])
def test_steps_are_separated(inputs, separator):
    inputs.silicon()
    inputs.phonon()
    words = ["pw.x", "-in", "pw.in", separator, "mpirun", "-np", "2", "ph.x", "-inp", "ph.in"]
    first, second = parse_steps(words, inputs.folder)
    assert (first.code, first.input_file) == ("pw.x", "pw.in")
    assert (second.code, second.input_file, second.stem) == ("ph.x", "ph.in", "ph")


def test_standard_input_is_understood(inputs):
    inputs.silicon()
    (step,) = parse_steps(["pw.x", "<", "pw.in"], inputs.folder)
    assert step.stdin
    assert step.command == ("pw.x",)


def test_code_behind_a_wrapper_is_found_by_its_input(inputs):
    inputs.silicon()
    inputs.phonon()
    (inputs.folder / "in.lammps").write_text("units metal\npair_style sw\n")
    for name, code in (("pw.in", "pw.x"), ("ph.in", "ph.x"), ("in.lammps", "lmp")):
        (step,) = parse_steps(["./run.sh", "-in", name], inputs.folder)
        assert step.code == code


@pytest.mark.parametrize("words", [
    [], ["pw.x"], ["pw.x", "-in", "pw.in", ":::"], ["./run.sh", "-in", "data.txt"],
    ["pw.x", "-in", "../pw.in"],
])
def test_command_that_says_too_little_is_refused(inputs, words):
    with pytest.raises(InputError):
        parse_steps(words, inputs.folder)
