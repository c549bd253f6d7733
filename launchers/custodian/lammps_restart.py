"""Restart files: are they complete, of which step, and the script that goes on from one."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from orionflow.launchers.custodian.lammps_output import LammpsOutput
    from orionflow.launchers.custodian.lammps_script import Command, Script

MAGIC = b"LammpS RestartT"
# Wrote or read in the part of the script a restart file stands for.
_CREATE = frozenset({"read_data", "create_box", "read_restart"})
_ONCE = frozenset({
    "create_atoms", "replicate", "displace_atoms", "delete_atoms", "delete_bonds", "set",
    "change_box", "read_dump", "reset_timestep", "reset_atom_ids", "reset_mol_ids", "reset_ids",
    "create_bonds", "velocity", "group", "mass", "write_data", "write_restart", "write_dump",
    "balance", "minimize", "run",
})
# Their sums live in memory only: a continued run would hold half an average without saying so.
_FORGETFUL = ("ave/", "vector", "store/", "deposit", "pour", "bond/", "gcmc", "atom/swap")
_THERMO = re.compile(
    r"\b(?:pe|ke|etotal|temp|press|vol|density|lx|ly|lz|xlo|xhi|ylo|yhi|zlo|zhi|atoms|step|"
    r"enthalpy|p[xyz]{2}|[cf]_\w+|count|mass|xcm|bound|ke)\b"
)


@dataclass(frozen=True)
class Restart:
    """A complete restart file."""

    path: Path
    step: int


def restart_step(path: Path) -> int | None:
    """Return the step of a complete restart file; None when it is cut, empty or something else."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - len(MAGIC) - 1))
            tail = stream.read()
    except OSError:
        return None
    if not head.startswith(MAGIC) or MAGIC not in tail:
        return None
    return header_step(head)


def header_step(head: bytes) -> int | None:
    """Return the step written at the head of a restart file, also of a cut one.

    The head is the magic word, two integers, then pairs of a flag and a value: the version (flag
    0, text), integer sizes (1-3, 48), units (4, text), the step (5, 64 bits), as write_restart.cpp
    puts them.
    """
    at = len(MAGIC) + 1
    try:
        at += 8 if struct.unpack_from("=i", head, at)[0] == 1 else 0
        for _ in range(12):
            (flag,) = struct.unpack_from("=i", head, at)
            at += 4
            if flag in {0, 4}:
                (length,) = struct.unpack_from("=i", head, at)
                at += 4 + length
            elif flag in {1, 2, 3, 48}:
                at += 4
            elif flag == 5:  # noqa: PLR2004  the enum of lmprestart.h
                return int(struct.unpack_from("=q", head, at)[0])
            else:
                return None
    except struct.error:
        return None
    return None


def newest_restart(folder: Path, not_before: float = 0.0) -> Restart | None:
    """Return the complete restart file written last."""
    found = []
    for file in folder.iterdir():
        try:
            stat = file.stat()
            if not file.is_file() or stat.st_mtime < not_before or stat.st_size < 2 * len(MAGIC):
                continue
        except OSError:
            continue
        step = restart_step(file)
        if step is not None:
            found.append((stat.st_mtime_ns, step, file))
    if not found:
        return None
    _, step, path = max(found)
    return Restart(path, step)


def continuation(script: Script, output: LammpsOutput, restart: Restart,
                 ) -> tuple[Script, list[str]] | str:
    """Return the script that goes on from a restart file, and what was changed.

    Parameters
    ----------
    script
        The script that was stopped.
    output
        What it printed, of which the last run is the stopped one.
    restart
        Where to go on.

    Returns
    -------
    tuple of Script and list of str, or str
        The new script and its changes, or why there is no safe way to go on.
    """
    script = script.copy()  # an edited command and its old lines are one, read anew they are two
    reason = _why_not(script, output)
    if reason:
        return reason
    runs = script.runs()
    at = runs[len(output.runs) - 1]
    command = script.commands[at]
    first = output.runs[-1].first_step or 0
    end = _end(command, first)
    if end is None:
        return f"the length of {str(command)!r} is not a plain number"
    if restart.step < first or (command.name == "run" and restart.step > end):
        return f"{restart.path.name} is of step {restart.step}, not of the stopped run"
    return _build(script, at, end=end, first=first, restart=restart)


def _build(script: Script, at: int, *, end: int, first: int,
           restart: Restart) -> tuple[Script, list[str]]:
    new = script.copy()
    changes = [f"start: {_start_command(script)} -> read_restart {restart.path.name}"]
    command = new.commands[at]
    if command.name == "run":
        # Thermostats that heat along the run take their ramp from start and stop.
        extra = [] if "start" in command.words else ["start", str(first)]
        extra += [] if "stop" in command.words else ["stop", str(end)]
        kept = [w for w in command.words[2:] if w != "upto"]
        line = " ".join(["run", str(end), "upto", *kept, *extra])
        if line != str(command):
            changes.append(f"{command} -> {line}")
            new.replace(at, line)
    place = next(i for i, c in enumerate(new.commands) if c.name in _CREATE)
    for i in range(at - 1, -1, -1):
        name = new.commands[i].name
        if name == "dump" and not _appends(new, i):
            new.insert(i + 1, [f"dump_modify {new.commands[i].args[0]} append yes"])
        elif name in _CREATE | _ONCE:
            new.remove(i)
    new.insert(place, [f"read_restart {restart.path.name}"])
    return new, changes


def _appends(script: Script, dump: int) -> bool:
    """Whether frames are added to the file already, or each has a file of its own."""
    args = script.commands[dump].args
    return (len(args) > 4 and "*" in args[4]) or any(  # noqa: PLR2004
        c.args[:1] == args[:1] and "append" in c.words for c in script.all("dump_modify"))


def _start_command(script: Script) -> str:
    return next((c.name for c in script.commands if c.name in _CREATE), "the beginning")


def _end(command: Command, first: int) -> int | None:
    args = command.args
    if command.name != "run":
        return first
    try:
        number = int(float(args[0]))
    except (ValueError, IndexError):
        return None
    return number if "upto" in args else first + number


def _why_not(script: Script, output: LammpsOutput) -> str:
    """Return the first reason against going on, or an empty string."""
    runs, done = script.runs(), len(output.runs)
    before = script.commands[: runs[done - 1]] if 1 <= done <= len(runs) else []
    values = [str(c) for c in before if "$(" in str(c) and _THERMO.search(str(c))]
    forgetful = [f.args[2] for f in script.all("fix")
                 if len(f.args) > 2 and f.args[2].startswith(_FORGETFUL)]  # noqa: PLR2004  the style
    reasons = (
        (not script.linear, "the input has loops, jumps or several simulations"),
        (not before, f"the output shows {done} runs, the input has {len(runs)}"),
        (bool(output.runs) and output.runs[-1].first_step is None,
         "the thermo table has no Step column"),
        (bool(values), f"{values[:1]} takes a value of the running simulation"),
        (sum(c.name in _CREATE for c in script.commands) != 1,
         "the input does not make its box in one place"),
        (bool(forgetful), f"fix {forgetful[:1]} keeps what it has gathered in memory only"),
    )
    return next((text for wrong, text in reasons if wrong), "")
