"""DataFrames as tables in a terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orionflow.cli.output import console

if TYPE_CHECKING:
    import pandas as pd

_SIGNIFICANT = 6
_DIGITS = 12  # behind the point
_ROOMY = 125  # columns of a terminal that shows everything on one line


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as plain values: times as text, None for NaN, which JSON has not."""
    rows: list[dict[str, Any]] = json.loads(
        frame.to_json(orient="records", date_format="iso", double_precision=_DIGITS))
    return rows


def print_frame(frame: pd.DataFrame, title: str | None = None) -> None:
    """Print a frame to stdout; numbers to the right, never broken over lines."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "if"
        table.add_column(str(column), justify="right" if numeric else "left", no_wrap=numeric,
                         overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(v) for v in row))
    console().print(table)


def print_results(table: pd.DataFrame) -> None:
    """Print a ``campaign_table``: own values, published ones, and below where these come from."""
    from rich.markup import escape
    from rich.table import Table

    sources: list[str] = []

    def published(value: float, source: Any, digits: int) -> str:
        if not _cell(source):
            return ""
        if source not in sources:
            sources.append(source)
        return f"{value:.{digits}f} [dim]({sources.index(source) + 1})[/]"

    out = console()
    roomy = out.width >= _ROOMY
    shown = Table(box=None, pad_edge=False, title="Results", title_justify="left")
    for name in ("material", "code", "model", "what"):
        shown.add_column(name, no_wrap=name != "what")
    for name in ("a0 (Å)", "published", "B (GPa)", "published", *["E (eV/atom)"] * roomy,
                 "points", "corrected", "core-s"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in table.to_dict("records"):
        shown.add_row(
            row["formula"], row["code"], escape(_cell(row["model"])), escape(row["label"]),
            _number(row["a0_angstrom"], 4), published(row["a0_reference"], row["a0_source"], 3),
            _number(row["b0_gpa"], 1), published(row["b0_reference"], row["b0_source"], 1),
            *[_number(row["energy_per_atom_ev"], 4)] * roomy, str(row["points"]),
            str(row["corrections"]), _number(row["core_seconds"], 1))
    out.print(shown)
    for number, source in enumerate(sources, 1):
        out.print(f"  [dim]({number})[/] {escape(source)}")
    for row in table.to_dict("records"):
        if _cell(row["warnings"]):
            out.print(f"[yellow]{row['formula']} {row['code']}:[/] {escape(row['warnings'])}")


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if _cell(value) else ""


def _cell(value: Any) -> str:
    import pandas as pd
    from rich.markup import escape

    if value is None or (not isinstance(value, list | dict) and pd.isna(value)):
        return ""
    if isinstance(value, pd.Timestamp):
        return str(value.strftime("%Y-%m-%d %H:%M:%S"))
    return f"{value:.{_SIGNIFICANT}g}" if isinstance(value, float) else escape(str(value))
