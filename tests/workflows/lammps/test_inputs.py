from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from orionflow.errors import InputError
from orionflow.workflows.lammps import inputs
from orionflow.workflows.lammps.core import (
    MinimizeMaker,
    NptMaker,
    NveMaker,
    NvtMaker,
    StaticMaker,
)
from orionflow.workflows.lammps.frame import Frame
from orionflow.workflows.lammps.potentials import ForceField, resolve

ARGON = ForceField("lj/cut 8.5", ("1 1 0.0104 3.40",), elements=("Ar",))
SALT = ForceField("coul/cut 8", ("* *",), elements=("Na", "Cl"), charges={"Na": 1, "Cl": -1})


def commands(maker, *, triclinic: bool = False, first_step: int | None = None) -> list[str]:
    resolved = resolve(ARGON, ["Ar"], maker)
    return maker.input_text(resolved, triclinic=triclinic, first_step=first_step).splitlines()


DYNAMICS = [NveMaker(force_field=ARGON), NvtMaker(force_field=ARGON),
            NvtMaker(force_field=ARGON, thermostat="langevin"), NptMaker(force_field=ARGON)]
ALL = [StaticMaker(force_field=ARGON), MinimizeMaker(force_field=ARGON),
       MinimizeMaker(force_field=ARGON, relax_cell=True), *DYNAMICS]


@pytest.mark.parametrize("maker", ALL, ids=lambda m: m.name)
def test_every_input_carries_what_error_correction_needs(maker):
    lines = commands(maker)

    assert "thermo_modify flush yes format float %20.15g" in lines
    thermo = next(line for line in lines if line.startswith("thermo_style custom "))
    assert {"pe", "ke", "etotal", "vol", "press", "temp", "pxx", "pyy", "pzz", "pxy", "pxz", "pyz",
            "atoms"} <= set(thermo.split())
    final = next(line for line in lines if line.startswith("dump final"))
    assert " element xu yu zu " in final
    assert "dump_modify final sort id element Ar format float %20.15g flush yes" in lines
    assert not any(line.startswith("write_dump") for line in lines), "loses forces in parallel"
    assert not any("&" in line or "$" in line for line in lines), "one plain command a line"


@pytest.mark.parametrize("maker", DYNAMICS, ids=lambda m: m.integrator()[-1])
def test_dynamics_can_be_stopped_and_continued(maker):
    lines = commands(maker)

    assert "restart 1000 restart.a restart.b" in lines
    assert lines.index("run 10000") < lines.index("write_restart final.restart")
    stop = lines.index("variable stop equal is_file(STOP)")
    assert lines[stop + 1] == "fix stop all halt 100 v_stop > 0.5 error continue"
    assert "velocity all create 300.0 12345 mom yes rot no dist gaussian" in lines


@pytest.mark.parametrize("maker", DYNAMICS, ids=lambda m: m.integrator()[-1])
def test_continued_dynamics_keeps_its_velocities(maker):
    lines = commands(maker, first_step=700)

    assert "read_restart initial.restart" in lines
    assert "run 10700 upto" in lines
    assert not any(line.startswith(("velocity", "read_data")) for line in lines)


def test_tilted_box_may_be_tilted_by_half_an_edge():
    assert "box tilt large" in commands(StaticMaker(force_field=ARGON), triclinic=True)
    assert "box tilt large" not in commands(StaticMaker(force_field=ARGON))


@pytest.mark.parametrize(("maker", "expected"), [
    (NvtMaker(force_field=ARGON, temperature=10, temperature_stop=90, timestep=0.002),
     ["fix md all nvt temp 10.0 90.0 0.2"]),
    (NvtMaker(force_field=ARGON, thermostat="langevin", seed=7, tdamp=0.5),
     ["fix md all nve", "fix bath all langevin 300.0 300.0 0.5 8 zero yes"]),
    (NptMaker(force_field=ARGON, pressure=5, pdamp=2, couple="tri"),
     ["fix md all npt temp 300.0 300.0 0.1 tri 5.0 5.0 2"]),
])
def test_parameters_arrive_in_the_integrator(maker, expected):
    lines = commands(maker)
    start = next(i for i, line in enumerate(lines) if line.startswith("fix md"))

    assert lines[start : start + len(expected)] == expected


