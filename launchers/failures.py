"""The failure catalogue: every way a run can fail that we know by name."""

from __future__ import annotations

from orionflow.launchers.failure_mode import FailureMode
from orionflow.launchers.failures_lammps import LAMMPS_FAILURES
from orionflow.launchers.failures_qe import QE_FAILURES

__all__ = ["CATALOGUE", "FailureMode"]

_ANY = (
    FailureMode(
        "CODE_UNKNOWN", "any", "the code stopped with an error we do not know", transient=False,
        remedy=(), advice="read the last lines of the output in the folder", source="",
    ),
)
CATALOGUE: dict[str, FailureMode] = {
    mode.id: mode for mode in (*_ANY, *QE_FAILURES, *LAMMPS_FAILURES)}
