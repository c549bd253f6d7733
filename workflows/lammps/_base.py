"""One LAMMPS run: what all Makers share, from a structure to a document."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import CURRENT_JOB
from pymatgen.core import Element, Structure

from orionflow.errors import InputError, OutputError
from orionflow.units import BAR_KBAR
from orionflow.workflows.lammps import inputs, outputs
from orionflow.workflows.lammps.frame import Frame
from orionflow.workflows.structures import structure_hash

if TYPE_CHECKING:
    from orionflow.launchers.record import RunRecord
    from orionflow.workflows.lammps.core import LammpsMaker
    from orionflow.workflows.lammps.outputs import RunTable
    from orionflow.workflows.lammps.potentials import ResolvedForceField
    from orionflow.workflows.schemas.lammps import (
        Average,
        LammpsDocument,
        Minimization,
        Trajectory,
    )

# Positions of a structure that went through a JSON document and back.
_SAME = 1e-4
_AVERAGED = ("temp", "pe", "ke", "etotal", "press", "vol")
# "No fixes defined, atoms won't move": in a static run they shall not.
_EXPECTED = ("No fixes",)


@dataclass(frozen=True)
class Setup:
    """What a run begins with.

    Attributes
    ----------
    first_step
        Step of the restart file it goes on from; None for a fresh start.
    """

    folder: Path
    structure: Structure
    frame: Frame
    force_field: ResolvedForceField
    first_step: int | None


def symbols(structure: Structure) -> list[str]:
    """Return the element of each site, oxidation states left out."""
    return [site.specie.symbol for site in structure]


def folder_of(prev_dir: str | Path) -> Path:
    """Return the folder in a `dir_name` (``host:/path``)."""
    text = str(prev_dir)
    host, sep, path = text.partition(":")
    return Path(path if sep and "/" not in host else text)


def run(maker: LammpsMaker, structure: Structure, prev_dir: str | Path | None,
        sha256: dict[str, str] | None) -> LammpsDocument:
    """Run LAMMPS in the current folder and return its document.

    Parameters
    ----------
    maker
        The recipe.
    structure
        Where to start.
    prev_dir
        Folder of the run to go on from; ignored unless the recipe says so.
    sha256
        Hashes of the potential files at submission.

    Raises
    ------
    InputError
        Nothing was run.
    CodeError
        LAMMPS failed and corrections did not help.
    OutputError
        It ended, but not as asked.
    """
    from orionflow.launchers.lammps import run_lammps

    folder = Path.cwd()
    found = maker.check(structure)
    for name, wanted in (sha256 or {}).items():
        if found.get(name) != wanted:
            raise InputError(f"potential file {name!r} is not the one there was at submission",
                             hint="restore it, or submit again")
    resolved, frame = maker.resolve(structure), Frame.of(structure.lattice.matrix)
    first_step = None
    if prev_dir is not None and getattr(maker, "continue_previous", False):
        first_step = _take_over(folder_of(prev_dir), folder, structure, frame)
    elif getattr(maker, "continue_previous", False):
        raise InputError("continue_previous is set, but no prev_dir given",
                         hint="pass the dir_name of the run to go on from")
    setup = Setup(folder, structure, frame, resolved, first_step)
    text = _write(maker, setup)
    record = run_lammps(directory=folder, input_file=inputs.INPUT)
    return summarise(maker, setup, record, text)


def _write(maker: LammpsMaker, setup: Setup) -> str:
    """Write data file, input and links to the potential files; return the input's text."""
    structure, resolved = setup.structure, setup.force_field
    triclinic = maker.triclinic(setup.frame)
    text = maker.input_text(resolved, triclinic=triclinic, first_step=setup.first_step)
    masses = {e: float(Element(e).atomic_mass) for e in resolved.types}
    data = inputs.data_file(
        setup.frame, structure.cart_coords, symbols(structure), resolved, masses,
        triclinic=triclinic, title=structure.composition.reduced_formula,
    )
    for path in resolved.files:
        _link(setup.folder / path.name, path)
    (setup.folder / inputs.DATA).write_text(data)
    (setup.folder / inputs.INPUT).write_text(text)
    return text


def _link(link: Path, target: Path) -> None:
    """Make a link; the same one may be there from an earlier launch of this job."""
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target.resolve())


def _take_over(previous: Path, folder: Path, structure: Structure, frame: Frame) -> int:
    """Link the restart file of an earlier run and return its step."""
    restart, final = previous / inputs.FINAL_RESTART, previous / inputs.FINAL
    if not (restart.is_file() and final.is_file()):
        raise InputError(f"{previous} holds no finished dynamics run to go on from",
                         hint=f"it must hold {restart.name} and {final.name}")
    last = outputs.read_dump(final)[-1]
    positions = last.vectors("xu", "yu", "zu")
    same = (
        positions.shape == structure.cart_coords.shape
        and np.allclose(frame.vectors(positions - last.origin), structure.cart_coords, atol=_SAME)
        and np.allclose(frame.cell(last.box), structure.lattice.matrix, atol=_SAME)
    )
    if not same:
        raise InputError(f"the structure is not the final one of {previous}",
                         hint="pass the output.structure of the run whose dir_name is prev_dir")
    _link(folder / inputs.INITIAL_RESTART, restart)
    return last.step


