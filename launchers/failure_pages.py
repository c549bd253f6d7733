"""The page on failures, made from the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.run_input import EXIT_MEANING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orionflow.launchers.failure_mode import FailureMode

_HEAD = """# Failures and what is done about them

Made from the code by `python scripts/reference.py`.

Every run of `pw.x`, `ph.x` and `lmp` ends in one of two ways: its result passes all checks below,
or it has failed under one of these names. The names are stored with the run and never change.

The first rule that fits acts, in this order: the launcher or a signal, walltime, damaged files,
error messages, the SCF cycle, ions and cell, and last the results that look good and are not.
Checks that find a silent failure are repeated on the final result, so corrections that run out
never count as success. What is never changed: structure, pseudopotential or potential,
functional, k-points, cutoffs, thresholds (conv_thr may become tighter), ensemble, and the number of
steps of a dynamics. A relaxation may go on from its own last structure.

**silent**: the code itself reports success. **transient**: the input is not at fault; the same run
may succeed later. **before**: found before MPI is started, where possible.
"""


def failures_page() -> str:
    """Return the page as Markdown."""
    modes = list(CATALOGUE.values())
    groups = {
        "Any code": [m for m in modes if m.code == "any"],
        "pw.x, and what ph.x shares with it": [m for m in modes if m.code == "pw.x"],
        "ph.x": [m for m in modes if m.code == "ph.x"],
        "LAMMPS": [m for m in modes if m.code not in {"any", "pw.x", "ph.x"}],
    }
    parts = [_HEAD]
    for title, rows in groups.items():
        parts.append(f"\n## {title}\n\n" + "\n".join(map(_row, rows)))
    parts.append(_exit_codes())
    return "".join(parts)


def _row(mode: FailureMode) -> str:
    marks = [word for word, there in (
        ("silent", mode.silent), ("transient", mode.transient), ("before", mode.when == "before"),
        ("while running", mode.when == "while")) if there]
    lines = [f"### `{mode.id}`", "", f"{mode.title[:1].upper()}{mode.title[1:]}."
             + (f" **{', '.join(marks)}**" if marks else ""), ""]
    lines += _items("Shows as", [mode.shows] if mode.shows else [])
    lines += _items("Done", mode.remedy or ["nothing: it stops at once"])
    lines += _items("For a person", [mode.advice])
    lines += _items("Kept", [mode.keep] if mode.keep else [])
    lines += _items("More of it may help", mode.resources)
    known = mode.source + ("" if mode.reproduced else "; not reproduced in the tests")
    lines += _items("Known from", [known.lstrip("; ")])
    return "\n".join([*lines, ""])


def _items(name: str, values: Iterable[str]) -> list[str]:
    shown = "; then ".join(values) if name == "Done" else ", ".join(values)
    return [f"- {name}: {shown}"] if shown.strip("; ") else []


def _exit_codes() -> str:
    rows = "\n".join(f"| {int(code)} | {what} |" for code, what in EXIT_MEANING.items())
    return f"\n## Exit codes of `orionflow run-input`\n\n| code | meaning |\n|---|---|\n{rows}\n"
