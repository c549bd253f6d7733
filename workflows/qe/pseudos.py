"""Pseudopotentials: which file of a folder stands for an element, and the cutoffs it needs."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources as package_files
from typing import TYPE_CHECKING, Any

import yaml

from orionflow.errors import InputError
from orionflow.workflows.qe.upf import Pseudo, functional_name, read_folder, read_pseudo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["Cutoffs", "Pseudo", "choose_cutoffs", "choose_pseudos", "cutoff_table", "read_folder",
           "read_pseudo"]

DUAL = {"NC": 4.0, "US": 8.0, "PAW": 8.0}
"""ecutrho / ecutwfc where the header is silent: exact for norm-conserving potentials, and the
least pw.x's manual advises for the others ("8 to 12 times ecutwfc")."""
_KINDS = ("PAW", "US", "NC")


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
