"""The log of one simulation that was run in parts."""

from __future__ import annotations

from orionflow.launchers.custodian.lammps_output import parse_output


def merge_logs(old: str, step: int | None, new: str) -> str:
    """Join the log of a stopped run and of its continuation into one thermo table.

    Parameters
    ----------
    old
        The stopped run.
    step
        Where the new one begins.
    new
        The continuation; returned as it is when there is nothing before it or the tables differ.
    """
    if not old or step is None:
        return new
    before, after = parse_output(old), parse_output(new)
    if not before.runs or not after.runs or before.runs[-1].columns != after.runs[0].columns:
        return new
    columns = before.runs[-1].columns
    if "Step" not in columns:
        return new
    at = columns.index("Step")
    old_lines, new_lines = old.split("\n"), new.split("\n")
    head = max(i for i, line in enumerate(old_lines) if line.split() == columns)
    steps = {i: _step(old_lines[i], columns, at) for i in range(head + 1, len(old_lines))}
    keep = [i for i, s in steps.items() if s is not None and s <= step]
    end = (keep[-1] if keep else head) + 1
    start = next(i for i, line in enumerate(new_lines) if line.split() == columns) + 1
    if start < len(new_lines) and _step(new_lines[start], columns, at) == step:
        start += 1  # the row of the restart file itself
    return "\n".join(old_lines[:end] + new_lines[start:])


def _step(line: str, columns: list[str], at: int) -> int | None:
    words = line.split()
    if len(words) != len(columns):
        return None
    try:
        return int(words[at])
    except ValueError:
        return None
