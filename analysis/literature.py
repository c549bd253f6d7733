"""Published values that results are shown beside, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quantity = Literal["a0", "b0"]
EXPERIMENT = "experiment"


@dataclass(frozen=True)
class Reference:
    """One published number.

    Attributes
    ----------
    formula
        Reduced formula.
    space_group
        Symbol of the phase it holds for.
    quantity
        ``a0``: cubic lattice constant, Å. ``b0``: bulk modulus, GPa.
    value
        In the unit of the quantity.
    model
        ``experiment``, or the potential file the value belongs to.
    source
        Authors, journal, year.
    doi
        Digital object identifier.
    note
        Temperature, or how the value follows from what is printed.
    """

    formula: str
    space_group: str
    quantity: Quantity
    value: float
    model: str
    source: str
    doi: str
    note: str = ""

    def cite(self) -> str:
        """Return source and DOI on one line."""
        return f"{self.source}, doi:{self.doi}"


_MISHIN = ("Mishin et al., Phys. Rev. B 63, 224106 (2001)", "10.1103/PhysRevB.63.224106")
_STAROVEROV = ("experiment in Staroverov et al., Phys. Rev. B 69, 075102 (2004)",
               "10.1103/PhysRevB.69.075102")

REFERENCES = (
    Reference("Si", "Fd-3m", "a0", 5.43102, EXPERIMENT,
              "CODATA 2018, Rev. Mod. Phys. 93, 025010 (2021)", "10.1103/RevModPhys.93.025010",
              "22.5 °C, vacuum"),
    Reference("Si", "Fd-3m", "b0", 97.9, EXPERIMENT,
              "McSkimin and Andreatch, J. Appl. Phys. 35, 2161 (1964)", "10.1063/1.1702809",
              "25 °C, (c11 + 2 c12)/3 with c11 = 165.78 and c12 = 63.94 GPa"),
    Reference("Si", "Fd-3m", "a0", 5.431, "Si.sw",
              "Stillinger and Weber, Phys. Rev. B 31, 5262 (1985)", "10.1103/PhysRevB.31.5262",
              "0 K, nearest neighbours at 2^(1/6) sigma with sigma = 2.0951 Å"),
    Reference("Si", "Fd-3m", "b0", 101.4, "Si.sw",
              "Cowley, Phys. Rev. Lett. 60, 2379 (1988)", "10.1103/PhysRevLett.60.2379",
              "0 K, (c11 + 2 c12)/3 with c11 = 151.4 and c12 = 76.4 GPa"),
    Reference("Al", "Fm-3m", "a0", 4.032, EXPERIMENT, *_STAROVEROV, "extrapolated to 0 K"),
    Reference("Al", "Fm-3m", "b0", 79.4, EXPERIMENT,
              "Kamm and Alers, J. Appl. Phys. 35, 327 (1964)", "10.1063/1.1713309",
              "extrapolated to 0 K; 76 GPa at room temperature"),
    Reference("Cu", "Fm-3m", "a0", 3.615, EXPERIMENT,
              "Straumanis and Yu, Acta Cryst. A 25, 676 (1969)", "10.1107/S0567739469001549",
              "25 °C"),
    Reference("Cu", "Fm-3m", "b0", 142.0, EXPERIMENT,
              "Overton and Gaffney, Phys. Rev. 98, 969 (1955)", "10.1103/PhysRev.98.969",
              "extrapolated to 0 K; 137 GPa at room temperature"),
    Reference("Cu", "Fm-3m", "a0", 3.615, "Cu_mishin1.eam.alloy", *_MISHIN, "0 K"),
    Reference("Cu", "Fm-3m", "b0", 138.4, "Cu_mishin1.eam.alloy", *_MISHIN,
              "0 K, (c11 + 2 c12)/3 with c11 = 169.9 and c12 = 122.6 GPa; the same table prints "
              "B = 138.3 GPa"),
)


def reference(formula: str, quantity: Quantity, *, space_group: str | None = None,
              model: str = EXPERIMENT) -> Reference | None:
    """Return the published value for a material, or None.

    Parameters
    ----------
    formula
        Reduced formula.
    quantity
        ``a0`` or ``b0``.
    space_group
        Symbol; None takes any phase.
    model
        Potential file name. Its own published value comes first, because it tells whether the
        calculation is right; a model without one is compared with experiment.
    """
    fits = [r for r in REFERENCES if r.formula == formula and r.quantity == quantity
            and space_group in (None, r.space_group)]
    own = [r for r in fits if r.model == model]
    measured = [r for r in fits if r.model == EXPERIMENT]
    return next(iter(own or measured), None)
