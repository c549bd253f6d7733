"""LAMMPS runs that fail, are corrected and end with the right number; and some that must stop."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orionflow.errors import CodeError
from orionflow.launchers.context import JobContext
from orionflow.launchers.custodian.lammps_output import LammpsOutput, parse_output
from orionflow.launchers.lammps import run_lammps, run_lammps_command
from orionflow.launchers.machine import load_machine
from orionflow.launchers.resources import Resources
from orionflow.settings import load_settings

if TYPE_CHECKING:
    from orionflow.launchers.record import RunRecord

pytestmark = pytest.mark.needs_code("lmp", "mpirun")
DATA = Path(__file__).parents[1] / "data" / "lammps_failures"
# Morse copper (Girifalco and Weizer): energy per atom of the relaxed 108-atom cell at 3.61 Å as
# the sum over neighbour shells up to 6 Å, D [exp(-2a(r-r0)) - 2 exp(-a(r-r0))] / 2 each.
SHELLS = ((12, 0.5**0.5), (6, 1.0), (24, 1.5**0.5), (12, 2.0**0.5), (24, 2.5**0.5))


def context(walltime: int = 600, deadline: float | None = None) -> JobContext:
    return JobContext(settings=load_settings(None), machine=load_machine("local"),
                      resources=Resources(walltime=walltime), deadline=deadline)


def run(folder: Path) -> tuple[RunRecord, LammpsOutput]:
    record = run_lammps_command(["lmp", "-in", "in.lammps"], folder, "in.lammps", context(),
                                executable=str(shutil.which("lmp")),
                                environment={"OMP_NUM_THREADS": "1"})
    return record, parse_output((folder / "lammps.out").read_text())


def copy(name: str, tmp_path: Path) -> Path:
    folder = tmp_path / name
    shutil.copytree(DATA / name, folder, ignore=shutil.ignore_patterns("lammps.*", "healthy"))
    return folder


def morse_energy() -> float:
    from math import exp

    depth, alpha, r0, a = 0.3429, 1.3588, 2.866, 3.61
    return 0.5 * sum(n * depth * (exp(-2 * alpha * (s * a - r0)) - 2 * exp(-alpha * (s * a - r0)))
                     for n, s in SHELLS if s * a < 6.0)


def test_shells_are_complete_within_the_cutoff() -> None:
    # fcc: 12, 6, 24, 12, 24, 8 neighbours at a/sqrt(2), a, ...; the sixth lies beyond 6 Å
    assert SHELLS[-1][1] * 3.61 < 6.0 < 3.0**0.5 * 3.61


# Failure id: attempts at most, steps at the end.
NVE = {"LAMMPS_LOST_ATOMS": 4800, "LAMMPS_ATOMS_LOST_SILENTLY": 4800,
       "LAMMPS_ENERGY_DRIFT": 4000, "LAMMPS_DANGEROUS_BUILDS": 300,
       "LAMMPS_NEIGHBOR_OVERFLOW": 300}


@pytest.mark.parametrize("name", sorted(NVE))
def test_constant_energy_run_keeps_energy_atoms_and_time(name: str, tmp_path: Path) -> None:
    record, output = run(copy(name, tmp_path))
    assert record.corrections[0].failure_id == name
    assert record.attempts <= 3
    last = output.runs[-1]
    total = last.column("TotEng")
    # The energy of the start does not depend on the time step: 0.5 % of it is the noise of the
    # unshifted cutoff seen in the healthy twins.
    start = parse_output((DATA / name / "healthy" / "lammps.out").read_text()).runs[0].column(
        "TotEng")[0]
    assert total[-1] == pytest.approx(start, rel=5e-3)
    assert last.atoms == 108
    assert last.last_step == NVE[name]


@pytest.mark.parametrize(("name", "temperature", "tolerance"), [
    # Sample means of 80 and 108 atoms: T fluctuates by T sqrt(2/3N), 9 % and 8 %, at each row.
    ("LAMMPS_BOND_MISSING", 1.0, 0.15), ("LAMMPS_FENE", 1.0, 0.15),
])
def test_chain_under_a_thermostat_has_its_temperature(
        name: str, temperature: float, tolerance: float, tmp_path: Path) -> None:
    record, output = run(copy(name, tmp_path))
    assert [c.failure_id for c in record.corrections] == [name]
    rows = output.runs[-1].column("Temp")
    second_half = rows[len(rows) // 2:]
    assert sum(second_half) / len(second_half) == pytest.approx(temperature, rel=tolerance)
    assert output.runs[-1].last_step == {"LAMMPS_FENE": 1200}.get(name, 4800)


@pytest.mark.parametrize("name", ["LAMMPS_MIN_STEPS", "LAMMPS_MIN_ENERGY_TOLERANCE"])
def test_minimisation_ends_in_the_crystal(name: str, tmp_path: Path) -> None:
    record, output = run(copy(name, tmp_path))
    assert {c.failure_id for c in record.corrections} <= {
        "LAMMPS_MIN_STEPS", "LAMMPS_MIN_ENERGY_TOLERANCE"}
    last = output.runs[-1]
    assert last.criterion == "force tolerance"
    assert last.column("E_pair")[-1] / 108 == pytest.approx(morse_energy(), abs=1e-6)


def test_failed_line_search_is_taken_over_by_fire(tmp_path: Path) -> None:
    record, output = run(copy("LAMMPS_MIN_LINESEARCH", tmp_path))
    assert record.corrections[0].failure_id == "LAMMPS_MIN_LINESEARCH"
    assert output.runs[-1].force_max is not None
    assert output.runs[-1].force_max[1] < 0.01


def test_cold_atoms_are_heated(tmp_path: Path) -> None:
    record, output = run(copy("LAMMPS_ZERO_TEMPERATURE", tmp_path))
    assert [c.failure_id for c in record.corrections] == ["LAMMPS_ZERO_TEMPERATURE"]
    assert 150 < output.runs[-1].column("Temp")[-1] < 450


@pytest.mark.parametrize("name", ["LAMMPS_BOX_EXPLODED", "LAMMPS_BOX_TILTED"])
def test_fast_barostat_is_slowed_down(name: str, tmp_path: Path) -> None:
    record, output = run(copy(name, tmp_path))
    assert record.corrections[0].failure_id == name
    volumes = output.runs[-1].column("Volume")
    assert all(0.9 < v / volumes[0] < 1.2 for v in volumes)
    assert output.runs[-1].last_step == 300


def test_overlapping_atoms_are_pushed_apart(tmp_path: Path) -> None:
    record, output = run(copy("LAMMPS_NON_NUMERIC", tmp_path))
    assert record.corrections[0].failure_id == "LAMMPS_NON_NUMERIC"
    last = output.runs[-1]
    assert last.last_step == 300  # the minimisation before it does not count
    assert last.atoms == 108
    assert last.column("E_pair")[-1] < 0


def test_gas_in_an_open_box_keeps_its_atoms(tmp_path: Path) -> None:
    record, output = run(copy("LAMMPS_LOST_THROUGH_BOUNDARY", tmp_path))
    assert [c.changes for c in record.corrections] == [["boundary: f f f -> m m m"]]
    assert output.runs[-1].atoms == 108
    assert output.runs[-1].last_step == 3000


def test_broken_restart_file_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    record, output = run(copy("LAMMPS_RESTART_BROKEN", tmp_path))
    assert record.corrections[0].failure_id == "LAMMPS_RESTART_BROKEN"
    assert output.runs[-1].first_step == 200
    assert output.runs[-1].last_step == 600  # 400, which the broken file stood for, and 200


def test_ions_in_a_mesh_get_a_shorter_time_step(tmp_path: Path) -> None:
    folder = copy("LAMMPS_KSPACE_RANGE", tmp_path)
    script = (folder / "in.lammps").read_text()
    (folder / "in.lammps").write_text(script.replace("run 300", "run 30"))
    record, output = run(folder)
    assert record.corrections[0].failure_id == "LAMMPS_KSPACE_RANGE"
    total = output.runs[-1].column("TotEng")
    assert total[-1] == pytest.approx(total[0], rel=1e-3)


@pytest.mark.parametrize(("name", "word"), [
    ("LAMMPS_INPUT_ERROR", "velocityy"), ("LAMMPS_NAN", "two atoms at one place")])
def test_hopeless_input_stops_at_the_first_attempt(name: str, word: str, tmp_path: Path) -> None:
    folder = copy(name, tmp_path)
    with pytest.raises(CodeError, match=word) as caught:
        run(folder)
    assert caught.value.failure_id == name
    assert not caught.value.transient
    state = json.loads((folder / "orionflow_run.json").read_text())
    assert state["record"]["attempts"] == 1


def test_box_too_small_for_its_atoms_is_given_up_after_one_minimisation(tmp_path: Path) -> None:
    # A lattice of 60 atoms for each sigma^3: every atom sits on a saddle, nothing can move.
    (tmp_path / "in.lammps").write_text(
        "units lj\nlattice fcc 60\nregion b block 0 4 0 4 0 4\ncreate_box 1 b\n"
        "create_atoms 1 box\nmass 1 1\npair_style lj/cut 1.3\npair_coeff 1 1 1 1\n"
        "fix 1 all nve\nrun 1\n")
    with pytest.raises(CodeError) as caught:
        run(tmp_path)
    assert caught.value.failure_id == "LAMMPS_ENERGY_ABSURD"
    assert "correct the structure, the box" in caught.value.hint
    state = json.loads((tmp_path / "orionflow_run.json").read_text())
    assert state["record"]["attempts"] == 2


MELT = ("units lj\nlattice fcc 0.8442\nregion b block 0 4 0 4 0 4\ncreate_box 1 b\n"
        "create_atoms 1 box\nmass 1 1\nvelocity all create 1.44 87287\n"
        "pair_style lj/cut 2.5\npair_coeff * * 1 1\nneigh_modify delay 0 every 1\n")


def test_time_step_of_a_restart_file_is_the_one_that_is_shortened(tmp_path: Path) -> None:
    # It holds 0.04, eight times the default: 400 steps are a time of 16.
    (tmp_path / "first.in").write_text(MELT + "timestep 0.04\nrun 0\nwrite_restart r.0\n")
    subprocess.run(["lmp", "-in", "first.in"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "in.lammps").write_text(
        "read_restart r.0\npair_style lj/cut 2.5\npair_coeff * * 1 1\n"
        "neigh_modify delay 0 every 1\nfix 1 all nve\nthermo 50\nrun 400\n")
    record, output = run(tmp_path)
    assert record.corrections
    last = output.runs[-1]
    assert last.timestep is not None
    assert last.steps is not None
    assert last.timestep < 0.04
    assert last.timestep * last.steps == pytest.approx(16.0)


def test_each_minimisation_of_a_loop_has_to_end_well(tmp_path: Path) -> None:
    # The first starts far from the minimum and is cut short; the last starts in it.
    (tmp_path / "in.lammps").write_text(
        MELT + "displace_atoms all random 0.1 0.1 0.1 7\nvariable i loop 4\nlabel here\n"
        "minimize 0.0 1e-6 20 10000\nnext i\njump SELF here\n")
    record, output = run(tmp_path)
    assert [c.failure_id for c in record.corrections] == ["LAMMPS_MIN_STEPS"]
    assert [b.criterion for b in output.runs] == ["force tolerance"] * 4


@pytest.mark.parametrize("after", ["write_data relaxed.data", 'print "energy $(pe)"'])
def test_minimisation_that_is_written_has_to_end_well_though_others_follow(
        after: str, tmp_path: Path) -> None:
    (tmp_path / "in.lammps").write_text(
        MELT + "displace_atoms all random 0.1 0.1 0.1 7\nminimize 0.0 1e-6 10 10000\n"
        + after + "\ndisplace_atoms all random 0.1 0.1 0.1 9\nminimize 0.0 1e-6 1000 10000\n")
    record, output = run(tmp_path)
    assert [c.failure_id for c in record.corrections][:1] == ["LAMMPS_MIN_STEPS"]
    assert "minimize iterations: 10 -> 50" in record.corrections[0].changes
    assert not any("1000 ->" in c for c in record.corrections[0].changes)  # that one was good
    assert [b.criterion for b in output.runs] == ["force tolerance"] * 2


@pytest.mark.parametrize("after", [
    "fix 1 all nve\nrun 20\n", "min_style fire\nminimize 0.0 1e-6 5000 50000\n"])
def test_short_minimisation_that_only_prepares_is_left_as_it_is(
        after: str, tmp_path: Path) -> None:
    (tmp_path / "in.lammps").write_text(
        MELT + "displace_atoms all random 0.1 0.1 0.1 7\nvariable n equal 300\n"
        'minimize 0.0 1e-6 10 10000\nprint "now $n"\nneighbor 0.4 bin\n' + after)
    record, output = run(tmp_path)
    assert not record.corrections
    assert output.runs[0].criterion == "max iterations"


def test_exit_code_of_the_script_is_its_failure(tmp_path: Path) -> None:
    folder = copy("LAMMPS_QUIT", tmp_path)
    with pytest.raises(CodeError, match="too hot") as caught:
        run(folder)
    assert caught.value.failure_id == "LAMMPS_QUIT"
    assert not caught.value.transient
    assert "quit 3" in caught.value.hint


def test_integrator_of_an_empty_group_is_no_simulation(tmp_path: Path) -> None:
    (tmp_path / "in.lammps").write_text(
        MELT + "group mobile id 9999\nfix 1 mobile nve\nrun 20\n")
    with pytest.raises(CodeError, match="0 atoms in group mobile") as caught:
        run(tmp_path)
    assert caught.value.failure_id == "LAMMPS_INPUT_ERROR"
    assert "holds no atom" in caught.value.hint


GAS = ("units lj\nboundary f f f\nlattice fcc 0.8442\nregion box block -1 4 -1 4 -1 4\n"
       "region inner block 0 2.9 0 2.9 0 2.9\ncreate_box 1 box\n"
       "create_atoms 1 region inner\nmass 1 1.0\npair_style lj/cut 2.5\n"
       "pair_coeff 1 1 1.0 1.0 2.5\nneigh_modify every 1 delay 0\nfix 1 all nve\n"
       "velocity all create 8.0 87287\nthermo 1000\n")


def test_atoms_that_leave_before_the_second_row_are_kept_by_the_boundary(tmp_path: Path) -> None:
    (tmp_path / "in.lammps").write_text(GAS + "run 2000\n")
    record, output = run(tmp_path)
    assert [c.failure_id for c in record.corrections] == ["LAMMPS_LOST_THROUGH_BOUNDARY"]
    assert output.runs[-1].atoms == 108


@pytest.mark.parametrize(("line", "name", "word"), [
    ("fix w all wall/reflect zlo 0.0\n", "LAMMPS_LOST_THROUGH_BOUNDARY", "wall at every open"),
    ("thermo_modify lost ignore\n", "LAMMPS_ATOMS_LOST_SILENTLY", "make the box larger")])
def test_atoms_out_of_an_open_box_stop_at_the_first_attempt(
        line: str, name: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "in.lammps").write_text(GAS + line + "run 4000\n")
    with pytest.raises(CodeError) as caught:
        run(tmp_path)
    assert caught.value.failure_id == name
    assert word in caught.value.hint
    assert json.loads((tmp_path / "orionflow_run.json").read_text())["record"]["attempts"] == 1


def test_drift_that_the_time_step_does_not_change_is_named_so(tmp_path: Path) -> None:
    # Each pair that passes the cutoff gains or loses a third of epsilon.
    (tmp_path / "in.lammps").write_text(
        MELT.replace("lj/cut 2.5", "lj/cut 1.5") + "fix 1 all nve\nthermo 20\nrun 1000\n")
    with pytest.raises(CodeError) as caught:
        run(tmp_path)
    assert caught.value.failure_id == "LAMMPS_ENERGY_DRIFT"
    assert "does not depend on the time step" in caught.value.hint
    assert json.loads((tmp_path / "orionflow_run.json").read_text())["record"]["attempts"] == 2


def test_repulsive_energies_that_are_not_for_each_atom_are_no_overlap(tmp_path: Path) -> None:
    (tmp_path / "in.lammps").write_text(
        MELT.replace("0 4 0 4 0 4", "0 8 0 8 0 8").replace("lj/cut 2.5", "lj/cut 1.12246")
        .replace("1.44", "3.0") + "pair_modify shift yes\nfix 1 all nve\n"
        "thermo_modify norm no\nrun 100\n")
    record, output = run(tmp_path)
    assert not record.corrections
    assert output.runs[-1].column("E_pair")[-1] > 1000  # of 2048 atoms together


def test_own_timer_is_continued_from_the_restart_file(tmp_path: Path) -> None:
    folder = copy("LAMMPS_WALLTIME", tmp_path)
    script = (folder / "in.lammps").read_text()
    (folder / "in.lammps").write_text(script.replace(
        "thermo 100", "thermo 100\ndump d all custom 500 d.dump id x y z"))
    record, output = run(folder)
    assert {c.failure_id for c in record.corrections} == {"LAMMPS_WALLTIME"}
    assert output.runs[-1].first_step > 0  # it went on, it did not begin again
    joined = parse_output((folder / "log.lammps").read_text()).runs[-1]
    assert [int(s) for s in joined.column("Step")] == list(range(0, 20001, 100))
    total = joined.column("TotEng")
    assert total[-1] == pytest.approx(total[0], rel=2e-4)  # velocities were not made again
    frames = [line for line, head in _pairs(folder / "d.dump") if head == "ITEM: TIMESTEP"]
    assert [int(f) for f in frames] == list(range(0, 20001, 500))


def _pairs(file: Path) -> list[tuple[str, str]]:
    lines = file.read_text().splitlines()
    return list(zip(lines[1:], lines, strict=False))


def test_walltime_is_continued_by_a_later_launch(tmp_path: Path) -> None:
    """Two launches whose time is too short, then enough: one simulation, each step once."""
    folder = tmp_path / "it's one"
    folder.mkdir()
    script = (DATA / "LAMMPS_WALLTIME" / "healthy" / "in.lammps").read_text()
    script = script.replace("timer timeout 0:10:00 every 10\n", "")
    script = script.replace("0 3 0 3 0 3", "0 5 0 5 0 5")  # slow enough to be stopped twice
    (folder / "in.lammps").write_text(script.replace("run 1000", "run 500\nrun 5000"))
    before = (folder / "in.lammps").read_bytes()
    stops = []
    for _ in range(2):
        with pytest.raises(CodeError) as caught:
            run_lammps(folder, context=context(deadline=time.time() + 4.2))
        assert caught.value.failure_id == "LAMMPS_WALLTIME"
        assert caught.value.transient
        stops.append(parse_output((folder / "lammps.out").read_text()).runs[-1].last_step)
    assert stops[1] > stops[0] > 0
    record = run_lammps(folder, context=context())
    assert record.continued == 2
    assert (folder / "in.lammps").read_bytes() == before
    runs = parse_output((folder / "log.lammps").read_text()).runs
    steps = sorted({int(s) for r in runs for s in r.column("Step")})
    assert steps == list(range(0, 5501, 100))
    total = [e for r in runs for e in r.column("TotEng")]
    assert max(total) - min(total) < 2e-4 * abs(total[0])


def test_no_time_at_all_makes_no_endless_loop(tmp_path: Path) -> None:
    folder = copy("LAMMPS_KILLED", tmp_path)
    with pytest.raises(CodeError) as caught:
        run_lammps(folder, context=context(deadline=time.time() + 1))
    assert caught.value.failure_id == "LAMMPS_WALLTIME"
    assert caught.value.transient


def test_healthy_run_is_not_touched(tmp_path: Path) -> None:
    folder = copy("LAMMPS_LOST_ATOMS", tmp_path)
    shutil.copy(DATA / "LAMMPS_LOST_ATOMS" / "healthy" / "in.lammps", folder)
    record, output = run(folder)
    assert record.corrections == []
    assert record.attempts == 1
    twin = parse_output((DATA / "LAMMPS_LOST_ATOMS" / "healthy" / "lammps.out").read_text())
    assert output.runs[-1].rows == twin.runs[-1].rows
