"""What is refused before LAMMPS starts, and what is left to LAMMPS."""

from __future__ import annotations

from pathlib import Path

import pytest

from orionflow.launchers.preflight_lammps import check_lammps

DATA = Path(__file__).parents[1] / "data" / "lammps_failures"
TABLE = "a\nb\nc\n2 Cu Ni\n"
POTENTIAL = "units metal\npair_style eam/alloy\npair_coeff * * CuNi.eam.alloy Cu {}\nrun 0\n"
ATOMS = ("title\n\n3 atoms\n1 atom types\n\n0 10 xlo xhi\n0 10 ylo yhi\n0 10 zlo zhi\n\n"
         "Atoms # atomic\n\n1 1 0 5 5\n2 1 3 5 5\n3 1 {} 5 5\n")
READ = "units metal\nread_data d.x\npair_style lj/cut 3\npair_coeff * * 1 1\nrun 0\n"


def check(folder: Path, text: str, *, lmp: bool = False) -> str | None:
    (folder / "in.x").write_text(text)
    problem = check_lammps(folder, "in.x", ["mpirun", "-np", "1", "lmp", "-in", "in.x"]
                           if lmp else ())
    return problem.message + " " + problem.hint if problem else None


@pytest.mark.parametrize(("text", "words"), [
    ("pair_style eam/alloy\npair_coeff * * Xx.eam.alloy Xx\nrun 1\n", ("Xx.eam.alloy",)),
    ("read_data nothing.data\nrun 1\n", ("nothing.data",)),
    ("read_restart r.*\nrun 1\n", ("r.*",)),
    ("units lj\npair_style eam/alloy\nrun 1\n", ("units lj", "units metal")),
    ("# only a comment\n", ("no command",)),
    ("units lj\natom_style atomic\ntimestep 0.001\n", ("no run, minimize",)),
    ("\0\x01units lj\nrun 1\n", ("no text",)),
])
def test_certain_mistake_is_named(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    message = check(tmp_path, text)
    assert message is not None
    assert all(word in message for word in words)


def test_element_is_looked_up_in_the_potential_file(tmp_path: Path) -> None:
    (tmp_path / "CuNi.eam.alloy").write_text(TABLE)
    assert check(tmp_path, POTENTIAL.format("Ni")) is None
    assert check(tmp_path, POTENTIAL.format("NULL")) is None
    message = check(tmp_path, POTENTIAL.format("Fe"))
    assert message is not None
    assert "Fe" in message
    assert "Cu, Ni" in message


@pytest.mark.parametrize(("x", "refused"), [("6", False), ("3.0001", True), ("10.0", True)])
def test_atoms_at_one_place_are_found_through_the_boundary(
        x: str, refused: bool, tmp_path: Path) -> None:  # noqa: FBT001
    (tmp_path / "d.x").write_text(ATOMS.format(x))
    message = check(tmp_path, READ)
    assert (message is not None) == refused
    if message:
        assert "3 of d.x" in message


def test_script_that_removes_overlaps_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d.x").write_text(ATOMS.format("3.0001"))
    assert check(tmp_path, READ.replace("run", "delete_atoms overlap 0.1 all all\nrun")) is None


@pytest.mark.needs_code("lmp")
@pytest.mark.parametrize(("line", "words"), [
    ("velocityy all create 1 1", ("velocityy", "'velocity'")),
    ("pair_style lj/cutt 2.5", ("lj/cutt", "'lj/cut'")),
    ("fix 1 all nvtt temp 1 1 1", ("nvtt", "'nvt'")),
])
def test_typing_error_is_named_with_what_was_meant(
        line: str, words: tuple[str, ...], tmp_path: Path) -> None:
    message = check(tmp_path, f"units lj\n{line}\nrun 1\n", lmp=True)
    assert message is not None
    assert all(word in message for word in words)


@pytest.mark.needs_code("lmp")
@pytest.mark.parametrize("folder", sorted(p.parent for p in DATA.glob("*/healthy/in.lammps")),
                         ids=lambda p: p.parent.name)
def test_healthy_input_passes(folder: Path) -> None:
    assert check_lammps(folder, "in.lammps", ["lmp", "-in", "in.lammps"]) is None


def test_names_from_variables_are_left_to_lammps(tmp_path: Path) -> None:
    assert check(tmp_path, (
        "variable f index a b\nread_data $f.data\npair_style lj/cut 3\nrun 0\n")) is None


@pytest.mark.parametrize("text", [
    "read_restart r.1\npair_style eam\nrun 1\n",  # the restart file holds the units
    "units lj\nlattice fcc 1\nwrite_data d.out\n",
    "units lj\nlabel a\nif '1 > 0' then 'run 1'\n",
])
def test_unusual_script_is_left_to_lammps(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.1").write_bytes(b"x")
    assert check(tmp_path, text) is None


@pytest.mark.parametrize(("lines", "word"), [
    ("pair_style lj/cut 3\nfix 1 all langevin 1 1 1 5\nrun 100\n", "fix 1 all nve"),
    ("fix 1 all nve\nrun 100\n", "pair_style")])
def test_run_in_which_nothing_would_happen_is_refused(
        tmp_path: Path, lines: str, word: str) -> None:
    message = check(tmp_path, "units lj\n" + lines)
    assert message is not None
    assert word in message


@pytest.mark.parametrize("lines", [
    "pair_style lj/cut 3\nrun 0\n", "pair_style none\nfix 1 all nve\nrun 100\n",
    "pair_style lj/cut 3\nfix 1 all deform 1 x erate 0.1\nrun 100\n",
    "pair_style lj/cut 3\nrun 10\nfix 1 all nve\nrun 100\n"])
def test_run_in_which_something_happens_is_left_alone(tmp_path: Path, lines: str) -> None:
    assert check(tmp_path, "units lj\n" + lines) is None
