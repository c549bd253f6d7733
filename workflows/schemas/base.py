"""What every document holds, whatever the code: structure, output, provenance."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure  # noqa: TC002  pydantic reads it at run time

from orionflow import __version__
from orionflow.launchers.record import RunRecord  # noqa: TC001  pydantic reads it at run time
from orionflow.workflows.schemas.structure import StructureMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pymatgen.entries.computed_entries import ComputedEntry

SCHEMA_VERSION = 1

Vector3 = tuple[float, float, float]
Matrix3 = tuple[Vector3, Vector3, Vector3]


def sha256_text(text: str) -> str:
    """Return the SHA-256 of a text as written to a file in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


class FileHash(BaseModel):
    """A file the result depends on."""

    name: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileHash:
        """Hash a file; only its name is kept, not its folder."""
        with path.open("rb") as stream:
            return cls(name=path.name, sha256=hashlib.file_digest(stream, "sha256").hexdigest())


class BlobReference(BaseModel):
    """What stands for a large part of a document that was read with ``load=False``.

    Attributes
    ----------
    blob_uuid
        Id in the additional store.
    store
        Name of the additional store.
    """

    blob_uuid: str
    store: str


class Provenance(BaseModel):
    """Where a number comes from.

    Attributes
    ----------
    input_sha256
        Hash of the input file as the recipe wrote it, before any correction.
    structure_sha256
        Hash of the structure that was handed in (``orionflow.workflows.structures``).
    files
        Pseudopotentials or potential files with their hashes.
    run
        Executable, command, host, Slurm job, core-seconds and corrections.
    """

    model_config = ConfigDict(extra="forbid")

    orionflow_version: str
    input_sha256: str
    structure_sha256: str | None = None
    files: list[FileHash] = Field(default_factory=list)
    run: RunRecord

    @classmethod
    def collect(cls, *, input_text: str, run: RunRecord, files: Iterable[Path] = (),
                structure_sha256: str | None = None) -> Provenance:
        """Hash the input and the files of a run.

        Parameters
        ----------
        input_text
            The input as the recipe wrote it.
        run
            What the launcher recorded.
        files
            Pseudopotentials or potential files.
        structure_sha256
            Hash of the structure that was handed in.
        """
        return cls(
            orionflow_version=__version__, input_sha256=sha256_text(input_text),
            structure_sha256=structure_sha256, files=[FileHash.of(file) for file in files],
            run=run,
        )


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
    # Any: pymatgen's entries take seconds to import, and few readers need one.
    entry: Any = Field(default=None, description="pymatgen ComputedEntry of the result.")
    warnings: list[str] = Field(default_factory=list)
    provenance: Provenance


def computed_entry(structure: Structure, energy: float, uuid: str | None,
                   parameters: dict[str, Any]) -> ComputedEntry:
    """Return the pymatgen entry of a result, as phase diagrams and common flows want it.

    Parameters
    ----------
    structure
        Final structure.
    energy
        Energy of the cell, eV.
    uuid
        Id of the job, used as ``entry_id``.
    parameters
        What entries must share to be comparable (functional, potential, cutoff ...).
    """
    from pymatgen.entries.computed_entries import ComputedEntry

    return ComputedEntry(structure.composition.remove_charges(), energy, parameters=parameters,
                         entry_id=uuid)
