"""Input files of pw.x and ph.x: read as the codes read them, edited so that nothing else changes.

An input has Fortran namelists, edited with f90nml (comments, order and layout stay), and, for
pw.x, cards behind them, which are copied as they are unless a card is replaced by name.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CARDS = ("ATOMIC_SPECIES", "ATOMIC_POSITIONS", "K_POINTS", "ADDITIONAL_K_POINTS",
         "CELL_PARAMETERS", "CONSTRAINTS", "OCCUPATIONS", "ATOMIC_VELOCITIES", "ATOMIC_FORCES",
         "SOLVENTS", "HUBBARD", "TOTAL_CHARGE")
GROUPS = ("control", "system", "electrons", "ions", "cell", "fcp", "rism")

# What a correction may change. All else (structure, pseudopotentials, functional, k-points,
# cutoffs, thresholds, ensemble, number of steps) is the user's and stays as it is.
CHANGEABLE: Mapping[str, frozenset[str]] = {
    "control": frozenset({"restart_mode", "max_seconds", "nstep"}),
    "system": frozenset({"nbnd", "occupations", "smearing", "degauss", "nosym", "ecutfock",
                         "ibrav"}),
    "electrons": frozenset({"electron_maxstep", "mixing_beta", "mixing_ndim", "mixing_mode",
                            "diagonalization", "diago_david_ndim", "diago_cg_maxiter",
                            "diago_full_acc", "startingpot", "startingwfc", "conv_thr"}),
    "ions": frozenset({"ion_dynamics", "trust_radius_min", "trust_radius_ini", "upscale",
                       "trust_radius_max", "bfgs_ndim"}),
    "cell": frozenset({"cell_factor", "cell_dynamics"}),
    "inputph": frozenset({"recover", "niter_ph", "alpha_mix", "nmix_ph", "epsil", "max_seconds",
                          "search_sym"}),
}
# f90nml raises these, not one class of its own, on text that is no namelist.
_PARSE_ERRORS = (ValueError, AssertionError, IndexError, KeyError, TypeError, AttributeError,
                 StopIteration, RuntimeError)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[dDeE][-+]?\d+)?")


@dataclass(frozen=True)
class Card:
    """One card: its option, its lines without comments, and where it stands in the text."""

    name: str
    option: str
    lines: tuple[str, ...]
    start: int
    end: int


@dataclass
class QeInput:
    """A parsed input file.

    Attributes
    ----------
    namelists
        Group, then key, both in lower case, to the value.
    cards
        By name, in capitals.
    """

    path: Path
    text: str
    title: str = ""
    namelists: dict[str, dict[str, Any]] = field(default_factory=dict)
    cards: dict[str, Card] = field(default_factory=dict)

    def get(self, group: str, key: str, default: Any = None) -> Any:
        """Return a value of a namelist."""
        return self.namelists.get(group, {}).get(key, default)

    @property
    def calculation(self) -> str:
        """What pw.x is asked for."""
        return str(self.get("control", "calculation", "scf")).strip().lower()

    @property
    def prefix(self) -> str:
        """Name of the files in outdir."""
        default = "pwscf"
        for group in ("control", "inputph"):
            if group in self.namelists:
                return str(self.get(group, "prefix", default)).strip() or default
        return default

    def number(self, group: str, key: str, default: float) -> float:
        """Return a number of a namelist; the default when it is none."""
        value = self.get(group, key, default)
        if isinstance(value, list):
            value = value[0] if value else default
        try:
            return float(str(value).lower().replace("d", "e"))
        except ValueError:
            return default

    def outdir(self, folder: Path, environment: Mapping[str, str]) -> Path:
        """Return the folder for QE's files, as QE finds it."""
        group = "inputph" if "inputph" in self.namelists else "control"
        named = self.get(group, "outdir") or environment.get("ESPRESSO_TMPDIR") or "./"
        return folder / str(named).strip()

    def save_dir(self, folder: Path, environment: Mapping[str, str]) -> Path:
        """Return ``outdir/prefix.save``."""
        return self.outdir(folder, environment) / f"{self.prefix}.save"


