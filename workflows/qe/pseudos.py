"""Pseudopotentials: which file of a folder stands for an element, and the cutoffs it needs."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources as package_files
from typing import TYPE_CHECKING, Any

import yaml

from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

HEAD_BYTES = 400_000
"""Headers end long before this; the rest of a file is the radial tables."""
DUAL = {"NC": 4.0, "US": 8.0, "PAW": 8.0}
"""ecutrho / ecutwfc where the header is silent: exact for norm-conserving potentials, and the
least pw.x's manual advises for the others ("8 to 12 times ecutwfc")."""
_KINDS = ("PAW", "US", "NC")
# ElementTree's ParseError is a SyntaxError.
_UPF_ERRORS = (ValueError, KeyError, IndexError, TypeError, AttributeError, SyntaxError)

# What headers of all ages call a functional (Modules/funct.f90 of QE 6.7), in our one word.
_FUNCTIONALS = {
    "PZ": "pz", "LDA": "pz", "SLA PZ NOGX NOGC": "pz", "SLA PZ": "pz",
    "PBE": "pbe", "SLA PW PBX PBC": "pbe", "SLA PW PBE PBE": "pbe",
    "PBESOL": "pbesol", "SLA PW PSX PSC": "pbesol",
    "BLYP": "blyp", "SLA LYP B88 BLYP": "blyp", "SLA LYP B88 MLYP": "blyp",
    "TPSS": "tpss", "SLA PW TPSS TPSS": "tpss", "SLA PW NOGX NOGC": "pw", "PW91": "pw91",
    "SLA PW GGX GGC": "pw91", "REVPBE": "revpbe", "SLA PW REVX PBC": "revpbe",
}
_ALIASES = {"lda": "pz"}


@dataclass(frozen=True)
class Pseudo:
    """What the header of a UPF file says.

    Attributes
    ----------
    functional
        ``pz`` (LDA), ``pbe``, ``pbesol`` ..., or the header's own words when unknown.
    kind
        ``NC`` norm-conserving, ``US`` ultrasoft, ``PAW``, or ``COULOMB`` (bare nucleus).
    z_valence
        Electrons the atom brings.
    ecutwfc, ecutrho
        Least cutoffs the author advises, Ry; None where the header is silent (0.0).
    spin_orbit
        Made for spin-orbit coupling (fully relativistic).
    """

    path: Path
    element: str
    functional: str
    kind: str
    z_valence: float
    ecutwfc: float | None
    ecutrho: float | None
    spin_orbit: bool

    @property
    def name(self) -> str:
        """File name."""
        return self.path.name


@dataclass(frozen=True)
class Cutoffs:
    """Plane-wave cutoffs of a calculation.

    Attributes
    ----------
    ecutwfc, ecutrho
        Ry.
    source
        Where they come from, for each element.
    """

    ecutwfc: float
    ecutrho: float
    source: dict[str, str]


def functional_name(name: str) -> str:
    """Return our word for a functional, from a header or from a user."""
    words = " ".join(name.replace("-", " ").replace("+", " ").split())
    lower = words.lower()
    return _FUNCTIONALS.get(words.upper(), _ALIASES.get(lower, lower))