def summarise(maker: LammpsMaker, setup: Setup, record: RunRecord,
              input_text: str) -> LammpsDocument:
    """Return the document of the run in a folder.

    Raises
    ------
    OutputError
        The run did not end as asked.
    """
    from orionflow.workflows.schemas import base, lammps
    from orionflow.workflows.schemas.structure import structure_metadata

    folder, structure, frame = setup.folder, setup.structure, setup.frame
    first_step = setup.first_step or 0
    log = outputs.read_log(folder / inputs.LOG)
    last = maker.judge(log, folder / inputs.LOG, first_step)
    columns = outputs.thermo_columns(log)
    final = _final_frame(folder, int(columns["step"][-1]))
    result = _structure(final, structure, frame, keep_cell=not maker.changes_cell)
    energy = float(columns["pe"][-1])
    pressure = outputs.pressure_tensor({k: float(v[-1]) for k, v in columns.items()})
    current = CURRENT_JOB.job
    uuid = current.uuid if current else None
    force_field = setup.force_field.field
    return lammps.LammpsDocument(
        code_version=log.version,
        task_label=current.name if current else maker.name,
        uuid=uuid,
        tags=list(current.metadata.get("tags", [])) if current else [],
        dir_name=f"{socket.gethostname()}:{folder}",
        input={"parameters": maker.parameters(), "script": input_text},
        structure=result,
        output=base.Output(
            structure=result, energy=energy, energy_per_atom=energy / len(result),
            forces=frame.vectors(final.vectors("fx", "fy", "fz")).tolist(),
            stress=(frame.tensor(pressure) * BAR_KBAR).tolist(),
        ),
        entry=base.computed_entry(result, energy, uuid,
                                  {"code": "lmp", "force_field": force_field.name}),
        warnings=[w for w in log.warnings if not w.startswith(_EXPECTED)],
        provenance=base.Provenance.collect(
            input_text=input_text, run=record, files=setup.force_field.files,
            structure_sha256=structure_hash(structure)),
        ensemble=maker.ensemble,
        force_field=lammps.ForceFieldDocument(
            name=force_field.name, pair_style=force_field.pair_style,
            pair_coeff=list(setup.force_field.pair_coeff), commands=list(force_field.commands),
            types=list(setup.force_field.types), doi=force_field.doi,
            reference=force_field.reference),
        seed=getattr(maker, "seed", None),
        steps=int(columns["step"][-1]) - first_step,
        time=float(columns["time"][-1] - columns["time"][0]) if maker.dynamic else None,
        minimization=_minimization(last),
        averages=_averages(columns) if maker.dynamic else None,
        restart_file=inputs.FINAL_RESTART if maker.dynamic else None,
        thermo=lammps.ThermoTable(columns=columns),
        trajectory=_trajectory(folder, structure, frame, columns),
        **structure_metadata(result),
    )


def _final_frame(folder: Path, step: int) -> outputs.Frame:
    path = folder / inputs.FINAL
    final = outputs.read_dump(path)[-1]
    if final.step != step:
        raise OutputError(f"{path} is of step {final.step}, the log ends at step {step}",
                          path=path, expected=f"step {step}")
    return final


def _structure(final: outputs.Frame, start: Structure, frame: Frame, *,
               keep_cell: bool) -> Structure:
    """Return the structure of a frame: same sites, same order, same choice of cell."""
    positions = final.vectors("xu", "yu", "zu")
    lattice = start.lattice.matrix if keep_cell else frame.cell(final.box)
    return Structure(lattice, start.species, frame.vectors(positions - final.origin),
                     coords_are_cartesian=True, site_properties=start.site_properties)


def _minimization(last: RunTable) -> Minimization | None:
    from orionflow.workflows.schemas import lammps

    if not last.criterion:
        return None
    return lammps.Minimization(criterion=last.criterion, iterations=last.iterations,
                               evaluations=last.evaluations, max_force=last.last("fmax"))


def _averages(columns: dict[str, outputs.FloatArray]) -> dict[str, Average]:
    """Average over the second half of a run; the first is equilibration."""
    from orionflow.workflows.schemas import lammps

    steps = columns["step"]
    half = steps >= (steps[0] + steps[-1]) / 2
    result = {}
    for name in _AVERAGED:
        values = columns[name][half]
        mean, error = outputs.mean_and_error(values)
        result[name] = lammps.Average(mean=mean, error=error, samples=len(values))
    return result


def _trajectory(folder: Path, structure: Structure, frame: Frame,
                columns: dict[str, outputs.FloatArray]) -> Trajectory | None:
    from orionflow.workflows.schemas import lammps

    path = folder / inputs.TRAJECTORY
    if not path.is_file():  # the recipe asked for none
        return None
    frames = outputs.read_dump(path)

    def stack(*names: str) -> Any:
        return frame.vectors(np.array([f.vectors(*names) for f in frames]))

    origins = frame.vectors(np.array([f.origin for f in frames]))[:, None, :]
    numbers = np.array([f.step for f in frames])
    return lammps.Trajectory(
        species=symbols(structure), steps=numbers,
        times=np.interp(numbers, columns["step"], columns["time"]),
        cells=np.array([frame.cell(f.box) for f in frames]),
        positions=stack("xu", "yu", "zu") - origins,
        velocities=stack("vx", "vy", "vz") if "vx" in frames[0].columns else None,
        forces=stack("fx", "fy", "fz"),
    )
