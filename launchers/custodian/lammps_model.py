"""What a script says about its runs, as far as it can be known without running it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orionflow.launchers.custodian.lammps_script import Command, Script

# What LAMMPS takes without a `timestep` command, in the units of the style (update.cpp).
DEFAULT_TIMESTEP = {"lj": 0.005, "real": 1.0, "metal": 0.001, "si": 1e-8, "cgs": 1e-8,
                    "electron": 0.001, "micro": 2.0, "nano": 0.00045}
DEFAULT_SKIN = {"lj": 0.3, "real": 2.0, "metal": 2.0, "electron": 2.0}
# A time step that suits most systems in these units, and a force that counts as small
# (0.01 eV/Å, 0.2 kcal/mol/Å, 2e-4 Ha/Bohr are about the same force).
USUAL_TIMESTEP = {"lj": 0.005, "real": 1.0, "metal": 0.002, "electron": 0.5}
SMALL_FORCE = {"lj": 0.01, "real": 0.2, "metal": 0.01, "electron": 2e-4}
SHORT_LENGTH = {"lj": 0.05, "real": 0.1, "metal": 0.1, "electron": 0.2}

INTEGRATORS = re.compile(r"^(nve|nvt|npt|nph|rigid|brownian|move|pimd|nphug|msst)(/|$)")
THERMOSTATS = re.compile(r"^(nvt|npt|temp/(rescale|berendsen|csvr|csld)|langevin)(/|$)")
# Nothing here takes energy from the atoms or gives them some.
_PASSIVE = re.compile(
    r"^(nve|print|ave/.*|vector|store/.*|halt|balance|property/atom|recenter|dt/reset|"
    r"controller|pair/tracker|momentum|shake|rattle|freeze)(/.*)?$")
_FIXED_STYLES = frozenset({"index", "string", "equal", "internal"})


@dataclass
class Fix:
    """One fix in force during a run."""

    at: int
    id: str
    group: str
    style: str
    args: list[str]

    def keyword(self, name: str, count: int) -> list[str]:
        """Return the ``count`` values after a keyword; empty when it is not there."""
        if name not in self.args:
            return []
        at = self.args.index(name) + 1
        values = self.args[at : at + count]
        return values if len(values) == count else []


@dataclass
class RunPlan:
    """One `run` or `minimize` of a linear script with what is in force then."""

    at: int
    command: Command
    fixes: list[Fix] = field(default_factory=list)

    @property
    def conserves_energy(self) -> bool:
        """Whether the total energy of a `run` has to stay the same."""
        moved = [f for f in self.fixes if f.style.split("/")[0] == "nve"]
        return (self.command.name == "run" and len(moved) == 1
                and moved[0].style in {"nve", "nve/omp", "nve/opt", "nve/kk"}
                and all(_PASSIVE.match(f.style) for f in self.fixes))


def units(script: Script) -> str:
    """Return the unit style; LAMMPS' default is lj."""
    found = [c.args[0] for c in script.all("units") if c.args]
    return found[-1] if found else "lj"


def timestep(script: Script) -> float:
    """Return the last time step set, or the default of the units."""
    found = [value(script, c.args[0]) for c in script.all("timestep") if c.args]
    return next((v for v in reversed(found) if v), DEFAULT_TIMESTEP.get(units(script), 0.005))


def plans(script: Script) -> list[RunPlan]:
    """Return every run of a script in order, with the fixes in force."""
    active: dict[str, Fix] = {}
    result = []
    for at, command in enumerate(script.commands):
        args = command.args
        if command.name == "fix" and len(args) > 2:  # noqa: PLR2004  id, group, style
            active[args[0]] = Fix(at, args[0], args[1], args[2], args[3:])
        elif command.name == "unfix" and args:
            active.pop(args[0], None)
        elif command.name in {"run", "minimize"}:
            result.append(RunPlan(at, command, list(active.values())))
    return result


def value(script: Script, word: str, before: int | None = None) -> float | None:
    """Return a word as a number, looking simple variables up; None when that takes LAMMPS itself.

    Parameters
    ----------
    script
        For its `variable` commands.
    word
        ``300``, ``$T``, ``${T}``, ``v_T`` or ``$(v_T)``.
    before
        Only variables set before this position count.
    """
    for _ in range(10):
        number = _number(word)
        if number is not None:
            return number
        name = _variable(word)
        if name is None:
            return None
        found = [c.args for c in script.commands[:before] if c.name == "variable"
                 and c.args[:1] == [name]]
        if len(found) != 1 or len(found[0]) != 3 or found[0][1] not in _FIXED_STYLES:  # noqa: PLR2004
            return None
        word = found[0][2]
    return None


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _variable(word: str) -> str | None:
    match = re.fullmatch(r"\$\((?:v_)(\w+)\)|\$\{(\w+)\}|\$(\w)|v_(\w+)", word)
    return next(g for g in match.groups() if g) if match else None


def granular(script: Script) -> bool:
    """Whether atoms are grains, which have no energy that could be minimised."""
    return any("gran" in w for c in script.all("pair_style") for w in c.args[:1])
