"""Results of LAMMPS from its log and dumps: text in, arrays out, or an OutputError.

Strict where the handlers' reader is forgiving: nothing is returned from a run that did not reach
its end, however good its last line looks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from orionflow.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

# Headers of the table -> keywords of thermo_style; the others differ in capitals only.
_KEYWORD = {"PotEng": "pe", "KinEng": "ke", "TotEng": "etotal", "Volume": "vol"}
_LOOP = re.compile(r"Loop time of \S+ on \d+ procs? for (\d+) steps with (\d+) atoms")
_VERSION = re.compile(r"LAMMPS \((.+?)\)")
_COUNTS = re.compile(r"Iterations, force evaluations = (\d+) (\d+)")
_CONVERGED = ("force tolerance", "energy tolerance")
_LINE_SEARCH = "linesearch alpha is zero"
ROUNDING_FORCE = 1e-4
"""eV/Å. A line search ends where energy differences drown in rounding: with E ~ 1e5 eV and a force
constant of 10 eV/Å² that is at sqrt(2 k E 1e-16) ~ 1e-5 eV/Å. A larger force left over means a
kink in the potential, not a minimum."""


@dataclass
class RunTable:
    """One `run` or `minimize` of a log.

    Attributes
    ----------
    columns
        Keywords of `thermo_style`.
    rows
        Shape (rows, columns).
    complete
        Whether the run came to its end ("Loop time").
    criterion
        Why a minimisation stopped; empty for dynamics.
    """

    columns: list[str]
    rows: list[list[float]] = field(default_factory=list)
    complete: bool = False
    criterion: str = ""
    iterations: int = 0
    evaluations: int = 0

    def last(self, name: str) -> float:
        """Return the last value of a column."""
        return self.rows[-1][self.columns.index(name)]


@dataclass
class Log:
    """What a log says.

    Attributes
    ----------
    finished
        Whether LAMMPS came to the end of its input ("Total wall time").
    """

    version: str = ""
    runs: list[RunTable] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    finished: bool = False


def parse_log(text: str) -> Log:
    """Read a log; broken and unfinished ones too. `check_finished` judges it."""
    log = Log()
    table: RunTable | None = None
    inside = False  # a thermo table
    for line in text.splitlines():
        words = line.split()
        if inside and table is not None and (row := _row(words, len(table.columns))):
            table.rows.append(row)
        elif len(words) > 1 and words[0] == "Step":
            table = RunTable([_KEYWORD.get(w, w.lower()) for w in words])
            log.runs.append(table)
            inside = True
        elif line.startswith("ERROR"):
            log.errors.append(line.strip())
            inside = False
        elif table is not None and _LOOP.match(line):
            table.complete, inside = True, False
        else:
            _remark(log, table, line)
    return log


def _remark(log: Log, table: RunTable | None, line: str) -> None:
    """Take in a line outside the tables."""
    if line.startswith("WARNING"):
        if (warning := line.removeprefix("WARNING:").strip()) not in log.warnings:
            log.warnings.append(warning)
    elif line.startswith("Total wall time"):
        log.finished = True
    elif not log.version and (match := _VERSION.match(line)):
        log.version = match[1]
    elif table is not None and "Stopping criterion =" in line:
        table.criterion = line.split("=", 1)[1].strip()
    elif table is not None and (match := _COUNTS.search(line)):
        table.iterations, table.evaluations = int(match[1]), int(match[2])


def _row(words: Sequence[str], columns: int) -> list[float] | None:
    if len(words) != columns:
        return None
    try:
        return [float(w) for w in words]
    except ValueError:
        return None


def check_finished(log: Log, *, path: Path, last_step: int | None = None,
                   ftol: float | None = None) -> RunTable:
    """Return the last run of a log that came to a good end.

    Parameters
    ----------
    log
        The parsed log.
    path
        For the message.
    last_step
        Step that had to be reached (dynamics).
    ftol
        Largest force allowed after a minimisation, eV/Å.

    Raises
    ------
    OutputError
        The run stopped early, lost atoms, holds NaN, or the minimisation did not converge.
    """
    def refuse(message: str, expected: str, hint: str = "") -> NoReturn:
        raise OutputError(f"{path}: {message}", path=path, expected=expected, hint=hint)

    if log.errors:
        refuse(f"LAMMPS stopped with {log.errors[0]!r}", "a run without ERROR")
    if not log.finished:
        refuse("the run did not come to its end", "'Total wall time' in the last line")
    if not log.runs or not all(run.complete and run.rows for run in log.runs):
        refuse("a thermo table has no end", "'Loop time' after each table")
    for run in log.runs:
        values = np.array(run.rows)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            refuse(f"{run.columns[column]} is {values[row, column]} at step {int(values[row, 0])}",
                   "finite numbers")
        if "atoms" in run.columns and len(set(values[:, run.columns.index("atoms")])) > 1:
            refuse("atoms were lost", "a constant number of atoms")
    last = log.runs[-1]
    if last_step is not None and last.last("step") < last_step:
        refuse(f"the run stopped at step {int(last.last('step'))} of {last_step}",
               f"step {last_step}", "it was stopped by its time limit or a STOP file")
    if ftol is not None:
        _check_minimum(last, ftol, refuse)
    return last


def _check_minimum(run: RunTable, ftol: float, refuse: Callable[..., NoReturn]) -> None:
    force = run.last("fmax")
    good = run.criterion in _CONVERGED or (
        run.criterion == _LINE_SEARCH and force <= max(ftol, ROUNDING_FORCE))
    if not good:
        refuse(
            f"the minimisation stopped by {run.criterion or 'an unknown criterion'!r} with a force "
            f"of {force:.3g} eV/Å left", f"largest force at most {ftol:g} eV/Å",
            "raise maxiter, or try min_style='fire' (fixed cell)",
        )


def thermo_columns(log: Log) -> dict[str, FloatArray]:
    """Return the thermo table of all runs of a log as one array for each keyword, shape (rows,).

    A second minimisation repeats the last step of the first; the later row is the better one.
    """
    columns = log.runs[-1].columns
    table = np.array([row for run in log.runs if run.columns == columns for row in run.rows])
    _, index = np.unique(table[::-1, 0], return_index=True)
    table = table[::-1][index]
    result = {name: table[:, i] for i, name in enumerate(columns)}
    if "time" in result:
        result["time"] = _running_time(result["step"], result["time"])
    return result


def _running_time(step: FloatArray, time: FloatArray) -> FloatArray:
    """Let the time run on where LAMMPS began at 0 again, as it does at each restart file."""
    back = np.flatnonzero(np.diff(time) < 0) + 1
    time = time.copy()
    for i in back:  # the row before it belongs to the stopped run, the one after to the same
        near = slice(i, i + 2) if i + 1 < len(time) else slice(i - 2, i)
        timestep = np.diff(time[near])[0] / np.diff(step[near])[0]
        time[i:] += time[i - 1] + timestep * (step[i] - step[i - 1]) - time[i]
    return time


@dataclass(frozen=True)
class Frame:
    """One frame of a dump, in the frame of the LAMMPS box.

    Attributes
    ----------
    box
        Rows are the box vectors, shape (3, 3), Å.
    origin
        Corner of the box, shape (3,), Å.
    columns
        Numeric columns by name, each of shape (atoms,), sorted by id.
    """

    step: int
    box: FloatArray
    origin: FloatArray
    columns: dict[str, FloatArray]

    def vectors(self, *names: str) -> FloatArray:
        """Return three columns as shape (atoms, 3)."""
        return np.stack([self.columns[n] for n in names], axis=1)


def parse_dump(text: str, path: Path) -> list[Frame]:
    """Read all frames of a text dump, in order.

    Parameters
    ----------
    text
        The file.
    path
        For the message.

    Raises
    ------
    OutputError
        There is no frame, or one is cut or holds something that is not a finite number.
    """
    frames: dict[int, Frame] = {}
    for part in text.split("ITEM: TIMESTEP\n")[1:]:
        try:
            frame = _frame(part)
        except (ValueError, IndexError) as error:
            raise OutputError(f"{path}: a frame of the dump is not complete: {error}", path=path,
                              expected="as many finite atom lines as announced") from error
        frames[frame.step] = frame
    if not frames:
        raise OutputError(f"{path} holds no frame", path=path, expected="a LAMMPS text dump")
    return [frames[step] for step in sorted(frames)]


def _frame(text: str) -> Frame:
    if not text.endswith("\n"):  # a number cut short is still a number
        raise ValueError("its last line has no end")
    head, _, body = text.partition("ITEM: ATOMS ")
    lines = head.splitlines()
    step, count = int(lines[0]), int(lines[2])
    bounds = np.array([[float(w) for w in line.split()] for line in lines[4:7]])
    names, _, table = body.partition("\n")
    columns = names.split()
    words = table.split()
    if bounds.shape[0] != 3 or "id" not in columns:  # noqa: PLR2004  three directions
        raise ValueError("its head is not complete")
    if len(words) != count * len(columns):
        raise ValueError(f"{len(words)} words for {count} atoms with {len(columns)} columns")
    numeric = [i for i, name in enumerate(columns) if name != "element"]
    grid = np.array(words).reshape(count, len(columns))
    numbers = grid[:, numeric].astype(float)
    values = {columns[i]: numbers[:, j] for j, i in enumerate(numeric)}
    if not np.isfinite(numbers).all():
        raise ValueError("a value is not finite")
    order = np.argsort(values["id"])
    box, origin = _box(bounds)
    return Frame(step, box, origin, {k: v[order] for k, v in values.items()})


def _box(bounds: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Undo the bounding box a dump gives for a tilted box (documentation of `dump`)."""
    xy, xz, yz = bounds[:, 2] if bounds.shape[1] > 2 else (0.0, 0.0, 0.0)  # noqa: PLR2004
    low = bounds[:, 0] - [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
    high = bounds[:, 1] - [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
    box = np.diag(high - low)
    box[1, 0], box[2, 0], box[2, 1] = xy, xz, yz
    return box, low


def pressure_tensor(row: dict[str, float]) -> FloatArray:
    """Return the pressure tensor of a thermo row, bar, shape (3, 3), in the LAMMPS frame."""
    xx, yy, zz, xy, xz, yz = (row[k] for k in ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz"))
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def mean_and_error(values: FloatArray) -> tuple[float, float]:
    """Return the mean of a correlated series and its standard error, by blocking.

    Parameters
    ----------
    values
        Shape (n,), equally spaced in time.

    Notes
    -----
    Neighbours are averaged again and again; the error estimate grows until blocks are longer than
    the correlation. The largest estimate with at least eight blocks is taken.
    H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91, 461 (1989), doi:10.1063/1.457480.
    """
    mean = float(np.mean(values))
    series, error = np.asarray(values, dtype=float), 0.0
    while len(series) > 1:
        error = max(error, float(np.std(series, ddof=1) / np.sqrt(len(series))))
        if len(series) < 16:  # noqa: PLR2004  halves would be fewer than eight
            break
        even = len(series) // 2 * 2
        series = series[:even].reshape(-1, 2).mean(axis=1)
    return mean, error


def read_log(path: Path) -> Log:
    """Read the log of a run; where it was continued, the launcher has joined the tables.

    Raises
    ------
    OutputError
        There is no log.
    """
    return parse_log(_read(path))


def read_dump(path: Path) -> list[Frame]:
    """Read a dump.

    Raises
    ------
    OutputError
        There is none, or it is not complete.
    """
    return parse_dump(_read(path), path)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise OutputError(f"{path} can't be read: {error.strerror}", path=path,
                          expected="a file LAMMPS writes") from error
