"""Inputs in every style are read as pw.x reads them, and edited without touching anything else."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest

from orionflow.errors import InputError
from orionflow.launchers.qe_geometry import read_geometry
from orionflow.launchers.qe_input import edit_input, parse_input, read_input, replace_card

STYLES = {
    "one line": "&control calculation='scf', prefix='x' /\n"
                "&system ibrav=1, celldm(1)=10.d0, nat=1, ntyp=1, ecutwfc=20 /\n"
                "&electrons electron_maxstep=4/\n",
    "capitals": "&CONTROL\n CALCULATION = 'scf' ! what, for whom\n/\n&SYSTEM\n IBRAV=1\n"
                " CELLDM(1)=1.0D1\n NAT=1,\n NTYP=1\n ECUTWFC=20.0D0\n/\n"
                "&ELECTRONS\n ELECTRON_MAXSTEP = 4 ! few\n/\n",
    "old ends": "&control\n calculation='scf'\n&end\n&system\n ibrav=1, a=5.29, nat=1, ntyp=1,"
                " ecutwfc=20\n&end\n&electrons\n electron_maxstep=4\n&end\n",
    "slashes": "&control\n outdir='./a/b/' ! here / there\n pseudo_dir=\"/usr/p\"\n/\n"
               "&system ibrav=1, celldm(1)=10, nat=1, ntyp=1, ecutwfc=20/\n"
               "&electrons\n electron_maxstep=4\n/\n",
}
CARDS = """! cards follow
ATOMIC_SPECIES
 H 1.0 H.UPF   # light
ATOMIC_POSITIONS {crystal}
 H 1/4 0.0d0 0 1 1 0
K_POINTS (automatic)
 1 1 1 0 0 0
