"""Reading what LAMMPS printed: real outputs, damaged outputs, and no false success from either."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from orionflow.launchers.custodian.handlers_lammps import lammps_rules
from orionflow.launchers.custodian.lammps_base import LammpsRun
from orionflow.launchers.custodian.lammps_job import LammpsJob
from orionflow.launchers.custodian.lammps_output import parse_output
from orionflow.launchers.custodian.lammps_restart import header_step, restart_step
from orionflow.launchers.custodian.rules import Attempt, find_failure, read_text

DATA = Path(__file__).parents[2] / "data" / "lammps_failures"
HEALTHY = DATA / "LAMMPS_LOST_ATOMS" / "healthy"
FOLDERS = sorted(p.parent for p in DATA.glob("**/lammps.out"))


def test_healthy_run_is_read() -> None:
    out = parse_output((HEALTHY / "lammps.out").read_text())
    assert out.ended
    assert out.units == "lj"
    assert out.atoms_at_start == 108
    block = out.runs[0]
    assert block.columns == ["Step", "Temp", "E_pair", "E_mol", "TotEng", "Press"]
    assert [r[0] for r in block.rows] == list(range(0, 301, 20))
    assert (block.steps, block.atoms, block.timestep, block.dangerous) == (300, 108, 0.005, 0)


def test_minimisation_is_read() -> None:
    block = parse_output((DATA / "LAMMPS_MIN_STEPS" / "lammps.out").read_text()).runs[0]
    assert block.minimize
    assert block.criterion == "max iterations"
    assert block.force_max is not None
    assert block.force_norm is not None
    assert 0 < block.force_max[1] <= block.force_norm[1]


def test_error_and_its_command_are_read() -> None:
    out = parse_output((DATA / "LAMMPS_INPUT_ERROR" / "lammps.out").read_text())
    assert out.errors[0].startswith("Unknown command: velocityy")
    assert out.last_command.startswith("velocityy")


def test_warning_inside_the_table_is_no_row() -> None:
    text = "Step Temp\n 0 1.0\nWARNING: Lost atoms: original 5 current 4\n 10 2.0\n"
    assert parse_output(text).runs[0].rows == [[0, 1], [10, 2]]


def test_table_of_several_lines_is_read() -> None:
    text = ("---------------- Step        0 ----- CPU =      0.0000 (sec) ----------------\n"
            "TotEng   =        -4.6134 KinEng   =         2.1451 Temp     =         1.4400\n"
            "PotEng   =        -6.7585 E_bond   =         0.0000 E_angle  =         0.0000\n"
            "---------------- Step       10 ----- CPU =      0.0100 (sec) ----------------\n"
            "TotEng   =        -4.6135 KinEng   =         2.0000 Temp     =         1.3400\n"
            "PotEng   =        -6.6135 E_bond   =         0.0000 E_angle  =         0.0000\n"
            "Loop time of 0.1 on 1 procs for 10 steps with 5 atoms\n")
    block = parse_output(text).runs[0]
    assert block.column("TotEng") == [-4.6134, -4.6135]
    assert block.column("Step") == [0, 10]
    assert block.steps == 10


def test_restart_file_knows_its_step_and_a_cut_one_is_seen() -> None:
    folder = DATA / "LAMMPS_RESTART_BROKEN"
    assert restart_step(folder / "restart.200") == 200
    assert restart_step(folder / "restart.400") is None
    assert header_step((folder / "restart.400").read_bytes()) == 400
    assert restart_step(folder / "in.lammps") is None


def _verdict(folder: Path, text: str, returncode: int = 0) -> str | None:
    job = LammpsJob(["lmp", "-in", "in.lammps"], input_file="in.lammps")
    job.load(folder)
    found = find_failure(lammps_rules(LammpsRun(folder, job)), Attempt(
        folder=folder, number=1, stdout=text, stderr="", returncode=returncode))
    return found.rule.failure_id if found else None


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(DATA)))
def test_cut_output_is_never_a_success(folder: Path) -> None:
    text = (folder / "lammps.out").read_text()
    end = text.rfind("Total wall time")
    for cut in range(0, max(0, end), max(1, end // 40)):
        assert _verdict(folder, text[:cut]) is not None, cut


@pytest.mark.parametrize("seed", range(30))
def test_damaged_output_neither_crashes_nor_succeeds(seed: int) -> None:
    luck = random.Random(seed)  # noqa: S311  noise, not secrets
    text = (luck.choice(FOLDERS) / "lammps.out").read_text()
    lines = text[: max(1, text.rfind("Total wall time"))].split("\n")
    luck.shuffle(lines)
    assert _verdict(HEALTHY, "\n".join(lines)) is not None
    noise = bytes(luck.randrange(256) for _ in range(5000)).decode(errors="replace")
    assert _verdict(HEALTHY, noise) is not None
    assert _verdict(HEALTHY, text[:500] + noise + text[800:1500]) is not None
    torn = "".join(c for c in text if luck.random() > 0.02)
    parse_output(torn)


@pytest.mark.parametrize("text", ["", "\0" * 1000, "Total wall time: 0:00:01\n", "\n" * 10000])
def test_output_without_a_run_is_no_success(text: str) -> None:
    assert _verdict(HEALTHY, text) is not None


def test_huge_output_is_read_in_part(tmp_path: Path) -> None:
    file = tmp_path / "lammps.out"
    text = (HEALTHY / "lammps.out").read_text()
    with file.open("w") as stream:
        stream.write(text[: text.index("Loop time")])
        stream.truncate(2**30)  # a sparse gigabyte of zeros, as a lost node leaves it
    assert _verdict(HEALTHY, read_text(file)) is not None


def test_atoms_deleted_on_purpose_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "in.lammps").write_text(
        "thermo_modify lost ignore\nrun 10\ndelete_atoms x\nrun 10\n")
    run = ("Step Temp\n 0 1\n 10 1\nLoop time of 1 on 1 procs for 10 steps with {} atoms\n")
    text = ("LAMMPS (29 Sep 2021)\nCreated 100 atoms\n" + run.format(100)
            + "Deleted 10 atoms, new total = 90\n" + run + "Total wall time: 0:00:01\n")
    assert _verdict(tmp_path, text.format(90)) is None
    assert _verdict(tmp_path, text.format(80)) == "LAMMPS_ATOMS_LOST_SILENTLY"


def test_input_in_a_subfolder_keeps_its_changed_script_there() -> None:
    job = LammpsJob(["lmp", "-in", "sub/in.x"], input_file="sub/in.x")
    assert job.active_file == "sub/orionflow.in.x"
