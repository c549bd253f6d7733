"""The last word of a running code: energy or step, for people who watch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TAIL = 16384
_HEAD = 65536
_LONGEST = 120
_FILES = ("pw.out", "ph.out", "log.lammps", "lammps.out")
_ENERGY = re.compile(r"^!?[ \t]*total energy[ \t]*=.*$", re.MULTILINE)
# A row of LAMMPS' thermo table, and its header (`thermo_modify line one`).
_ROW = re.compile(r"^[ \t]*\d+(?:[ \t]+[-+.\deE]+)+[ \t]*\n", re.MULTILINE)
_HEADER = re.compile(r"^[ \t]*(?:Step|Time)\b.*$", re.MULTILINE)


def last_line(folder: Path) -> str:
    """Return the last energy or step in a code's output; may be empty.

    Parameters
    ----------
    folder
        Folder of the run.
    """
    newest: tuple[float, Path] | None = None
    for name in _FILES:
        try:
            when = (folder / name).stat().st_mtime
        except OSError:
            continue
        if newest is None or when > newest[0]:
            newest = (when, folder / name)
    if newest is None:
        return ""
    try:
        with newest[1].open("rb") as file:
            head = file.read(_HEAD).decode(errors="replace")
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    if energies := _ENERGY.findall(text):
        return " ".join(energies[-1].split())[:_LONGEST]
    # The first line may be cut, and the last is still being written.
    rows = _ROW.findall(text)
    return _thermo(rows[-1].split(), head, text)[:_LONGEST] if rows else ""


def _thermo(row: list[str], head: str, tail: str) -> str:
    """Return a row of the thermo table with the names of its columns, where they are known."""
    names: list[str] = next(
        (found.split() for part in (tail, head) for found in reversed(_HEADER.findall(part))
         if len(found.split()) == len(row)), [])
    if not names:
        return " ".join(row)
    return "  ".join(f"{name} {_short(value)}" for name, value in zip(names, row, strict=True))


def _short(value: str) -> str:
    try:
        return value if value.lstrip("+-").isdigit() else f"{float(value):.6g}"
    except ValueError:
        return value
