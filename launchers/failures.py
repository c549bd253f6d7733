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
    FailureMode(
        "CODE_NOT_STARTED", "any", "the command is not there or can't be executed",
        transient=False, remedy=(), advice="check the command, or load its module", source="run",
        when="before", shows="nothing is started", reproduced="launchers/qe/test_processes.py",
    ),
    FailureMode(
        "INPUT_MISSING", "any", "the input file is not in the folder", transient=False,
        remedy=(), advice="check the name in the command", source="run", when="before",
        shows="nothing is started",
    ),
    FailureMode(
        "INPUT_REFUSED", "any", "the input can't be read", transient=False, remedy=(),
        advice="correct what the message names", source="run", when="before",
        shows="nothing is started",
    ),
    FailureMode(
        "INTERRUPTED", "any", "Ctrl-C or SIGTERM ended orionflow itself", transient=True,
        remedy=(), advice="run it again", source="run", when="while",
        shows="every process of the code has been ended",
        reproduced="launchers/qe/test_processes.py",
    ),
)
CATALOGUE: dict[str, FailureMode] = {
    mode.id: mode for mode in (*_ANY, *QE_FAILURES, *LAMMPS_FAILURES)}
