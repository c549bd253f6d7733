"""Data files of LAMMPS, as far as pre-flight needs them: box and positions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST = 64 * 2**20
_SAME_PLACE = 0.01
# Where x stands in a line of the Atoms section, by the style named in its comment.
_X = {"atomic": 2, "charge": 3, "bond": 3, "angle": 3, "molecular": 3, "full": 4}


def read_atoms(file: Path) -> tuple[list[float], list[tuple[int, float, float, float]]] | None:
    """Return edge lengths and (id, x, y, z) of each atom.

    Parameters
    ----------
    file
        Data file; read only when its Atoms section names its style and the box is orthogonal.

    Returns
    -------
    tuple or None
        Edge lengths, shape (3,), and positions in the units of the file; None when it can't be
        told.
    """
    if file.stat().st_size > _LARGEST:
        return None
    lines = file.read_text(errors="replace").splitlines()
    edges = [float(m[2]) - float(m[1]) for line in lines[:100] if (
        m := re.match(r"\s*(\S+)\s+(\S+)\s+[xyz]lo\s+[xyz]hi", line)) and _numbers(m[1], m[2])]
    start = next((i for i, line in enumerate(lines) if line.split()[:1] == ["Atoms"]), None)
    tilted = any(re.search(r"\bxy\s+xz\s+yz\b", line) for line in lines[:100])
    if start is None or len(edges) != 3 or tilted:  # noqa: PLR2004
        return None
    style = re.search(r"#\s*(\w+)", lines[start])
    place = _X.get(style[1]) if style else None
    if place is None:
        return None
    atoms = []
    for line in lines[start + 2:]:
        words = line.split("#")[0].split()
        if not words or not words[0].isdigit() or len(words) < place + 3:
            break
        if not _numbers(*words[place : place + 3]):
            return None
        x, y, z = (float(w) for w in words[place : place + 3])
        atoms.append((int(words[0]), x, y, z))
    return edges, atoms


def coincident_atoms(file: Path) -> tuple[int, int] | None:
    """Return two atoms closer than 0.01 length units through periodic boundaries, or None."""
    found = read_atoms(file)
    if found is None or min(found[0]) <= 1.0:
        return None
    edges, atoms = found
    cells: dict[tuple[int, ...], list[tuple[int, tuple[float, ...]]]] = {}
    for number, *place in atoms:
        point = tuple(v % e for v, e in zip(place, edges, strict=True))
        key = tuple(round(v / _SAME_PLACE) for v in point)
        # Two points so close are in the same or in neighbouring cells of that size.
        for shift in _NEAR:
            for other, there in cells.get(tuple(k + s for k, s in zip(key, shift, strict=True)),
                                          ()):
                if sum((a - b) ** 2 for a, b in zip(point, there, strict=True)) < _SAME_PLACE**2:
                    return other, number
        cells.setdefault(key, []).append((number, point))
    return None


_NEAR = [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]


def _numbers(*words: str) -> bool:
    try:
        return all(abs(float(w)) < float("inf") for w in words)
    except ValueError:
        return False