def read_input(path: Path) -> QeInput:
    """Read an input file of pw.x or ph.x.

    Raises
    ------
    InputError
        There is no such file, or it is not an input.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise InputError(f"input {path} can't be read: {error.strerror}",
                         hint="give the name of the input file in the command") from error
    return parse_input(text, path)


def parse_input(text: str, path: Path) -> QeInput:
    """Parse the text of an input; see `read_input`."""
    import f90nml

    end = _namelists_end(text)
    try:
        groups = f90nml.Parser().reads(text[:end])
    except _PARSE_ERRORS as error:
        raise InputError(f"the namelists of {path.name} can't be read: {error}",
                         hint="look for a missing quote, comma or `/`") from error
    namelists: dict[str, dict[str, Any]] = {}
    for name, values in groups.items():
        if hasattr(values, "items"):
            namelists[str(name).lower()] = {str(k).lower(): v for k, v in values.items()}
    found = QeInput(path=path, text=text, title=text.split("\n", 1)[0].strip(),
                    namelists=namelists)
    if "inputph" not in namelists:
        found.cards = {card.name: card for card in _read_cards(text, end)}
    return found


def edit_input(path: Path, changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Change namelist values in a file and nothing else.

    Parameters
    ----------
    path
        Input file.
    changes
        Group, key, new value; only keys in `CHANGEABLE`.

    Returns
    -------
    list of str
        One line for each value that is different now: ``mixing_beta: 0.7 -> 0.3``.

    Raises
    ------
    InputError
        The file could not be changed without touching something else.
    """
    before = read_input(path)
    wanted: dict[str, dict[str, Any]] = {}
    lines = []
    for group, keys in changes.items():
        for key, value in keys.items():
            _check_changeable(before, group, key, value)
            old = before.get(group, key)
            if _same(old, value):
                continue
            wanted.setdefault(group, {})[key] = value
            shown = "(default)" if old is None else show_value(old)
            lines.append(f"{key}: {shown} -> {show_value(value)}")
    if not wanted:
        return []
    write_whole(path, changed_text(before, wanted))
    return lines


