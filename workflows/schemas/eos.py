"""Document of an equation of state."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field
from pymatgen.core import Structure  # noqa: TC002  pydantic reads it at run time

SCHEMA_VERSION = 1


class EosDocument(BaseModel):
    """Energy against volume with its Birch-Murnaghan fit; the points are kept to be plotted.

    Attributes
    ----------
    volumes, energies
        The points, in order of volume: Å³ and eV, both of the cell that was strained.
    dir_names
        Folder of the run behind each point.
    relax_dir_name
        Folder of the relaxation before the points, if there was one.
    v0, e0
        Volume (Å³) and energy (eV) of the same cell at the minimum.
    b0
        Bulk modulus, GPa.
    b0_prime
        Its pressure derivative.
    rms
        Root mean square of the residuals of the fit, eV.
    a0
        Lattice constant of the conventional cell of a cubic crystal, Å; None for other crystals.
    structure
        The cell at ``v0``.
    """

    schema_version: int = SCHEMA_VERSION
    task_label: str
    uuid: str | None = None
    tags: list[str] = Field(default_factory=list)
    code: str | None = Field(default=None, description="pw.x or lmp")
    recipe: dict[str, Any] = Field(description="Class and fields of the Maker of the points.")
    formula_pretty: str
    chemsys: str
    nsites: int
    space_group: str
    crystal_system: str
    volumes: list[float]
    energies: list[float]
    dir_names: list[str]
    relax_dir_name: str | None = None
    e0: float
    v0: float
    b0: float
    b0_prime: float
    rms: float
    energy_per_atom: float = Field(description="e0 for one atom, eV.")
    volume_per_atom: float = Field(description="v0 for one atom, Å³.")
    a0: float | None = None
    structure: Structure
    warnings: list[str] = Field(default_factory=list)
