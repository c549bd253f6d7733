"""Files of Quantum ESPRESSO that are cut, stale or could not be written."""

from __future__ import annotations

import glob
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.launchers.custodian.qe_continue import RELAX, continue_from_output
from orionflow.launchers.qe_output import error_box, is_finished, line_with, read_xml

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt

_ENOSPC = re.compile(r"^.*(?:No space left on device|Disk quota exceeded).*$", re.MULTILINE)
_LEAST_FREE = 64 * 1024  # bytes: below it a disk counts as full
_NEEDS_PARENT = ("nscf", "bands")
_STEP_FILE = r"file = '[^']*\.(?:bfgs|update|md|fire)'"


@dataclass
class DiskFull:
    """The disk took no more; pw.x itself may call this a success."""

    run: QeRun
    failure_id: str = "QE_DISK_FULL"

    def find(self, attempt: Attempt) -> str | None:
        """Look for the system's message, else for a full disk beside cut files."""
        said = _ENOSPC.search(attempt.stderr) or _ENOSPC.search(attempt.stdout)
        if said is not None:
            return said[0].strip()
        for place in {attempt.folder, _existing(self.run.outdir)}:
            try:
                disk = os.statvfs(place)
            except OSError:
                continue
            if disk.f_blocks and disk.f_bavail * disk.f_frsize < _LEAST_FREE:
                return f"no space left on the disk of {place}"
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Nothing in the input is wrong."""
        return None


@dataclass
class BrokenXml:
    """The XML of an earlier run is cut; pw.x aborts on it without a word."""

    run: QeRun
    failure_id: str = "QE_XML_BROKEN"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the parser's abort."""
        found = line_with(attempt.stderr, r"PARSE_ERR|xml.*[Pp]arse|FoX|dom.*error")
        if found is not None and not is_finished(attempt.stdout):
            return found
        box = error_box(attempt.stdout)
        if box is not None and re.search(r"reading xml|xml_read_data|qexsd", str(box)):
            path = self.run.xml_path
            if path.is_file() and read_xml(path) is None:
                return f"{box} ({path.name} is damaged)"
            given = self.run.input
            if not path.is_file() and given.calculation not in _NEEDS_PARENT and (
                    given.get("control", "restart_mode") == "restart"):
                return f"{box} ({path.name} is missing)"
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Start from scratch, with the damaged folder moved away."""
        if self.run.input.calculation in _NEEDS_PARENT or "inputph" in self.run.input.namelists:
            self.advice = "run the parent SCF again: its files are damaged"
            return None
        return _from_scratch(self.run, attempt, times)


@dataclass
class BrokenDensity:
    """The charge density can't be read."""

    run: QeRun
    failure_id: str = "QE_DENSITY_BROKEN"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for the box of the routine that reads it."""
        box = error_box(attempt.stdout)
        if box is not None and re.search(
                r"read_rhog|read_scf|charge-density|reading.*rho|expected charges differ", str(box),
                re.IGNORECASE):
            return str(box)
        end = line_with(attempt.stderr, r"file = '.*charge-density")
        return end if end and not is_finished(attempt.stdout) else None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Start from atomic densities, or name the parent."""
        if self.run.input.calculation in _NEEDS_PARENT or "inputph" in self.run.input.namelists:
            self.advice = "run the parent SCF again: its charge density is damaged"
            return None
        return _from_scratch(self.run, attempt, times)


