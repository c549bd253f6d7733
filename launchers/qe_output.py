"""What pw.x and ph.x say about their own end: small readers of their text and XML.

Results are read elsewhere; here is only what decides whether a run may count. No reader raises
on damaged text.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from orionflow.units import HARTREE_EV

if TYPE_CHECKING:
    from pathlib import Path

_BOX = re.compile(
    r"%{20,}\s*\n\s*(?:Error in routine\s+(?P<routine>\S.*?)\s*\(\s*(?P<code>-?\d+)\s*\):|"
    r"task #\s+\d+\s*\n\s*from\s+(?P<routine2>\S.*?)\s*:\s*error #\s+(?P<code2>-?\d+))\s*\n"
    r"(?P<message>.*?)(?:\n\s*%{20,}|\n\s*\n|\Z)", re.DOTALL)
_END = re.compile(r"This run was terminated on:.*\n\s*\n=-+=[ \t]*\n\s*JOB DONE\.[ \t]*\n=-+=")
_ACCURACY = re.compile(r"estimated scf accuracy\s+<\s+([-+.\dEeDd]+|\*+|NaN)")
_CPU = re.compile(r"total cpu time spent up to now is\s+([\d.]+)\s+secs")


@dataclass(frozen=True)
class ErrorBox:
    """The box QE prints when it stops itself."""

    routine: str
    code: int
    message: str

    def __str__(self) -> str:
        """Return it on one line."""
        return f"Error in routine {self.routine} ({self.code}): {self.message}"


def error_box(text: str) -> ErrorBox | None:
    """Return the last error box in an output or a CRASH file; those of several ranks are one."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    found = boxes[-1]
    message = " ".join(found["message"].split())
    return ErrorBox(found["routine"] or found["routine2"], int(found["code"] or found["code2"]),
                    message)


def line_with(text: str, pattern: str) -> str | None:
    """Return the last line that matches a regular expression."""
    hits = deque(re.finditer(pattern, text, re.MULTILINE), maxlen=1)
    if not hits:
        return None
    found = hits[0]
    start = text.rfind("\n", 0, found.start()) + 1
    end = text.find("\n", found.end())
    return text[start:end if end >= 0 else len(text)].strip()


def is_finished(text: str) -> bool:
    """Whether the code came to its own end, good or bad."""
    return _END.search(text[-8000:]) is not None


def float_of(text: str) -> float:
    """Return a Fortran number; nan for stars and the like."""
    try:
        return float(text.strip().lower().replace("d", "e"))
    except ValueError:
        return float("nan")


def scf_accuracies(text: str) -> list[list[float]]:
    """Return the estimated accuracy (Ry) of each iteration, one list for each SCF cycle."""
    cycles = re.split(r"^ *Self-consistent Calculation", text, flags=re.MULTILINE)[1:]
    return [[float_of(m) for m in _ACCURACY.findall(cycle)] for cycle in cycles]


def cpu_times(text: str) -> list[float]:
    """Return the clock printed after each SCF iteration, s since the start."""
    return [float_of(t) for t in _CPU.findall(text)]


def longest_iteration(text: str) -> float:
    """Return the longest time between two clock lines, s; 0 without."""
    times = cpu_times(text)
    return max((b - a for a, b in pairwise(times)),
               default=times[0] if times else 0.0)


def read_xml(file: Path) -> ET.Element | None:
    """Return the root of ``data-file-schema.xml``; None when it is missing or damaged."""
    try:
        return ET.parse(file).getroot()  # noqa: S314  written by the code we ran, not fetched
    except (OSError, ET.ParseError, ValueError):
        return None


def xml_text(root: ET.Element | None, path: str) -> str | None:
    """Return the text of an element, stripped; None when it is not there."""
    found = root.find(path) if root is not None else None
    return found.text.strip() if found is not None and found.text else None


