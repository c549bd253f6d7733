from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orionflow.errors import OutputError
from orionflow.workflows.lammps.outputs import (
    check_finished,
    mean_and_error,
    parse_dump,
    parse_log,
    pressure_tensor,
    read_dump,
    read_log,
    thermo_columns,
)

DATA = Path(__file__).parents[2] / "data" / "lammps_recipes" / "lmp-29Sep2021"


def log(name: str) -> str:
    return (DATA / name / "log.lammps").read_text()


def test_good_dynamics_is_read():
    parsed = parse_log(log("nvt"))

    last = check_finished(parsed, path=DATA, last_step=1000)

    assert parsed.version == "29 Sep 2021 - Update 2"
    assert parsed.warnings == []
    columns = thermo_columns(parsed)
    assert list(columns["step"]) == list(range(0, 1001, 100))
    # From the file, by eye: first and last rows.
    assert columns["temp"][0] == 300
    assert columns["pe"][0] == -17.3463999801591
    assert last.last("atoms") == 4
    assert np.allclose(columns["etotal"], columns["pe"] + columns["ke"], atol=1e-12)


def test_good_minimisation_is_read_with_both_rounds():
    parsed = parse_log(log("minimize_cell"))

    last = check_finished(parsed, path=DATA, ftol=1e-6)

    assert [run.criterion for run in parsed.runs] == ["force tolerance"] * 2
    assert last.iterations == 1
    assert last.evaluations == 2
    columns = thermo_columns(parsed)
    assert len(set(columns["step"])) == len(columns["step"])
    assert columns["pe"][-1] == -8.67319999983453


@pytest.mark.parametrize(("name", "message"), [
    ("lost_atoms", "Lost atoms: original 8 current 1"),
    ("killed", "did not come to its end"),
    ("overlap", "pe is nan at step 0"),
])
def test_broken_run_gives_no_result(name, message):
    with pytest.raises(OutputError, match=message):
        check_finished(parse_log(log(name)), path=DATA)


@pytest.mark.parametrize(("name", "step"), [("timed_out", 1_000_000), ("stopped", 1_000_000),
                                            ("nvt", 1001)])
def test_run_that_ended_early_gives_no_result(name, step):
    with pytest.raises(OutputError, match=f"of {step}"):
        check_finished(parse_log(log(name)), path=DATA, last_step=step)


def test_minimisation_that_ran_out_of_iterations_gives_no_result():
    with pytest.raises(OutputError, match="stopped by 'max iterations'"):
        check_finished(parse_log(log("max_iterations")), path=DATA, ftol=1.0)


@pytest.mark.parametrize(("force", "good"), [(5e-5, True), (2e-4, False)])
def test_line_search_may_end_in_rounding_only(force, good):
    text = log("minimize_cell").replace("= force tolerance", "= linesearch alpha is zero")
    parsed = parse_log(text)
    parsed.runs[-1].rows[-1][parsed.runs[-1].columns.index("fmax")] = force

    if good:
        assert check_finished(parsed, path=DATA, ftol=1e-6).last("fmax") == force
    else:
        with pytest.raises(OutputError, match="linesearch alpha is zero"):
            check_finished(parsed, path=DATA, ftol=1e-6)


def test_lost_atoms_that_lammps_was_told_to_ignore_are_noticed():
    parsed = parse_log(log("nvt"))
    parsed.runs[0].rows[-1][parsed.runs[0].columns.index("atoms")] = 3.0

    with pytest.raises(OutputError, match="atoms were lost"):
        check_finished(parsed, path=DATA)


@pytest.mark.parametrize("name", ["nvt", "minimize_cell"])
def test_log_cut_anywhere_gives_no_result(name):
    text = log(name)
    end = text.index("Total wall time")
    for cut in range(0, end, 97):
        with pytest.raises(OutputError):
            check_finished(parse_log(text[:cut]), path=DATA, ftol=1.0)


def test_warning_inside_the_table_is_no_row():
    text = """Step Temp
       0   300
WARNING: odd (src/x.cpp:1)
      10   301
Loop time of 1 on 1 procs for 10 steps with 4 atoms
Total wall time: 0:00:00
"""

    parsed = parse_log(text)

    assert check_finished(parsed, path=DATA).rows == [[0, 300], [10, 301]]
    assert parsed.warnings == ["odd (src/x.cpp:1)"]


