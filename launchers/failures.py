"""The failure catalogue: every way a run can fail that we know by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FailureMode:
    """One known failure.

    Attributes
    ----------
    id
        Stable name, stored in documents.
    code
        Executable it belongs to.
    title
        What happened, in words.
    transient
        Whether an unchanged rerun or continuation may succeed.
    remedy
        What is tried automatically, in order.
    advice
        What a person does when that did not help.
    source
        Where the remedy comes from.
    """

    id: str
    code: str
    title: str
    transient: bool
    remedy: tuple[str, ...]
    advice: str
    source: str


_ALL = (
    FailureMode(
        "CODE_UNKNOWN", "any", "the code stopped with an error we do not know", transient=False,
        remedy=(), advice="read the last lines of the output in the folder", source="",
    ),
)
CATALOGUE: dict[str, FailureMode] = {mode.id: mode for mode in _ALL}
