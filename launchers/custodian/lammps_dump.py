"""Trajectories of a run that goes on: frames after the restart file are written again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from orionflow.launchers.custodian.lammps_script import Script

_HEAD = b"ITEM: TIMESTEP"


def cut_dumps(folder: Path, script: Script, step: int) -> list[Path]:
    """Cut every text dump at the first frame that the continuation writes again.

    Parameters
    ----------
    folder
        Folder of the run.
    script
        The script, for the names of its dumps.
    step
        Step of the restart file.

    Returns
    -------
    list of Path
        The files that were cut.
    """
    cut = []
    for dump in script.all("dump"):
        name = dump.args[4] if len(dump.args) > 4 else ""  # noqa: PLR2004  id group style every file
        file = folder / name
        if name and "*" not in name and "$" not in name and file.is_file() and _cut(file, step):
            cut.append(file)
    return cut


def _cut(file: Path, step: int) -> bool:
    at = 0
    with file.open("rb") as stream:
        if not stream.readline().startswith(_HEAD):
            return False
        stream.seek(0)
        for line in stream:
            if line.startswith(_HEAD):
                number = stream.readline()
                if not number.strip().isdigit() or int(number) >= step:
                    break
                at += len(number)
            at += len(line)
        else:
            return False
    with file.open("r+b") as stream:
        stream.truncate(at)
    return True
