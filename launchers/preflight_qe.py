"""What can be known to be wrong with a pw.x or ph.x run before MPI starts."""

from __future__ import annotations

import difflib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import InputError
from orionflow.launchers.preflight_qe_input import (
    check_counts,
    check_kpoints,
    check_q_point,
    check_spins,
    check_types,
    check_values,
    unclosed_quote,
)
from orionflow.launchers.problem import Problem
from orionflow.launchers.qe_electrons import electron_count
from orionflow.launchers.qe_geometry import read_geometry, xml_geometry
from orionflow.launchers.qe_input import QeInput, read_input
from orionflow.launchers.qe_keywords import KEYWORDS
from orionflow.launchers.qe_output import read_xml, xml_text
from orionflow.launchers.upf_header import ELEMENTS, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orionflow.launchers.qe_geometry import Geometry

_SHORTEST = 0.5  # Å; the shortest bond there is, H2+, has 1.06, H2 0.74
_NEEDS_PARENT = ("nscf", "bands")
_MINIMUM_FREE = 2 * 2**20
__all__ = ["Problem", "check_ph", "check_pw"]


def check_pw(folder: Path, input_file: str, environment: Mapping[str, str] | None = None, *,
             parents: bool = True) -> Problem | None:
    """Return the first reason why this pw.x input can't work, or None.

    Parameters
    ----------
    folder, input_file
        Where the input is.
    environment
        Variables of the code (``ESPRESSO_PSEUDO``, ``ESPRESSO_TMPDIR``).
    parents
        Also look for the files of the run this one starts from.
    """
    variables = os.environ if environment is None else environment
    path = folder / input_file
    if not path.is_file():
        return Problem("QE_INPUT_EMPTY", f"there is no input file {input_file} in {folder}",
                       "check the name after -in in the command")
    if not path.read_text(errors="replace").strip():
        return Problem("QE_INPUT_EMPTY", f"the input file {input_file} is empty",
                       "write the input, or name another file after -in")
    try:
        found = read_input(path)
    except InputError as error:
        return _unreadable(path, error)
    checks: list[Callable[[], Problem | None]] = [
        lambda: _namelists(found), lambda: check_types(found), lambda: check_values(found),
        lambda: _cutoffs(found), lambda: _cards(found), lambda: check_counts(found),
        lambda: check_kpoints(found), lambda: check_spins(found),
        lambda: _geometry(found), lambda: _pseudopotentials(found, folder, variables),
        lambda: _charge(found), lambda: _smearing(found), lambda: _outdir(found, folder, variables),
    ]
    if parents:
        checks += [lambda: _parent(found, folder, variables),
                   lambda: _same_atoms(found, folder, variables)]
    return next((problem for check in checks if (problem := check()) is not None), None)


def check_ph(folder: Path, input_file: str, environment: Mapping[str, str] | None = None, *,
             parents: bool = True) -> Problem | None:
    """Return the first reason why this ph.x input can't work, or None; see `check_pw`."""
    variables = os.environ if environment is None else environment
    path = folder / input_file
    if not path.is_file() or not path.read_text(errors="replace").strip():
        return Problem("QE_INPUT_EMPTY", f"there is no input in {input_file}",
                       "check the name after -in in the command")
    try:
        found = read_input(path)
    except InputError as error:
        return _unreadable(path, error)
    if "inputph" not in found.namelists:
        return Problem("QE_INPUT_NAMELIST", f"no namelist &inputph in {input_file}",
                       "the input of ph.x is a title line, then &inputph ... /")
    for problem in (_keys(found, ("inputph",)), check_types(found), check_q_point(found)):
        if problem is not None:
            return problem
    return _parent_files(found, folder, variables, need_density=False) if parents else None


def _unreadable(path: Path, error: InputError) -> Problem:
    line = unclosed_quote(path.read_text(errors="replace"))
    if line is None:
        return Problem("QE_INPUT_NAMELIST", error.message, error.hint)
    return Problem("QE_INPUT_NAMELIST", f"a quote is not closed in {path.name}: {line}",
                   "close it on the same line")


