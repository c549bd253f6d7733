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

if TYPE_CHECKING:
    from pathlib import Path

_BOX = re.compile(
    r"%{20,}\s*\n\s*Error in routine\s+(?P<routine>.*?)\s*\((?P<code>\s*-?\d+)\s*\):\s*\n"
    r"(?P<message>.*?)\n\s*%{20,}", re.DOTALL)
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
    """Return the last error box in an output; repeated boxes of several ranks are one."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    found = boxes[-1]
    message = " ".join(found["message"].split())
    return ErrorBox(found["routine"], int(found["code"]), message)


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
    return "JOB DONE." in text[-4000:]


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
