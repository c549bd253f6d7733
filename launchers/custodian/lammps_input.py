"""Failures whose cause is in the input or its files, and those of memory and disk."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_edit as edit
from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.common import ending_signal, memory_line
from orionflow.launchers.custodian.lammps_restart import header_step, restart_step

if TYPE_CHECKING:
    from pathlib import Path

    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.lammps_unstable import Ladder
    from orionflow.launchers.custodian.rules import Attempt

_RESTART = re.compile(r"Invalid LAMMPS restart file|Incomplete or corrupted LAMMPS restart file|"
                      r"Unexpected end of file while reading file|Invalid flag in .*restart file|"
                      r"Restart file byte ordering|Restart file .* not recognized|"
                      r"Did not assign all restart atoms correctly")
_OVERFLOW = re.compile(r"Neighbor list overflow, boost neigh_modify (one|page)")
_MEMORY = re.compile(r"Failed to (?:re)?allocate .*|Too many local\+ghost atoms.*|"
                     r"std::bad_alloc|Cannot allocate memory")
# LAMMPS does not look whether a dump or a restart file could be written.
_LEAST_DISK = 2**20
_END_OF_DISK = 2**16
# Atoms for each volume of the units; diamond has 0.18 in a cubic Ångström.
_DENSEST = {"lj": 20.0, "real": 1.0, "metal": 1.0, "electron": 0.15}


def error_with(run: LammpsRun, attempt: Attempt, pattern: re.Pattern[str]) -> str | None:
    """Return the first ERROR that matches, with the command it belongs to."""
    output = run.output(attempt)
    for error in output.errors:
        if pattern.search(error):
            command = output.last_command
            return error + (f" (command: {command})" if command else "")
    return None


@dataclass
class BrokenRestart:
    """A restart file that was cut when something stopped its writer."""

    run: LammpsRun
    failure_id: str = "LAMMPS_RESTART_BROKEN"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the message."""
        line = error_with(self.run, attempt, _RESTART)
        if line is None or "read_restart" not in self.run.output(attempt).last_command:
            return None
        return line

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Read the newest complete one that is older; end at the step that was meant."""
        script = self.run.script
        places = script.find("read_restart")
        if not places or times > 1:
            return None
        at = places[0]
        args = script.commands[at].args
        broken, step = _which(attempt.folder, args[0])
        older = _older(attempt.folder, args[0], broken)
        if older is None:
            self.advice = (f"no complete restart file like {args[0]!r} is left: run what wrote it "
                           "again, or start from the data file")
            return None
        new, new_step = older
        line = " ".join(["read_restart", new.name, *args[1:]])
        changes = [f"{script.commands[at]} -> {line}"]
        script.replace(at, line)
        runs = script.find("run")
        if step is not None and runs and script.linear:
            words = list(script.commands[runs[0]].words)
            if "upto" not in words and words[1].isdigit():
                words[1] = str(int(words[1]) + step - new_step)
                changes.append(f"{script.commands[runs[0]]} -> {' '.join(words)} "
                               f"(to end at the step that was meant)")
                script.replace(runs[0], " ".join(words))
        return changes


def _which(folder: Path, name: str) -> tuple[Path | None, int | None]:
    """Return the file LAMMPS took for a name with or without ``*``, and the step it is of."""
    if "*" in name:
        numbered = [(_number(f.name, name), f) for f in folder.glob(name)]
        known = [(n, f) for n, f in numbered if n is not None]
        if not known:
            return None, None
        number, file = max(known)
        return file, number
    file = folder / name
    try:
        with file.open("rb") as stream:
            step = header_step(stream.read(4096))
    except OSError:
        return None, None
    found = re.search(r"(\d+)\D*$", name)
    return file, step if step is not None else int(found[1]) if found else None


def _number(name: str, pattern: str) -> int | None:
    head, _, tail = pattern.rpartition("/")[2].partition("*")
    middle = name[len(head): len(name) - len(tail) if tail else None]
    return int(middle) if middle.isdigit() else None


def _older(folder: Path, name: str, broken: Path | None) -> tuple[Path, int] | None:
    """Return the complete restart file of the same family with the highest step."""
    family = re.sub(r"\d+", "*", name.rpartition("/")[2].replace("*", "0"))
    if "*" not in family:  # restart.a and restart.b, or one plain name
        family = family[:-1] + "?"
    found = []
    for file in (folder / name).parent.glob(family):
        step = restart_step(file) if file != broken else None
        if step is not None:
            found.append((step, file))
    if not found:
        return None
    step, file = max(found)
    return file, step


@dataclass
class NeighbourOverflow:
    """More neighbours than the lists have room for."""

    run: LammpsRun
    ladder: Ladder
    failure_id: str = "LAMMPS_NEIGHBOR_OVERFLOW"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the message."""
        return error_with(self.run, attempt, _OVERFLOW)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Make room for what the density asks for; a collapse is an unstable simulation."""
        output = self.run.output(attempt)
        room = self._room()
        expected = None
        if output.atoms and output.box_volume and output.cutoff:
            expected = output.atoms / output.box_volume * 4.19 * output.cutoff**3
        moved = any(len(r.rows) > 1 for r in output.runs)
        density = output.atoms / output.box_volume if output.atoms and output.box_volume else 0.0
        if not moved and density > _DENSEST.get(output.units, float("inf")):
            self.advice = (f"{output.atoms} atoms in a volume of {output.box_volume:.4g} are many "
                           "times denser than any solid: correct the lattice constant, the box or "
                           "the units")
            return None
        if times > 2 or (moved and expected is not None and expected < room / 2):  # noqa: PLR2004
            return self.ladder.climb(attempt)
        one = max(2 * room, int(1.5 * expected) if expected else 0)
        return edit.set_keywords(self.run.script, "neigh_modify",
                                 {"one": str(one), "page": str(20 * one)})

    def _room(self) -> int:
        for command in self.run.script.all("neigh_modify"):
            args = command.args
            if "one" in args[:-1] and args[args.index("one") + 1].isdigit():
                return int(args[args.index("one") + 1])
        return 2000


@dataclass
class SmallBox:
    """The box is much smaller than the cutoff: neighbours have to be found without bins."""

    run: LammpsRun
    failure_id: str = "LAMMPS_SMALL_BOX"
    _pattern = re.compile(r"Cannot use neighbor bins - box size << cutoff")

    def find(self, attempt: Attempt) -> str | None:
        """Look for the message."""
        return error_with(self.run, attempt, self._pattern)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Use the slower search, which finds the same neighbours."""
        script = self.run.script
        if times:
            return None
        places = script.find("neighbor")
        if not places:
            skin = model.DEFAULT_SKIN.get(self.run.output(attempt).units, 0.3)
            script.insert(edit.first_run(script), [f"neighbor {skin:g} nsq"])
            return ["neighbor: bin (default) -> nsq"]
        for at in places:
            words = script.commands[at].words
            script.replace(at, " ".join([*words[:2], "nsq"]))
        return ["neighbor: bin -> nsq"]


