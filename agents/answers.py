"""What leaves the house: plain, bounded values, in which text from results is only ever data."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MOST_BYTES = 12_000
"""Size of an answer as JSON in UTF-8."""
_ROOM = 1_500  # for what stands beside the rows
_TEXT = 240
_ITEMS = 40
_DEPTH = 5
_LARGEST = 2**63
_LONGEST_CURSOR = 12
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\",;]+/)+")


def clean_text(value: object, most: int = _TEXT) -> str:
    """Return a text of one line without control, format and surrogate characters.

    Those move a cursor, turn the direction of writing or hide words from a person who reads what
    a program was told.
    """
    text = str(value)[:20 * most]
    seen = "".join(" " if c.isspace() else c for c in text
                   if c.isspace() or not unicodedata.category(c).startswith("C"))
    line = " ".join(seen.split())
    return line if len(line) <= most else f"{line[:most - 1]}…"


def without_folders(text: str) -> str:
    """Return a text in which files have lost the folders before their names."""
    return _FOLDERS.sub("", text)


def clean(value: Any, *, most: int = _TEXT, items: int = _ITEMS, depth: int = _DEPTH) -> Any:
    """Return plain JSON values: texts cleaned, lists and nesting cut, no NaN."""
    if isinstance(value, (dict, list, tuple)):
        if depth == 0:
            return f"({len(value)} more)"
        inner = {"most": most, "items": items, "depth": depth - 1}
        if isinstance(value, dict):
            return {clean_text(k, 80): clean(v, **inner) for k, v in list(value.items())[:items]}
        return [clean(v, **inner) for v in value[:items]]
    return _scalar(value, most)


def _scalar(value: Any, most: int) -> Any:
    if hasattr(value, "item"):  # numpy
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _LARGEST else clean_text(value, most)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat(timespec="seconds")
    return clean_text(value, most)


def size(answer: object) -> int:
    """Return the bytes of an answer as JSON."""
    return len(to_json(answer).encode())


def to_json(answer: object) -> str:
    """Return an answer as it is sent."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def paged(head: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], *,
          cursor_of: Callable[[Mapping[str, Any]], str], limit: int) -> dict[str, Any]:
    """Return ``head`` with as many rows as an answer holds.

    Parameters
    ----------
    head
        What stands beside the rows, already clean and small.
    rows
        In order; cleaned here.
    cursor_of
        Where the next page goes on after this row.
    limit
        Most rows.

    Returns
    -------
    dict
        ``head``, ``rows``, and ``cursor`` when there are more.
    """
    left = MOST_BYTES - _ROOM - size(head)
    shown: list[Any] = []
    cursor: str | None = None
    for row in rows:
        plain = clean(row)
        left -= size(plain) + 1
        if len(shown) == limit or (shown and left < 0):
            return {**head, "rows": shown, "cursor": cursor}
        if left < 0:
            plain = clean(row, most=80, items=8, depth=2)
        shown.append(plain)
        cursor = cursor_of(row)
    return {**head, "rows": shown}


def offset_of(cursor: str | None) -> int:
    """Return the position a cursor of ours stands for.

    Raises
    ------
    InputError
        It is none of ours.
    """
    if cursor is None:
        return 0
    if not cursor.isdecimal() or len(cursor) > _LONGEST_CURSOR:
        raise InputError(f"cursor {clean_text(cursor, 40)!r} was not given by an answer",
                         hint="leave it out to begin at the start")
    return int(cursor)
