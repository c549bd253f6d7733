"""Force fields: what a run is told, which files it needs, which elements these hold."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monty.json import MSONable

from orionflow.errors import InputError
from orionflow.workflows.lammps.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ELEMENTS = "{elements}"
"""Placeholder in `pair_coeff`: the elements of the run in type order."""

_SETFL = frozenset({"eam/alloy", "eam/fs", "adp"})
# Words of one entry: three elements, then the numbers (documentation of each pair style).
_ENTRY_WORDS = {"sw": 14, "tersoff": 17, "tersoff/zbl": 21}
_SUFFIX = re.compile(r"/(?:omp|opt|gpu|intel|kk)$")


@dataclass(frozen=True)
class ForceField(MSONable):
    """The lines that define the interaction, in LAMMPS `metal` units.

    Attributes
    ----------
    pair_style
        Arguments of `pair_style`, such as ``"eam/alloy"`` or ``"lj/cut 8.5"``.
    pair_coeff
        Arguments of each `pair_coeff`; ``{elements}`` stands for the elements of the run in type
        order: ``"* * Cu_mishin1.eam.alloy {elements}"``. Lines without it number the types in the
        order of ``elements``.
    elements
        Elements the force field is made for. Needed where no file of a known kind tells them.
    files
        Files the lines name: names in the potentials folder, or paths.
    commands
        Further commands after `pair_coeff`, such as ``"kspace_style pppm 1e-5"``.
    charges
        Charge of each element, in units of e; makes the atom style `charge`.
    name
        How results call it.
    doi, reference
        What must be cited.
    """

    pair_style: str
    pair_coeff: tuple[str, ...]
    elements: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    charges: dict[str, float] = field(default_factory=dict)
    name: str = "custom"
    doi: str | None = None
    reference: str | None = None

    def __post_init__(self) -> None:
        """Take lists (as JSON has them) and one line for many."""
        for name in ("pair_coeff", "elements", "files", "commands"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if not self.pair_style.strip() or not self.pair_coeff:
            raise InputError("a force field needs pair_style and pair_coeff",
                             hint=f"or name a preset: {', '.join(PRESETS)}")
        for line in (self.pair_style, *self.pair_coeff, *self.commands):
            if "\n" in line or "&" in line or '"""' in line:
                raise InputError(f"force field line {line!r} is more than one command",
                                 hint="give one command for each entry")

    @property
    def by_element(self) -> bool:
        """Whether the lines name elements, so that any subset of them may be present."""
        return any(ELEMENTS in line for line in self.pair_coeff)


@dataclass(frozen=True)
class ResolvedForceField:
    """A force field for one set of elements, checked against its files.

    Attributes
    ----------
    field
        As asked for.
    types
        Element of each atom type, in type order.
    pair_coeff
        The lines as written to the input.
    files
        Absolute paths of the potential files.
    """

    field: ForceField
    types: tuple[str, ...]
    pair_coeff: tuple[str, ...]
    files: tuple[Path, ...]


def as_force_field(value: str | dict[str, Any] | ForceField | None) -> ForceField:
    """Return the force field a Maker was given: a preset's name, its fields, or itself.

    Raises
    ------
    InputError
        No such preset, or unknown or missing fields.
    """
    if isinstance(value, ForceField):
        return value
    if isinstance(value, dict):
        known = set(ForceField.__dataclass_fields__)
        fields = {k: v for k, v in value.items() if not k.startswith("@")}
        if wrong := sorted(set(fields) - known):
            raise InputError(f"unknown force field entry {wrong[0]!r}",
                             hint=f"valid: {', '.join(sorted(known))}")
        if missing := [k for k in ("pair_style", "pair_coeff") if k not in fields]:
            raise InputError(f"the force field has no {missing[0]}",
                             hint="give pair_style and pair_coeff, or name a preset")
        return ForceField(**fields)
    if not value or not isinstance(value, str):
        raise InputError("no force field given",
                         hint=f"force_field='Si.sw', for example; presets: {', '.join(PRESETS)}")
    preset = PRESETS.get(value)
    if preset is None:
        named = next((n for n, p in PRESETS.items() if p.file == value), None)
        if named is None:
            close = difflib.get_close_matches(value, PRESETS, n=1, cutoff=0.5)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(
                f"no force field preset {value!r}",
                hint=f"{guess}Presets: {', '.join(PRESETS)}; or give a ForceField with "
                "pair_style, pair_coeff and files",
            )
        value, preset = named, PRESETS[named]
    return ForceField(
        pair_style=preset.pair_style, pair_coeff=(f"* * {preset.file} {ELEMENTS}",),
        files=(preset.file,), name=value, doi=preset.doi, reference=preset.reference,
    )