def changed_text(before: QeInput, wanted: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of an input with other namelist values and nothing else changed.

    Raises
    ------
    InputError
        It could not be changed without touching something else.
    """
    import f90nml

    text = _with_groups(before, wanted)
    end = _namelists_end(text)
    patched = io.StringIO()
    f90nml.Parser().read(io.StringIO(text[:end]), {g: dict(v) for g, v in wanted.items()}, patched)
    head = patched.getvalue()
    new = head + ("" if head.endswith("\n") or text[end:].startswith("\n") else "\n") + text[end:]
    after = parse_input(new, before.path)
    expected = {g: dict(v) for g, v in before.namelists.items()}
    for group, keys in wanted.items():
        expected.setdefault(group, {}).update(keys)
    same_cards = [(c.name, c.option, c.lines) for c in after.cards.values()] == [
        (c.name, c.option, c.lines) for c in before.cards.values()]
    if not same_cards or not _same_namelists(after.namelists, expected):
        by_hand = "; ".join(f"{key} = {show_value(value)}" for keys in wanted.values()
                            for key, value in keys.items())
        raise InputError(f"{before.path.name} can't be edited safely",
                         hint=f"change by hand: {by_hand}")
    return new


def replace_card(path: Path, name: str, option: str, lines: list[str]) -> None:
    """Replace a card, or add it at the end."""
    write_whole(path, with_card(read_input(path), name, option, lines))


def with_card(found: QeInput, name: str, option: str, lines: list[str]) -> str:
    """Return the text of an input with another card, which is added at the end if it is new."""
    body = "\n".join([f"{name} {{{option}}}" if option else name, *lines]) + "\n"
    card = found.cards.get(name)
    if card is None:
        return found.text.rstrip("\n") + "\n" + body
    return found.text[:card.start] + body + found.text[card.end:]


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all; a full disk must not leave a cut input."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.chmod(path.stat().st_mode & 0o777)
    part.replace(path)


def show_value(value: Any) -> str:
    """Return a namelist value as a person writes it."""
    if isinstance(value, bool):
        return ".true." if value else ".false."
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_changeable(before: QeInput, group: str, key: str, value: Any) -> None:
    if key not in CHANGEABLE.get(group, frozenset()):
        message = f"{key} in &{group} is the user's: a correction may not change it"
        raise PermissionError(message)
    if key == "nstep" and before.calculation not in {"relax", "vc-relax"}:
        message = "nstep of a dynamics is the user's: a correction may not change it"
        raise PermissionError(message)
    if key == "conv_thr" and value > before.number(group, key, 1e-6):
        message = f"conv_thr may only become tighter, not {value}"
        raise PermissionError(message)


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, float) or isinstance(new, float):
        try:
            return abs(float(old) - float(new)) <= 1e-12 * abs(float(new))
        except (TypeError, ValueError):
            return False
    return bool(old == new)


def _same_namelists(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    if {g for g in one if one[g]} != {g for g in two if two[g]}:
        return False
    return all(set(one[g]) == set(two[g]) and all(_same(one[g][k], two[g][k]) for k in one[g])
               for g in one if one[g])


def _with_groups(before: QeInput, wanted: Mapping[str, Any]) -> str:
    """Return the text with an empty namelist for each one that is wanted but not there."""
    text = before.text
    for group in (g for g in GROUPS if g in wanted and g not in _group_names(text)):
        later = GROUPS[GROUPS.index(group) + 1:]
        at = _namelists_end(text)
        for start, name in _groups(text):
            if name in later:
                at = start
                break
        gap = "" if at == 0 or text[at - 1] == "\n" else "\n"
        text = f"{text[:at]}{gap}&{group.upper()}\n/\n{text[at:].removeprefix(chr(10))}"
    return text


def _group_names(text: str) -> set[str]:
    return {name for _, name in _groups(text)}


def _groups(text: str) -> list[tuple[int, str]]:
    end = _namelists_end(text)
    return [(m.start(), m[1].lower())
            for m in re.finditer(r"^[ \t]*[&$](\w+)", text[:end], re.MULTILINE)
            if m[1].lower() != "end"]


def _namelists_end(text: str) -> int:
    """Return the index behind the line that closes the last namelist."""
    end = at = 0
    while match := re.compile(r"^[ \t]*[&$](?!end\b)\w+", re.MULTILINE | re.IGNORECASE).search(
            text, at):
        at = _close(text, match.end())
        newline = text.find("\n", at)
        end = at = len(text) if newline < 0 else newline + 1
    return end


def _close(text: str, at: int) -> int:
    """Return the index behind the `/` or `&end` of the namelist that begins before ``at``."""
    quote = ""
    while at < len(text):
        char = text[at]
        if quote:
            if char in (quote, "\n"):
                quote = ""
        elif char in "'\"":
            quote = char
        elif char == "!":
            at = text.find("\n", at)
            if at < 0:
                return len(text)
        elif char == "/":
            return at + 1
        elif char in "&$":
            return at + 4 if text[at + 1:at + 4].lower() == "end" else at
        at += 1
    return len(text)


def _read_cards(text: str, at: int) -> list[Card]:
    cards: list[Card] = []
    name = option = ""
    start = at
    lines: list[str] = []
    for raw in text[at:].splitlines(keepends=True):
        line = re.split(r"[!#]", raw, maxsplit=1)[0].strip()
        words = line.replace("{", " ").replace("}", " ").replace("(", " ").replace(
            ")", " ").split()
        if words and words[0].upper() in CARDS:
            if name:
                cards.append(Card(name, option, tuple(lines), start, at))
            name, option = words[0].upper(), " ".join(words[1:]).lower()
            start, lines = at, []
        elif line and name:
            lines.append(line)
        at += len(raw)
    if name:
        cards.append(Card(name, option, tuple(lines), start, at))
    return cards
