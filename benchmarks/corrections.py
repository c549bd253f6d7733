"""What the watch over a code costs: pw.x and lmp alone, and under all rules, turn by turn.

`python benchmarks/corrections.py [--quick]` prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from orionflow.launchers.context import job_context
from orionflow.launchers.lammps import run_lammps
from orionflow.launchers.mpi import mpi_command
from orionflow.launchers.qe import run_pw

if TYPE_CHECKING:
    from collections.abc import Callable

PW = """&control
 calculation='scf', prefix='si', outdir='./out', pseudo_dir='{pseudo_dir}', tprnfor=.true.
/
&system
 ibrav=2, celldm(1)=10.2, nat=2, ntyp=1, ecutwfc=12
/
&electrons
/
ATOMIC_SPECIES
Si 28.086 Si.pz-vbc.UPF
ATOMIC_POSITIONS alat
Si 0 0 0
Si 0.25 0.25 0.25
K_POINTS automatic
2 2 2 1 1 1
"""
LAMMPS = """units metal
lattice fcc 3.615
region box block 0 6 0 6 0 6
create_box 1 box
create_atoms 1 box
pair_style eam/alloy
pair_coeff * * {potentials_dir}/Cu_mishin1.eam.alloy Cu
velocity all create 300 1
fix 1 all nve
thermo 50
run 100
"""


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    rounds = 3 if parser.parse_args().quick else 15
    table = Table("code", "alone s", "under all rules s", "difference s", "rounds")
    told: dict[str, object] = {"load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="orion-bench-") as place:
        settings = job_context(Path(place)).settings
        for code, name, text, watched in (("pw.x", "pw.in", PW, run_pw),
                                          ("lmp", "in.lammps", LAMMPS, run_lammps)):
            text = text.format(pseudo_dir=settings.pseudo_dir,  # noqa: PLW2901  filled in
                               potentials_dir=settings.potentials_dir)
            alone, under = [], []
            for number in range(rounds):
                folders = [Path(place) / f"{code}{number}{kind}" for kind in "ab"]
                for folder in folders:
                    folder.mkdir()
                    (folder / name).write_text(text)
                alone.append(timed(lambda: bare(code, name, folders[0])))  # noqa: B023  called here
                under.append(timed(lambda: watched(folders[1])))  # noqa: B023  called here
            cost = median(b - a for a, b in zip(alone, under, strict=True))
            table.add_row(code, f"{median(alone):.3f}", f"{median(under):.3f}", f"{cost:.3f}",
                          str(rounds))
            told[code] = {"alone": median(alone), "under": median(under), "difference": cost}
    Console().print(table)
    print(json.dumps(told))


def bare(code: str, name: str, folder: Path) -> None:
    """Run a code and wait for it."""
    context = job_context(folder)
    command = mpi_command(context.machine, context.resources, [code, "-in", name])
    with (folder / "out.txt").open("wb") as out:
        subprocess.run(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, check=True)


def timed(call: Callable[[], object]) -> float:
    """Return the seconds a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