def resolve(force_field: ForceField, species: Iterable[str], folder: Path) -> ResolvedForceField:
    """Check a force field for a set of elements and write out its lines.

    Parameters
    ----------
    force_field
        What is asked for.
    species
        Elements of the structure; types are numbered in order of first appearance where the lines
        name elements, else in the order of ``force_field.elements``.
    folder
        Potentials folder.

    Raises
    ------
    InputError
        A file is missing or unreadable, or an element is not in it.
    """
    present = tuple(dict.fromkeys(species))
    paths = tuple(find_file(name, folder) for name in force_field.files)
    style = force_field.pair_style.split()[0]
    _check_elements(force_field, present, style, paths)
    types = present if force_field.by_element else force_field.elements
    lines = tuple(line.replace(ELEMENTS, " ".join(types)) for line in force_field.pair_coeff)
    for name, path in zip(force_field.files, paths, strict=True):
        # A path in a line becomes the plain name: the file is linked into the run's folder.
        lines = tuple(line.replace(name, path.name) if name != path.name else line
                      for line in lines)
    if missing := sorted(set(types) - set(force_field.charges)) if force_field.charges else []:
        raise InputError(f"force field {force_field.name!r} gives no charge for {missing[0]}",
                         hint="add it to `charges`")
    return ResolvedForceField(field=force_field, types=types, pair_coeff=lines, files=paths)


def _check_elements(force_field: ForceField, present: Sequence[str], style: str,
                    paths: Sequence[Path]) -> None:
    """Refuse an element the force field has no parameters for."""
    style = _SUFFIX.sub("", style)
    known: set[str] | None = None
    where = f"force field {force_field.name!r}"
    if style in _SETFL and paths:
        elements = setfl_elements(read_head(paths[0]), paths[0])
        known, where = set(elements), f"{where} (file {paths[0].name})"
    elif style in _ENTRY_WORDS and paths:
        triplets = entry_triplets(read_head(paths[0]), _ENTRY_WORDS[style], paths[0])
        where = f"{where} (file {paths[0].name})"
        known = {a for a, b, c in triplets if a == b == c}
        if set(present) <= known:
            lacking = [t for t in product(present, repeat=3) if t not in triplets]
            if lacking:
                raise InputError(f"{where} has no parameters for {' '.join(lacking[0])} together",
                                 hint="choose a force field fitted for this combination")
    if force_field.elements:
        known = set(force_field.elements) if known is None else known & set(force_field.elements)
    if known is None:
        raise InputError(
            f"{where}: which elements it holds can't be read for pair style {style!r}",
            hint="name them in `elements`",
        )
    for element in present:
        if element not in known:
            raise InputError(
                f"{where} has no parameters for {element}; it holds {', '.join(sorted(known))}",
                hint="choose a force field with this element" + _others(element),
            )


def _others(element: str) -> str:
    # A preset's name begins with its elements; only those are offered, none is chosen silently.
    names = [n for n in PRESETS
             if element in re.findall(r"[A-Z][a-z]?", re.split(r"[_.]", n)[0])]
    return f": {', '.join(names)}" if names else ""


def find_file(name: str, folder: Path) -> Path:
    """Return the path of a potential file given by name or path.

    Raises
    ------
    InputError
        There is no such file.
    """
    path = Path(name).expanduser()
    path = path if path.is_absolute() else folder / path
    if not path.is_file():
        near = difflib.get_close_matches(
            path.name, [f.name for f in path.parent.iterdir()] if path.parent.is_dir() else [], n=3)
        raise InputError(
            f"potential file {path} does not exist",
            hint=(f"did you mean {', '.join(near)}? " if near else "")
            + "set `potentials_dir` in orionflow.yaml, or give an absolute path in `files`",
        )
    return path


def read_head(path: Path, limit: int = 2**20) -> str:
    """Return the first part of a potential file; parameter files are shorter than the limit."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(limit)
    units = re.search(r"UNITS:\s*(\w+)", text.split("\n", 1)[0])
    if units and units[1] != "metal":
        raise InputError(f"potential file {path} is in {units[1]!r} units",
                         hint="recipes work in metal units (eV, Å, ps)")
    return text


def setfl_elements(text: str, path: Path) -> tuple[str, ...]:
    """Return the elements of a DYNAMO setfl file (eam/alloy, eam/fs, adp), from its fourth line.

    Raises
    ------
    InputError
        The line is not a number followed by that many names.
    """
    lines = text.split("\n", 4)
    words = lines[3].split() if len(lines) > 3 else []  # noqa: PLR2004  the format's fourth line
    if not words or not words[0].isdigit() or int(words[0]) != len(words) - 1:
        raise InputError(f"{path} is not a setfl file: line 4 must be `N element1 ... elementN`",
                         hint="check pair_style and the file")
    return tuple(words[1:])


def entry_triplets(text: str, words: int, path: Path) -> set[tuple[str, str, str]]:
    """Return the element triplets of a Stillinger-Weber or Tersoff parameter file.

    Parameters
    ----------
    text
        The file.
    words
        Words of one entry.
    path
        For the message.

    Raises
    ------
    InputError
        The words do not divide into entries.
    """
    tokens = [w for line in text.splitlines() for w in line.split("#", 1)[0].split()]
    if not tokens or len(tokens) % words:
        raise InputError(f"{path} does not hold entries of {words} words",
                         hint="check pair_style and the file")
    return {(tokens[i], tokens[i + 1], tokens[i + 2]) for i in range(0, len(tokens), words)}


def file_sha256(path: Path) -> str:
    """Return the hash of a file; read once in a process while it does not change."""
    stat = path.stat()
    return _sha256(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _sha256(path: Path, _mtime: int, _size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
