"""What is known of a structure by looking at it; fields and JSON are those of emmet.

Emmet's own class has them too, but takes seconds to import, in every process that reads or
writes a document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

if TYPE_CHECKING:
    from typing import Self

    from pymatgen.core import Structure

SYMPREC = 0.1
ANGLE_TOLERANCE = 5.0
MOST_SITES = 200
"""Larger cells have no symmetry worth the time to look for it."""


def _amounts(value: Any) -> Any:
    """Return element to amount from a pymatgen Composition, which has elements for keys."""
    return value.get_el_amt_dict() if hasattr(value, "get_el_amt_dict") else value


Amounts = Annotated[dict[str, float], BeforeValidator(_amounts)]


class SymmetryData(BaseModel):
    """Space group as spglib finds it."""

    crystal_system: str | None = Field(default=None, description="Cubic, Hexagonal ...")
    symbol: str | None = None
    hall: str | None = None
    number: int | None = Field(default=None, description="International number.")
    point_group: str | None = None
    symprec: float | None = None
    angle_tolerance: float | None = Field(default=None, description="Degrees.")
    version: str | None = Field(default=None, description="Of spglib.")

    @classmethod
    def from_structure(cls, structure: Structure) -> Self:
        """Find the symmetry to `SYMPREC` Å and `ANGLE_TOLERANCE` degrees."""
        import spglib
        from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

        tolerances = {"symprec": SYMPREC, "angle_tolerance": ANGLE_TOLERANCE}
        try:
            found = SpacegroupAnalyzer(structure, **tolerances)
        except SymmetryUndeterminedError:
            return cls(**tolerances, version=spglib.__version__)
        return cls(
            crystal_system=found.get_crystal_system().title(),
            symbol=found.get_space_group_symbol(), hall=found.get_hall(),
            number=found.get_space_group_number(), point_group=found.get_point_group_symbol(),
            version=spglib.__version__, **tolerances)


class StructureMetadata(BaseModel):
    """Composition, volume and symmetry of a structure."""

    nsites: int | None = None
    elements: list[str] | None = Field(default=None, description="Symbols, sorted.")
    nelements: int | None = None
    composition: Amounts | None = Field(default=None, description="Atoms in the cell.")
    composition_reduced: Amounts | None = None
    formula_pretty: str | None = None
    formula_anonymous: str | None = None
    chemsys: str | None = None
    volume: float | None = Field(default=None, description="Å³")
    density: float | None = Field(default=None, description="g/cm³")
    density_atomic: float | None = Field(default=None, description="Å³ for one atom")
    symmetry: SymmetryData | None = None


def structure_metadata(structure: Structure) -> dict[str, Any]:
    """Return the fields of `StructureMetadata` for a structure."""
    composition = structure.composition.remove_charges()
    elements = sorted({element.symbol for element in composition.elements})
    return {
        "nsites": len(structure), "elements": elements, "nelements": len(elements),
        "composition": composition, "composition_reduced": composition.reduced_composition,
        "formula_pretty": composition.reduced_formula,
        "formula_anonymous": composition.anonymized_formula, "chemsys": "-".join(elements),
        "volume": structure.volume, "density": float(structure.density),
        "density_atomic": structure.volume / len(structure),
        "symmetry": (
            SymmetryData.from_structure(structure) if len(structure) <= MOST_SITES else None),
    }
