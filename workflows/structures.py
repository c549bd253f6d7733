"""Structures from files and short names, checked before anything is submitted."""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import DummySpecies, Element, Structure

from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms

MIN_DISTANCE = 0.5
"""Two atoms closer than this (Å) are a mistake: the H2 bond, the shortest, has 0.74 Å."""
PROTOTYPES = ("sc", "fcc", "bcc", "hcp", "diamond", "zincblende", "rocksalt", "cesiumchloride",
              "fluorite", "wurtzite")
_KINDS = {".cif": "cif", ".xyz": "xyz", ".extxyz": "xyz", ".json": "json", ".vasp": "poscar",
          ".poscar": "poscar"}
_SECOND_LENGTH = ("hcp", "wurtzite")
# pymatgen's and ASE's readers raise these, not one class of their own, on text they can't read.
_READER_ERRORS = (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError,
                  ArithmeticError, OSError, RuntimeError)
_DECIMALS = 6
_MOST_ATOMS = 1_000_000
_LONGEST = 1e5
_CUBIC_SITES = {"sc": 1, "fcc": 4, "bcc": 2, "diamond": 8}


def read_structure(source: str | Path | Structure | Atoms) -> Structure:
    """Return a checked structure from a file, a prototype name or an object.

    Parameters
    ----------
    source
        Path of a CIF, POSCAR/CONTCAR (``.vasp``), extended XYZ with a lattice, or pymatgen JSON
        file; or ``"<formula> <prototype> <a in Å> [<c in Å>] [cubic]"`` such as
        ``"Si diamond 5.43"`` (primitive cell) or ``"Cu fcc 3.615 cubic"``; or
        ``"Cu24Ni8 fcc 3.57 random [seed]"``, a random alloy of that many atoms (see
        `random_alloy`); or a pymatgen Structure or ASE Atoms object.

    Returns
    -------
    Structure
        Elements without oxidation states, sites in the order of the source.

    Raises
    ------
    InputError
        The source can't be read, or the structure fails `check_structure`; names the source.
    """
    if isinstance(source, Structure):
        return check_structure(_plain(source, "the structure"), "the structure")
    if not isinstance(source, (str, Path)):
        return check_structure(_from_ase(source, "the Atoms object"), "the Atoms object")
    words = str(source).split()
    is_name = isinstance(source, str) and len(words) > 1 and not Path(source).exists()
    if is_name and words[1].lower() in PROTOTYPES:
        structure = _prototype(str(source), words)
    elif is_name and Path(source).suffix.lower() not in _KINDS:
        raise InputError(
            f"structure {str(source)!r}: unknown prototype {words[1]!r}",
            hint=f"known: {', '.join(PROTOTYPES)}; or give the path of a CIF, POSCAR or XYZ file",
        )
    else:
        structure = _read_file(Path(source).expanduser())
    return check_structure(_plain(structure, str(source)), str(source))


def check_structure(structure: Structure, name: str = "the structure") -> Structure:
    """Return the structure unless no code could make sense of it.

    Parameters
    ----------
    structure
        Periodic in three dimensions.
    name
        What messages call it.

    Raises
    ------
    InputError
        No atoms, partial occupation, unknown element, a number that is not finite, a lattice
        without volume or longer than 10⁵ Å, or atoms (or their periodic images) closer than
        0.5 Å.
    """
    if len(structure) == 0:
        raise InputError(f"{name} has no atoms", hint="add sites, or correct the file")
    if not structure.is_ordered:
        site = next(s for s in structure if not s.is_ordered)
        raise InputError(
            f"{name}: site {site.species_string} is partially occupied",
            hint="make an ordered supercell first "
            "(pymatgen's OrderDisorderedStructureTransformation)",
        )
    for site in structure:
        if isinstance(site.specie, DummySpecies) or not hasattr(site.specie, "Z"):
            raise InputError(f"{name}: {site.specie} is not an element",
                             hint="use symbols of the periodic table")
    matrix = structure.lattice.matrix
    if not (np.isfinite(matrix).all() and np.isfinite(structure.frac_coords).all()):
        raise InputError(f"{name}: the lattice or a position is not a finite number",
                         hint="correct the file")
    if structure.volume < MIN_DISTANCE**3 or min(structure.lattice.abc) < MIN_DISTANCE:
        raise InputError(f"{name}: the lattice has almost no volume ({structure.volume:.3g} Å³)",
                         hint="lengths are in Å; the three lattice vectors must not be coplanar")
    if max(structure.lattice.abc) > _LONGEST:
        raise InputError(f"{name}: the lattice is {max(structure.lattice.abc):.3g} Å long",
                         hint=f"lengths are in Å, and at most {_LONGEST:g}")
    _check_distances(structure, name)
    return structure


