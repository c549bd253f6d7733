"""What can be known to be wrong with a LAMMPS input before MPI starts.

Only what is certain is refused: a file that is not there, a command or style this lmp does not
have, an element its potential file does not hold, two atoms at one place. Scripts that jump, or
build names from variables, are left to LAMMPS.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.lammps_script import NOT_LINEAR, RUNS, Script
from orionflow.launchers.lammps_data import coincident_atoms
from orionflow.launchers.preflight_qe import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orionflow.launchers.custodian.lammps_script import Command

_MINIMUM_FREE = 2 * 2**20
# Built into the parser (input.cpp); the others are listed by `lmp -h`.
_COMMANDS = frozenset("""
clear echo if include jump label log next partition print python quit shell variable
angle_coeff angle_style atom_modify atom_style bond_coeff bond_style bond_write boundary box
comm_modify comm_style compute compute_modify dielectric dihedral_coeff dihedral_style dimension
dump dump_modify fix fix_modify group improper_coeff improper_style kspace_modify kspace_style
lattice mass min_modify min_style molecule neigh_modify neighbor newton package pair_coeff
pair_modify pair_style pair_write processors region reset_timestep restart run_style special_bonds
suffix thermo thermo_modify thermo_style timestep timer uncompute undump unfix units
change_box communicate run minimize delete_elec labelmap plugin geturl angle_write dihedral_write
velocity write_coeff write_data write_dump write_restart
""".split())  # noqa: SIM905  a list of ninety strings is harder to read
# Styles whose pair_coeff names a file and then one element for each type.
_WITH_ELEMENTS = re.compile(
    r"^(eam/(alloy|fs|he|cd)|sw|tersoff(/\w+)*|vashishta(/table)?|adp|edip(/multi)?|bop|comb3?|"
    r"gw(/zbl)?|extep|polymorphic|nb3b/harmonic|airebo(/morse)?|rebo|lcbop|agni)(/(opt|omp|kk|gpu))?$")
_TABLES = re.compile(r"^(eam/(alloy|fs|he)|adp)(/(opt|omp|kk|gpu))?$")
_LISTS = re.compile(r"^(sw|tersoff(/\w+)*|vashishta(/table)?)(/(opt|omp|kk|gpu))?$")
# With these a script without a run may be meant: they write, or hide what follows.
_DOES_SOMETHING = frozenset({
    "include", "info", "print", "shell", "message", "write_coeff", "write_data", "write_dump",
    "write_restart", "read_dump", "plugin", "server", "kim", "kim_query", "kim_init", "spin",
    "pair_write", "bond_write", "angle_write", "dihedral_write", "neb/spin", "dynamical_matrix",
})
_METAL_ONLY = re.compile(r"^(eam|adp|sw|tersoff|vashishta|edip|bop|comb|airebo|rebo|meam|agni)\b")


def check_lammps(folder: Path, input_file: str, command: Sequence[str] = ()) -> Problem | None:
    """Return the first reason why this input can't work, or None.

    Parameters
    ----------
    folder, input_file
        Where the script is.
    command
        How lmp will be started; its list of styles is asked for where lmp is in it.
    """
    path = folder / input_file
    try:
        script = Script.read(path)
    except OSError as error:
        return Problem("INPUT_MISSING", f"{path}: {error.strerror}", "check the name")
    if not any(c.name for c in script.commands):
        return Problem("LAMMPS_INPUT_ERROR", f"{input_file} holds no command", "write the input")
    if "\0" in path.read_text(errors="replace"):
        return _problem(f"{input_file} is no text: it holds bytes of value 0, at which lmp stops "
                        "reading", "write the input again, as plain text")
    if shutil.disk_usage(folder).free < _MINIMUM_FREE:
        return Problem("LAMMPS_DISK_FULL", f"the disk of {folder} is full", "make room",
                       transient=True)
    checks: tuple[Callable[[], Problem | None], ...] = (
        lambda: _commands(script, _lmp(command)),
        lambda: _styles(script, _lmp(command)),
        lambda: _files(script, folder),
        lambda: _elements(script, folder),
        lambda: _units(script),
        lambda: _distances(script, folder),
        lambda: _purpose(script),
        lambda: _motion(script),
    )
    return next((problem for check in checks if (problem := check()) is not None), None)


def _purpose(script: Script) -> Problem | None:
    """Refuse a script that would end well without having done anything."""
    names = {c.name for c in script.commands if c.name}
    if names & (_DOES_SOMETHING | NOT_LINEAR | RUNS):
        return None
    return _problem("the script has no run, minimize or other command that does or writes "
                    "something", "is its end missing? add run or minimize")


# These act on what another fix moves, or only look on.
_MOVES_NOTHING = re.compile(
    r"^(print|ave|vector|store|halt|balance|momentum|recenter|langevin|temp|setforce|addforce|"
    r"aveforce|wall|efield|restrain|spring|viscous|drag|enforce2d|freeze|property|dt|planeforce|"
    r"lineforce|controller)(/|$)")


def _motion(script: Script) -> Problem | None:
    """Refuse runs in which no atom would move, or none would feel another."""
    names = {c.name for c in script.commands}
    if not script.linear or names & {"read_restart", "include", "kim", "kim_init"}:
        return None
    moving = [p for p in model.plans(script) if p.command.name == "run"
              and model.value(script, (p.command.args or ["0"])[0], p.at) != 0]
    still = [p for p in moving if all(_MOVES_NOTHING.match(f.style) for f in p.fixes)]
    if moving and len(still) == len(moving):
        return _problem(f"no fix moves the atoms during {str(still[0].command)!r}",
                        "add `fix 1 all nve`, nvt, npt ... before it, or write `run 0` for the "
                        "energy of the structure as it is")
    forces = {"pair_style", "bond_style", "kspace_style"}
    if names & RUNS and not names & forces and not any(
            f.style.startswith(("srd", "lb/", "external", "mdi")) for p in model.plans(script)
            for f in p.fixes):
        return _problem("there is no pair_style: the atoms would not feel each other",
                        "add pair_style and pair_coeff; `pair_style none` says that it is meant")
    return None


def _problem(message: str, hint: str) -> Problem:
    return Problem("LAMMPS_INPUT_ERROR", message, hint)


def _lmp(command: Sequence[str]) -> str | None:
    for word in command:
        if re.match(r"^(lmp|lammps)([_.-].*)?$", Path(word).name):
            return shutil.which(word)
    return None


@functools.lru_cache(maxsize=8)
def known_styles(executable: str) -> dict[str, frozenset[str]]:
    """Return the styles of an lmp by kind (``pair``, ``fix``, ``command`` ...), from `lmp -h`."""
    try:
        text = subprocess.run(
            [executable, "-h"], capture_output=True, text=True, timeout=20, check=False,
            stdin=subprocess.DEVNULL, env={**os.environ, "PAGER": "cat"}).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    styles: dict[str, frozenset[str]] = {}
    for kind, body in re.findall(r"^\* (\w+) styles?:?\s*\n(.*?)(?=^\* |\Z)", text,
                                 re.MULTILINE | re.DOTALL):
        styles[kind.lower()] = frozenset(body.split())
    return styles


def _close(word: str, known: frozenset[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "see the list of `lmp -h`"


def _commands(script: Script, executable: str | None) -> Problem | None:
    listed = known_styles(executable).get("command") if executable else None
    if not listed:
        return None
    known = _COMMANDS | listed
    for command in script.commands:
        name = command.name
        if name and name not in known and "$" not in name and re.match(r"^[a-z_]+$", name):
            return _problem(f"unknown command {name!r}: {command}", _close(name, known))
    return None


def _styles(script: Script, executable: str | None) -> Problem | None:
    styles = known_styles(executable) if executable else {}
    for kind, name, place in (("pair", "pair_style", 0), ("bond", "bond_style", 0),
                              ("angle", "angle_style", 0), ("kspace", "kspace_style", 0),
                              ("atom", "atom_style", 0), ("fix", "fix", 2),
                              ("compute", "compute", 2)):
        known = styles.get(kind)
        if not known:
            continue
        for command in script.all(name):
            word = command.args[place] if len(command.args) > place else ""
            # Accelerated variants are not listed by name; "none" is a style everywhere. A listing
            # leaves out styles of the code itself and deprecated ones, written in capitals.
            if not word or "$" in word or word == "none" or word.upper() == word or re.search(
                    r"/(omp|opt|intel|kk|gpu)$", word):
                continue
            if word not in known and difflib.get_close_matches(word, known, n=1, cutoff=0.8):
                return _problem(f"unknown {kind} style {word!r}: {command}", _close(word, known))
    return None


def named_files(script: Script) -> Iterator[tuple[Command, str]]:
    """Yield the commands that read a data, restart, potential or other file, and its name."""
    for command in script.commands:
        args = command.args
        if command.name in {"read_data", "read_restart", "include", "molecule"} and args:
            yield command, args[1 if command.name == "molecule" and len(args) > 1 else 0]
        elif command.name == "pair_coeff" and len(args) > 2:  # noqa: PLR2004  types, then a file
            place = 3 if _WITH_ELEMENTS.match(args[2]) and len(args) > 3 else 2  # noqa: PLR2004
            if re.search(r"[A-Za-z]", args[place]) and _reads_file(script, args):
                yield command, args[place]


def _reads_file(script: Script, args: Sequence[str]) -> bool:
    styles = [c.args[0] for c in script.all("pair_style") if c.args]
    return bool(_WITH_ELEMENTS.match(args[2])) or any(
        _WITH_ELEMENTS.match(s) or s == "eam" for s in styles[-1:])


def find_file(folder: Path, name: str) -> Path | None:
    """Return a file as LAMMPS finds it: by its path, or among the potentials it came with."""
    places = [folder, *(Path(p) for p in os.environ.get("LAMMPS_POTENTIALS", "").split(":") if p),
              Path("/usr/share/lammps/potentials")]
    return next((p / name for p in places if (p / name).is_file()), None)


def _files(script: Script, folder: Path) -> Problem | None:
    written = any(c.name in {"shell", "python", "jump", "write_restart", "write_data"}
                  for c in script.commands)
    for command, name in named_files(script):
        if "$" in name or written:
            continue
        if "*" in name or "%" in name:
            if not any(folder.glob(name.replace("%", "*"))):
                return _problem(f"no file {name!r}: {command}", "check name and folder")
        elif find_file(folder, name) is None:
            return _problem(f"no file {name!r}: {command}",
                            "put the file into the folder or correct its name")
    return None


def _elements(script: Script, folder: Path) -> Problem | None:
    styles = [c.args[0] for c in script.all("pair_style") if c.args]
    if len(styles) != 1:
        return None
    for command in script.all("pair_coeff"):
        args = command.args
        if len(args) < 4 or "$" in str(command):  # noqa: PLR2004  types, file, elements
            continue
        table, listed = _TABLES.match(styles[0]), _LISTS.match(styles[0])
        file = find_file(folder, args[2]) if table or listed else None
        if file is None:
            continue
        known = table_elements(file) if table else list_elements(file)
        missing = [e for e in args[3:] if e != "NULL" and e not in known]
        if known and missing:
            return _problem(f"{file.name} has no element {missing[0]!r}: {command}",
                            f"it holds: {', '.join(sorted(known))}")
    return None


def table_elements(file: Path) -> set[str]:
    """Return the elements of an eam/alloy, eam/fs or adp file (its fourth line)."""
    with file.open(errors="replace") as stream:
        lines = [line for _, line in zip(range(4), stream, strict=False)]
    words = lines[3].split("#")[0].split() if len(lines) > 3 else []  # noqa: PLR2004
    return set(words[1:]) if words[:1] and words[0].isdigit() else set()


def list_elements(file: Path) -> set[str]:
    """Return the elements of a file with an entry ``A B C numbers...`` for each triplet."""
    found: set[str] = set()
    for line in file.read_text(errors="replace").splitlines():
        words = line.split("#")[0].split()
        if len(words) > 3 and all(re.match(r"^[A-Za-z]\w*$", w) for w in words[:3]):  # noqa: PLR2004
            found |= set(words[:3])
    return found


def _units(script: Script) -> Problem | None:
    if model.units(script) != "lj" or (
            any(script.all("read_restart")) and not any(script.all("units"))):
        return None  # a restart file brings its units along
    for command in script.all("pair_style"):
        if command.args and _METAL_ONLY.match(command.args[0]):
            return _problem(f"units lj with {command}, whose files are in metal units",
                            "write `units metal` at the head of the input")
    return None


def _distances(script: Script, folder: Path) -> Problem | None:
    """Refuse atoms at one place in a data file that nothing in the script moves or removes."""
    reads = list(script.all("read_data"))
    touches = {"delete_atoms", "displace_atoms", "set", "create_atoms", "jump", "if"}
    shells = any("/cs" in w or "drude" in w or "gran" in w
                 for c in script.commands if c.name in {"pair_style", "fix"} for w in c.args[:3])
    if len(reads) != 1 or shells or len(reads[0].args) != 1 or any(
            c.name in touches for c in script.commands):
        return None
    file = folder / reads[0].args[0]
    pair = coincident_atoms(file) if "$" not in str(reads[0]) and file.is_file() else None
    if pair is None:
        return None
    return _problem(f"atoms {pair[0]} and {pair[1]} of {file.name} are at the same place",
                    "remove one of them from the data file")


