"""The few lines of a UPF file that decide whether it fits: element, valence, cutoffs, its end.

Kept apart from the readers of the recipes: a launcher must not import them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ELEMENTS = frozenset(
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "  # noqa: SIM905  symbols read better in a row
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb "
    "Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm"
    .split())


@dataclass(frozen=True)
class UpfHeader:
    """What is known of a pseudopotential file.

    Attributes
    ----------
    element
        Symbol, or empty when the file does not say.
    valence
        Valence charge, or 0 when the file does not say.
    complete
        False when it is a UPF file without its end.
    """

    element: str
    valence: float
    complete: bool


def read_header(path: Path) -> UpfHeader:
    """Read the header of a UPF file, version 1 or 2; other formats pass with nothing known."""
    with path.open("rb") as stream:
        head = stream.read(200_000).decode(errors="replace")
        stream.seek(max(0, path.stat().st_size - 4000))
        tail = stream.read().decode(errors="replace")
    second = re.search(r"<PP_HEADER\b(.*?)/?>", head, re.DOTALL)
    if "<UPF" in head and second is not None:
        names = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', second[1]))
        return UpfHeader(names.get("element", "").strip().capitalize(),
                         _float(names.get("z_valence", "0")), "</UPF>" in tail)
    first = re.search(r"<PP_HEADER>\s*\n(.*?)</PP_HEADER>", head, re.DOTALL)
    if first is None:
        return UpfHeader("", 0.0, bool(head.strip()) and "<UPF" not in head
                         and "<PP_" not in head)
    element = re.search(r"^\s*([A-Z][a-z]?)\s+Element", first[1], re.MULTILINE)
    valence = re.search(r"^\s*(\S+)\s+Z valence", first[1], re.MULTILINE)
    return UpfHeader(element[1] if element else "", _float(valence[1]) if valence else 0.0,
                     "</PP_RHOATOM>" in tail or "</PP_" in tail)


def _float(text: str) -> float:
    try:
        return float(text.lower().replace("d", "e"))
    except ValueError:
        return 0.0