def structure_hash(structure: Structure) -> str:
    """Return a SHA-256 that is the same for the same crystal, whatever the order of its sites.

    Notes
    -----
    Lattice vectors and positions count to 10⁻⁶ (Å, fractions of a vector), positions modulo the
    lattice, and magnetic moments. Another choice of cell of the same crystal gives another hash.
    """
    sites = sorted(
        [str(site.specie.symbol), *(_rounded(_rounded(x) % 1.0) for x in site.frac_coords),
         *([_rounded(m)] if isinstance(m := site.properties.get("magmom"), (int, float)) else [])]
        for site in structure
    )
    lattice = [[_rounded(x) for x in row] for row in structure.lattice.matrix]
    text = json.dumps({"lattice": lattice, "sites": sites}, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _rounded(value: float) -> float:
    # + 0.0 turns -0.0 into 0.0, which prints otherwise.
    return round(float(value), _DECIMALS) + 0.0


def _check_distances(structure: Structure, name: str) -> None:
    centers, points, _, distances = structure.get_neighbor_list(MIN_DISTANCE, exclude_self=True)
    if len(distances) == 0:
        return
    k = int(np.argmin(distances))
    i, j = sorted((int(centers[k]), int(points[k])))
    raise InputError(
        f"{name}: atoms {i + 1} ({structure[i].specie}) and {j + 1} ({structure[j].specie}) are "
        f"{distances[k]:.3f} Å apart, periodic images included",
        hint=f"nothing real is closer than {MIN_DISTANCE} Å: remove the duplicate, or check that "
        "positions are fractional where the file says so and lengths are in Å",
    )


def _plain(structure: Structure, name: str) -> Structure:
    """Drop oxidation states: the codes know elements."""
    try:
        return structure.copy().remove_oxidation_states()
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: {error}", hint="use symbols of the periodic table") from error


def _read_file(path: Path) -> Structure:
    if not path.is_file():
        raise InputError(
            f"there is no structure file {str(path)!r}",
            hint="give a path, or a prototype such as 'Si diamond 5.43' "
            f"(known: {', '.join(PROTOTYPES)})",
        )
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"structure file {str(path)!r} can't be read: {error}") from error
    name, suffix = path.name.upper(), path.suffix.lower()
    kind = _KINDS.get(suffix)
    if kind is None and name.startswith(("POSCAR", "CONTCAR")):
        kind = "poscar"
    if kind is None:
        raise InputError(
            f"structure file {str(path)!r}: the kind of file is not known from its name",
            hint="use .cif, .vasp (or POSCAR...), .xyz (extended, with Lattice) or .json",
        )
    reader = {"cif": _from_cif, "xyz": _from_xyz, "json": _from_json, "poscar": _from_poscar}[kind]
    try:
        return reader(text, path)
    except InputError:
        raise
    except _READER_ERRORS as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"structure file {str(path)!r} is not readable as {kind}: {problem}",
            hint="open it in another program (VESTA, ASE) and save it again",
        ) from error


def _from_cif(text: str, path: Path) -> Structure:
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = CifParser.from_str(text).parse_structures(primitive=False)
    if len(found) != 1:
        raise InputError(f"structure file {str(path)!r} holds {len(found)} structures",
                         hint="keep one in the file")
    return found[0]


def _from_poscar(text: str, path: Path) -> Structure:
    from pymatgen.io.vasp.inputs import BadPoscarWarning, Poscar

    with warnings.catch_warnings():
        # Without symbols pymatgen would invent H, He, Li ...
        warnings.simplefilter("error", BadPoscarWarning)
        try:
            structure: Structure = Poscar.from_str(text).structure
        except BadPoscarWarning as error:
            raise InputError(f"structure file {str(path)!r}: {error}",
                             hint="put the element symbols on line 6 (VASP 5 format)") from error
    return structure


def _from_xyz(text: str, path: Path) -> Structure:
    import io

    import ase.io

    frames = ase.io.read(io.StringIO(text), format="extxyz", index=":")
    if len(frames) != 1:
        raise InputError(f"structure file {str(path)!r} holds {len(frames)} frames",
                         hint="keep one in the file")
    return _from_ase(frames[0], f"structure file {str(path)!r}")


def _from_json(text: str, path: Path) -> Structure:
    data: Any = json.loads(text)
    if not isinstance(data, dict) or data.get("@class") not in (None, "Structure"):
        raise InputError(f"structure file {str(path)!r} does not hold a pymatgen Structure",
                         hint="write it with Structure.to_json()")
    return Structure.from_dict(data)


def _from_ase(atoms: Any, name: str) -> Structure:
    from ase import Atoms
    from pymatgen.io.ase import AseAtomsAdaptor

    if not isinstance(atoms, Atoms):
        raise InputError(f"{name} is a {type(atoms).__name__}, not a structure",
                         hint="give a path, a prototype name, a pymatgen Structure or ASE Atoms")
    if not atoms.pbc.all() or atoms.cell.rank < 3:  # noqa: PLR2004  three dimensions
        raise InputError(f"{name} has no lattice in three dimensions",
                         hint='extended XYZ wants Lattice="ax ay az bx by bz cx cy cz" in line 2; '
                         "surround a molecule with vacuum")
    structure: Structure = AseAtomsAdaptor.get_structure(atoms)
    return structure


