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
    steps
        Steps done according to the loop-time line; None when the run did not end.
    dangerous
        Dangerous neighbour list builds; -1 means they were not checked.
    """

    minimize: bool = False
    columns: list[str] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)
    timestep: float | None = None
    steps: int | None = None
    atoms: int | None = None
    dangerous: int | None = None
    dangerous_line: str = ""
    criterion: str = ""
    force_norm: tuple[float, float] | None = None
    force_max: tuple[float, float] | None = None
    timed_out: str = ""
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
    """Everything the rules want to know of one attempt."""

    runs: list[RunBlock] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    last_command: str = ""
    warnings: list[str] = field(default_factory=list)
    ended: bool = False
    started: bool = False
    units: str = "lj"
    atoms: int | None = None
    box_volume: float | None = None
    cutoff: float | None = None

    @property
    def last_run(self) -> RunBlock | None:
        """The run that was begun last."""
        return self.runs[-1] if self.runs else None


def parse_output(text: str) -> LammpsOutput:  # noqa: C901, PLR0912, PLR0915  one flat state machine
    """Read what LAMMPS printed on the screen or into its log."""
    out = LammpsOutput()
    block: RunBlock | None = None
    minimize = False
    timestep: float | None = None
    want_header = in_table = False
    forces = ""
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped:
            continue
        words = stripped.split()
        if in_table and block is not None and len(words) == len(block.columns) and all(
            _NUMBER.match(w) for w in words
        ):
            block.rows.append([float(w) for w in words])
            continue
        if stripped.startswith("WARNING"):
            out.warnings.append(stripped)
            if block is not None and "Wall time limit reached" in stripped:
                block.timed_out = stripped
        elif stripped.startswith("ERROR"):
            if match := _ERROR.match(line):
                out.errors.append(match["text"])
            in_table = False
        elif stripped.startswith("Last command:"):
            out.last_command = stripped.removeprefix("Last command:").strip()
        elif "Setting up Verlet run" in stripped or "Setting up r-RESPA run" in stripped:
            minimize, in_table, want_header = False, False, False
        elif "style minimization" in stripped and stripped.startswith("Setting up"):
            minimize, in_table, want_header = True, False, False
        elif stripped.startswith("Unit style"):
            out.units = words[-1]
        elif stripped.startswith("Time step") and ":" in stripped:
            timestep = _float(words[-1])
        elif stripped.startswith("Per MPI rank memory allocation"):
            want_header = True
        elif match := _MULTI.match(stripped):
            if block is None or not in_table:
                block = _begin(out, ["Step"], minimize=minimize, timestep=timestep)
                in_table = True
            block.rows.append([float(match[1])])
            want_header = False
        elif in_table and block is not None and block.columns[0] == "Step" and "=" in words:
            _multi_row(block, stripped)
        elif _is_header(words, want_header=want_header):
            block = _begin(out, words, minimize=minimize, timestep=timestep)
            in_table, want_header = True, False
        elif match := _LOOP.match(stripped):
            if block is None:  # the head of the table was lost
                block = _begin(out, [], minimize=minimize, timestep=timestep)
            block.steps, block.atoms = int(match["n"]), int(match["a"])
            out.atoms = block.atoms
            in_table = False
        elif block is not None and stripped.startswith("Stopping criterion ="):
            block.criterion = stripped.split("=", 1)[1].strip()
            block.minimize = True
        elif block is not None and (match := _DANGEROUS.match(stripped)):
            block.dangerous = int(match["n"]) if match["n"] else -1
            block.dangerous_line = stripped
        elif block is not None and stripped.startswith(("Force two-norm", "Force max component")):
            forces = "norm" if "two-norm" in stripped else "max"
            pair = _two_floats(stripped.split("=", 1)[-1])
            if pair and forces == "norm":
                block.force_norm = pair
            elif pair:
                block.force_max = pair
        elif "halt condition" in stripped and block is not None:
            block.halted = stripped
        elif stripped.startswith("Total wall time"):
            out.ended = True
        else:
            _setup_line(out, stripped, words)
        out.started = out.started or stripped.startswith("LAMMPS (")
    return out


def _begin(out: LammpsOutput, columns: list[str], *, minimize: bool,
           timestep: float | None) -> RunBlock:
    block = RunBlock(minimize=minimize, columns=list(columns), timestep=timestep)
    out.runs.append(block)
    return block


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
