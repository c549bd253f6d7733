"""LAMMPS input as text: one command a line, so that corrections can edit it by command.

Every input carries what error correction needs: flushed thermo output with all six stress
components, restart files while atoms move, and a stop switch (touch ``STOP`` in the folder). The
wall time limit (`timer timeout`) is added where the run starts, because only there it is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orionflow.workflows.lammps.frame import FloatArray, Frame
    from orionflow.workflows.lammps.potentials import ResolvedForceField

INPUT = "in.lammps"
DATA = "data.lammps"
LOG = "log.lammps"
FINAL = "final.dump"
TRAJECTORY = "trajectory.dump"
RESTARTS = ("restart.a", "restart.b")
FINAL_RESTART = "final.restart"
INITIAL_RESTART = "initial.restart"
STOP = "STOP"

THERMO = ("step", "time", "temp", "pe", "ke", "etotal", "press", "vol", "lx", "ly", "lz",
          "xy", "xz", "yz", "pxx", "pyy", "pzz", "pxy", "pxz", "pyz", "atoms")
# Fifteen digits: energies of large cells differ in the tenth, and restarts are compared.
_FLOAT = "%20.15g"
_NEVER = 1_000_000_000


def data_file(frame: Frame, positions: FloatArray, species: Sequence[str],
              force_field: ResolvedForceField, masses: Mapping[str, float],
              *, triclinic: bool, title: str) -> str:
    """Return a LAMMPS data file.

    Parameters
    ----------
    frame
        The box.
    positions
        Cartesian positions in the structure's own frame, shape (n, 3), Å.
    species
        Element of each atom, in the same order; atom ids count from 1 in this order.
    force_field
        Gives types and charges.
    masses
        Mass of each element, g/mol.
    triclinic
        Write the tilts even when they are zero, for cells that may shear.
    title
        First line.
    """
    number = {element: i for i, element in enumerate(force_field.types, start=1)}
    charges = force_field.field.charges
    lx, ly, lz = (float(frame.box[i, i]) for i in range(3))
    lines = [
        f"{title}", "", f"{len(species)} atoms", f"{len(force_field.types)} atom types", "",
        f"0.0 {lx!r} xlo xhi", f"0.0 {ly!r} ylo yhi", f"0.0 {lz!r} zlo zhi",
    ]
    if triclinic:
        xy, xz, yz = (float(frame.box[i, j]) for i, j in ((1, 0), (2, 0), (2, 1)))
        lines.append(f"{xy!r} {xz!r} {yz!r} xy xz yz")
    lines += ["", "Masses", ""]
    lines += [f"{number[e]} {masses[e]!r}  # {e}" for e in force_field.types]
    lines += ["", f"Atoms  # {'charge' if charges else 'atomic'}", ""]
    for i, (element, (x, y, z)) in enumerate(
            zip(species, frame.to_lammps(positions).tolist(), strict=True), start=1):
        charge = f"{float(charges[element])!r} " if charges else ""
        lines.append(f"{i} {number[element]} {charge}{x!r} {y!r} {z!r}")
    return "\n".join(lines) + "\n"


def setup_lines(force_field: ResolvedForceField, *, triclinic: bool,
                restart: bool = False) -> list[str]:
    """Return the commands from `units` to the force field.

    Parameters
    ----------
    force_field
        With its lines for the types of this run.
    triclinic
        The box is tilted or may become so.
    restart
        Start from the restart file of an earlier run, not from the data file.
    """
    field = force_field.field
    lines = ["units metal", f"atom_style {'charge' if field.charges else 'atomic'}",
             "boundary p p p"]
    if triclinic:
        # A tilt of exactly half an edge (fcc, hexagonal) is "too large" by the last digit.
        lines.append("box tilt large")
    lines.append(f"read_restart {INITIAL_RESTART}" if restart else f"read_data {DATA}")
    lines.append(f"pair_style {field.pair_style}")
    lines += [f"pair_coeff {line}" for line in force_field.pair_coeff]
    lines += field.commands
    lines.append("neigh_modify every 1 delay 0 check yes")
    return lines


def thermo_lines(every: int, extra: Sequence[str] = ()) -> list[str]:
    """Return the commands for the table in the log, flushed so that a killed run keeps it."""
    return [
        f"thermo_style custom {' '.join((*THERMO, *extra))}",
        f"thermo_modify flush yes format float {_FLOAT}",
        f"thermo {every}",
    ]


def stop_lines(every: int) -> list[str]:
    """Return the stop switch: a file ``STOP`` ends the run, later commands still work."""
    return [f"variable stop equal is_file({STOP})",
            f"fix stop all halt {every} v_stop > 0.5 error continue"]


def dump_lines(every: int, types: Sequence[str], *, velocities: bool) -> list[str]:
    """Return the trajectory dump; none with ``every`` 0."""
    return _dump("traj", every, TRAJECTORY, types, velocities=velocities) if every else []


def final_lines(last_step: int, types: Sequence[str], *, velocities: bool) -> list[str]:
    """Return the dump of the last step, from which structure and forces are read.

    A dump, not `write_dump` after the run: in parallel another command between the two
    (`write_restart`) moves atoms between processes without their forces.

    Parameters
    ----------
    last_step
        Its first multiple is the last step of a run. A minimisation, whose end nobody knows,
        dumps its last step anyway.
    """
    return _dump("final", last_step, FINAL, types, velocities=velocities)


def _dump(name: str, every: int, file: str, types: Sequence[str], *,
          velocities: bool) -> list[str]:
    return [
        f"dump {name} all custom {every} {file} {_columns(velocities=velocities)}",
        f"dump_modify {name} sort id element {' '.join(types)} format float {_FLOAT} flush yes",
    ]


def _columns(*, velocities: bool) -> str:
    # Unwrapped coordinates: diffusion needs them, and sites stay where they were given.
    return "id type element xu yu zu " + ("vx vy vz " if velocities else "") + "fx fy fz"


def static_input(force_field: ResolvedForceField, *, triclinic: bool) -> str:
    """Return the input of one energy, force and stress evaluation."""
    return _text([
        *setup_lines(force_field, triclinic=triclinic),
        *thermo_lines(1),
        *final_lines(1, force_field.types, velocities=False),
        "run 0",
    ])


def minimize_input(force_field: ResolvedForceField, *, triclinic: bool, min_style: str,
                   etol: float, ftol: float, maxiter: int, maxeval: int, box_relax: str | None,
                   dump_every: int) -> str:
    """Return the input of a minimisation.

    Parameters
    ----------
    force_field, triclinic
        As for the other inputs.
    min_style, etol, ftol, maxiter, maxeval
        As in LAMMPS; ``ftol`` (eV/Å) is compared with the largest force on an atom.
    box_relax
        Arguments of `fix box/relax`, or None for a fixed cell.
    dump_every
        Steps between frames of the trajectory; 0 for none.
    """
    minimize = f"minimize {etol!r} {ftol!r} {maxiter} {maxeval}"
    lines = [*setup_lines(force_field, triclinic=triclinic)]
    if box_relax:
        lines.append(f"fix relax all box/relax {box_relax}")
    lines += [
        *stop_lines(10),
        *thermo_lines(10, ("fmax", "fnorm")),
        *dump_lines(dump_every, force_field.types, velocities=False),
        *final_lines(_NEVER, force_field.types, velocities=False),
        f"min_style {min_style}",
        # The largest force on an atom, so that the tolerance means the same in any cell size.
        "min_modify norm max",
    ]
    # The work of the pressure is taken relative to the cell at the start of each minimisation:
    # a second round makes it relative to the relaxed one.
    lines += [minimize] * (2 if box_relax else 1)
    return _text(lines)


def dynamics_input(force_field: ResolvedForceField, *, triclinic: bool, timestep: float,
                   nsteps: int, integrator: Sequence[str], velocity: str | None,
                   first_step: int | None, thermo_every: int, dump_every: int,
                   restart_every: int) -> str:
    """Return the input of a molecular dynamics run.

    Parameters
    ----------
    force_field, triclinic
        As for the other inputs.
    timestep
        ps.
    nsteps
        Steps of this run.
    integrator
        Commands that move the atoms (`fix md ...`).
    velocity
        Arguments of `velocity all create`, or None to keep what there is.
    first_step
        Step of the restart file this run goes on from, or None for a fresh start.
    thermo_every, dump_every, restart_every
        Steps between lines of the table, frames of the trajectory (0: none), restart files.
    """
    lines = setup_lines(force_field, triclinic=triclinic, restart=first_step is not None)
    if velocity:
        lines.append(f"velocity all create {velocity}")
    last_step = (first_step or 0) + nsteps
    run = f"run {nsteps}" if first_step is None else f"run {last_step} upto"
    return _text([
        *lines,
        f"timestep {timestep!r}",
        *integrator,
        *stop_lines(min(100, thermo_every)),
        *thermo_lines(thermo_every),
        *dump_lines(dump_every, force_field.types, velocities=True),
        *final_lines(last_step, force_field.types, velocities=True),
        f"restart {restart_every} {' '.join(RESTARTS)}",
        run,
        f"write_restart {FINAL_RESTART}",
    ])


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
