"""Equation of state by LAMMPS: narrow strains about the relaxed cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orionflow.errors import InputError
from orionflow.workflows.common.eos import EosMaker
from orionflow.workflows.lammps.core import LammpsMaker, MinimizeMaker

if TYPE_CHECKING:
    from pathlib import Path

    from jobflow import Flow
    from pymatgen.core import Structure


@dataclass
class LammpsEosMaker(EosMaker):
    """`EosMaker` with choices that suit classical force fields.

    Their energies have no noise, so the cells may differ little; and they should: with the copper
    potential of Mishin the bulk modulus fitted over ±3 % is 2.4 % above the one at the minimum.
    So narrow a range needs a start at the minimum.

    Attributes
    ----------
    linear_strain
        Smallest and largest strain of the cell edges, about the relaxed cell.
    initial_relax
        Scale the cell and relax positions first, with the same force field.
    """

    name: str = "lammps eos"
    linear_strain: tuple[float, float] = (-0.01, 0.01)
    initial_relax: bool = True

    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Flow:
        """Return the flow for a structure.

        Parameters
        ----------
        structure
            Any cell, primitive or not.
        prev_dir
            Handed on to the Makers.

        Raises
        ------
        InputError
            The structure can't be simulated with this force field.
        """
        if not self.initial_relax or self.initial_relax_maker is not None:
            return super().make(structure, prev_dir)
        static = self.static_maker
        if not isinstance(static, LammpsMaker):
            raise InputError(f"static_maker is a {type(static).__name__}, not a LAMMPS Maker",
                             hint="use orionflow.workflows.common.eos.EosMaker for other codes")
        relax = MinimizeMaker(force_field=static.force_field, relax_cell=True, couple="iso")
        return replace(self, initial_relax_maker=relax).make(structure, prev_dir)
