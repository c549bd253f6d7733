"""Documents of LAMMPS runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from orionflow.workflows.schemas.arrays import PackedArray, StoredObject
from orionflow.workflows.schemas.base import BlobReference, TaskDocument

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

Ensemble = Literal["static", "minimize", "nve", "nvt", "npt"]


class ForceFieldDocument(BaseModel):
    """The interaction a run used, as written to its input.

    Attributes
    ----------
    types
        Element of each atom type, in type order.
    """

    name: str
    pair_style: str
    pair_coeff: list[str]
    commands: list[str] = Field(default_factory=list)
    types: list[str]
    doi: str | None = None
    reference: str | None = None


class Average(BaseModel):
    """Mean of a fluctuating quantity with its statistical error.

    Attributes
    ----------
    error
        Standard error of the mean, correlation in time included (blocking: Flyvbjerg and Petersen,
        J. Chem. Phys. 91, 461 (1989), doi:10.1063/1.457480).
    samples
        Values averaged.
    """

    mean: float
    error: float
    samples: int


class Minimization(BaseModel):
    """How a minimisation ended.

    Attributes
    ----------
    criterion
        LAMMPS's own words, such as ``force tolerance``.
    max_force
        Largest force on an atom, eV/Å.
    """

    criterion: str
    iterations: int
    evaluations: int
    max_force: float


class ThermoTable(StoredObject):
    """The table of the log: one array for each `thermo_style` keyword, in metal units.

    ``step``, ``time`` ps, ``temp`` K, ``pe ke etotal`` eV, ``press pxx ...`` bar, ``vol`` Å³,
    ``lx ... yz`` Å. Tensor components are in the frame of the LAMMPS box.
    """

    columns: dict[str, PackedArray]

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column, shape (rows,)."""
        return self.columns[name]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values()), ()))


class Trajectory(StoredObject):
    """Frames of a run, in the frame and site order of the input structure.

    Attributes
    ----------
    species
        Element of each site.
    steps
        Shape (frames,).
    times
        ps, shape (frames,).
    cells
        Rows are the cell vectors, Å, shape (frames, 3, 3).
    positions
        Cartesian and unwrapped: they go on across the boundary. Å, shape (frames, sites, 3).
    velocities
        Å/ps, shape (frames, sites, 3), or None.
    forces
        eV/Å, shape (frames, sites, 3), or None.
    """

    species: list[str]
    steps: PackedArray
    times: PackedArray
    cells: PackedArray
    positions: PackedArray
    velocities: PackedArray | None = None
    forces: PackedArray | None = None

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.steps)

    def structure(self, frame: int = -1) -> Structure:
        """Return one frame as a pymatgen Structure."""
        from pymatgen.core import Structure

        return Structure(np.asarray(self.cells[frame]), self.species,
                         np.asarray(self.positions[frame]), coords_are_cartesian=True)


class LammpsDocument(TaskDocument):
    """Result of one LAMMPS run.

    `output` holds the last step: potential energy, forces, and stress (with the kinetic part in
    dynamics). `averages` are over the second half of a dynamics run; keys as in `thermo`, bar for
    pressures. `thermo` and `trajectory` lie in the additional store ``data``: each is a
    `BlobReference` unless read with ``load=True``.
    """

    code: str = "lmp"
    ensemble: Ensemble
    force_field: ForceFieldDocument
    seed: int | None = Field(default=None, description="Of the initial velocities (and Langevin).")
    steps: int = Field(description="Steps done by this run; more than asked for "
                       "where a correction made the time step smaller.")
    time: float | None = Field(default=None, description="Simulated time of this run, ps.")
    minimization: Minimization | None = None
    averages: dict[str, Average] | None = None
    restart_file: str | None = Field(default=None, description="Name in `dir_name`.")
    thermo: ThermoTable | BlobReference | None = None
    trajectory: Trajectory | BlobReference | None = None
