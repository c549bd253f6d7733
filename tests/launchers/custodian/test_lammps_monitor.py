"""What a growing output shows while LAMMPS runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orionflow.launchers.custodian.lammps_job import LammpsJob
from orionflow.launchers.custodian.lammps_monitor import lammps_monitors
from orionflow.launchers.custodian.lammps_script import Script

if TYPE_CHECKING:
    from orionflow.launchers.custodian.jobs import Monitor

DATA = Path(__file__).parents[2] / "data" / "lammps_failures"
HASTY = "units metal\nfix 1 all npt temp 1 1 0.1 iso 0 0 0.001\nthermo 10\nrun 100\n"


def watch(folder: Path, script: str, frozen_after: float | None = None,
          ) -> tuple[LammpsJob, list[Monitor]]:
    (folder / "in.lammps").write_text(script)
    job = LammpsJob(["lmp", "-in", "in.lammps"], input_file="in.lammps")
    job.attempt = 1
    return job, lammps_monitors(Script(script), frozen_after)


def seen(monitors: list[Monitor], job: LammpsJob, folder: Path) -> dict[str, str]:
    looks = [(m.failure_id, m.look(job, folder)) for m in monitors]  # two may share an id
    return {k: v for k, v in looks if v is not None}


def grow(folder: Path, text: str) -> None:
    with (folder / "lammps.out").open("a") as stream:
        stream.write(text)


def test_exploding_box_is_seen_before_the_run_ends(tmp_path: Path) -> None:
    job, monitors = watch(tmp_path, HASTY)
    text = (DATA / "LAMMPS_BOX_EXPLODED" / "lammps.out").read_text()
    head = text.index("Step Temp")
    lines = text[head:].splitlines(keepends=True)
    grow(tmp_path, text[:head] + lines[0] + lines[1])
    assert seen(monitors, job, tmp_path) == {}
    row = lines[1].split()
    grow(tmp_path, " ".join(["20", *row[1:-1], str(9 * float(row[-1]))]) + "\n")
    assert "Volume" in seen(monitors, job, tmp_path)["LAMMPS_BOX_EXPLODED"]


@pytest.mark.parametrize("folder", sorted(p.parent for p in DATA.glob("*/healthy/lammps.out")),
                         ids=lambda p: p.parent.name)
def test_healthy_output_alarms_nobody_at_any_length(folder: Path, tmp_path: Path) -> None:
    job, monitors = watch(tmp_path, (folder / "in.lammps").read_text())
    text = (folder / "lammps.out").read_text()
    for at in range(0, len(text), 997):
        grow(tmp_path, text[at : at + 997])
        assert seen(monitors, job, tmp_path) == {}


def test_nan_is_seen(tmp_path: Path) -> None:
    job, monitors = watch(tmp_path, "units lj\nfix 1 all nve\nrun 100\n")
    grow(tmp_path, "Step Temp TotEng\n 0 1.0 -2.0\n 10 nan nan\n")
    assert "LAMMPS_NAN" in seen(monitors, job, tmp_path)


def test_silence_counts_only_against_rows_already_seen(tmp_path: Path) -> None:
    job, monitors = watch(tmp_path, "units lj\nthermo 10\nrun 100\n", frozen_after=0.2)
    grow(tmp_path, "Step Temp TotEng\n 0 1.0 -2.0\n")
    assert "LAMMPS_FROZEN" not in seen(monitors, job, tmp_path)
    time.sleep(0.3)
    assert "LAMMPS_FROZEN" not in seen(monitors, job, tmp_path)  # no one knows how long a row takes
    grow(tmp_path, " 10 1.0 -2.0\n")
    assert "LAMMPS_FROZEN" not in seen(monitors, job, tmp_path)
    for _ in range(3):  # rows every tenth of a second now
        time.sleep(0.01)
        grow(tmp_path, " 20 1.0 -2.0\n")
        seen(monitors, job, tmp_path)
    monitors[1].watch.rows_at[:] = monitors[1].watch.rows_at[-3:]
    time.sleep(0.6)
    assert "LAMMPS_FROZEN" in seen(monitors, job, tmp_path)


def test_hasty_barostat_is_not_waited_for_long(tmp_path: Path) -> None:
    job, monitors = watch(tmp_path, HASTY)
    grow(tmp_path, "Step Temp Volume\n 0 1.0 100.0\n")
    assert seen(monitors, job, tmp_path) == {}
    hanging = next(m for m in monitors if hasattr(m, "interval"))
    hanging.patience = 0.1
    time.sleep(0.2)
    assert "first row" in seen(monitors, job, tmp_path)["LAMMPS_BOX_EXPLODED"]
    slow = HASTY.replace("0.001", "1.0")
    assert not any(hasattr(m, "interval") for m in watch(tmp_path, slow)[1])