@dataclass
class OutOfMemory:
    """More memory than there is: nothing in the input can change that safely."""

    run: LammpsRun
    failure_id: str = "LAMMPS_MEMORY"

    def find(self, attempt: Attempt) -> str | None:
        """Look for LAMMPS' message, Slurm's or the kernel's."""
        return (error_with(self.run, attempt, _MEMORY) or memory_line(attempt.stderr)
                or next((line for line in attempt.stderr.splitlines() if _MEMORY.search(line)),
                        None))

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Leave it to the launcher: more nodes, fewer atoms on each."""
        return None


@dataclass
class DiskFull:
    """The output stops where the disk was full; LAMMPS says nothing and returns 0."""

    run: LammpsRun
    failure_id: str = "LAMMPS_DISK_FULL"

    def find(self, attempt: Attempt) -> str | None:
        """Look for an output without an end on a disk without room."""
        if "No space left on device" in attempt.stderr + attempt.stdout:
            return "No space left on device"
        free = shutil.disk_usage(attempt.folder).free
        if free >= (_END_OF_DISK if self.run.complete(attempt) else _LEAST_DISK):
            return None
        return f"{free} bytes free at the end: what was written last is not complete"

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Nothing: someone has to make room."""
        return None


_MANY_IMAGES = 100.0


