"""One row of the failure catalogue."""

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
    shows
        Where and how it shows: text, return code, XML, physics or absence.
    when
        ``before``, ``while`` or ``after`` the run.
    keep
        What the remedy needs preserved.
    resources
        What the launcher may change instead: ``memory``, ``walltime``, ``ranks``, ``node``.
    silent
        Whether the code itself reports success.
    reproduced
        Folder of a real failing run in ``tests/data``, or empty when it could not be provoked
        with the versions at hand.
    """

    id: str
    code: str
    title: str
    transient: bool
    remedy: tuple[str, ...]
    advice: str
    source: str
    shows: str = ""
    when: str = "after"
    keep: str = ""
    resources: tuple[str, ...] = ()
    silent: bool = False
    reproduced: str = ""
