"""How many valence electrons a pw.x input has, by the headers of its pseudopotentials."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orionflow.launchers.upf_header import read_header

if TYPE_CHECKING:
    from orionflow.launchers.qe_input import QeInput


def electron_count(found: QeInput) -> float | None:
    """Return the number of electrons; None when a pseudopotential does not tell."""
    place = found.path.parent / str(
        found.get("control", "pseudo_dir") or os.environ.get("ESPRESSO_PSEUDO", ".")).strip()
    valence: dict[str, float] = {}
    for line in found.cards["ATOMIC_SPECIES"].lines:
        words = line.split()
        if len(words) < 3 or not (place / words[2]).is_file() or not (  # noqa: PLR2004
                z := read_header(place / words[2]).valence):
            return None
        valence[words[0].lower()] = z
    lines = found.cards["ATOMIC_POSITIONS"].lines[:int(found.number("system", "nat", 0)) or None]
    try:
        total = sum(valence[line.split()[0].lower()] for line in lines)
    except KeyError:
        return None
    return total - found.number("system", "tot_charge", 0.0)