def _namelists(found: QeInput) -> Problem | None:
    if not found.namelists:
        return Problem("QE_INPUT_EMPTY", f"no namelist &control in {found.path.name}",
                       "a pw.x input begins with &control ... /")
    for group in ("control", "system", "electrons"):
        if group not in found.namelists:
            return Problem("QE_INPUT_NAMELIST", f"no namelist &{group} in {found.path.name}",
                           f"add &{group} ... / (it may be empty); the order is control, system, "
                           "electrons, ions, cell")
    return _keys(found, ("control", "system", "electrons", "ions", "cell"))


def _keys(found: QeInput, groups: tuple[str, ...]) -> Problem | None:
    """Refuse a key that is unknown and close to a known one; a rare key passes."""
    for group in groups:
        for key in found.namelists.get(group, {}):
            name = key.split("(")[0].split("%")[0]
            if name in KEYWORDS[group]:
                continue
            elsewhere = [g for g in KEYWORDS if g != group and name in KEYWORDS[g]]
            if elsewhere:
                return Problem("QE_INPUT_NAMELIST",
                               f"{key} stands in &{group} but belongs in &{elsewhere[0]}",
                               f"move it to &{elsewhere[0]}")
            close = difflib.get_close_matches(name, KEYWORDS[group], n=1, cutoff=0.75)
            if close:
                return Problem("QE_INPUT_NAMELIST", f"unknown key {key!r} in &{group}",
                               f"did you mean {close[0]!r}?")
    return None


def _cutoffs(found: QeInput) -> Problem | None:
    wave = found.number("system", "ecutwfc", 0.0)
    density = found.number("system", "ecutrho", 4 * wave)
    if wave <= 0:
        return Problem("QE_CUTOFFS", "ecutwfc is missing or not positive",
                       "set ecutwfc in &system, Ry")
    if density <= wave:
        return Problem("QE_CUTOFFS", f"ecutrho = {density:g} Ry is not above ecutwfc = {wave:g} Ry",
                       "ecutrho is at least 4 times ecutwfc, 8 to 12 times for ultrasoft")
    return None


def _cards(found: QeInput) -> Problem | None:
    for name in ("ATOMIC_SPECIES", "ATOMIC_POSITIONS", "K_POINTS"):
        if name not in found.cards:
            return Problem("QE_INPUT_CARDS", f"no {name} card in {found.path.name}",
                           f"add {name}; cards come after all namelists")
    wanted = int(found.number("system", "ntyp", 0))
    species = found.cards["ATOMIC_SPECIES"].lines
    if len(species) < wanted:
        return Problem("QE_INPUT_CARDS",
                       f"ATOMIC_SPECIES has {len(species)} lines, ntyp = {wanted}",
                       "make them agree")
    for line in species[:wanted]:
        if len(line.split()) < 3:  # noqa: PLR2004
            return Problem("QE_INPUT_CARDS", f"ATOMIC_SPECIES: wrong line {line!r}",
                           "label, mass, pseudopotential file")
    if int(found.number("system", "ibrav", 0)) != 0 and "CELL_PARAMETERS" in found.cards:
        return Problem("QE_INPUT_CARDS", "CELL_PARAMETERS is given although ibrav is not 0",
                       "leave one of them out")
    return None


def _geometry(found: QeInput) -> Problem | None:
    if "space_group" in found.namelists.get("system", {}):
        return None
    try:
        geometry = read_geometry(found)
    except InputError as error:
        if "not understood here" in error.message:
            return None
        return Problem("QE_INPUT_CARDS", error.message, error.hint)
    species = {line.split()[0].lower() for line in found.cards["ATOMIC_SPECIES"].lines}
    for label in geometry.labels:
        if label.lower() not in species:
            return Problem("QE_INPUT_CARDS",
                           f"species {label} of ATOMIC_POSITIONS is not in ATOMIC_SPECIES",
                           f"known: {', '.join(sorted(species))}")
    return _distances(geometry)


def _distances(geometry: Geometry) -> Problem | None:
    distance, one, two = geometry.nearest()
    if distance >= _SHORTEST:
        return None
    image = " (its periodic image)" if one == two else ""
    return Problem("QE_ATOMS_OVERLAP",
                   f"atoms {one} ({geometry.labels[one - 1]}) and {two} "
                   f"({geometry.labels[two - 1]}){image} are {distance:.3f} Å apart",
                   "check the positions and their unit (alat, bohr, angstrom, crystal), and the "
                   "cell with its unit")


