"""Documents of Quantum ESPRESSO runs."""

from __future__ import annotations

from pydantic import BaseModel, Field

from orionflow.workflows.schemas.base import BlobReference, Matrix3, TaskDocument, Vector3

KPoint = tuple[float, float, float]


class QeKPoints(BaseModel):
    """The Monkhorst-Pack grid that was used."""

    grid: tuple[int, int, int] | None = Field(description="Divisions of the reciprocal vectors.")
    shift: tuple[int, int, int] | None = Field(default=None, description="0 or 1 half steps.")
    irreducible: int = Field(description="k-points left by symmetry.")


class QeResults(BaseModel):
    """What pw.x says beyond energy, forces and stress. Energies in eV.

    Attributes
    ----------
    smearing_energy
        The term -TS in ``output.energy``; None without smearing. The energy without it, halved,
        extrapolates to zero width: E0 = energy - smearing_energy / 2 for gaussian smearing.
    homo, lumo
        Highest state more and lowest less than half filled, on this k-grid.
    degauss
        Ry, as pw.x takes it.
    ecutwfc, ecutrho
        Ry.
    scf_accuracy
        Estimated error of the last SCF cycle, eV.
    pulay_pressure
        vc-relax only: pressure (kbar) left on the plane-wave basis of the final cell.
    """

    calculation: str
    functional: str
    fermi_energy: float | None = None
    homo: float | None = None
    lumo: float | None = None
    smearing_energy: float | None = None
    total_magnetization: float | None = Field(default=None, description="μB, of the cell.")
    absolute_magnetization: float | None = Field(default=None, description="μB, of the cell.")
    n_electrons: float
    n_bands: int
    kpoints: QeKPoints
    occupations: str
    smearing: str | None = None
    degauss: float | None = None
    ecutwfc: float
    ecutrho: float
    cutoff_source: dict[str, str] = Field(
        default_factory=dict, description="Where the cutoff comes from, by element.")
    pseudopotentials: dict[str, str] = Field(description="File name by element.")
    scf_iterations: int = Field(description="Of the last ionic step.")
    scf_accuracy: float
    scf_converged: bool = True
    ionic_steps: int = 0
    ionic_converged: bool | None = Field(default=None, description="None for a static run.")
    pulay_pressure: float | None = None
    code_seconds: float | None = Field(default=None, description="Wall time pw.x reports, s.")
    memory_mb: float | None = Field(default=None, description="pw.x's estimate for one process.")


class QeIonicStep(BaseModel):
    """One step of a relaxation: eV, Å, eV/Å."""

    energy: float
    lattice: Matrix3
    positions: list[Vector3] = Field(description="Cartesian.")
    forces: list[Vector3] | None = None


class QeBands(BaseModel):
    """Kohn-Sham states at the irreducible k-points; lists run over spin, k-point, band."""

    kpoints: list[KPoint] = Field(description="Fractions of the reciprocal vectors.")
    weights: list[float] = Field(description="Sum to 1.")
    eigenvalues: list[list[list[float]]] = Field(description="eV.")
    occupations: list[list[list[float]]] = Field(description="0 to 1.")


class QeTaskDocument(TaskDocument):
    """Result of one pw.x run.

    Attributes
    ----------
    bands
        In the additional store ``data``: a `BlobReference` unless read with ``load=True``.
    trajectory
        Steps of a relaxation; in the additional store ``data`` too.
    """

    code: str = "pw.x"
    qe: QeResults
    bands: QeBands | BlobReference | None = None
    trajectory: list[QeIonicStep] | BlobReference | None = None
