"""The last energy or step of a code that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orionflow.launchers.progress import last_line

if TYPE_CHECKING:
    from pathlib import Path

ROW = "{0:10d} {0}.5 -8.662345678901 0.1\n"
HEADER = "   Step          Temp          E_pair         Press     \n"


def test_last_line_is_the_last_whole_row_of_the_thermo_table(tmp_path: Path) -> None:
    rows = "".join(ROW.format(n) for n in range(5000))  # the header is far behind
    (tmp_path / "log.lammps").write_text(HEADER + rows + "      5000 50")
    assert last_line(tmp_path) == "Step 4999  Temp 4999.5  E_pair -8.66235  Press 0.1"
    (tmp_path / "log.lammps").write_text("Step\n" + rows)
    assert last_line(tmp_path) == "4999 4999.5 -8.662345678901 0.1"


def test_last_line_is_the_last_energy_of_pw(tmp_path: Path) -> None:
    (tmp_path / "pw.out").write_text(
        "     total energy              =     -15.79 Ry\n\n"
        "!    total energy              =     -15.85 Ry\n     number   1  2  3\n")
    assert last_line(tmp_path) == "! total energy = -15.85 Ry"


def test_last_line_of_nothing_is_empty(tmp_path: Path) -> None:
    assert last_line(tmp_path) == ""
    assert last_line(tmp_path / "gone") == ""
    (tmp_path / "log.lammps").write_text("LAMMPS (23 Jun 2022)\n")
    assert last_line(tmp_path) == ""