@dataclass
class Crashed:
    """A segmentation fault or the like."""

    run: LammpsRun
    ladder: Ladder
    failure_id: str = "LAMMPS_CRASHED"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for a signal of the code's own making."""
        ended = ending_signal(attempt.returncode, attempt.stderr)
        return ended[1] if ended and ended[0] in {4, 6, 7, 8, 11} else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Once more unchanged; then as an unstable simulation, if it moved at all."""
        output = self.run.output(attempt)
        if output.cutoff and output.box_volume and not any(r.rows for r in output.runs) and (
                output.cutoff**3 > _MANY_IMAGES * output.box_volume):
            self.advice = (f"the cutoff of {output.cutoff:g} reaches over many images of so small "
                           "a box: correct the cutoff or the units, or replicate the box")
            return None
        if not times:
            return []
        if not any(r.rows for r in self.run.output(attempt).runs):
            self.advice = ("it crashes before the first step: compare cutoff and box, try another "
                           "number of ranks, or another build of LAMMPS")
            return None
        return self.ladder.climb(attempt)


@dataclass
class Refused:
    """Any other ERROR: the user's to correct."""

    run: LammpsRun
    failure_id: str = "LAMMPS_INPUT_ERROR"
    advice: str | None = None
    title: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Return the message and the command it belongs to."""
        line = error_with(self.run, attempt, re.compile(""))
        if line is not None:
            self.advice = advice_for(line)
            return line
        return self._nothing_moves(attempt)

    def _nothing_moves(self, attempt: Attempt) -> str | None:
        """Look for integrators whose groups are all empty: every step is the first one again."""
        script, groups = self.run.script, self.run.output(attempt).groups
        made = [c.args[0] for c in script.all("group") if c.args]
        for plan in model.plans(script) if script.linear else []:
            movers = [f for f in plan.fixes if model.INTEGRATORS.match(f.style)]
            if plan.command.name == "run" and movers and all(
                    groups.get(f.group) == 0 and made.count(f.group) == 1 for f in movers):
                self.title = "nothing moves"
                self.advice = (f"correct the command that makes group {movers[0].group!r}: it "
                               "holds no atom")
                return (f"0 atoms in group {movers[0].group}, which is all that "
                        f"{str(script.commands[movers[0].at])!r} moves")
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Nothing: it would fail the same way."""
        return None


_ADVICE = (
    (r"Unknown command", "a typing error, or a command of a package this lmp was built without"),
    (r"not enabled in this LAMMPS binary|Unrecognized (\w+) style",
     "a typing error in the style, or an lmp without that package: `lmp -h` lists its styles"),
    (r"cannot open|Cannot open|No such file", "put the file into the folder or correct its name"),
    (r"Box bounds are invalid", "correct xlo/xhi, ylo/yhi, zlo/zhi in the data file or region"),
    (r"uncharged system|system with no charge", "set charges, or remove kspace_style"),
    (r"All pair coeffs are not set", "give pair_coeff for every pair of types"),
    (r"Not all per-type masses are set|[Mm]ass", "give a mass for every type"),
    (r"Substitution for illegal variable|Variable name .* (?:does not|is not)",
     "define the variable before use"),
    (r"Out of range atoms", "atoms lie outside the box at the start: correct box and coordinates"),
)


def advice_for(error: str) -> str:
    """Return what a person does about an error LAMMPS itself explains."""
    return next((text for pattern, text in _ADVICE if re.search(pattern, error)),
                "correct the input at the command named in the message")
