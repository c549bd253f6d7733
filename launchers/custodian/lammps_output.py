"""What LAMMPS printed: runs with their thermo tables, errors, warnings, how it ended.

Read from the screen output, or from log.lammps when the screen was switched off. Never raises on
any text: a line that is not understood is skipped.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

_ERROR = re.compile(r"^\s*ERROR(?: on proc \d+)?: (?P<text>.*?)\s*(?:\((?P<where>\S+?:\d+)\))?\s*$")
_LOOP = re.compile(
    r"^Loop time of (?P<s>\S+) on \d+ procs? for (?P<n>\d+) steps with (?P<a>\d+) atoms")
_DANGEROUS = re.compile(r"^Dangerous builds (?:= (?P<n>\d+)|not checked)")
_MOST_WARNINGS = 100
# Name of our own `fix halt`, by which LAMMPS is asked to stop.
ASKED = "orionflow_asked"
_MULTI = re.compile(r"^-+ Step\s+(\d+) -+ CPU")
_PAIR = re.compile(r"(\w[\w\[\]]*)\s*=\s*([-+]?(?:\d\S*|nan|inf))")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf)$")


@dataclass
class RunBlock:
    """One `run` or `minimize`.

    Attributes
    ----------
    rows
        Thermo table, shape (n, columns), in the units of the script.
    timestep
        Time step in force, in the units of the script, or None when not printed.
    atoms_before, atoms
        Atoms before the run, as far as it was printed, and after it.
    steps
        Steps done according to the loop-time line; None when the run did not end.
    dangerous
        Dangerous neighbour list builds; -1 means they were not checked.
    timed_out
        The line that tells that its time was over, or that we have asked it to stop.
    """

    minimize: bool = False
    columns: list[str] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)
    timestep: float | None = None
    steps: int | None = None
    atoms: int | None = None
    atoms_before: int | None = None
    dangerous: int | None = None
    dangerous_line: str = ""
    criterion: str = ""
    force_norm: tuple[float, float] | None = None
    force_max: tuple[float, float] | None = None
    timed_out: str = ""
    stretched: str = ""
    halted: str = ""

    def column(self, *names: str) -> list[float]:
        """Return the first column there is among ``names``; empty when there is none."""
        for name in names:
            if name in self.columns:
                at = self.columns.index(name)
                return [row[at] for row in self.rows]
        return []

    @property
    def first_step(self) -> int | None:
        """Step of the first row."""
        column = self.column("Step")
        return int(column[0]) if column and math.isfinite(column[0]) else None

    @property
    def last_step(self) -> int | None:
        """Last step known to be done."""
        column = [s for s in self.column("Step") if math.isfinite(s)]
        if self.steps is not None and self.first_step is not None:
            return self.first_step + self.steps
        return int(column[-1]) if column else None


@dataclass
class LammpsOutput:
    """Everything the rules want to know of one attempt.

    Attributes
    ----------
    units
        Unit style; empty where it was not printed (the log alone does not have it).
    box_volume, cutoff
        In the units of the script.
    groups
        Atoms in each group when it was made.
    """

    runs: list[RunBlock] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    last_command: str = ""
    warnings: list[str] = field(default_factory=list)
    ended: bool = False
    started: bool = False
    units: str = ""
    atoms: int | None = None
    atoms_at_start: int | None = None
    box_volume: float | None = None
    cutoff: float | None = None
    groups: dict[str, int] = field(default_factory=dict)

    @property
    def last_run(self) -> RunBlock | None:
        """The run that was begun last."""
        return self.runs[-1] if self.runs else None


class OutputParser:
    """Takes the output line by line, as it grows.

    Attributes
    ----------
    output
        What is known so far.
    """

    def __init__(self) -> None:
        self.output = LammpsOutput()
        self._block: RunBlock | None = None
        self._minimize = False
        self._timestep: float | None = None
        self._want_header = False
        self._in_table = False

    def feed(self, line: str) -> None:
        """Take one line, without its end."""
        stripped = line.strip()
        if not stripped:
            return
        words = stripped.split()
        out = self.output
        if self._row(stripped, words):
            return
        if stripped.startswith("WARNING"):
            self._warning(stripped)
        elif match := _ERROR.match(line):
            out.errors.append(match["text"])
            self._in_table = False
        elif stripped.startswith("Last command:"):
            out.last_command = stripped.removeprefix("Last command:").strip()
        elif stripped.startswith("Total wall time"):
            out.ended = True
        elif not (self._begins(stripped, words) or self._ends(stripped)):
            _setup_line(out, stripped, words)
        out.started = out.started or stripped.startswith("LAMMPS (")

    def _warning(self, stripped: str) -> None:
        if len(self.output.warnings) < _MOST_WARNINGS:
            self.output.warnings.append(stripped)
        if self._block is not None and "Wall time limit reached" in stripped:
            self._block.timed_out = stripped
        if self._block is not None and "FENE bond too long" in stripped:
            self._block.stretched = stripped

    def _row(self, stripped: str, words: list[str]) -> bool:
        """Take a row of the current table."""
        block = self._block
        if not self._in_table or block is None:
            return False
        if len(words) == len(block.columns) and all(_NUMBER.match(w) for w in words):
            block.rows.append([float(w) for w in words])
            return True
        if block.columns[:1] == ["Step"] and "=" in words and not stripped.startswith(
                ("WARNING", "-----")):
            _multi_row(block, stripped)
            return True
        return False

    def _begins(self, stripped: str, words: list[str]) -> bool:
        """Take what is printed before the first row of a table."""
        if stripped.startswith("Setting up "):
            self._minimize = "minimization" in stripped
            self._in_table = self._want_header = False
        elif stripped.startswith("Unit style") and ":" in stripped:
            self.output.units = words[-1]
        elif stripped.startswith("Time step") and ":" in stripped:
            self._timestep = _float(words[-1])
        elif stripped.startswith("Per MPI rank memory allocation"):
            self._want_header = True
        elif match := _MULTI.match(stripped):
            if not self._in_table:
                self._begin(["Step"])
            if self._block is not None:
                self._block.rows.append([float(match[1])])
        elif _is_header(words, want_header=self._want_header):
            self._begin(words)
        else:
            return False
        return True

    def _ends(self, stripped: str) -> bool:
        """Take what is printed after the last row of a table."""
        if match := _LOOP.match(stripped):
            if self._block is None or self._block.steps is not None:
                self._begin([])  # the head of its table was lost
            if self._block is not None:
                self._block.steps, self._block.atoms = int(match["n"]), int(match["a"])
            self.output.atoms = int(match["a"])
            self._in_table = False
            return True
        block = self._block
        if block is None:
            return False
        if stripped.startswith("Stopping criterion ="):
            block.criterion = stripped.split("=", 1)[1].strip()
            block.minimize = True
        elif match := _DANGEROUS.match(stripped):
            block.dangerous = int(match["n"]) if match["n"] else -1
            block.dangerous_line = stripped
        elif stripped.startswith("Force two-norm"):
            block.force_norm = _two_floats(stripped.split("=", 1)[-1])
        elif stripped.startswith("Force max component"):
            block.force_max = _two_floats(stripped.split("=", 1)[-1])
        elif "halt condition" in stripped:
            setattr(block, "timed_out" if ASKED in stripped else "halted", stripped)
        else:
            return False
        return True

    def _begin(self, columns: list[str]) -> None:
        self._block = RunBlock(minimize=self._minimize, columns=list(columns),
                               timestep=self._timestep, atoms_before=self.output.atoms)
        if not self.output.runs:
            self.output.atoms_at_start = self.output.atoms
        self.output.runs.append(self._block)
        self._in_table, self._want_header = True, False


def parse_output(text: str) -> LammpsOutput:
    """Read what LAMMPS printed on the screen or into its log."""
    parser = OutputParser()
    for line in text.split("\n"):
        parser.feed(line)
    return parser.output


def _is_header(words: list[str], *, want_header: bool) -> bool:
    if any(_NUMBER.match(w) for w in words):
        return False
    return want_header or (words[0] == "Step" and len(words) > 1 and "=" not in words)


def _multi_row(block: RunBlock, line: str) -> None:
    for name, value in _PAIR.findall(line):
        if name not in block.columns:
            block.columns.append(name)
            for row in block.rows[:-1]:
                row.append(math.nan)
        if block.rows:
            row = block.rows[-1]
            row += [math.nan] * (len(block.columns) - len(row))
            row[block.columns.index(name)] = _float(value) or 0.0


def _setup_line(out: LammpsOutput, line: str, words: list[str]) -> None:
    if "box = (" in line:
        numbers = re.findall(r"\(([^)]*)\)", line)
        if len(numbers) >= 2:  # noqa: PLR2004  two corners
            low, high = (_floats(n) for n in numbers[:2])
            if len(low) == len(high) == 3:  # noqa: PLR2004
                out.box_volume = math.prod(h - a for a, h in zip(low, high, strict=True))
    elif line.startswith("master list distance cutoff ="):
        out.cutoff = _float(words[-1])
    elif line.startswith("Deleted ") and "new total =" in line and words[-1].isdigit():
        out.atoms = int(words[-1])
    elif len(words) == 5 and words[1:4] == ["atoms", "in", "group"] and (  # noqa: PLR2004
            words[0].isdigit()):
        out.groups[words[4]] = int(words[0])
    elif len(words) == 2 and words[1] == "atoms" and words[0].isdigit():  # noqa: PLR2004
        out.atoms = int(words[0])
    elif line.startswith("Created ") and words[-1] == "atoms" and words[1].isdigit():
        out.atoms = (out.atoms or 0) + int(words[1])


def _floats(text: str) -> list[float]:
    return [v for v in (_float(w) for w in text.replace(",", " ").split()) if v is not None]


def _two_floats(text: str) -> tuple[float, float] | None:
    values = _floats(text)
    return (values[0], values[-1]) if len(values) >= 2 else None  # noqa: PLR2004


def _float(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