def _pseudopotentials(found: QeInput, folder: Path, variables: Mapping[str, str],
                      ) -> Problem | None:
    home = Path(variables.get("HOME", "/")) / "espresso" / "pseudo"
    named = found.get("control", "pseudo_dir") or variables.get("ESPRESSO_PSEUDO") or str(home)
    place = folder / str(named).strip()
    for line in found.cards["ATOMIC_SPECIES"].lines[:int(found.number("system", "ntyp", 0))]:
        label, _, name = line.split()[:3]
        path = place / name
        if not path.is_file():
            near = difflib.get_close_matches(
                name, [f.name for f in place.glob("*")] if place.is_dir() else [], n=1)
            return Problem("QE_PSEUDO", f"pseudopotential {name} of {label} is not in {place}",
                           f"did you mean {near[0]}?" if near else
                           "put the file there or correct pseudo_dir")
        header = read_header(path)
        if not header.complete:
            return Problem("QE_PSEUDO", f"pseudopotential {path} is cut: its end is missing",
                           "get the file again")
        letters = re.match(r"[A-Za-z]{1,2}", label)
        element = header.element
        if letters is None or not element:
            continue
        symbols = {s.capitalize() for s in (letters[0], letters[0][:1])} & ELEMENTS
        if symbols and element not in symbols:
            return Problem("QE_PSEUDO_ELEMENT",
                           f"species {label} uses {name}, which is for {element}",
                           "name the file of the right element in ATOMIC_SPECIES")
    return None


def _charge(found: QeInput) -> Problem | None:
    electrons = electron_count(found)
    if electrons is None or electrons > 0 or "space_group" in found.namelists["system"]:
        return None
    charge = found.number("system", "tot_charge", 0.0)
    return None if charge <= 0 else Problem(
        "QE_CHARGE_WRONG", f"tot_charge = {charge:g} takes away all electrons: "
        f"{electrons:g} are left", "tot_charge is what is missing: +1 is one electron less")


def _smearing(found: QeInput) -> Problem | None:
    occupations = str(found.get("system", "occupations", "")).strip().lower()
    if occupations == "smearing" and found.number("system", "degauss", 0.0) <= 0:
        return Problem("QE_NO_DEGAUSS", "occupations = 'smearing' needs degauss",
                       "add degauss (Ry) to &system; 0.01 to 0.02 suits most metals")
    kpoints = found.cards["K_POINTS"].option
    if occupations.startswith("tetrahedra") and kpoints != "automatic":
        return Problem("QE_TETRAHEDRA", f"occupations = '{occupations}' needs K_POINTS automatic",
                       "give a regular grid")
    return None


def _outdir(found: QeInput, folder: Path, variables: Mapping[str, str]) -> Problem | None:
    outdir = found.outdir(folder, variables)
    place = next((p for p in (outdir, *outdir.parents) if p.exists()), Path("/"))
    if not place.is_dir() or not os.access(place, os.W_OK) or str(place).startswith("/proc"):
        return Problem("QE_OUTDIR", f"outdir {outdir} can't be made or written",
                       "choose another outdir in &control")
    free = shutil.disk_usage(place).free
    needed = _least_bytes(found)
    if free < needed:
        return Problem("QE_DISK_FULL",
                       f"{free / 2**20:.1f} MiB free on the disk of {place}, at least "
                       f"{needed / 2**20:.1f} MiB needed",
                       "free some space or choose another outdir", transient=True)
    return None


def _least_bytes(found: QeInput) -> float:
    """Return a lower bound of what pw.x writes: density and wavefunctions of one k-point."""
    try:
        cell = read_geometry(found).cell
    except InputError:
        return _MINIMUM_FREE
    import numpy as np

    volume = abs(float(np.linalg.det(cell))) / 0.529177**3
    wave = found.number("system", "ecutwfc", 0.0)
    plane_waves = volume * wave**1.5 / (6 * np.pi**2)
    density = volume * found.number("system", "ecutrho", 4 * wave)**1.5 / (6 * np.pi**2)
    bands = max(1.0, found.number("system", "nbnd", 0.0), found.number("system", "nat", 1.0))
    return float(max(0.1 * _MINIMUM_FREE, 16 * (density + bands * plane_waves)))


