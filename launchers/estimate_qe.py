"""What a pw.x run needs, by its own estimate: a start that stops before the first iteration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import LaunchError
from orionflow.launchers.qe_input import read_input
from orionflow.launchers.qe_output import error_box

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@dataclass(frozen=True)
class Estimate:
    """What pw.x says of a run before it begins.

    Attributes
    ----------
    memory
        Largest dynamical memory of one MPI process, bytes.
    kpoints
        Number of k-points after symmetry.
    symmetries
        Number of symmetry operations.
    """

    memory: float
    kpoints: int
    symmetries: int


def estimate(command: Sequence[str], folder: Path, input_file: str,
             environment: Mapping[str, str] | None = None) -> Estimate:
    """Start pw.x with a stop file already there and read what it prints before it stops.

    Parameters
    ----------
    command
        Argument list, MPI launcher included: memory depends on the ranks.
    folder, input_file
        Where the input is; nothing in the folder is changed.

    Raises
    ------
    LaunchError
        pw.x stopped before it came to the estimate.
    """
    import f90nml

    found = read_input(folder / input_file)
    with tempfile.TemporaryDirectory(prefix="estimate_", dir=folder) as name:
        place = Path(name)
        # Apart from the real outdir, in which a stopped run would leave its files.
        values = {"outdir": "./out"}
        if pseudo := found.get("control", "pseudo_dir"):
            values["pseudo_dir"] = str((folder / str(pseudo).strip()).resolve())
        f90nml.patch(str(folder / input_file), {"control": values}, str(place / input_file))
        (place / f"{found.prefix}.EXIT").touch()
        run = subprocess.run(
            list(command), cwd=place, capture_output=True, text=True, check=False, timeout=600,
            stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {}),
                                           "ESPRESSO_TMPDIR": str(place)})
        shutil.rmtree(place / "out", ignore_errors=True)
    memory = re.search(r"Estimated max dynamical RAM per process >\s+([\d.]+) ?(\w+)", run.stdout)
    if memory is None:
        box = error_box(run.stdout)
        raise LaunchError(f"pw.x did not come to its estimate: {box or run.stderr.strip()[-300:]}",
                          command=command, code=run.returncode, stderr=run.stderr)
    kpoints = re.search(r"number of k points=\s*(\d+)", run.stdout)
    symmetries = re.search(r"^\s+(\d+) Sym\. Ops\.", run.stdout, re.MULTILINE)
    return Estimate(memory=float(memory[1]) * _BYTES.get(memory[2], 1.0),
                    kpoints=int(kpoints[1]) if kpoints else 0,
                    symmetries=int(symmetries[1]) if symmetries else 1)
