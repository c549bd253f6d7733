"""The last word of a running code: energy or step, for people who watch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TAIL = 16384
_FILES = ("pw.out", "ph.out", "log.lammps", "lammps.out")
_WORTH = re.compile(r"^(?:!?\s*total energy\s*=.*|\s*\d+(?:\s+[-+.\deE]+){2,})\s*$", re.MULTILINE)


def last_line(folder: Path) -> str:
    """Return the last line of a code's output that holds an energy or a step; may be empty.

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
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    found = _WORTH.findall(text)
    return " ".join(found[-1].split())[:100] if found else ""