def _prototype(source: str, words: list[str]) -> Structure:
    from ase.build import bulk

    formula, prototype, *rest = words
    prototype = prototype.lower()
    if "random" in [w.lower() for w in rest]:
        return _random_alloy(source, formula, prototype, rest)
    cubic = bool(rest) and rest[-1].lower() == "cubic"
    numbers = rest[:-1] if cubic else rest
    most = 2 if prototype in _SECOND_LENGTH else 1
    usage = f"write '{formula} {prototype} <a in Å>{' <c in Å>' if most > 1 else ''} [cubic]'"
    try:
        lengths = [float(n) for n in numbers]
    except ValueError as error:
        raise InputError(f"structure {source!r}: {error}", hint=usage) from error
    if not 1 <= len(lengths) <= most or not all(math.isfinite(x) and x > 0 for x in lengths):
        raise InputError(
            f"structure {source!r}: {len(lengths)} positive lattice constant(s) wanted"
            if not lengths else f"structure {source!r}: wrong lattice constants", hint=usage)
    _check_formula(formula, source)
    try:
        atoms = bulk(formula, prototype, a=lengths[0], c=lengths[1] if len(lengths) > 1 else None,
                     cubic=cubic)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise InputError(f"structure {source!r}: {error}", hint=usage) from error
    return _from_ase(atoms, f"structure {source!r}")


def random_alloy(amounts: Mapping[str, int], prototype: str, a: float, seed: int = 0) -> Structure:
    """Return a cubic-cell lattice with the elements on random sites.

    With the same seed neighbouring compositions differ in few sites: what is computed from them
    is as smooth in the composition as so small a cell can be.

    Parameters
    ----------
    amounts
        Atoms of each element; together as many as fill whole cubic cells.
    prototype
        ``sc``, ``fcc``, ``bcc`` or ``diamond``.
    a
        Lattice constant of the cubic cell, Å.
    seed
        Of the permutation of sites.

    Raises
    ------
    InputError
        The number of atoms fills no block of cubic cells, or another prototype.
    """
    if prototype not in _CUBIC_SITES:
        raise InputError(f"a random alloy on {prototype!r} is not known",
                         hint=f"known: {', '.join(_CUBIC_SITES)}")
    from ase.build import bulk

    total, sites = sum(amounts.values()), _CUBIC_SITES[prototype]
    if total % sites or not total:
        raise InputError(f"{total} atoms fill no whole number of cubic {prototype} cells",
                         hint=f"take a multiple of {sites}: {sites * 8} for 2 x 2 x 2 cells")
    atoms = bulk(next(iter(amounts)), prototype, a=a, cubic=True) * _block(total // sites)
    order = np.random.default_rng(seed).permutation(total)
    symbols = [element for element, count in amounts.items() for _ in range(count)]
    placed = dict(zip(order.tolist(), symbols, strict=True))
    atoms.set_chemical_symbols([placed[i] for i in range(total)])
    return _from_ase(atoms, "the alloy")


def _block(cells: int) -> tuple[int, int, int]:
    """Return the most cube-like block of so many cells."""
    blocks = [(x, y, cells // (x * y)) for x in range(1, cells + 1) if cells % x == 0
              for y in range(x, cells + 1) if (cells // x) % y == 0 and cells // (x * y) >= y]
    return min(blocks, key=sum)


def _random_alloy(source: str, formula: str, prototype: str, rest: list[str]) -> Structure:
    usage = "write 'Cu24Ni8 fcc <a in Å> random [seed]'"
    _check_formula(formula, source)
    try:
        a, word, *seed = rest
        length, number = float(a), int(seed[0]) if seed else 0
    except ValueError as error:
        raise InputError(f"structure {source!r}: {error}", hint=usage) from error
    if word.lower() != "random" or len(seed) > 1 or number < 0 or not 0 < length < math.inf:
        raise InputError(f"structure {source!r} is no random alloy", hint=usage)
    amounts: dict[str, int] = {}
    for element, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula):
        amounts[element] = amounts.get(element, 0) + int(count or 1)
    return random_alloy({e: n for e, n in amounts.items() if n}, prototype, length, number)


def _check_formula(formula: str, source: str) -> None:
    # Before anything makes so many atoms: one word must not take all the memory there is.
    counts = [count for _, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula)]
    if any(len(c) > len(str(_MOST_ATOMS)) for c in counts) \
            or sum(int(c or 1) for c in counts) > _MOST_ATOMS:
        raise InputError(f"structure {source!r}: more than {_MOST_ATOMS} atoms",
                         hint="write larger cells into a file, and name that")
    symbols = re.findall(r"[A-Z][a-z]?", formula)
    wrong = [s for s in symbols if not Element.is_valid_symbol(s)]
    if wrong or "".join(symbols) != re.sub(r"\d", "", formula) or not symbols:
        raise InputError(f"structure {source!r}: {wrong[0] if wrong else formula!r} is not an "
                         "element", hint="use symbols of the periodic table, such as Si or NaCl")
