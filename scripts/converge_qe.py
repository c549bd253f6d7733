"""Equation of state against cutoff and k-point grid, with the QE recipes; prints Markdown.

python scripts/converge_qe.py "Si diamond 5.43" --functional pz --ecutwfc 12 18 24 30 --grid 4 6 8
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np
from jobflow import Flow, run_locally

from orionflow.analysis.physics.eos import birch_murnaghan
from orionflow.workflows.qe.core import StaticMaker
from orionflow.workflows.structures import read_structure

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from orionflow.analysis.physics.eos import EosFit

STRAINS = np.linspace(-0.02, 0.02, 7)


def equation_of_state(structure: Structure, maker: StaticMaker) -> tuple[EosFit, float]:
    """Return the fit of seven linear strains of ±2 %, and the seconds they took."""
    fixed = maker.for_structure(structure)
    jobs = [fixed.make(structure.copy().apply_strain(strain, inplace=False)) for strain in STRAINS]
    start = time.perf_counter()
    responses = run_locally(Flow(jobs), create_folders=True, ensure_success=True, log=False)
    seconds = time.perf_counter() - start
    documents = [responses[job.uuid][1].output for job in jobs]
    fit = birch_murnaghan(np.array([d.volume for d in documents]),
                          np.array([d.output.energy for d in documents]))
    return fit, seconds


def main() -> None:
    """Print one table row for each pair of cutoff and grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structure", help="prototype or file, a cubic crystal's primitive cell")
    parser.add_argument("--functional", default="pbe")
    parser.add_argument("--ecutwfc", type=float, nargs="+", required=True, help="Ry")
    parser.add_argument("--ecutrho-ratio", type=float, default=None)
    parser.add_argument("--grid", type=int, nargs="+", required=True, help="n of n x n x n")
    parser.add_argument("--degauss", type=float, nargs="+", default=[0.01], help="Ry")
    asked = parser.parse_args()
    structure = read_structure(asked.structure)
    per_cell = len(structure.to_conventional()) / len(structure)
    print("| ecutwfc (Ry) | grid | degauss (Ry) | a0 (Å) | B0 (GPa) | E0 (eV/atom) | "
          "rms (meV) | time (s) |")
    print("|---|---|---|---|---|---|---|---|")
    for degauss in asked.degauss:
        for ecutwfc in asked.ecutwfc:
            for n in asked.grid:
                maker = StaticMaker(
                    functional=asked.functional, ecutwfc=ecutwfc, kpoints=(n, n, n),
                    ecutrho=None if asked.ecutrho_ratio is None else ecutwfc * asked.ecutrho_ratio,
                    degauss=degauss)
                with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                    fit, seconds = equation_of_state(structure, maker)
                a0 = (fit.v0 * per_cell) ** (1 / 3)
                print(f"| {ecutwfc:g} | {n}x{n}x{n} | {degauss:g} | {a0:.4f} | {fit.b0:.2f} | "
                      f"{fit.e0 / len(structure):.5f} | {1000 * fit.rms:.3f} | {seconds:.1f} |",
                      flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
