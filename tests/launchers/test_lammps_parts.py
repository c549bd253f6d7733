"""Simulations run in parts: each part is judged before it is continued, and so is the whole."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from killing import working_in

from orionflow.errors import CodeError
from orionflow.launchers.context import JobContext
from orionflow.launchers.custodian.lammps_output import LammpsOutput, parse_output
from orionflow.launchers.lammps import run_lammps, run_lammps_command
from orionflow.launchers.machine import load_machine
from orionflow.launchers.resources import Resources
from orionflow.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from orionflow.launchers.record import RunRecord

pytestmark = pytest.mark.needs_code("lmp", "mpirun")
LJ = ("units lj\nlattice fcc 0.8442\nregion b block 0 {n} 0 {n} 0 {n}\ncreate_box 1 b\n"
      "create_atoms 1 box\nmass 1 1\npair_style lj/cut 2.5\npair_coeff * * 1 1\n")
MELT = LJ + "velocity all create {t} 87287\n"
LATE = "neigh_modify delay 10 every 5\n"  # neighbour lists come too late from the start
GOOD = "neigh_modify delay 0 every 1\n"


def context(deadline: float | None = None) -> JobContext:
    return JobContext(settings=load_settings(None), machine=load_machine("local"),
                      resources=Resources(walltime=600), deadline=deadline)


def run(folder: Path, script: str = "") -> tuple[RunRecord, LammpsOutput]:
    if script:
        (folder / "in.lammps").write_text(script)
    record = run_lammps_command(["lmp", "-in", "in.lammps"], folder, "in.lammps", context(),
                                executable=str(shutil.which("lmp")),
                                environment={"OMP_NUM_THREADS": "1"})
    return record, parse_output((folder / "log.lammps").read_text())


def seen(record: RunRecord) -> list[str]:
    return [c.failure_id for c in record.corrections]


def test_part_with_late_neighbour_lists_is_not_continued(tmp_path: Path) -> None:
    record, log = run(tmp_path, "timer timeout 0:00:01 every 10\n" + MELT.format(n=7, t=1.44)
                      + LATE + "fix 1 all nve\nthermo 100\nrun 3000\n")
    assert seen(record)[0] == "LAMMPS_DANGEROUS_BUILDS"
    assert seen(record).count("LAMMPS_DANGEROUS_BUILDS") == 1
    assert log.runs[-1].column("Step") == [100.0 * i for i in range(31)]


def test_drift_of_the_first_part_is_seen_although_the_last_is_good(tmp_path: Path) -> None:
    # A Langevin bath in the second run hides what the first one did.
    record, log = run(tmp_path, "timer timeout 0:00:01 every 10\n" + MELT.format(n=6, t=3.0)
                      + GOOD + "fix 1 all nve\nthermo 20\ntimestep 0.018\nrun 1200\n"
                      "fix 2 all langevin 1.5 1.5 1.0 98\nrun 200\n")
    assert "LAMMPS_ENERGY_DRIFT" in seen(record)
    drifted = record.corrections[seen(record).index("LAMMPS_ENERGY_DRIFT")]
    assert any(c.startswith("timestep: 0.018 ->") for c in drifted.changes)
    first = log.runs[0].column("Step")
    assert first[0] == 0
    assert first[-1] % 1200 == 0
    total = log.runs[0].column("TotEng")
    assert total[-1] == pytest.approx(total[0], rel=5e-3)


def test_killed_part_with_late_neighbour_lists_is_not_continued(tmp_path: Path) -> None:
    # No statistics at the end of a killed run: LAMMPS counts in a file while it runs.
    folder = tmp_path / "a part"
    folder.mkdir()
    (folder / "in.lammps").write_text(
        MELT.format(n=5, t=1.44) + LATE + "fix 1 all nve\nthermo 100\n"
        "restart 500 one.restart two.restart\nrun 8000\n")

    def kill() -> None:
        for pid, name in working_in(folder).items():
            if "lmp" in name:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def watch() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            file = folder / "lammps.out"
            text = file.read_text() if file.is_file() else ""
            last = parse_output(text).last_run
            if last is not None and (last.last_step or 0) > 1500:
                kill()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    record, _ = run(folder)
    thread.join()
    assert seen(record) == ["LAMMPS_DANGEROUS_BUILDS"]
    assert "Dangerous builds = " in record.corrections[0].evidence
    output = parse_output((folder / "lammps.out").read_text())
    assert output.runs[-1].first_step == 0
    assert output.runs[-1].last_step == 8000


def test_next_launch_mends_what_the_last_one_had_no_time_for(tmp_path: Path) -> None:
    (tmp_path / "in.lammps").write_text(
        MELT.format(n=8, t=1.44) + LATE + "fix 1 all nve\nthermo 100\nrun 4000\n")
    with pytest.raises(CodeError) as caught:
        run_lammps(tmp_path, context=context(time.time() + 4.5))
    assert caught.value.failure_id == "LAMMPS_WALLTIME"
    assert caught.value.transient
    record = run_lammps(tmp_path, context=context())
    assert seen(record) == ["LAMMPS_DANGEROUS_BUILDS"]
    assert record.continued == 1
    log = parse_output((tmp_path / "log.lammps").read_text())
    assert log.runs[-1].column("Step") == [100.0 * i for i in range(41)]
    assert any("neigh_modify delay: 10 -> 0" in c for c in record.corrections[0].changes)


def test_cold_second_run_after_a_stopped_first_is_mended_from_the_start(tmp_path: Path) -> None:
    record, log = run(tmp_path, "timer timeout 0:00:01 every 10\n" + LJ.format(n=9) + GOOD
                      + "fix 1 all nve\nthermo 100\nrun 2500\nunfix 1\n"
                      "fix 1 all nvt temp 1.0 1.0 0.5\nrun 300\n")
    cold = record.corrections[seen(record).index("LAMMPS_ZERO_TEMPERATURE")]
    assert cold.changes[0] == "start: restart file -> from the beginning"
    # 2916 atoms, half of whose heat goes into the lattice, and a bath that brings it back
    assert 0.5 < log.runs[-1].column("Temp")[-1] < 1.5
    assert log.runs[0].column("Step")[0] == 0