@dataclass
class BrokenWavefunctions:
    """Wavefunction files can't be read; the density may still be good."""

    run: QeRun
    failure_id: str = "QE_WFC_BROKEN"
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Look for gfortran's words about a wfc file, or the box of davcio."""
        box = error_box(attempt.stdout)
        if box is not None and re.search(r"davcio|error reading file.*wfc|read_wfc", str(box)):
            return str(box)
        if is_finished(attempt.stdout):
            return None
        found = line_with(attempt.stderr, r"file = '[^']*(?:wfc|\.mix)[^']*'")
        if found is None and "At line" in attempt.stderr:
            found = line_with(attempt.stderr, r"Fortran runtime error: (?:Unformatted|End of file)")
            if line_with(attempt.stderr, _STEP_FILE):
                return None
        return found

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Make new wavefunctions on the old density first, then all from scratch."""
        found = self.run.input
        if "inputph" in found.namelists:
            self.advice = "run the parent SCF again: its wavefunctions are damaged"
            return None
        if times == 0 and found.get("electrons", "startingwfc") == "file":
            return self.run.edit(electrons={"startingwfc": "atomic+random"})
        if found.calculation in _NEEDS_PARENT:
            self.advice = "run the parent SCF again: its files are damaged"
            return None
        density = self.run.save / "charge-density.dat"
        if times == 0 and density.is_file() and density.stat().st_size and (
                found.calculation == "scf" and read_xml(self.run.xml_path) is not None):
            changes = self.run.edit(control={"restart_mode": "from_scratch"},
                                    electrons={"startingpot": "file",
                                               "startingwfc": "atomic+random"})
            if changes:
                return changes
        return _from_scratch(self.run, attempt, times - 1)


@dataclass
class BrokenRestart:
    """What a relaxation keeps of its steps can't be read; its structures are in the output."""

    run: QeRun
    failure_id: str = "QE_RESTART_BROKEN"

    def find(self, attempt: Attempt) -> str | None:
        """Look for gfortran's words about one of these files."""
        if is_finished(attempt.stdout):
            return None
        return line_with(attempt.stderr, _STEP_FILE)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Without these files, from the last structure that is known."""
        if times > 0 or self.run.input.calculation not in RELAX:
            return None
        changes = self.run.edit(control={"restart_mode": "from_scratch"})
        for file in sorted(self.run.outdir.glob(f"{glob.escape(self.run.input.prefix)}.*")):
            if file.suffix in {".bfgs", ".update"}:
                file.replace(file.with_name(f"{file.name}.damaged"))
                changes.append(f"moved away: {file.name}")
        return changes + continue_from_output(self.run, attempt.stdout)


@dataclass
class ResultMissing:
    """It says it is done, but the files with the result are not all there."""

    run: QeRun
    failure_id: str = "QE_RESULT_INCOMPLETE"

    def find(self, attempt: Attempt) -> str | None:  # noqa: PLR0911  one file a return
        """Look at the XML, the density and the wavefunctions."""
        found = self.run.input
        io = str(found.get("control", "disk_io", "")).strip().lower()
        if "inputph" in found.namelists or io == "none" or not is_finished(attempt.stdout):
            return None
        path = self.run.xml_path
        if io == "nowf" and not path.is_file():
            return None  # 6.7 writes no XML then
        if not path.is_file():
            return f"{path.name} is not in {path.parent}"
        if not self.run.job.is_fresh(path):
            return f"{path.name} is from an earlier run, not from this one"
        if read_xml(path) is None:
            return f"{path.name} is cut or damaged"
        empty = [f.name for f in (*path.parent.glob("charge-density*"), *path.parent.glob("wfc*"))
                 if f.is_file() and f.stat().st_size == 0]
        if empty:
            return f"{', '.join(sorted(empty)[:5])} in {path.parent.name}: 0 bytes"
        density = any(path.parent.glob("charge-density*"))
        if found.calculation not in _NEEDS_PARENT and not density:
            return f"no charge-density in {path.parent}"
        return None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Once more, unchanged: the file system may have had a bad moment."""
        return [] if times == 0 else None


def _from_scratch(run: QeRun, attempt: Attempt, times: int) -> list[str] | None:
    if times > 0:
        return None
    found = run.input
    wanted: dict[str, dict[str, str]] = {"control": {"restart_mode": "from_scratch"}}
    for key, default in (("startingpot", "atomic"), ("startingwfc", "atomic+random")):
        if found.get("electrons", key) == "file":
            wanted.setdefault("electrons", {})[key] = default
    changes = run.edit(**wanted)
    if found.calculation in RELAX:
        changes += continue_from_output(run, attempt.stdout)
    if run.save.is_dir():
        away = run.save.with_name(f"{run.save.name}.damaged")
        shutil.rmtree(away, ignore_errors=True)
        run.save.rename(away)
        changes.append(f"moved away: {run.save.name} -> {away.name}")
    return changes


def _existing(place: Path) -> Path:
    return next((p for p in (place, *place.parents) if p.is_dir()), Path("/"))