@pytest.mark.parametrize("cut", [4, 10])
def test_time_runs_on_after_a_restart(cut):
    """LAMMPS counts time from 0 again when it reads a restart file."""
    parsed = parse_log(log("nvt"))
    run = parsed.runs[0]
    at = run.columns.index("time")
    for row in run.rows[cut:]:
        row[at] -= 0.05 + 0.1 * (cut - 1)

    columns = thermo_columns(parsed)

    assert np.allclose(columns["time"], 0.001 * columns["step"])


def test_missing_log_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"log\.lammps can't be read"):
        read_log(tmp_path / "log.lammps")


def test_dump_of_a_tilted_box_gives_its_vectors():
    path = DATA / "nvt" / "trajectory.dump"

    frames = read_dump(path)

    assert [f.step for f in frames] == [0, 500, 1000]
    # "triclinic box = ... with tilt ..." in the log of the same run, to its seven digits.
    assert np.allclose(frames[0].box, [[7.6805939, 0, 0], [1.9201485, 3.3257947, 0],
                                       [1.9201485, 1.1085982, 3.1355893]], atol=1e-7)
    assert np.allclose(frames[0].origin, 0, atol=1e-12)
    assert frames[0].vectors("fx", "fy", "fz").shape == (4, 3)
    assert list(frames[0].columns["id"]) == [1, 2, 3, 4]


def test_dump_with_negative_tilts_gives_its_vectors():
    text = ("ITEM: TIMESTEP\n5\nITEM: NUMBER OF ATOMS\n1\n"
            "ITEM: BOX BOUNDS xy xz yz pp pp pp\n-1.5 4.5 -1.0\n-0.2 3.0 -0.5\n0.5 2.5 -0.2\n"
            "ITEM: ATOMS id element xu yu zu\n1 Si 0 0 0\n")

    (frame,) = parse_dump(text, DATA)

    # xlo_bound = xlo + min(0, xy, xz, xy+xz): here xlo = 0, xhi = 4.5, ylo = 0, zlo = 0.5.
    assert np.allclose(frame.origin, [0, 0, 0.5])
    assert np.allclose(frame.box, [[4.5, 0, 0], [-1, 3, 0], [-0.5, -0.2, 2]])


def test_atoms_in_any_order_are_sorted_by_id():
    path = DATA / "nvt" / "final.dump"
    lines = path.read_text().splitlines()
    shuffled = "\n".join([*lines[:9], *reversed(lines[9:])]) + "\n"

    (one,), (two,) = parse_dump(path.read_text(), path), parse_dump(shuffled, path)

    assert np.array_equal(one.vectors("xu", "yu", "zu"), two.vectors("xu", "yu", "zu"))


def test_dump_cut_anywhere_gives_no_result():
    text = (DATA / "nvt" / "final.dump").read_text()
    for cut in range(0, len(text), 7):
        with pytest.raises(OutputError):
            parse_dump(text[:cut], DATA)


def test_dump_with_nan_gives_no_result():
    text = (DATA / "nvt" / "final.dump").read_text().replace("-0.", "nan 0.", 1)

    with pytest.raises(OutputError, match="not complete"):
        parse_dump(text, DATA)


def test_pressure_tensor_is_symmetric():
    row = dict(zip(("pxx", "pyy", "pzz", "pxy", "pxz", "pyz"), range(1, 7), strict=True))

    assert pressure_tensor(row).tolist() == [[1, 4, 5], [4, 2, 6], [5, 6, 3]]


def test_error_of_the_mean_counts_correlation():
    """AR(1) series: the standard error is sqrt((1+a)/(1-a)) times that of white noise."""
    generator = np.random.default_rng(7)
    a, n = 0.9, 2**16
    noise = generator.normal(size=n)
    series = np.empty(n)
    series[0] = noise[0]
    for i in range(1, n):
        series[i] = a * series[i - 1] + noise[i]
    expected = np.sqrt((1 + a) / (1 - a) / n / (1 - a**2))

    mean, error = mean_and_error(series)

    # The largest of a few noisy estimates: never far below, at most some tens of percent above.
    assert 0.9 * expected < error < 1.8 * expected
    assert abs(mean) < 4 * expected
    assert mean_and_error(np.ones(100)) == (1, 0)
