"""The SCF cycle of pw.x did not converge, or only says it did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orionflow.launchers.qe_output import line_with, scf_accuracies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt

Trend = Literal["falling", "sloshing", "stuck"]
_LONG = 600.0  # s: from here on the density of a failed attempt is worth keeping
_MOST_STEPS = 1000
_VACUUM = 6.0  # Å
_MEMORY = 8  # mixing_ndim of pw.x by default


def trend(accuracies: Sequence[float]) -> Trend:
    """Return how the estimated accuracy of one SCF cycle went.

    Parameters
    ----------
    accuracies
        Ry, one for each iteration.

    Returns
    -------
    str
        ``stuck`` when the last five agree within 5 %, ``falling`` when the last third is clearly
        below the third before it (a fifth, or ten times in all with few steps back),
        ``sloshing`` otherwise.
    """
    good = [a for a in accuracies if a > 0 and math.isfinite(a)]
    if len(good) < len(accuracies):
        return "sloshing"
    if len(good) < 5:  # noqa: PLR2004  too few to tell: let it go on
        return "falling"
    tail = good[-5:]
    if max(tail) <= 1.05 * min(tail):
        return "stuck"
    logs = [math.log10(a) for a in good]
    third = max(2, len(logs) // 3)
    before, last = logs[-2 * third:-third], logs[-third:]
    drop = sum(before) / len(before) - sum(last) / len(last)
    back = sum(b > a + 0.1 for a, b in zip(logs[-2 * third:], logs[-2 * third + 1:], strict=False))
    return "falling" if drop > 0.2 and back <= max(1, third // 2) else "sloshing"  # noqa: PLR2004


def steps_needed(accuracies: Sequence[float], threshold: float) -> int | None:
    """Return how many more iterations the present slope needs to reach the threshold (Ry)."""
    good = [a for a in accuracies if a > 0 and math.isfinite(a)]
    if len(good) < 3 or threshold <= 0:  # noqa: PLR2004
        return None
    span = good[-max(3, 2 * len(good) // 3):]
    slope = (math.log10(span[0]) - math.log10(span[-1])) / (len(span) - 1)
    if slope <= 0:
        return None
    return max(0, math.ceil((math.log10(span[-1]) - math.log10(threshold)) / slope))


@dataclass
class ScfNotConverged:
    """More iterations while the accuracy falls, gentler mixing when it does not."""

    run: QeRun
    failure_id: str = "QE_SCF_NOT_CONVERGED"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the text."""
        return line_with(attempt.stdout, r"convergence NOT achieved after\s+\d+ iterations")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002  rungs decide
        """Go on, or take the next rung of the mixing ladder."""
        return heal_scf(self, attempt)


@dataclass
class ScfPretended:
    """``scf_must_converge = .false.``: the last cycle ended above its threshold, silently."""

    run: QeRun
    failure_id: str = "QE_SCF_PRETENDED"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Compare the last accuracy with the threshold."""
        found = self.run.input
        if found.calculation not in {"scf", "relax", "vc-relax", "md", "vc-md"}:
            return None
        cycles = scf_accuracies(attempt.stdout)
        if not cycles or not cycles[-1]:
            return None
        threshold = found.number("electrons", "conv_thr", 1e-6)
        last = cycles[-1][-1]
        # The number is printed with eight decimals, or two digits when smaller.
        if last <= 1.06 * threshold + (5e-9 if last > 1e-8 else 0.0):  # noqa: PLR2004
            return None
        return (f"last estimated scf accuracy {last:g} Ry, conv_thr {threshold:g} Ry, "
                f"after {len(cycles[-1])} iterations")

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002  rungs decide
        """As if it had been reported."""
        return heal_scf(self, attempt)


def heal_scf(rule: ScfNotConverged | ScfPretended, attempt: Attempt) -> list[str] | None:
    """Change what lets the SCF cycle of this attempt converge."""
    run = rule.run
    found = run.input
    steps = int(found.number("electrons", "electron_maxstep", 100))
    threshold = found.number("electrons", "conv_thr", 1e-6)
    cycles = scf_accuracies(attempt.stdout)
    last = cycles[-1] if cycles else []
    kind = trend(last)
    tried = run.notes.setdefault("scf", [])
    if kind == "falling" and steps < _MOST_STEPS:
        need = steps_needed(last, threshold)
        more = 2 * need + steps if need is not None else 4 * steps
        new = max(60, min(_MOST_STEPS, max(more, 2 * steps)))
        wanted: dict[str, object] = {"electron_maxstep": new}
        if attempt.seconds > _LONG and found.calculation == "scf":
            wanted["startingpot"] = "file"
        return run.edit(electrons=wanted)
    if last and kind == "stuck" and last[-1] < 1e-14:  # noqa: PLR2004  double precision
        rule.advice = (f"conv_thr = {threshold:g} Ry is below what double precision can reach; "
                       "choose a larger one")
        return None
    return _next_mixing(rule, kind, steps, tried)


def _next_mixing(rule: ScfNotConverged | ScfPretended, kind: Trend, steps: int,
                 tried: list[str]) -> list[str] | None:
    run = rule.run
    found = run.input
    beta = found.number("electrons", "mixing_beta", 0.7)
    mode = str(found.get("electrons", "mixing_mode", "plain")).strip().lower()
    enough = max(steps, 200)
    rungs: list[tuple[str, dict[str, object]]] = []
    # With a short memory Broyden is little more than plain mixing: no beta helps then.
    memory: dict[str, object] = (
        {} if found.number("electrons", "mixing_ndim", _MEMORY) >= _MEMORY else
        {"mixing_ndim": _MEMORY})
    if beta > 0.31:  # noqa: PLR2004
        rungs.append(("beta 0.3", {"mixing_beta": 0.3, "electron_maxstep": enough, **memory}))
    elif beta < 0.02:  # noqa: PLR2004  so small that nothing moves
        rungs.append(("beta up", {"mixing_beta": 0.1, "electron_maxstep": enough, **memory}))
    elif memory:
        rungs.append(("memory", {"electron_maxstep": enough, **memory}))
    if mode == "plain" and vacuum(found.cards, run) > _VACUUM:
        rungs.append(("local-TF", {"mixing_mode": "local-TF", "mixing_beta": min(beta, 0.3)}))
    rungs += [
        ("beta 0.1", {"mixing_beta": 0.1, "mixing_ndim": 12, "mixing_mode": "plain",
                      "electron_maxstep": enough}),
        ("cg", {"diagonalization": "cg", "mixing_beta": 0.1}),
        ("beta 0.03", {"mixing_beta": 0.03, "mixing_ndim": 16,
                       "electron_maxstep": max(steps, 400)}),
    ]
    upscale = found.number("ions", "upscale", 100.0)
    if kind == "stuck" and found.calculation == "relax" and upscale > 1:
        rungs.insert(0, ("upscale", {}))
    for name, wanted in rungs:
        if name in tried:
            continue
        tried.append(name)
        changes = (run.edit(ions={"upscale": 1.0}) if name == "upscale"
                   else run.edit(electrons=wanted))
        if changes:
            return changes
    rule.advice = ("mixing was made as gentle as it gets; check the structure, the smearing, the "
                   "starting magnetisation and the k-points")
    return None


def vacuum(cards: object, run: QeRun) -> float:  # noqa: ARG001  geometry comes from the input
    """Return the widest empty layer along a lattice vector, Å; 0 when the cell can't be read."""
    from orionflow.errors import InputError
    from orionflow.launchers.qe_geometry import read_geometry

    try:
        geometry = read_geometry(run.input)
    except InputError:
        return 0.0
    return geometry.widest_gap()
