"""The LAMMPS input editor: what it understands, and that it leaves the rest as it was."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from orionflow.launchers.custodian import lammps_edit as edit
from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.lammps_log import merge_logs
from orionflow.launchers.custodian.lammps_output import parse_output
from orionflow.launchers.custodian.lammps_restart import Restart, continuation
from orionflow.launchers.custodian.lammps_script import Script
from orionflow.launchers.custodian.lammps_timestep import scale_runs, scale_timestep
from orionflow.launchers.custodian.lammps_walltime import instrument

if TYPE_CHECKING:
    from pathlib import Path

STRANGE = '''\
# a comment with run 5 in it & and a trailing ampersand is continued &
run 7 as part of the comment
units    metal   # "quoted" # twice
variable	T equal 300
fix 1 all nvt &
  temp $T $T $(100.0*dt) # damping
print "no # comment here" # but here
print """several
# lines, not a comment
run 3"""
if "$T > 5" then "run 10" else 'print "cold"'
run 100 upto
'''


def test_unedited_script_is_kept_byte_for_byte() -> None:
    assert Script(STRANGE).text() == STRANGE


def test_commands_are_seen_as_lammps_sees_them() -> None:
    script = Script(STRANGE)
    assert [c.name for c in script.commands if c.name] == [
        "units", "variable", "fix", "print", "print", "if", "run"]
    fix = next(script.all("fix"))
    assert fix.args == ["1", "all", "nvt", "temp", "$T", "$T", "$(100.0*dt)"]
    assert fix.comment == "# damping"
    assert next(script.all("print")).args == ["no # comment here"]


def test_edit_leaves_all_other_lines_alone() -> None:
    script = Script(STRANGE)
    script.replace(script.find("run")[0], "run 200 upto")
    new, old = script.text().splitlines(), STRANGE.splitlines()
    assert new == [*old[:-1], "# orionflow: was: run 100 upto", "run 200 upto"]


def test_replaced_continuation_swallows_no_line() -> None:
    script = Script("fix 1 all nve &\n  \nrun 5\n")
    script.replace(0, "fix 1 all nve")
    again = Script(script.text())
    assert [c.name for c in again.commands if c.name] == ["fix", "run"]


@pytest.mark.needs_code("lmp")
def test_removed_commands_are_comments_for_lammps_too(tmp_path: Path) -> None:
    script = Script('print """a\nb""" &\n file x.txt\nprint "one" & \n\nprint "two"\n')
    script.remove(0)
    script.remove(1)
    (tmp_path / "in").write_text(script.text())
    out = subprocess.run([str(shutil.which("lmp")), "-in", "in"], cwd=tmp_path, check=True,
                         capture_output=True, text=True).stdout
    assert "two" in out
    assert "one" not in out
    assert not (tmp_path / "x.txt").exists()


def test_included_files_are_put_in_place_unless_they_jump(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("units lj\ninclude b\n")
    (tmp_path / "b").write_text("timestep 0.5\n")
    (tmp_path / "loop").write_text("label x\njump loop x\n")
    (tmp_path / "in").write_text("include a\ninclude loop\ninclude $f\ninclude missing\nrun 1\n")
    script = Script.read(tmp_path / "in")
    assert [str(c) for c in script.commands if c.name] == [
        "units lj", "timestep 0.5", "include loop", "include $f", "include missing", "run 1"]
    assert not script.linear


@pytest.mark.parametrize(("text", "timestep", "run"), [
    ("units metal\ntimestep 0.01\nrun 100\n", "timestep 0.005", "run 200"),
    ("units metal\nrun 1e3\n", "timestep 0.0005", "run 2000"),
    ("timestep ${dt}\nrun ${n}\n", "timestep $((v_dt)/2.0)", "run $((v_n)*2:%.0f)"),
    ("timestep $t\nrun $(v_a+3)\n", "timestep $((v_t)/2.0)", "run $((v_a+3)*2:%.0f)"),
    ("timestep 0.01\nrun 100 start 0 stop 500\n", "timestep 0.005", "run 200 start 0 stop 1000"),
])
def test_shorter_time_step_keeps_the_time(text: str, timestep: str, run: str) -> None:
    script = Script(text)
    units = model.units(script)
    scale_timestep(script, units, 2)
    scale_runs(script, 2)
    commands = [str(c) for c in script.commands if c.name]
    assert timestep in commands
    assert run in commands


def test_keywords_are_set_where_they_stand_or_added() -> None:
    script = Script("neigh_modify delay 5 one 3000\nrun 5\n")
    changes = edit.check_neighbours_each_step(script)
    assert [str(c) for c in script.commands if c.name] == [
        "neigh_modify delay 0 one 3000", "neigh_modify every 1 check yes", "run 5"]
    assert changes[0] == "neigh_modify delay: 5 -> 0"
    assert edit.check_neighbours_each_step(script) == []


def test_minimisation_before_averages_does_not_reset_the_clock() -> None:
    plain = Script("fix 1 all nve\nrun 5\n")
    edit.minimize_first(plain, "lj", 0)
    assert [c.name for c in plain.commands] == ["fix", "minimize", "reset_timestep", "run"]
    averaging = Script("fix 2 all ave/time 1 1 5 c_thermo_temp\nrun 5\n")
    edit.minimize_first(averaging, "lj", 0)
    assert "reset_timestep" not in averaging.text()


def test_grains_are_not_minimised() -> None:
    assert not edit.can_minimize(Script("pair_style gran/hooke 1 NULL 1 NULL 0.5 0\nrun 5\n"))


def test_only_a_plain_nve_run_conserves_energy() -> None:
    plans = model.plans(Script(
        "fix 1 all nve\nfix p all print 10 x\nrun 1\nfix 2 all langevin 1 1 1 1\nrun 1\n"
        "unfix 2\nfix 3 all gravity 1 vector 0 0 1\nrun 1\nunfix 3\nunfix 1\n"
        "fix 1 all nvt temp 1 1 1\nrun 1\n"))
    assert [p.conserves_energy for p in plans] == [True, False, False, False]


TWO = """\
units metal
read_data data.x
pair_style morse 6.0
pair_coeff * * 0.3 1.3 2.8
velocity all create 300 1
group top id 1:5
dump d all custom 10 d.dump id x y z
dump e all atom 10 e.*.dump
fix 1 all nvt temp 300 600 0.1
run 100
write_data first.data
fix 2 all momentum 10 linear 1 1 1
run 200
write_data last.data
"""
TABLE = """LAMMPS (29 Sep 2021)
Per MPI rank memory allocation (min/avg/max) = 1 | 1 | 1 Mbytes
Step Temp TotEng
       0 300 -1
     100 310 -1
