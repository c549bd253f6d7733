"""Documents of runs of a user's own input files."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure  # noqa: TC002  pydantic reads it at run time

from orionflow.launchers.record import RunRecord  # noqa: TC001  pydantic reads it at run time
from orionflow.workflows.schemas.base import SCHEMA_VERSION, Output, Provenance


class UserStep(BaseModel):
    """One code run on one input file.

    Attributes
    ----------
    input_text
        As it was run, before any correction.
    input_sha256
        Of the file as its user wrote it.
    calculation
        pw.x: ``scf``, ``nscf``, ``md`` ...
    numbers
        What the output says. pw.x: ``energy`` eV, ``pressure`` kbar; ph.x: ``frequencies`` cm⁻¹;
        LAMMPS: the last row of the last thermo table, in the units of the script.
    units
        LAMMPS: the ``units`` of the script.
    """

    model_config = ConfigDict(extra="forbid")

    code: str
    code_version: str | None = None
    input_file: str
    input_text: str
    input_sha256: str
    calculation: str | None = None
    numbers: dict[str, float | list[float]] = Field(default_factory=dict)
    units: str | None = None
    run: RunRecord


class UserInputDocument(BaseModel):
    """Result of a user's own input, one step or several.

    Attributes
    ----------
    code
        Of the first step: ``pw.x`` or ``lmp``.
    structure, output
        Of the last scf, relax or vc-relax of pw.x, where its XML file is still that run's; None
        otherwise.
    converged
        Whether that run converged; None where there is no such run. A run that did not is an
        error and leaves no document.
    repairs
        What was changed in a step, and why, because a later one could not start from it.
    files
        Names in the folder of the run.
    provenance
        ``run`` sums up all steps; the executable and command are those of the last.
    """

    schema_version: int = SCHEMA_VERSION
    code: str
    code_version: str | None = None
    task_label: str
    dir_name: str = Field(description="host:/absolute/path of the run")
    uuid: str | None = None
    tags: list[str] = Field(default_factory=list)
    input: dict[str, Any] = Field(default_factory=dict, description="Parameters of the run.")
    steps: list[UserStep]
    structure: Structure | None = None
    formula_pretty: str | None = None
    nsites: int | None = None
    output: Output | None = None
    converged: bool | None = None
    repairs: list[str] = Field(default_factory=list)
    files: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    provenance: Provenance
