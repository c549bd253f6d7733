"""One reason not to start a code, found before MPI is started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One reason not to start.

    Attributes
    ----------
    transient
        Whether it may pass by itself (a full disk).
    """

    failure_id: str
    message: str
    hint: str
    transient: bool = False