def _parent(found: QeInput, folder: Path,  # noqa: PLR0911  one return a disagreement
            variables: Mapping[str, str]) -> Problem | None:
    if found.calculation not in _NEEDS_PARENT:
        return None
    if (problem := _parent_files(found, folder, variables, need_density=True)) is not None:
        return problem
    root = read_xml(found.save_dir(folder, variables) / "data-file-schema.xml")
    wave = found.number("system", "ecutwfc", 0.0)
    for name, own, theirs in (
        ("ecutwfc", wave, _ry(xml_text(root, "input/basis/ecutwfc"))),
        ("ecutrho", found.number("system", "ecutrho", 4 * wave),
         _ry(xml_text(root, "input/basis/ecutrho"))),
    ):
        if theirs is not None and abs(own - theirs) > 1e-6 * max(1.0, own):
            return Problem("QE_PARENT_DISAGREES",
                           f"{name} = {own:g} Ry, but the SCF it starts from had {theirs:g} Ry",
                           f"use {name} of the SCF, or run the SCF again with this one")
    files = {(s.get("name") or "", (s.findtext("pseudo_file") or "").strip())
             for s in (root.iterfind("input/atomic_species/species") if root is not None else ())}
    for line in found.cards["ATOMIC_SPECIES"].lines[:int(found.number("system", "ntyp", 0))]:
        label, _, name = line.split()[:3]
        if files and (label, name) not in files:
            return Problem("QE_PARENT_DISAGREES",
                           f"species {label} with {name} is not in the SCF it starts from",
                           "use the pseudopotentials of the SCF")
    structure = root.find("output/atomic_structure") if root is not None else None
    nat = int(found.number("system", "nat", 0))
    if structure is not None and structure.get("nat") not in {None, str(nat)}:
        return Problem("QE_PARENT_DISAGREES",
                       f"nat = {nat}, but the SCF it starts from had {structure.get('nat')} atoms",
                       "prefix or outdir may belong to another structure")
    spin = xml_text(root, "input/spin/lsda")
    if spin is not None and (spin == "true") != (int(found.number("system", "nspin", 1)) == 2):  # noqa: PLR2004
        return Problem("QE_PARENT_DISAGREES", "nspin differs from the SCF it starts from",
                       "use nspin of the SCF")
    return None


def _same_atoms(found: QeInput, folder: Path, variables: Mapping[str, str]) -> Problem | None:
    """Refuse an input with other atoms than the files it starts from: pw.x takes those."""
    restarts = found.get("control", "restart_mode") == "restart"
    if not restarts and found.calculation not in _NEEDS_PARENT:
        return None
    root = read_xml(found.save_dir(folder, variables) / "data-file-schema.xml")
    theirs = [g for part in ("input", "output") if (g := xml_geometry(root, part)) is not None]
    try:
        own = read_geometry(found)
    except InputError:
        return None
    if not theirs or any(own.agrees(structure) for structure in theirs):
        return None
    return Problem("QE_PARENT_DISAGREES",
                   "cell or atoms differ from those of the run it starts from, which pw.x would "
                   "take without a word",
                   "restart_mode = 'from_scratch' begins with the atoms of this input" if restarts
                   else "run the SCF again with this structure")


def _parent_files(found: QeInput, folder: Path, variables: Mapping[str, str], *,
                  need_density: bool) -> Problem | None:
    save = found.save_dir(folder, variables)
    xml = save / "data-file-schema.xml"
    again = "run the SCF first, with the same prefix and outdir"
    if not xml.is_file():
        return Problem("QE_PARENT_MISSING", f"no {xml.name} in {save}: the SCF it starts from is "
                       "missing", again)
    if read_xml(xml) is None:
        return Problem("QE_PARENT_BROKEN", f"{xml} is damaged", "run the SCF again")
    densities = [f for f in save.glob("charge-density*") if f.is_file()]
    if not densities:
        return Problem("QE_PARENT_MISSING", f"no charge-density in {save}", again)
    if need_density and not all(f.stat().st_size for f in densities):
        return Problem("QE_PARENT_BROKEN", f"the charge-density in {save} is empty",
                       "run the SCF again")
    return None


def _ry(text: str | None) -> float | None:
    try:
        return None if text is None else 2.0 * float(text)
    except ValueError:
        return None
