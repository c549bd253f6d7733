"""The table of known results the demo campaign is judged by: every alloy at every pressure.

    python benchmarks/alloy_table.py > tests/data/campaigns/cu-ni.csv

Relaxes the cell of a random Cu-Ni alloy of 32 atoms with LAMMPS at each point of the search space
of the campaign template `alloy`; takes a minute on one core. Where the recipe would refuse the
minimisation, because the pressure is another one, there is no row.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ase.io import write
from pymatgen.io.ase import AseAtomsAdaptor

from orionflow.settings import load_settings
from orionflow.workflows.structures import read_structure

if TYPE_CHECKING:
    from pymatgen.core import Structure

ATOMS = 32
PRESSURES = range(0, 200_001, 10_000)  # bar
_RUN = """clear
units metal
atom_style atomic
boundary p p p
read_data data.lmp
pair_style eam/alloy
pair_coeff * * {potential} Cu Ni
fix relax all box/relax iso {pressure}.0 vmax 0.001
min_modify norm max
minimize 0.0 1e-06 10000 100000
minimize 0.0 1e-06 10000 100000
print "ROW {pressure} $(press:%.3f) $(lx:%.8f) $(mass(all)*1.66053906892/vol:%.8f) $(pe/atoms:%.8f)"
"""


def relax(structure: Structure) -> list[list[float]]:
    """Return pressure (bar), edge (Å), density (g/cm³) and energy (eV/atom) at each pressure."""
    with tempfile.TemporaryDirectory(prefix="alloy-") as name:
        folder = Path(name)
        write(folder / "data.lmp", AseAtomsAdaptor.get_atoms(structure), format="lammps-data",
              specorder=["Cu", "Ni"], masses=True)
        potential = load_settings().potentials_dir / "CuNi.eam.alloy"
        (folder / "in.lmp").write_text("".join(
            _RUN.format(potential=potential, pressure=p) for p in PRESSURES))
        done = subprocess.run(["lmp", "-in", "in.lmp"],
                              cwd=folder, check=True, capture_output=True, text=True)
    rows = [[float(x) for x in row.split()]
            for row in re.findall(r"^ROW (.*)$", done.stdout, re.MULTILINE)]
    return [[pressure, *values] for pressure, reached, *values in rows
            if abs(reached - pressure) < max(10.0, 1e-3 * pressure)]


def main() -> None:
    """Print the table as CSV."""
    out = csv.writer(sys.stdout)
    out.writerow(["alloy.Cu", "alloy.Ni", "pressure", "structure.lattice.a", "density",
                  "output.energy_per_atom"])
    for nickel in range(ATOMS + 1):
        parts = f"Cu{ATOMS - nickel}" * (nickel < ATOMS) + f"Ni{nickel}" * (nickel > 0)
        for pressure, *values in relax(read_structure(f"{parts} fcc 3.57 random 7")):
            out.writerow([ATOMS - nickel, nickel, int(pressure), *values])


if __name__ == "__main__":
    main()