def read_pseudo(path: Path) -> Pseudo:
    """Read the header of a UPF file, version 1 or 2.

    Raises
    ------
    InputError
        It can't be read or is not a UPF file.
    """
    try:
        stat = path.stat()
        return _read_pseudo(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise InputError(f"pseudopotential {path} can't be read: {error.strerror}",
                         hint="check `pseudo_dir` in the settings") from error


@lru_cache(maxsize=4096)
def _read_pseudo(path: Path, _mtime: int, _size: int) -> Pseudo:
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES).decode(errors="replace")
    header = re.search(r"<PP_HEADER\b(?:[^>]*/>|.*?</PP_HEADER>)", head, re.DOTALL)
    if header is None:
        raise InputError(f"{path} is not a UPF file: it has no PP_HEADER",
                         hint="pw.x's other formats are not supported; convert it with upfconv.x")
    version = re.search(r"<UPF\b[^>]*>", head)
    # Version 2 keeps all in attributes, version 1 in lines of text.
    fields = _fields(header[0], version[0] if version else None)
    try:
        element = str(fields["element"]).strip().capitalize()
        z_valence = float(fields["z_valence"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: the UPF header names no {error}",
                         hint="take another pseudopotential") from error
    info = head[:header.start()]
    relativistic = str(fields.get("relativistic") or "").lower() == "full"
    return Pseudo(
        path=path, element=element, functional=functional_name(str(fields.get("functional", ""))),
        kind=_kind(fields), z_valence=z_valence, ecutwfc=_positive(fields.get("wfc_cutoff")),
        ecutrho=_positive(fields.get("rho_cutoff")),
        spin_orbit=relativistic or fields.get("has_so") is True or "Fully-Relativistic" in info
        or "Full-Relativistic" in info,
    )


def _fields(header: str, version: str | None) -> dict[str, Any]:
    """Return the header's values: from upf-tools, else, or where it is wrong, from here."""
    from upf_tools import UPFDict

    fields: dict[str, Any] = {}
    text = f"{version}\n{header}\n</UPF>" if version else header
    # Given a whole file, upf-tools fails on spin-orbit tables; given the header, on few.
    with contextlib.suppress(*_UPF_ERRORS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Could not determine the UPF version": we do
        fields = dict(UPFDict.from_str(text)["header"])
    if version is None:
        # In version 1 it drops the first of the two cutoffs, and the kind.
        fields |= _fields_v1(header)
    elif "element" not in fields or "z_valence" not in fields:
        fields |= _fields_v2(header)
    return fields


def _fields_v1(header: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in header.splitlines():
        words = line.split()
        if line.rstrip().endswith("Element"):
            found["element"] = words[0]
        elif "Exchange-Correlation" in line:
            found["functional"] = " ".join(words[:-1][:4])
        elif "Z valence" in line:
            found["z_valence"] = words[0]
        elif "Suggested cutoff" in line:
            found |= {"wfc_cutoff": words[0], "rho_cutoff": words[1]}
        elif words[:1] in (["NC"], ["US"], ["PAW"]):
            found["pseudo_type"] = words[0]
    return found


def _fields_v2(header: str) -> dict[str, Any]:
    return {name.lower(): value == "true" if value.lower() in ("true", "false") else value
            for name, value in re.findall(r'(\w+)\s*=\s*"([^"]*)"', header)}


def _kind(fields: Mapping[str, Any]) -> str:
    kind = str(fields.get("pseudo_type") or "").strip().upper()
    if fields.get("is_paw") is True or kind == "PAW":
        return "PAW"
    if fields.get("is_coulomb") is True or kind == "1/R":
        return "COULOMB"
    return "US" if fields.get("is_ultrasoft") is True or kind in ("US", "USPP") else "NC"


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number > 0 else None


def read_folder(folder: Path) -> tuple[Pseudo, ...]:
    """Return the UPF files of a folder, in the order of their names; other files are passed over.

    Raises
    ------
    InputError
        There is no such folder.
    """
    try:
        files = sorted(f for f in folder.iterdir() if f.is_file())
    except OSError as error:
        raise InputError(f"pseudopotential folder {folder} can't be read: {error.strerror}",
                         hint="set `pseudo_dir` in orionflow.yaml") from error
    found = []
    for file in files:
        with contextlib.suppress(InputError):
            found.append(read_pseudo(file))
    return tuple(found)


def choose_pseudos(folder: Path, elements: Iterable[str], functional: str,
                   explicit: Mapping[str, str] | None = None) -> dict[str, Pseudo]:
    """Return the pseudopotential of each element.

    Parameters
    ----------
    folder
        Folder of UPF files.
    elements
        Symbols.
    functional
        ``pbe``, ``pz`` (or ``lda``), ``pbesol`` ...; one for all elements.
    explicit
        File names that win over the choice, by element.

    Notes
    -----
    Left out of the choice: files for spin-orbit coupling, bare nuclei, and atoms with part of a
    valence electron. Of the rest the first in this order: cutoffs known; PAW, ultrasoft,
    norm-conserving; more valence electrons; higher version in the file name.

    Raises
    ------
    InputError
        An element has no file, or a file is not for that element or functional.
    """
    functional = functional_name(functional)
    wanted = sorted(set(elements))
    explicit = explicit or {}
    for element in explicit:
        if len(element) > 2 or not element.istitle():  # noqa: PLR2004  H to Og
            raise InputError(f"pseudos: {element!r} is not an element",
                             hint="write pseudos={'Si': 'Si.pz-vbc.UPF'}")
    chosen = {}
    for element in wanted:
        chosen[element] = (_explicit(folder, element, explicit[element], functional)
                           if element in explicit else _best(folder, element, functional))
    return chosen


def _explicit(folder: Path, element: str, name: str, functional: str) -> Pseudo:
    path = folder / name
    if not path.is_file():
        names = [f.name for f in folder.iterdir()] if folder.is_dir() else []
        close = difflib.get_close_matches(name, names, n=1)
        raise InputError(
            f"pseudopotential {name!r} for {element} is not in {folder}",
            hint=f"did you mean {close[0]!r}?" if close
            else "put the file there, or set `pseudo_dir` in orionflow.yaml")
    pseudo = read_pseudo(path)
    if pseudo.element != element:
        raise InputError(f"pseudopotential {name!r} is for {pseudo.element}, not {element}",
                         hint=f"name a file of {element} in `pseudos`")
    if pseudo.functional != functional:
        raise InputError(
            f"pseudopotential {name!r} was made with {pseudo.functional}, the calculation is "
            f"{functional}", hint=f"set functional={pseudo.functional!r}, or choose another file")
    if pseudo.spin_orbit:
        raise InputError(f"pseudopotential {name!r} is for spin-orbit coupling",
                         hint="choose a scalar-relativistic file")
    return pseudo


def _best(folder: Path, element: str, functional: str) -> Pseudo:
    here = [p for p in read_folder(folder) if p.element == element]
    usable = [p for p in here if not p.spin_orbit and p.kind in _KINDS
              and p.z_valence == round(p.z_valence)]
    fits = [p for p in usable if p.functional == functional]
    if not fits:
        others = ", ".join(f"{p.name} ({p.functional})" for p in usable)
        raise InputError(
            f"no {functional} pseudopotential for {element} in {folder}",
            hint=(f"there is {others}: set `functional`" if others else
                  f"add a UPF file of {element} to that folder, or set `pseudo_dir` in "
                  "orionflow.yaml"))
    fits.sort(key=lambda p: _natural(p.name), reverse=True)
    return min(fits, key=lambda p: (_advised(p) is None, _KINDS.index(p.kind), -p.z_valence))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which 0.10 comes after 0.9."""
    return [(int(part), "") if part.isdigit() else (-1, part)
            for part in re.split(r"(\d+)", name)]


def _advised(pseudo: Pseudo) -> tuple[float, float, str] | None:
    """Return ecutwfc, ecutrho (Ry) and their source, or None."""
    row = cutoff_table().get(pseudo.name)
    if row is not None:
        wfc = float(row["ecutwfc"])
        return wfc, float(row.get("ecutrho") or wfc * DUAL[pseudo.kind]), str(row["source"])
    if pseudo.ecutwfc is None or pseudo.kind not in DUAL:
        return None
    # Headers have a dozen decimals; whole Ry, upwards, are what a person would write.
    wfc = float(math.ceil(pseudo.ecutwfc))
    rho = wfc * DUAL[pseudo.kind] if pseudo.ecutrho is None else math.ceil(pseudo.ecutrho)
    return wfc, max(float(rho), 4 * wfc), f"header of {pseudo.name}"


@lru_cache(maxsize=1)
def cutoff_table() -> dict[str, dict[str, Any]]:
    """Return our table for files whose header is silent: name to cutoffs (Ry) and source."""
    text = (package_files.files("orionflow.workflows.qe.presets") / "cutoffs.yaml").read_text()
    table: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return table


def choose_cutoffs(pseudos: Mapping[str, Pseudo], ecutwfc: float | None = None,
                   ecutrho: float | None = None) -> Cutoffs:
    """Return cutoffs good for all elements.

    Parameters
    ----------
    pseudos
        By element.
    ecutwfc, ecutrho
        What the user asks for, Ry; None: the highest any of the files needs, from our table
        (which has been converged) or else from the header.

    Raises
    ------
    InputError
        Neither the user nor a header nor the table knows, or ecutrho < 4 ecutwfc.
    """
    source = {}
    wfc, rho = ecutwfc or 0.0, ecutrho or 0.0
    for element, pseudo in sorted(pseudos.items()):
        advised = _advised(pseudo)
        if ecutwfc is not None:
            source[element] = "given"
        elif advised is None:
            raise InputError(
                f"no cutoff is known for {pseudo.name} ({element}): its header says 0",
                hint="set ecutwfc (Ry), after a convergence test; ultrasoft and PAW files need "
                "ecutrho as well")
        else:
            wfc = max(wfc, advised[0])
            source[element] = advised[2]
    if ecutrho is None:
        for pseudo in pseudos.values():
            advised = _advised(pseudo)
            ratio = advised[1] / advised[0] if advised else DUAL.get(pseudo.kind, 4.0)
            rho = max(rho, wfc * ratio if ecutwfc is not None else (advised or (0, 0))[1])
        rho = max(rho, 4 * wfc)
    if not 0 < wfc < rho or rho < 4 * wfc * (1 - 1e-9):
        raise InputError(f"ecutwfc = {wfc:g} Ry and ecutrho = {rho:g} Ry don't go together",
                         hint="ecutrho is at least 4 ecutwfc, 8 to 12 for ultrasoft and PAW")
    return Cutoffs(ecutwfc=wfc, ecutrho=rho, source=source)
