"""What every document holds, whatever the code: structure, output, provenance."""

from __future__ import annotations

from typing import Any

from emmet.core.structure import StructureMetadata
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure  # noqa: TC002  pydantic reads it at run time
from pymatgen.entries.computed_entries import ComputedEntry  # noqa: TC002

from orionflow.launchers.record import RunRecord  # noqa: TC001

SCHEMA_VERSION = 1

Vector3 = tuple[float, float, float]
Matrix3 = tuple[Vector3, Vector3, Vector3]


class FileHash(BaseModel):
    """A file the result depends on."""

    name: str
    sha256: str


class Provenance(BaseModel):
    """Where a number comes from.

    Attributes
    ----------
    input_sha256
        Hash of the input file as the recipe wrote it, before any correction.
    files
        Pseudopotentials or potential files with their hashes.
    run
        Executable, command, host, Slurm job, core-seconds and corrections.
    """

    model_config = ConfigDict(extra="forbid")

    orionflow_version: str
    input_sha256: str
    files: list[FileHash] = Field(default_factory=list)
    run: RunRecord


class Output(BaseModel):
    """Results all codes share; the common flows read these names.

    Attributes
    ----------
    energy
        Total (QE) or potential (LAMMPS) energy of the cell, eV.
    energy_per_atom
        The same for one atom, eV.
    forces
        Shape (n, 3), eV/Å.
    stress
        Shape (3, 3), kbar, VASP's sign: positive means compressed.
    """

    structure: Structure
    energy: float
    energy_per_atom: float
    forces: list[Vector3] | None = None
    stress: Matrix3 | None = None


class TaskDocument(StructureMetadata):
    """Result of one run of one code."""

    schema_version: int = SCHEMA_VERSION
    code: str = Field(description="pw.x or lmp")
    code_version: str
    task_label: str
    dir_name: str = Field(description="host:/absolute/path of the run")
    uuid: str | None = None
    tags: list[str] = Field(default_factory=list)
    input: dict[str, Any] = Field(default_factory=dict, description="Parameters of the run.")
    structure: Structure
    output: Output
    entry: ComputedEntry | None = None
    warnings: list[str] = Field(default_factory=list)
    provenance: Provenance
