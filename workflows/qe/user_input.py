"""pw.x and ph.x on a user's own input files, as they are."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Maker, job

from orionflow.errors import InputError, OutputError
from orionflow.launchers.preflight_qe import check_ph, check_pw
from orionflow.launchers.qe_input import QeInput, changed_text, parse_input, read_input
from orionflow.launchers.qe_output import last_stress, total_energies
from orionflow.units import RYDBERG_EV
from orionflow.workflows import user_files
from orionflow.workflows.qe import outputs
from orionflow.workflows.schemas.user_input import UserInputDocument, UserStep
from orionflow.workflows.user_files import Bundle

if TYPE_CHECKING:
    from jobflow import Job

    from orionflow.workflows.qe.outputs import PwXml

__all__ = ["InputMaker"]

PSEUDO_DIR = "pseudo"
_FOR_RESULTS = frozenset({"scf", "relax", "vc-relax"})
_NEEDS_PARENT = frozenset({"nscf", "bands"})
# Not named in any input, but read from pseudo_dir by van der Waals functionals.
_KERNELS = ("vdw_kernel_table", "rVV10_kernel_table")
# What a check says of the submitter's machine, not of the input.
_LOCAL = frozenset({"QE_OUTDIR", "QE_DISK_FULL"})


@dataclass
class InputMaker(Maker):
    """A user's own input of pw.x, or several steps in a row of pw.x and ph.x.

    The text is stored in the job and run in the job's own folder, as ``orionflow run-input``
    would. Two things in it are changed, for the folder is another one: ``pseudo_dir``, and an
    ``outdir`` or ``wfcdir`` outside the folder.

    Parameters
    ----------
    name
        Name of the job.
    steps
        Input files in the order in which they are run; None: the file that was given, or the
        pw.x input of a folder and then its ph.x input.
    files
        More small text files of the folder to take along.
    options
        Words for the codes on their command line, such as ``["-nk", "2"]``.
    """

    name: str = "qe input"
    steps: tuple[str, ...] | None = None
    files: tuple[str, ...] = field(default=())
    options: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Make tuples again of what JSON made lists."""
        self.steps = None if self.steps is None else tuple(self.steps)
        self.files, self.options = tuple(self.files), tuple(self.options)

    def make(self, source: str | Path) -> Job:
        """Return the job for an input file, or for a folder of them.

        Parameters
        ----------
        source
            Input file or folder.

        Raises
        ------
        InputError
            A file is missing or too large, or pre-flight finds that an input can't work.
        """
        folder, names = _find_steps(Path(source), self.steps)
        bundle = Bundle(folder)
        steps: list[dict[str, str]] = []
        outdirs: dict[str, str] = {}
        for index, name in enumerate(names):
            code, found = _check(folder, name, first=index == 0)
            if Path(name).stem in {Path(s["input_file"]).stem for s in steps}:
                raise InputError(f"two steps would both write {Path(name).stem}.out",
                                 hint="rename one of the input files")
            steps.append({"code": code, "input_file": name})
            wanted = _places(found, outdirs)
            if code == "pw.x":
                wanted["pseudo_dir"] = f"./{PSEUDO_DIR}"
                _take_pseudos(bundle, found, folder)
            group = "inputph" if code == "ph.x" else "control"
            bundle.add_text(name, changed_text(found, {group: wanted}) if wanted else None)
        for name in self.files:
            bundle.add_text(name)
        made: Job = self.calculate(steps, bundle.files, bundle.references)
        return made

    @job(output_schema=UserInputDocument)
    def calculate(self, steps: list[dict[str, str]], files: list[dict[str, str]],
                  references: list[dict[str, str]]) -> UserInputDocument:
        """Run the steps in the current folder and return their document; use `make`.

        Raises
        ------
        InputError
            A pseudopotential has changed since submission.
        CodeError
            A step failed and corrections did not help.
        """
        folder = Path.cwd()
        ran = user_files.run_bundle(folder, steps, files, references, self.options)
        stored = {file["name"]: file for file in files}
        done, last = [], None
        for step, record in zip(steps, ran.steps, strict=True):
            given = stored[step["input_file"]]
            read = _read_step(folder, step, given)
            done.append(UserStep(**step, **read, run=record, input_text=given["text"],
                                 input_sha256=given["sha256"]))
            if read["calculation"] in _FOR_RESULTS:
                last = (step["input_file"], read["calculation"])
        result = user_files.document(
            ran, done, folder=folder, name=self.name, references=references,
            parameters=json.loads(json.dumps({"recipe": "InputMaker", **asdict(self)})))
        if last is not None:
            _add_results(result, folder, *last)
        return result


def _find_steps(source: Path, steps: tuple[str, ...] | None) -> tuple[Path, list[str]]:
    """Return the folder of the inputs and their names in order."""
    if source.is_file():
        if steps is not None and source.name not in steps:
            raise InputError(f"{source.name} is not among the steps {', '.join(steps)}",
                             hint="name it there too, or give the folder")
        return source.parent.resolve(), list(steps or [source.name])
    if not source.is_dir():
        raise InputError(f"there is no input file or folder {str(source)!r}",
                         hint="qe.input takes an input file of pw.x, or a folder")
    if steps is not None:
        if not steps:
            raise InputError("steps is empty", hint="""write -p 'steps=["scf.in", "ph.in"]'""")
        return source.resolve(), list(steps)
    found: dict[str, list[str]] = {"pw.x": [], "ph.x": []}
    for path in sorted(source.iterdir()):
        if path.is_file() and path.stat().st_size <= user_files.MAX_BYTES and (
                code := _code(path.read_text(errors="replace"))):
            found[code].append(path.name)
    if len(found["pw.x"]) != 1 or len(found["ph.x"]) > 1:
        names = ", ".join(found["pw.x"] + found["ph.x"]) or "none"
        raise InputError(f"folder {source} must hold one input of pw.x and at most one of ph.x; "
                         f"it holds {names}",
                         hint="""say which, in order: -p 'steps=["scf.in", "nscf.in"]'""")
    return source.resolve(), found["pw.x"] + found["ph.x"]


