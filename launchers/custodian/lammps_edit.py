"""The changes corrections make to a script. Each returns them as lines ``what: old -> new``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_model as model

if TYPE_CHECKING:
    from collections.abc import Collection

    from orionflow.launchers.custodian.lammps_script import Script

SEED = 4928459  # any number will do; it is written down, so a run can be repeated
# With averages gathered over time the step counter can't be set back.
_CLOCKED = ("ave/", "vector", "deposit", "pour", "dt/reset", "controller", "nphug")


def first_run(script: Script) -> int:
    """Return the position of the first command that moves atoms; the end when there is none."""
    return (script.runs() or [len(script.commands)])[0]


def first_dynamics(script: Script) -> int | None:
    """Return the position of the first `run` that takes steps."""
    return next((i for i in script.find("run") if script.commands[i].args[:1] != ["0"]), None)


def set_keywords(script: Script, command: str, values: dict[str, str]) -> list[str]:
    """Set keywords of a command wherever it occurs; add it before the first run if need be."""
    changes, missing = [], dict(values)
    first = first_run(script)
    for at in script.find(command):
        words = list(script.commands[at].words)
        for key, new in values.items():
            if key in words[:-1]:
                place = words.index(key) + 1
                if words[place] != new:
                    changes.append(f"{command} {key}: {words[place]} -> {new}")
                    words[place] = new
                if at < first:
                    missing.pop(key, None)
        if words != script.commands[at].words:
            script.replace(at, " ".join(words))
    if missing:
        line = " ".join([command, *(w for item in missing.items() for w in item)])
        script.insert(first_run(script), [line])
        changes.append(f"{command}: (default) -> {line.removeprefix(command + ' ')}")
    return changes


def check_neighbours_each_step(script: Script) -> list[str]:
    """Have LAMMPS look at every step whether the neighbour lists still hold."""
    return set_keywords(script, "neigh_modify", {"every": "1", "delay": "0", "check": "yes"})


def skin(script: Script, units: str) -> float | None:
    """Return the neighbour skin, or None when it takes LAMMPS to tell."""
    found = [model.value(script, c.args[0]) for c in script.all("neighbor") if c.args]
    return found[-1] if found else model.DEFAULT_SKIN.get(units)


def widen_skin(script: Script, units: str, factor: float) -> list[str]:
    """Make the neighbour skin wider."""
    places = script.find("neighbor")
    if not places:
        usual = model.DEFAULT_SKIN.get(units)
        if usual is None:
            return []
        script.insert(first_run(script), [f"neighbor {usual * factor:.6g} bin"])
        return [f"neighbor: {usual:.6g} (default) -> {usual * factor:.6g}"]
    changes = []
    for at in places:
        args = script.commands[at].args
        old = model.value(script, args[0], at) if args else None
        if old is not None:
            script.replace(at, " ".join(["neighbor", f"{old * factor:.6g}", *args[1:]]))
            changes.append(f"neighbor: {old:.6g} -> {old * factor:.6g}")
    return changes


def can_minimize(script: Script) -> bool:
    """Whether a minimisation may be put before the first run."""
    at = first_dynamics(script)
    return (at is not None and not model.granular(script)
            and not any(i < at for i in script.find("minimize")))


def minimize_first(script: Script, units: str, first_step: int | None) -> list[str]:
    """Put a minimisation before the first dynamics; atoms keep the velocities they have."""
    at = first_dynamics(script)
    if at is None:
        return []
    force = model.SMALL_FORCE.get(units, 0.01)
    line = f"minimize 0.0 {force:.6g} 1000 10000"
    script.insert(at, [line, *_back_to(script, at, first_step)])
    return [f"before the first run: (nothing) -> {line}"]


def _back_to(script: Script, at: int, step: int | None) -> list[str]:
    """Return the command that sets the step counter back, where LAMMPS allows it."""
    clocked = any(c.args[2].startswith(_CLOCKED) for c in script.commands[:at]
                  if c.name == "fix" and len(c.args) > 2)  # noqa: PLR2004  the style
    return [] if step is None or clocked else [f"reset_timestep {step}"]


def limited_first(script: Script, units: str, first_step: int | None) -> list[str]:
    """Put 500 steps with limited displacements before the first dynamics.

    `fix nve/limit` takes the place of what integrates the first run; a Langevin thermostat takes
    up the heat when its temperature is known.
    """
    at = first_dynamics(script)
    plan = next((p for p in model.plans(script) if p.at == at), None)
    if at is None or plan is None:
        return []
    movers = [f for f in plan.fixes if model.INTEGRATORS.match(f.style)]
    if not movers or any(f.style.split("/")[0] not in {"nve", "nvt", "npt", "nph"} for f in movers):
        return []
    lines = [f"unfix {f.id}" for f in movers]
    limit = model.SHORT_LENGTH.get(units, 0.05)
    names = []
    for number, mover in enumerate(movers, start=1):
        names.append(f"orionflow_limit{number}")
        lines.append(f"fix {names[-1]} {mover.group} nve/limit {limit:.6g}")
        temperature = mover.keyword("temp", 3)
        if temperature:
            names.append(f"orionflow_bath{number}")
            lines.append(f"fix {names[-1]} {mover.group} langevin {temperature[0]} "
                         f"{temperature[0]} {temperature[2]} {SEED}")
    lines += ["run 500", *(f"unfix {n}" for n in names)]
    lines += [str(script.commands[f.at]) for f in movers]
    lines += _back_to(script, at, first_step)
    script.insert(at, lines)
    return [f"before the first run: (nothing) -> 500 steps of fix nve/limit {limit:.6g}"]


def nvt_first(script: Script, first_step: int | None) -> list[str]:
    """Put 1000 steps at constant volume before the first run under pressure control."""
    for plan in model.plans(script):
        barostats = [f for f in plan.fixes if f.style == "npt"]
        if plan.command.name == "run" and len(barostats) == 1:
            fix = barostats[0]
            temperature = fix.keyword("temp", 3)
            if not temperature:
                return []
            nvt = f"fix orionflow_nvt {fix.group} nvt temp {' '.join(temperature)}"
            lines = [f"unfix {fix.id}", nvt, "run 1000", "unfix orionflow_nvt",
                     str(script.commands[fix.at]), *_back_to(script, plan.at, first_step)]
            script.insert(plan.at, lines)
            return ["before the first npt run: (nothing) -> 1000 steps of nvt"]
    return []


def slow_barostat(script: Script, timestep: float, steps: int = 1000) -> list[str]:
    """Give every barostat a damping time of at least ``steps`` time steps."""
    wanted = steps * timestep
    changes = []
    for at in script.find("fix"):
        words = list(script.commands[at].words)
        if len(words) < 4 or words[3].split("/")[0] not in {"npt", "nph"}:  # noqa: PLR2004
            continue
        new = list(words)
        for place, word in enumerate(words[4:], start=4):
            if word in {"iso", "aniso", "tri", "x", "y", "z", "xy", "xz", "yz"}:
                damp = words[place + 3 : place + 4]
                old = model.value(script, damp[0], at) if damp else None
                if old is not None and old < wanted * 0.999:
                    new[place + 3] = f"{wanted:.6g}"
                    changes.append(f"fix {words[1]} {word} damping: {old:.6g} -> {wanted:.6g}")
        if new != words:
            script.replace(at, " ".join(new))
    return changes


def create_velocities(script: Script, at: int, group: str, temperature: float) -> list[str]:
    """Give a group random velocities before a run."""
    line = (f"velocity {group} create {temperature:.6g} {SEED} mom yes rot no dist gaussian")
    script.insert(at, [line])
    return [f"before the run: (nothing) -> {line}"]


def scale_minimize(script: Script, factor: int,
                   places: Collection[int | None] | None = None) -> list[str]:
    """Allow the minimisations at some places, or all, more iterations and force evaluations."""
    changes = []
    for at in script.find("minimize"):
        if places is not None and at not in places:
            continue
        words = list(script.commands[at].words)
        for place, name in ((3, "iterations"), (4, "force evaluations")):
            old = model.value(script, words[place], at) if len(words) > place else None
            if old is not None:
                words[place] = str(int(old) * factor)
                changes.append(f"minimize {name}: {int(old)} -> {words[place]}")
        if words != script.commands[at].words:
            script.replace(at, " ".join(words))
    return changes


def set_etol(script: Script) -> list[str]:
    """Let the force decide where a minimisation ends; without a force tolerance sharpen etol."""
    changes = []
    for at in script.find("minimize"):
        words = list(script.commands[at].words)
        tolerances = [model.value(script, w, at) for w in words[1:3]]
        if len(tolerances) == 2 and tolerances[0]:  # noqa: PLR2004  energy and force
            new = "0.0" if tolerances[1] else f"{tolerances[0] * 1e-6:.6g}"
            changes.append(f"minimize energy tolerance: {words[1]} -> {new}")
            words[1] = new
            script.replace(at, " ".join(words))
    return changes


def set_min_style(script: Script, style: str) -> list[str]:
    """Use another minimiser throughout."""
    old = [c.args[0] for c in script.all("min_style") if c.args]
    for at in reversed(script.find("min_style")):
        script.remove(at)
    places = script.find("minimize")
    if not places:
        return []
    script.insert(places[0], [f"min_style {style}"])
    return [f"min_style: {old[-1] if old else 'cg (default)'} -> {style}"]