Loop time of 1 on 1 procs for 100 steps with 10 atoms
Per MPI rank memory allocation (min/avg/max) = 1 | 1 | 1 Mbytes
Step Temp TotEng
     100 310 -1
     150 311 -1
"""


def test_continuation_repeats_nothing_and_keeps_the_ramp(tmp_path: Path) -> None:
    made = continuation(Script(TWO), parse_output(TABLE), Restart(tmp_path / "r.150", 150))
    assert not isinstance(made, str)
    commands = [str(c) for c in made[0].commands if c.name]
    assert commands == [
        "units metal", "read_restart r.150", "pair_style morse 6.0",
        "pair_coeff * * 0.3 1.3 2.8", "dump d all custom 10 d.dump id x y z",
        "dump_modify d append yes", "dump e all atom 10 e.*.dump",
        "fix 1 all nvt temp 300 600 0.1", "fix 2 all momentum 10 linear 1 1 1",
        "run 300 upto start 100 stop 300", "write_data last.data"]


@pytest.mark.parametrize(("line", "word"), [
    ("label x\nnext i\njump SELF x\n", "loops"), ("read_data other\n", "box"),
    ("fix 9 all ave/time 1 1 10 c_thermo_temp file x\n", "memory"),
    ("variable l equal $(lx)\n", "running simulation"),
])
def test_script_that_can_not_be_continued_safely_is_refused(
        line: str, word: str, tmp_path: Path) -> None:
    script = Script(TWO.replace("fix 1", line + "fix 1"))
    made = continuation(script, parse_output(TABLE), Restart(tmp_path / "r", 150))
    assert isinstance(made, str)
    assert word in made


def test_restart_of_another_run_is_refused(tmp_path: Path) -> None:
    made = continuation(Script(TWO), parse_output(TABLE), Restart(tmp_path / "r", 50))
    assert isinstance(made, str)


def test_joined_log_has_each_step_once() -> None:
    new = TABLE.replace("     100 310 -1\n     150 311 -1\n",
                        "     140 310 -1\n     150 311 -2\n     200 310 -1\n")
    new = new[:new.index("Per MPI")] + new[new.rindex("Per MPI"):]
    joined = parse_output(merge_logs(TABLE, 140, new))
    assert [r.column("Step") for r in joined.runs] == [[0, 100], [100, 150, 200]]
    assert joined.runs[-1].column("TotEng") == [-1, -2, -1]


def test_instrumented_script_flushes_and_restarts_only_where_it_can() -> None:
    straight = Script("run 100000\n")
    instrument(straight, restarts=True)
    names = [c.name for c in straight.commands]
    assert set(names[:names.index("run")]) == {
        "compute", "fix", "restart", "thermo_modify", "variable"}
    assert names[names.index("run"):] == ["run", "write_restart"]
    loop = Script("label x\nrun 100000\njump SELF x\n")
    instrument(loop, restarts=True)
    assert "restart" not in loop.text()


def test_restart_file_is_written_after_what_looks_at_the_forces() -> None:
    script = Script("run 100000\nunfix 1\nwrite_dump all custom f.dump id fx\n"
                    "delete_atoms group a\n")
    instrument(script, restarts=True)
    names = [c.name for c in script.commands]
    assert names[names.index("run"):] == [
        "run", "unfix", "write_dump", "write_restart", "delete_atoms"]