def _code(text: str) -> str | None:
    """Return which code an input is for, by its namelists."""
    groups = {m.lower() for m in re.findall(r"^\s*&(\w+)", text, re.MULTILINE)}
    if "inputph" in groups:
        return "ph.x"
    return "pw.x" if {"control", "system"} & groups else None


def _check(folder: Path, name: str, *, first: bool) -> tuple[str, QeInput]:
    """Return code and content of an input that pre-flight has nothing to say against."""
    user_files.check_inside(name)
    path = folder / name
    text = user_files.read_text(path)
    code = _code(text)
    if code is None:
        raise InputError(f"{path} is not an input of pw.x or ph.x",
                         hint="a pw.x input begins with &control, one of ph.x with a title and "
                         "&inputph; other programs: `orionflow run-input`")
    check = check_ph if code == "ph.x" else check_pw
    problem = check(folder, name, parents=False)
    if problem is not None and problem.failure_id not in _LOCAL:
        raise InputError(f"{name}: {problem.failure_id}: {problem.message}", hint=problem.hint)
    found = parse_input(text, path)
    if first and (code == "ph.x" or found.calculation in _NEEDS_PARENT):
        what = code if code == "ph.x" else found.calculation
        raise InputError(f"{name}: {what} starts from an scf, and in the folder of the job there "
                         "is none", hint=f"""run it first: -p 'steps=["scf.in", "{name}"]'""")
    return code, found


def _places(found: QeInput, outdirs: dict[str, str]) -> dict[str, str]:
    """Return other values for the folders QE writes to, where they are not the job's own.

    Two jobs with the same input would otherwise write into one outdir at once.
    """
    group = "inputph" if "inputph" in found.namelists else "control"
    wanted: dict[str, str] = {}
    for key in ("outdir", "wfcdir"):
        value = found.get(group, key)
        if value is None:
            if key == "outdir":  # the node may have another ESPRESSO_TMPDIR
                wanted[key] = "./"
            continue
        place = str(value).strip()
        try:
            user_files.check_inside(place if place.strip("./") else "inside")
        except InputError:
            number = "" if not outdirs else str(len(outdirs) + 1)
            wanted[key] = outdirs.setdefault(place.rstrip("/"), f"./outdir{number}")
    return wanted


def _take_pseudos(bundle: Bundle, found: QeInput, folder: Path) -> None:
    """Refer to the pseudopotentials of an input, from where pw.x would read them."""
    named = found.get("control", "pseudo_dir") or os.environ.get("ESPRESSO_PSEUDO") or str(
        Path.home() / "espresso" / "pseudo")
    place = folder / str(named).strip()
    for line in found.cards["ATOMIC_SPECIES"].lines[:int(found.number("system", "ntyp", 0))]:
        name = line.split()[2]
        bundle.add_reference(f"{PSEUDO_DIR}/{name}", place / name)
    for name in _KERNELS:
        if (place / name).is_file():
            bundle.add_reference(f"{PSEUDO_DIR}/{name}", place / name)


def _read_step(folder: Path, step: dict[str, str], given: dict[str, str]) -> dict[str, Any]:
    """Return what the output of a step says."""
    text = (folder / f"{Path(step['input_file']).stem}.out").read_text(errors="replace")
    version = re.search(r"Program \S+ v\.?\s*(\S+)", text)
    read: dict[str, Any] = {"code_version": version[1] if version else None, "calculation": None,
                            "numbers": {}}
    if step["code"] == "ph.x":
        read["numbers"]["frequencies"] = [float(x) for x in re.findall(
            r"freq \(\s*\d+\) =.*=\s+(-?[\d.]+) \[cm-1\]", text)]
        return read
    read["calculation"] = parse_input(given["text"], folder / step["input_file"]).calculation
    if energies := total_energies(text):
        read["numbers"]["energy"] = energies[-1] * RYDBERG_EV
    if (stress := last_stress(text)) is not None:
        read["numbers"]["pressure"] = sum(stress[i][i] for i in range(3)) / 3
    return read


def _add_results(result: UserInputDocument, folder: Path, name: str, calculation: str) -> None:
    """Add structure, energy, forces and stress from the XML, if it is still that step's."""
    from orionflow.workflows.schemas.base import Output

    result.converged = True  # the validators have seen to it
    path = read_input(folder / name).save_dir(folder, os.environ) / "data-file-schema.xml"
    try:
        xml = outputs.parse_xml(path.read_bytes(), calculation=calculation, path=str(path))
        structure = _structure(xml)
    except (OSError, OutputError, ValueError) as error:
        reason = error.message if isinstance(error, OutputError) else error
        result.warnings.append(f"no structure and forces of {name}: {reason}")
        return
    result.structure = structure
    result.formula_pretty = structure.composition.reduced_formula
    result.nsites = len(structure)
    result.output = Output(
        structure=structure, energy=xml.energy, energy_per_atom=xml.energy / len(structure),
        forces=None if xml.forces is None else xml.forces.tolist(),
        stress=None if xml.stress is None else xml.stress.tolist())
    result.warnings += xml.warnings


def _structure(xml: PwXml) -> Any:
    from pymatgen.core import Lattice, Structure

    # Labels of species: Fe, Fe1, Fe_up.
    symbols = [re.sub(r"[_\-\d].*$", "", s).capitalize() for s in xml.symbols]
    return Structure(Lattice(xml.lattice), symbols, xml.positions, coords_are_cartesian=True)
