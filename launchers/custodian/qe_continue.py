"""A relaxation that was interrupted goes on from its last ionic step.

pw.x writes its XML, the history of BFGS and the density after each step. A run restarted from them
repeats no step and ends as the uninterrupted one (provoked with 6.7: energies of all later steps
agree to 1e-8 Ry, cells keep the plane waves of the first one). Files that do not belong to the
last printed step are left alone, and the printed structure goes into the input instead.
"""

from __future__ import annotations

import glob
import re
from typing import TYPE_CHECKING

import numpy as np

from orionflow.errors import InputError
from orionflow.launchers.qe_geometry import read_geometry, xml_geometry
from orionflow.launchers.qe_input import changed_text, parse_input, replace_card, with_card
from orionflow.launchers.qe_output import last_block, read_xml

if TYPE_CHECKING:
    from pathlib import Path

    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.qe_geometry import Geometry

RELAX = ("relax", "vc-relax")
_SAME = 1e-5  # Å; positions are printed with ten digits
_LAST = "output of the last step"  # where `QeRun.notes` keeps it from one attempt to the next


def go_on(run: QeRun, text: str) -> list[str]:
    """Let an interrupted relaxation go on from its last step.

    Parameters
    ----------
    run
        The run; its input is edited.
    text
        Output of the interrupted attempt.

    Returns
    -------
    list of str
        The changes; empty where there is no step to go on from (or the input goes on already).
    """
    if run.input.calculation not in RELAX:
        return []
    if last_block(text, "ATOMIC_POSITIONS") is None:
        return []
    run.notes[_LAST] = text
    if in_last_scf(text) and _same_structure(run, text):
        return _drop_last_scf(run) + run.edit(control={"restart_mode": "restart"})
    if holds_last_step(run, text):
        return run.edit(control={"restart_mode": "restart"})
    return run.edit(control={"restart_mode": "from_scratch"}) + continue_from_output(run, text)


def in_last_scf(text: str) -> bool:
    """Whether a vc-relax was in the SCF that follows its last step.

    It has the plane waves of the last cell. A restart makes those of the first one, and reads what
    belongs to others (6.7: `charge is wrong`). Without these files it does one SCF more, finds the
    forces small, and comes to the same last SCF.
    """
    return "Final scf calculation at the relaxed structure" in text


def holds_last_step(run: QeRun, text: str) -> bool:
    """Whether the restart files are those of the last step an output tells of."""
    if in_last_scf(text):
        return False
    files = [run.outdir / f"{run.input.prefix}.bfgs", *run.save.glob("charge-density*")]
    if len(files) < 2 or not all(_has_content(f) for f in files):  # noqa: PLR2004  both of them
        return False
    return _same_structure(run, text)


def _same_structure(run: QeRun, text: str) -> bool:
    """Whether the XML is whole and has the last printed structure."""
    saved, printed = xml_geometry(read_xml(run.xml_path)), _printed(run, text)
    return (saved is not None and printed is not None and saved.labels == printed.labels
            and bool(np.allclose(saved.cell, printed.cell, atol=_SAME))
            and bool(np.allclose(saved.positions, printed.positions, atol=_SAME)))


def _drop_last_scf(run: QeRun) -> list[str]:
    """Remove density and wavefunctions on the plane waves of the last cell."""
    prefix = glob.escape(run.input.prefix)
    files = [file for folder, patterns in (
        (run.save, ("charge-density*", "wfc*")),
        (run.outdir, (f"{prefix}.wfc*", f"{prefix}.mix*", f"{prefix}.restart*")))
        for pattern in patterns for file in folder.glob(pattern) if file.is_file()]
    for file in files:
        file.unlink()
    return ["removed: density and wavefunctions of the last SCF, which is done again"]


def continue_from_output(run: QeRun, text: str) -> list[str]:
    """Put the last cell and positions of a relaxation into its input; nothing else changes.

    An attempt that came to no step is continued from the one before it.
    """
    found = run.input
    if last_block(text, "ATOMIC_POSITIONS") is None:
        text = run.notes.get(_LAST, "")
    positions = last_block(text, "ATOMIC_POSITIONS")
    count = int(found.number("system", "nat", 0))
    if positions is None or len(positions[1]) != count:
        return []
    run.notes[_LAST] = text
    changes = []
    cell = _last_cell(run, text)
    if cell is not None:
        if found.number("system", "ibrav", 0) != 0:
            changes += run.edit(system={"ibrav": 0})
        replace_card(run.input_path, "CELL_PARAMETERS", cell[0], cell[1])
        changes.append("CELL_PARAMETERS: the last cell of the run")
    replace_card(run.input_path, "ATOMIC_POSITIONS", positions[0], ["  " + x for x in positions[1]])
    changes.append("ATOMIC_POSITIONS: the last positions of the run")
    return changes


def _last_cell(run: QeRun, text: str) -> tuple[str, list[str]] | None:
    cell = last_block(text, "CELL_PARAMETERS")
    if run.input.calculation != "vc-relax" or cell is None or len(cell[1]) != 3:  # noqa: PLR2004
        return None
    return re.sub(r"\s*=.*", "", cell[0]) or "alat", ["  " + x for x in cell[1]]


def _printed(run: QeRun, text: str) -> Geometry | None:
    """Return the structure of the last step as the code printed it."""
    positions = last_block(text, "ATOMIC_POSITIONS")
    if positions is None:
        return None
    found = run.input
    new = found
    try:
        if (cell := _last_cell(run, text)) is not None:
            new = parse_input(changed_text(new, {"system": {"ibrav": 0}}), found.path)
            new = parse_input(with_card(new, "CELL_PARAMETERS", *cell), found.path)
        new = parse_input(with_card(new, "ATOMIC_POSITIONS", *positions), found.path)
        return read_geometry(new)
    except InputError:
        return None


def _has_content(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:
        return False