"""


@pytest.fixture
def write(tmp_path):
    def make(text):
        path = tmp_path / "pw.in"
        path.write_text(text)
        return path

    return make


@pytest.mark.parametrize("style", STYLES)
def test_styles_are_read(write, style):
    found = read_input(write(STYLES[style] + CARDS))
    assert found.calculation == "scf"
    assert found.number("electrons", "electron_maxstep", 0) == 4
    assert found.number("system", "ecutwfc", 0) == 20
    assert found.cards["ATOMIC_POSITIONS"].option == "crystal"
    assert found.cards["ATOMIC_SPECIES"].lines == ("H 1.0 H.UPF",)
    assert found.cards["K_POINTS"].option == "automatic"


@pytest.mark.parametrize("style", STYLES)
def test_edit_changes_what_was_asked_and_nothing_else(write, style):
    path = write(STYLES[style] + CARDS)
    before = read_input(path)
    lines = edit_input(path, {"electrons": {"electron_maxstep": 60, "mixing_beta": 0.3},
                              "control": {"restart_mode": "restart"}})
    assert lines == ["electron_maxstep: 4 -> 60", "mixing_beta: (default) -> 0.3",
                     "restart_mode: (default) -> restart"]
    after = read_input(path)
    assert after.number("electrons", "electron_maxstep", 0) == 60
    assert after.get("control", "restart_mode") == "restart"
    assert after.namelists["system"] == before.namelists["system"]
    assert path.read_text().endswith(CARDS)
    assert ("few" in path.read_text()) == ("few" in before.text)


def test_namelist_that_is_missing_is_put_in_order(write):
    path = write(STYLES["capitals"] + CARDS)
    edit_input(path, {"cell": {"cell_factor": 3.0}, "ions": {"trust_radius_min": 1e-4}})
    names = list(read_input(path).namelists)
    assert names == ["control", "system", "electrons", "ions", "cell"]


def test_value_that_is_right_already_is_no_change(write):
    path = write(STYLES["capitals"] + CARDS)
    text = path.read_text()
    assert edit_input(path, {"electrons": {"electron_maxstep": 4}}) == []
    assert path.read_text() == text


@pytest.mark.parametrize(("group", "key", "value"), [
    ("system", "ecutwfc", 40.0), ("system", "nat", 2), ("system", "input_dft", "pbe"),
    ("system", "celldm", 9.0), ("ions", "upscale_not", 1), ("control", "forc_conv_thr", 1.0),
    ("electrons", "conv_thr", 1e-3), ("control", "nstep", 100), ("cell", "press_conv_thr", 5.0),
])
def test_what_belongs_to_the_user_is_never_changed(write, group, key, value):
    path = write(STYLES["capitals"] + CARDS)
    text = path.read_text()
    with pytest.raises(PermissionError, match=key):
        edit_input(path, {group: {key: value}})
    assert path.read_text() == text


def test_threshold_may_become_tighter(write):
    path = write(STYLES["capitals"] + CARDS)
    assert edit_input(path, {"electrons": {"conv_thr": 1e-9}}) == [
        "conv_thr: (default) -> 1e-09"]


def test_card_is_replaced_in_place(write):
    path = write(STYLES["capitals"] + CARDS)
    replace_card(path, "K_POINTS", "automatic", ["  2 2 2 0 0 0"])
    found = read_input(path)
    assert found.cards["K_POINTS"].lines == ("2 2 2 0 0 0",)
    assert found.cards["ATOMIC_POSITIONS"].lines == ("H 1/4 0.0d0 0 1 1 0",)


def test_missing_input_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.in"):
        read_input(tmp_path / "none.in")


def geometry(tmp_path, system, cards):
    text = f"&control\n/\n&system\n{system}, nat=1, ntyp=1\n/\n&electrons\n/\n{cards}"
    return read_geometry(parse_input(text, tmp_path / "pw.in"))


@pytest.mark.needs_code("pw.x")
@pytest.mark.parametrize("ibrav", [1, 2, 3, -3, 4, 5, -5, 6, 7, 8, 9, -9, 91, 10, 11, 12, -12, 13,
                                   -13, 14])
def test_bravais_lattices_are_those_of_the_code(inputs, ibrav):
    path = inputs.silicon(a="7.0", system="nosym = .true.", ecut="4.0", kpoints="gamma")
    extra = {3: 1.4 if ibrav not in {1, 2, 3, -3, 5, -5} else 0,
             2: 1.2 if abs(ibrav) >= 8 else 0, 4: 0.2 if ibrav in {5, -5, 12, 13, 14} else 0,
             5: 0.1 if ibrav in {-12, -13, 14} else 0, 6: 0.3 if ibrav == 14 else 0}
    more = "".join(f", celldm({k}) = {v}" for k, v in extra.items() if v)
    path.write_text(path.read_text().replace("ibrav = 2,", f"ibrav = {ibrav}{more},"))
    (inputs.folder / "si.EXIT").touch()  # stop after the first page
    text = subprocess.run(["pw.x", "-in", "pw.in"], cwd=inputs.folder, capture_output=True,
                          text=True, check=False).stdout
    axes = re.findall(r"a\(\d\) = \( +(\S+) +(\S+) +(\S+) +\)", text)
    expected = np.array(axes, dtype=float) * 7.0 * 0.529177210903
    assert expected.shape == (3, 3)
    # The axes are printed with six digits.
    assert read_geometry(read_input(path)).cell == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize(("unit", "x"), [
    ("alat", "0.25"), ("bohr", "2.5"), ("angstrom", "1.3229430272575"), ("crystal", "1/4")])
def test_units_of_positions_agree(tmp_path, unit, x):
    found = geometry(tmp_path, "ibrav=1, celldm(1)=10", f"ATOMIC_POSITIONS {unit}\n H {x} 0 0\n")
    assert found.positions[0] == pytest.approx([1.3229430272575, 0, 0], abs=1e-9)


@pytest.mark.parametrize(("unit", "length"), [("bohr", "10"), ("angstrom", "5.29177210903")])
def test_units_of_cell_agree(tmp_path, unit, length):
    cards = (f"CELL_PARAMETERS {unit}\n {length} 0 0\n 0 {length} 0\n 0 0 {length}\n"
             "ATOMIC_POSITIONS crystal\n H 0 0 0\n")
    found = geometry(tmp_path, "ibrav=0", cards)
    assert found.cell == pytest.approx(np.eye(3) * 5.29177210903, abs=1e-9)


def test_nearest_neighbour_is_found_across_the_cell(tmp_path):
    found = geometry(tmp_path, "ibrav=1, a=4.0", "ATOMIC_POSITIONS angstrom\n H 0.1 0 0\n")
    assert found.nearest()[0] == pytest.approx(4.0)
    text = "&system\nibrav=1, a=4.0, nat=2\n/\nATOMIC_POSITIONS angstrom\n H 0.1 0 0\n H 3.9 0 0\n"
    assert read_geometry(parse_input(text, tmp_path)).nearest()[0] == pytest.approx(0.2)
    assert read_geometry(parse_input(text, tmp_path)).widest_gap() == pytest.approx(4.0)