def test_cell_is_relaxed_in_two_rounds():
    lines = commands(MinimizeMaker(force_field=ARGON, relax_cell=True, couple="iso", pressure=10))

    assert "fix relax all box/relax iso 10 vmax 0.001" in lines
    assert lines.count("minimize 0.0 1e-06 10000 100000") == 2


@pytest.mark.parametrize(("maker", "fields", "message"), [
    (NvtMaker, {"nsteps": 0}, "nsteps = 0 must be greater"),
    (NvtMaker, {"timestep": -1}, "timestep = -1 must be greater"),
    (NvtMaker, {"temperature": 0}, "temperature = 0 must be greater"),
    (NvtMaker, {"tdamp": 0}, "tdamp = 0 must be greater"),
    (NvtMaker, {"nsteps": 10**10}, "nsteps = 10000000000 is too large"),
    (NvtMaker, {"seed": 10**9}, "seed = 1000000000 is too large"),
    (NvtMaker, {"dump_every": -1}, "dump_every = -1 must not be negative"),
    (NvtMaker, {"thermostat": "nose"}, "thermostat = 'nose' is not known"),
    (NvtMaker, {"nsteps": float("nan")}, "nsteps = nan must be greater"),
    (NptMaker, {"couple": "xyz"}, "couple = 'xyz' is not known"),
    (NveMaker, {"continue_previous": True, "initial_temperature": 5}, "keeps its velocities"),
    (MinimizeMaker, {"pressure": 5}, "the cell is fixed"),
    (MinimizeMaker, {"relax_cell": True, "min_style": "fire"}, "can't relax the cell"),
    (MinimizeMaker, {"ftol": 0}, "ftol = 0 must be greater"),
])
def test_impossible_value_is_refused_at_once(maker, fields, message):
    with pytest.raises(InputError, match=message):
        maker(force_field=ARGON, **fields)


def test_data_file_keeps_the_order_of_the_sites():
    structure = Structure(Lattice.cubic(5.6), ["Cl", "Na", "Cl"],
                          [[0, 0, 0], [0.5, 0, 0], [0.5, 0.5, 1.25]])
    resolved = resolve(SALT, ["Cl", "Na"], None)
    text = inputs.data_file(
        Frame.of(structure.lattice.matrix), structure.cart_coords, ["Cl", "Na", "Cl"], resolved,
        {"Na": 22.99, "Cl": 35.45}, triclinic=False, title="NaCl")

    lines = text.splitlines()
    assert "2 atom types" in lines
    assert lines[lines.index("Masses") + 2 :][:2] == ["1 22.99  # Na", "2 35.45  # Cl"]
    atoms = [line.split() for line in lines[lines.index("Atoms  # charge") + 2 :]]
    assert [(a[0], a[1], float(a[2])) for a in atoms] == [("1", "2", -1), ("2", "1", 1),
                                                          ("3", "2", -1)]
    positions = np.array([[float(x) for x in a[3:]] for a in atoms])
    assert np.allclose(positions, structure.cart_coords, rtol=0, atol=1e-14)
    assert "xy xz yz" not in text


def test_cell_that_may_shear_gets_tilts():
    resolved = resolve(ARGON, ["Ar"], None)
    text = inputs.data_file(Frame.of(np.eye(3) * 5), np.zeros((1, 3)), ["Ar"], resolved,
                            {"Ar": 39.9}, triclinic=True, title="Ar")

    assert "0.0 0.0 0.0 xy xz yz" in text.splitlines()
