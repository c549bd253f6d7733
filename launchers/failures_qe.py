"""The failures of Quantum ESPRESSO: pw.x and ph.x."""

from __future__ import annotations

from orionflow.launchers.failure_mode import FailureMode

QE_FAILURES = (
    FailureMode(
        "QE_NOT_STARTED", "pw.x", "the command, MPI or the site failed before pw.x began",
        transient=False, remedy=("once more, unchanged, if the site was only busy",),
        advice="run the command by hand; check modules, the executable and the number of ranks",
        source="",
    ),
    FailureMode(
        "QE_KILLED", "pw.x", "a signal from outside ended pw.x", transient=True,
        remedy=("twice more, unchanged",),
        advice="look who killed it: out of memory, a node, a person; then run it again", source="",
    ),
    FailureMode(
        "QE_WALLTIME", "pw.x", "the time was over before the calculation was", transient=True,
        remedy=("restart from its files in the time that is left",
                "a later launch in the same folder goes on"),
        advice="ask for more walltime or more ranks", source="",
    ),
    FailureMode(
        "QE_STOPPED", "pw.x", "an EXIT file asked pw.x to stop", transient=False, remedy=(),
        advice="run it again when it may go on", source="",
    ),
    FailureMode(
        "QE_SCF_NOT_CONVERGED", "pw.x", "the SCF cycle did not converge", transient=False,
        remedy=("more iterations while the accuracy falls", "smaller mixing_beta"),
        advice="look at the structure, the smearing and the magnetisation", source="",
    ),
)
