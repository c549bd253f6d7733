"""A shorter time step with as many more steps, so that the simulated time stays the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_model as model

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.lammps_output import LammpsOutput
    from orionflow.launchers.custodian.lammps_script import Script

FLOOR = 1 / 64
MOST_SHORTER = 4


def shorten_timestep(run: LammpsRun, output: LammpsOutput) -> list[str] | None:
    """Halve the time step, or go down to a usual one; multiply the steps by the same factor."""
    script = run.script
    units = output.units
    last = output.last_run
    now = (last.timestep if last else None) or model.timestep(script)
    usual = model.USUAL_TIMESTEP.get(units)
    factor = 2
    while usual is not None and now / factor > usual:
        factor *= 2
    if usual is not None and now / factor < usual * FLOOR:
        return None
    # A restart file brings its time step along, which need not be the default.
    start = next((r.timestep for r in output.runs if r.timestep), None)
    return [*scale_timestep(script, units, factor, start), *scale_runs(script, factor)]


def scale_timestep(script: Script, units: str, factor: int,
                   start: float | None = None) -> list[str]:
    """Divide every `timestep` of a script; add one where the first run has none before it.

    ``start`` is the time step that run printed, in the units of the script.
    """
    changes = []
    places = script.find("timestep")
    first = (script.runs() or [len(script.commands)])[0]
    if not places or places[0] > first:
        value = start or model.DEFAULT_TIMESTEP.get(units, 0.005)
        script.insert(first, [f"timestep {value / factor:.10g}"])
        changes.append(f"timestep: {value:.10g} (default) -> {value / factor:.10g}")
        places = [i for i in script.find("timestep") if i != first]
    for i in reversed(places):
        old = script.commands[i].args[0]
        new = divided(old, factor)
        changes.append(f"timestep: {old} -> {new}")
        script.replace(i, f"timestep {new}")
    return changes


def divided(value: str, factor: int) -> str:
    """Return a number, or a LAMMPS formula, divided."""
    try:
        return f"{float(value) / factor:.10g}"
    except ValueError:
        return f"$(({formula(value)})/{factor}.0)"


def multiplied(value: str, factor: int) -> str:
    """Return a number of steps, or a LAMMPS formula for it, multiplied."""
    try:
        return str(int(float(value)) * factor)
    except ValueError:
        return f"$(({formula(value)})*{factor}:%.0f)"


def formula(value: str) -> str:
    """Return ``$x``, ``${x}`` or ``$(x)`` as it is written inside ``$(...)``."""
    if value.startswith("${") and value.endswith("}"):
        return f"v_{value[2:-1]}"
    if value.startswith("$(") and value.endswith(")"):
        return value[2:-1].rsplit(":%", 1)[0]
    if value.startswith("$") and len(value) == 2:  # noqa: PLR2004  a one-letter variable
        return f"v_{value[1]}"
    return value


def scale_runs(script: Script, factor: int) -> list[str]:
    """Multiply the steps of every `run`."""
    changes = []
    for i in script.find("run"):
        words = list(script.commands[i].words)
        if len(words) < 2 or words[1] == "0":  # noqa: PLR2004
            continue
        words[1] = multiplied(words[1], factor)
        for key in ("start", "stop", "every"):
            if key in words[2:-1]:
                at = words.index(key) + 1
                words[at] = multiplied(words[at], factor)
        line = " ".join(words)
        changes.append(f"{script.commands[i]} -> {line}")
        script.replace(i, line)
    return changes
