"""LAMMPS on a user's own input script, as it is."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Maker, job

from orionflow.errors import ConfigError, InputError
from orionflow.launchers.custodian.lammps_model import units
from orionflow.launchers.custodian.lammps_script import Script
from orionflow.launchers.machine import load_machine
from orionflow.launchers.preflight_lammps import check_lammps, find_file, named_files
from orionflow.workflows import user_files
from orionflow.workflows.lammps import outputs
from orionflow.workflows.schemas.user_input import UserInputDocument, UserStep
from orionflow.workflows.user_files import Bundle

if TYPE_CHECKING:
    from jobflow import Job

__all__ = ["InputMaker"]

LOG = "log.lammps"
# Files they name are written, or run.
_NOT_READ = frozenset({"dump", "write_data", "write_restart", "write_dump", "write_coeff",
                       "restart", "log", "print", "echo", "shell", "label", "group"})
_SCRIPT = re.compile(r"^\s*(units|pair_style|read_data|read_restart|lattice|atom_style)\s",
                     re.MULTILINE)


@dataclass
class InputMaker(Maker):
    """A user's own LAMMPS script.

    The script and the small text files it names (``read_data``, ``include``, ``molecule`` ...)
    are stored in the job and run in the job's own folder, as ``orionflow run-input`` would.

    Parameters
    ----------
    name
        Name of the job.
    files
        More small text files of the folder to take along, where the script builds their names
        from variables.
    options
        Words for lmp on its command line, such as ``["-var", "T", "300"]``.
    """

    name: str = "lammps input"
    files: tuple[str, ...] = field(default=())
    options: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Make tuples again of what JSON made lists."""
        self.files, self.options = tuple(self.files), tuple(self.options)

    def make(self, source: str | Path) -> Job:
        """Return the job for an input script, or for a folder that holds one.

        Parameters
        ----------
        source
            Script or folder.

        Raises
        ------
        InputError
            A file is missing or too large, or pre-flight finds that the script can't work.
        """
        path = _find_script(Path(source))
        user_files.read_text(path)
        problem = check_lammps(path.parent, path.name, [_lmp()])
        if problem is not None and not problem.transient:
            raise InputError(f"{path.name}: {problem.failure_id}: {problem.message}",
                             hint=problem.hint)
        bundle = Bundle(path.parent)
        _take_script(bundle, path.name)
        for name in self.files:
            bundle.add_text(name)
        made: Job = self.calculate([{"code": "lmp", "input_file": path.name}], bundle.files,
                                   bundle.references)
        return made

    @job(output_schema=UserInputDocument)
    def calculate(self, steps: list[dict[str, str]], files: list[dict[str, str]],
                  references: list[dict[str, str]]) -> UserInputDocument:
        """Run the script in the current folder and return its document; use `make`.

        Raises
        ------
        InputError
            A potential file has changed since submission.
        CodeError
            LAMMPS failed and corrections did not help.
        """
        folder = Path.cwd()
        ran = user_files.run_bundle(folder, steps, files, references, self.options)
        given = next(f for f in files if f["name"] == steps[0]["input_file"])
        log = outputs.parse_log(_read_log(folder))
        step = UserStep(**steps[0], code_version=log.version or None, run=ran.steps[0],
                        input_text=given["text"], input_sha256=given["sha256"],
                        units=units(Script.read(folder / given["name"])), numbers=_last_row(log))
        result = user_files.document(
            ran, [step], folder=folder, name=self.name, references=references,
            parameters=json.loads(json.dumps({"recipe": "InputMaker", **asdict(self)})))
        result.warnings += log.warnings
        if not log.runs:
            result.warnings.append(f"no thermo table in {LOG}: the script may name another log")
        return result


def _find_script(source: Path) -> Path:
    if source.is_file():
        return source.resolve()
    if not source.is_dir():
        raise InputError(f"there is no input script or folder {str(source)!r}",
                         hint="lammps.input takes an input script of LAMMPS, or a folder")
    found = [p for p in sorted(source.iterdir()) if p.is_file()
             and (p.name.startswith("in.") or p.suffix in {".in", ".lmp", ".lammps"})
             and p.stat().st_size <= user_files.MAX_BYTES
             and _SCRIPT.search(p.read_text(errors="replace"))]
    if len(found) != 1:
        raise InputError(f"folder {source} must hold one input script; it holds "
                         f"{', '.join(p.name for p in found) or 'none'}",
                         hint="give the script itself")
    return found[0].resolve()


def _lmp() -> str:
    try:
        return load_machine().executable("lmp")
    except ConfigError:
        return "lmp"  # on the compute nodes only


def _take_script(bundle: Bundle, name: str) -> None:
    """Take a script along, and all files it names."""
    bundle.add_text(name)
    script = Script(user_files.read_text(bundle.folder / name))
    _take_potentials(bundle, script)
    for command in script.commands:
        if command.name in _NOT_READ:
            continue
        for word in command.args:
            if "$" in word or word in bundle.names() or not _is_file(bundle.folder, word):
                continue
            path = bundle.folder / word
            if command.name == "include":
                _take_script(bundle, word)
            elif command.name == "read_restart" or not _is_text(path):
                _refer(bundle, word, path)
            else:
                _take_text(bundle, word)


def _take_potentials(bundle: Bundle, script: Script) -> None:
    # Files that do not exist yet may be written by the script itself.
    whole = Script.read(bundle.folder / bundle.files[0]["name"])
    made = {word for c in whole.commands if c.name in _NOT_READ for word in c.args}
    hidden = any(c.name in {"shell", "python", "jump"} for c in whole.commands)
    for command, file in named_files(script):
        if re.search(r"[$*%]", file):
            continue
        path = find_file(bundle.folder, file)
        if path is None and file not in made and not hidden:
            raise InputError(f"no file {file!r}: {command}",
                             hint="put the file into the folder or correct its name")
        if path is not None and command.name == "pair_coeff":
            _refer(bundle, file, path)


def _is_file(folder: Path, word: str) -> bool:
    try:
        return (folder / word).is_file()
    except (OSError, ValueError):  # no name: too long, or it holds what names can't
        return False


def _take_text(bundle: Bundle, word: str) -> None:
    if Path(word).is_absolute():
        _refer(bundle, word, Path(word))
    else:
        bundle.add_text(word)


def _refer(bundle: Bundle, name: str, path: Path) -> None:
    """Refer to a file; one with an absolute name is read from there."""
    bundle.add_reference("" if Path(name).is_absolute() else name, path)


def _is_text(path: Path) -> bool:
    with path.open("rb") as stream:
        return b"\0" not in stream.read(8192)


def _read_log(folder: Path) -> str:
    path = folder / LOG
    return path.read_text(errors="replace") if path.is_file() else ""


def _last_row(log: outputs.Log) -> dict[str, Any]:
    """Return the last row of the last thermo table, by the headers of its columns."""
    if not log.runs or not log.runs[-1].rows:
        return {}
    row = zip(log.runs[-1].columns, log.runs[-1].rows[-1], strict=True)
    return {name.replace(".", "_"): value for name, value in row if math.isfinite(value)}
