"""Headers of UPF pseudopotential files, versions 1 and 2."""

from __future__ import annotations

import contextlib
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HEAD_BYTES = 400_000
"""Headers end long before this; the rest of a file is the radial tables."""
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