@dataclass(frozen=True)
class Bands:
    """Eigenvalues and occupations of one run.

    Attributes
    ----------
    eigenvalues, occupations
        One list for each k-point and spin; hartree, and 0 to 1.
    weights
        Weight of each k-point.
    """

    eigenvalues: list[list[float]]
    occupations: list[list[float]]
    weights: list[float]

    def edges(self) -> tuple[float, float] | None:
        """Return highest occupied and lowest empty level, eV; None without an empty band."""
        full = [e for k in zip(self.eigenvalues, self.occupations, strict=True)
                for e, f in zip(*k, strict=True) if f > 0.5]  # noqa: PLR2004  half filled
        empty = [e for k in zip(self.eigenvalues, self.occupations, strict=True)
                 for e, f in zip(*k, strict=True) if f <= 0.5]  # noqa: PLR2004
        return (max(full) * HARTREE_EV, min(empty) * HARTREE_EV) if full and empty else None

    def top_occupation(self) -> float:
        """Return the highest occupation of the last band over all k-points."""
        return max((k[-1] for k in self.occupations if k), default=0.0)


def read_bands(root: ET.Element | None) -> Bands | None:
    """Return the bands in an XML; spins of a spin-polarised run are taken apart."""
    structure = root.find("output/band_structure") if root is not None else None
    if structure is None:
        return None
    split = (structure.findtext("lsda") or "").strip() == "true"
    eigenvalues, occupations, weights = [], [], []
    try:
        up = int(structure.findtext("nbnd_up") or 0)
        for k in structure.iter("ks_energies"):
            energies = [float(x) for x in (k.findtext("eigenvalues") or "").split()]
            filled = [float(x) for x in (k.findtext("occupations") or "").split()]
            point = k.find("k_point")
            weight = float(point.get("weight", "0")) if point is not None else 0.0
            for part in (slice(0, up), slice(up, None)) if split and up else (slice(None),):
                eigenvalues.append(energies[part])
                occupations.append(filled[part])
                weights.append(weight)
    except ValueError:
        return None
    if any(len(e) != len(f) for e, f in zip(eigenvalues, occupations, strict=True)):
        return None
    return Bands(eigenvalues, occupations, weights)


def total_energies(text: str) -> list[float]:
    """Return the converged total energies, Ry."""
    return [float_of(m) for m in re.findall(r"^!+ +total energy +=\s+(\S+) Ry", text, re.MULTILINE)]


def last_block(text: str, name: str) -> tuple[str, list[str]] | None:
    """Return option and lines of the last ATOMIC_POSITIONS or CELL_PARAMETERS printed."""
    heads = deque(re.finditer(rf"^{name}\s*[({{]?\s*([^)}}\n]*)[)}}]?\s*$", text, re.MULTILINE),
                  maxlen=1)
    if not heads:
        return None
    lines = []
    for line in text[heads[0].end():].lstrip("\n").splitlines():
        words = line.split()
        numbers = words if name == "CELL_PARAMETERS" else words[1:]
        if len(numbers) < 3 or any(float_of(n) != float_of(n) for n in numbers[:3]):  # noqa: PLR2004  nan
            break
        lines.append(line.strip())
    return heads[0][1].strip(), lines


def last_stress(text: str) -> list[list[float]] | None:
    """Return the last stress tensor, shape (3, 3), kbar, positive when compressed."""
    heads = deque(re.finditer(r"^\s+total\s+stress\s.*P=.*\n((?:.*\n){3})", text, re.MULTILINE),
                  maxlen=1)
    if not heads:
        return None
    rows = [[float_of(x) for x in line.split()[3:6]] for line in heads[0][1].splitlines()]
    return rows if all(len(row) == 3 for row in rows) else None  # noqa: PLR2004


def xml_forces(root: ET.Element | None) -> list[list[float]] | None:
    """Return the forces in an XML, shape (n, 3), Ry/bohr."""
    found = root.find("output/forces") if root is not None else None
    if found is None or not found.text:
        return None
    values = [2.0 * float_of(x) for x in found.text.split()]
    return [values[i:i + 3] for i in range(0, len(values) - 2, 3)]
