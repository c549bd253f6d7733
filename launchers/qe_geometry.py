"""Cell and positions of a pw.x input, as pw.x builds them."""

from __future__ import annotations

import ast
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orionflow.errors import InputError
from orionflow.units import BOHR_ANGSTROM

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from collections.abc import Callable

    from numpy.typing import NDArray

    from orionflow.launchers.qe_input import QeInput

_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Geometry:
    """A periodic structure.

    Attributes
    ----------
    cell
        Lattice vectors as rows, shape (3, 3), Å.
    labels
        Species label of each atom.
    positions
        Cartesian, shape (n, 3), Å.
    """

    cell: NDArray[np.float64]
    labels: tuple[str, ...]
    positions: NDArray[np.float64]

    def nearest(self) -> tuple[float, int, int]:
        """Return the shortest distance, Å, and the two atoms (from 1), images included."""
        shifts = np.array([(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
        images = shifts @ self.cell
        scaled = self.positions @ np.linalg.inv(self.cell)
        wrapped = (scaled - np.floor(scaled)) @ self.cell
        best = (math.inf, 0, 0)
        for i, here in enumerate(wrapped):
            distance = np.linalg.norm(
                wrapped[i:, None, :] - here + images[None, :, :], axis=2)
            distance[0, np.all(shifts == 0, axis=1)] = np.inf
            j = int(np.argmin(distance.min(axis=1)))
            shortest = float(distance[j].min())
            if shortest < best[0]:
                best = (shortest, i + 1, i + j + 1)
        return best

    def agrees(self, other: Geometry, within: float = 1e-3) -> bool:
        """Whether cell and atoms are the same, periodic images too, within a distance in Å."""
        if self.labels != other.labels or not np.allclose(self.cell, other.cell, atol=within):
            return False
        apart = (self.positions - other.positions) @ np.linalg.inv(self.cell)
        return bool(np.all(np.abs((apart - np.round(apart)) @ self.cell) < within))

    def widest_gap(self) -> float:
        """Return the widest layer without atoms along a lattice vector, Å."""
        scaled = self.positions @ np.linalg.inv(self.cell)
        volume = abs(float(np.linalg.det(self.cell)))
        widest = 0.0
        for axis in range(3):
            height = volume / float(np.linalg.norm(np.cross(self.cell[axis - 2],
                                                            self.cell[axis - 1])))
            places = np.sort(scaled[:, axis] - np.floor(scaled[:, axis]))
            gaps = np.diff(np.append(places, places[0] + 1.0))
            widest = max(widest, float(gaps.max()) * height)
        return widest


def read_geometry(found: QeInput) -> Geometry:
    """Return cell and atoms of a pw.x input.

    Raises
    ------
    InputError
        Cell or positions can't be understood; the message names the line.
    """
    alat, cell = _cell(found)
    labels, positions = _positions(found, alat, cell)
    return Geometry(cell=cell, labels=labels, positions=positions)


def xml_geometry(root: ET.Element | None, part: str = "output") -> Geometry | None:
    """Return the structure an XML ends with, or its ``input``; None when it tells of none."""
    structure = root.find(f"{part}/atomic_structure") if root is not None else None
    if structure is None:
        return None
    atoms = structure.findall("atomic_positions/atom")
    try:
        cell, positions = (
            np.array([[float(x) for x in (row.text or "").split()] for row in rows])
            * BOHR_ANGSTROM
            for rows in ([e for e in structure.findall("cell/*") if e.tag in {"a1", "a2", "a3"}],
                         atoms))
    except ValueError:
        return None
    if cell.shape != (3, 3) or positions.shape != (len(atoms), 3):
        return None
    return Geometry(cell=cell, labels=tuple(a.get("name") or "" for a in atoms),
                    positions=positions)


def _cell(found: QeInput) -> tuple[float, NDArray[np.float64]]:
    """Return alat and cell, Å."""
    ibrav = int(found.number("system", "ibrav", 0))
    celldm = _celldm(found)
    alat = celldm[0] * BOHR_ANGSTROM
    if ibrav != 0:
        if alat <= 0:
            raise InputError(f"ibrav = {ibrav} needs celldm(1) or A",
                             hint="add celldm(1) (bohr) or A (Å) to &system")
        return alat, np.array(_lattice(ibrav, celldm)) * BOHR_ANGSTROM
    card = found.cards.get("CELL_PARAMETERS")
    if card is None or len(card.lines) < 3:  # noqa: PLR2004
        raise InputError("ibrav = 0 needs a CELL_PARAMETERS card with three lines",
                         hint="add it, with its unit: CELL_PARAMETERS angstrom")
    rows = np.array([_numbers(line.split()[:3], line) for line in card.lines[:3]])
    unit = card.option
    if unit.startswith("ang"):
        cell = rows
    elif unit.startswith("bohr"):
        cell = rows * BOHR_ANGSTROM
    else:  # alat, or nothing: in alat when that is given, in bohr otherwise
        cell = rows * (alat if alat > 0 else BOHR_ANGSTROM)
    if abs(float(np.linalg.det(cell))) < 1e-3:  # noqa: PLR2004  Å³
        raise InputError("the lattice vectors have no volume", hint="check CELL_PARAMETERS")
    return alat if alat > 0 else float(np.linalg.norm(cell[0])), cell


def _lattice(ibrav: int, celldm: tuple[float, ...]) -> list[list[float]]:
    """Return the lattice vectors, bohr, where all that the lattice needs is given."""
    ratios = ((2,) if abs(ibrav) in {8, 9, 10, 11, 12, 13, 14, 91} else ()) + (
        (3,) if abs(ibrav) in {4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 91} else ())
    for index in ratios:
        if celldm[index - 1] <= 0:
            letter = "BC"[index - 2]
            raise InputError(f"ibrav = {ibrav} needs celldm({index}) or {letter}",
                             hint=f"add celldm({index}) = {letter.lower()}/a, or {letter} with A")
    cosines = {5: (4,), 12: (4,), -12: (5,), 13: (4,), -13: (5,), 14: (4, 5, 6)}
    for index in cosines.get(abs(ibrav) if abs(ibrav) == 5 else ibrav, ()):  # noqa: PLR2004
        low = -0.5 if abs(ibrav) == 5 else -1.0  # noqa: PLR2004  three vectors of one angle
        if not low < celldm[index - 1] < 1.0:
            raise InputError(f"ibrav = {ibrav}: celldm({index}) = {celldm[index - 1]:g} is no "
                             "cosine this lattice can have", hint="it is a cosine, not an angle")
    return _bravais(ibrav, *celldm)


def _celldm(found: QeInput) -> tuple[float, ...]:
    values = found.get("system", "celldm")
    if values is not None:
        listed = values if isinstance(values, list) else [values]
        full = [float(v) if v is not None else 0.0 for v in listed] + [0.0] * 6
        return tuple(full[:6])
    a = found.number("system", "a", 0.0)
    if not a:
        return (0.0,) * 6
    b, c = (found.number("system", key, 0.0) / a for key in "bc")
    cosines = [found.number("system", key, 0.0) for key in ("cosab", "cosac", "cosbc")]
    ibrav = int(found.number("system", "ibrav", 0))
    ab, ac, bc = cosines
    last = {14: (bc, ac, ab), -12: (0.0, ac, 0.0), -13: (0.0, ac, 0.0)}.get(ibrav, (ab, 0.0, 0.0))
    return (a / BOHR_ANGSTROM, b, c, *last)


def _bravais(ibrav: int, a: float, b_a: float, c_a: float,  # noqa: PLR0911, PLR0917  one branch a lattice, celldm in order
             cos4: float, cos5: float, cos6: float) -> list[list[float]]:
    """Return lattice vectors, bohr; https://www.quantum-espresso.org/Doc/INPUT_PW.html#ibrav."""
    b, c, h = a * b_a, a * c_a, a / 2
    if ibrav == 1:
        return [[a, 0, 0], [0, a, 0], [0, 0, a]]
    if ibrav == 2:  # noqa: PLR2004
        return [[-h, 0, h], [0, h, h], [-h, h, 0]]
    if ibrav == 3:  # noqa: PLR2004
        return [[h, h, h], [-h, h, h], [-h, -h, h]]
    if ibrav == -3:  # noqa: PLR2004
        return [[-h, h, h], [h, -h, h], [h, h, -h]]
    if ibrav == 4:  # noqa: PLR2004
        return [[a, 0, 0], [-h, h * math.sqrt(3), 0], [0, 0, c]]
    if ibrav in {5, -5}:
        tx, ty = math.sqrt((1 - cos4) / 2), math.sqrt((1 - cos4) / 6)
        tz = math.sqrt((1 + 2 * cos4) / 3)
        if ibrav == 5:  # noqa: PLR2004
            return [[a * tx, -a * ty, a * tz], [0, 2 * a * ty, a * tz], [-a * tx, -a * ty, a * tz]]
        u, v = tz - 2 * math.sqrt(2) * ty, tz + math.sqrt(2) * ty
        s = a / math.sqrt(3)
        return [[s * u, s * v, s * v], [s * v, s * u, s * v], [s * v, s * v, s * u]]
    if ibrav == 6:  # noqa: PLR2004
        return [[a, 0, 0], [0, a, 0], [0, 0, c]]
    if ibrav == 7:  # noqa: PLR2004
        return [[h, -h, c / 2], [h, h, c / 2], [-h, -h, c / 2]]
    return _low_symmetry(ibrav, a, b, c, cos4, cos5, cos6)


def _low_symmetry(ibrav: int, a: float, b: float, c: float,  # noqa: PLR0917  celldm in order
                  cos4: float, cos5: float, cos6: float) -> list[list[float]]:
    sin4, sin5 = math.sqrt(max(0.0, 1 - cos4**2)), math.sqrt(max(0.0, 1 - cos5**2))
    table: dict[int, list[list[float]]] = {
        8: [[a, 0, 0], [0, b, 0], [0, 0, c]],
        9: [[a / 2, b / 2, 0], [-a / 2, b / 2, 0], [0, 0, c]],
        -9: [[a / 2, -b / 2, 0], [a / 2, b / 2, 0], [0, 0, c]],
        91: [[a, 0, 0], [0, b / 2, -c / 2], [0, b / 2, c / 2]],
        10: [[a / 2, 0, c / 2], [a / 2, b / 2, 0], [0, b / 2, c / 2]],
        11: [[a / 2, b / 2, c / 2], [-a / 2, b / 2, c / 2], [-a / 2, -b / 2, c / 2]],
        12: [[a, 0, 0], [b * cos4, b * sin4, 0], [0, 0, c]],
        -12: [[a, 0, 0], [0, b, 0], [c * cos5, 0, c * sin5]],
        13: [[a / 2, 0, -c / 2], [b * cos4, b * sin4, 0], [a / 2, 0, c / 2]],
        -13: [[a / 2, b / 2, 0], [-a / 2, b / 2, 0], [c * cos5, 0, c * sin5]],
    }
    if ibrav in table:
        return table[ibrav]
    if ibrav == 14:  # noqa: PLR2004
        sin6 = math.sqrt(max(1e-12, 1 - cos6**2))
        z = 1 + 2 * cos4 * cos5 * cos6 - cos4**2 - cos5**2 - cos6**2
        return [[a, 0, 0], [b * cos6, b * sin6, 0],
                [c * cos5, c * (cos4 - cos5 * cos6) / sin6, c * math.sqrt(max(0.0, z)) / sin6]]
    raise InputError(f"ibrav = {ibrav} is unknown",
                     hint="valid: 0 to 14, 91, -3, -5, -9, -12, -13")


def _positions(found: QeInput, alat: float, cell: NDArray[np.float64],
               ) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    card = found.cards.get("ATOMIC_POSITIONS")
    count = int(found.number("system", "nat", 0))
    if card is None or not card.lines:
        raise InputError("no ATOMIC_POSITIONS card", hint="add the atoms")
    if "_sg" in card.option:
        raise InputError("ATOMIC_POSITIONS crystal_sg is not understood here")
    if len(card.lines) < count:
        raise InputError(f"ATOMIC_POSITIONS has {len(card.lines)} atoms, nat = {count}",
                         hint="make them agree")
    labels, rows = [], []
    for line in card.lines[:count or None]:
        words = line.split()
        if len(words) < 4:  # noqa: PLR2004  label and three numbers
            raise InputError(f"ATOMIC_POSITIONS: wrong number of columns in {line!r}",
                             hint="label, x, y, z and optionally three 0 or 1")
        labels.append(words[0])
        rows.append(_numbers(words[1:4], line))
    values = np.array(rows)
    unit = card.option or "alat"
    if unit.startswith("crystal"):
        positions = values @ cell
    elif unit.startswith("ang"):
        positions = values
    elif unit.startswith("bohr"):
        positions = values * BOHR_ANGSTROM
    elif unit.startswith("alat"):
        positions = values * alat
    else:
        raise InputError(f"ATOMIC_POSITIONS: unknown unit {unit!r}",
                         hint="valid: alat, bohr, angstrom, crystal")
    return tuple(labels), positions


def _numbers(words: list[str], line: str) -> list[float]:
    try:
        return [_number(word) for word in words]
    except (ValueError, SyntaxError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"not numbers: {line!r}", hint="check the card in the input") from error


def _number(word: str) -> float:
    """Return a number or the value of an expression such as ``1/3``, which pw.x accepts."""
    text = word.lower().replace("d", "e")
    try:
        return float(text)
    except ValueError:
        return _evaluate(ast.parse(text.replace("^", "**"), mode="eval").body)


def _evaluate(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return float(_OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1:
        function = {"sqrt": math.sqrt, "sin": math.sin, "cos": math.cos}.get(node.func.id)
        if function is not None:
            return function(_evaluate(node.args[0]))
    message = f"not an expression pw.x knows: {ast.unparse(node)}"
    raise ValueError(message)
