"""Equation of state with any code: strained cells, their energies, one fit.

The flow is atomate2's `CommonEosMaker`; the fit is ours and refuses what it can't fit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import CURRENT_JOB, Flow, Maker, job
from pymatgen.core import Structure

from orionflow.analysis.physics.eos import MIN_POINTS, birch_murnaghan
from orionflow.errors import InputError
from orionflow.workflows.schemas.eos import EosDocument
from orionflow.workflows.structures import check_structure

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST_STRAIN = 0.2
# Of the energies sampled. The fit of a smooth curve leaves well below 1e-3 at strains to 5 %.
_POOR_FIT = 0.01


@dataclass
class EosMaker(Maker):
    """Lattice constant and bulk modulus from energies of isotropically strained cells.

    Attributes
    ----------
    name
        Name of the flow.
    static_maker
        Computes each strained cell: a static Maker, or one that relaxes positions in a fixed cell.
    initial_relax_maker
        Relaxes the structure first; None takes it as it is.
    linear_strain
        Smallest and largest strain of the cell edges. The minimum must lie between them.
    number_of_frames
        Points, at equal steps of strain.
    """

    name: str = "eos"
    static_maker: Maker = field(kw_only=True)
    initial_relax_maker: Maker | None = None
    linear_strain: tuple[float, float] = (-0.03, 0.03)
    number_of_frames: int = 9

    def __post_init__(self) -> None:
        """Refuse strains and numbers no fit can come from."""
        low, high = self.linear_strain
        if not -_LARGEST_STRAIN <= low < high <= _LARGEST_STRAIN:
            raise InputError(
                f"linear_strain = {low}, {high}",
                hint=f"give the smaller one first, both within ±{_LARGEST_STRAIN}, "
                "such as (-0.03, 0.03)")
        if self.number_of_frames < MIN_POINTS:
            raise InputError(f"number_of_frames = {self.number_of_frames} is too few for the fit",
                             hint=f"at least {MIN_POINTS}; 7 to 11 show how good the fit is")

    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Flow:
        """Return the flow for a structure.

        Parameters
        ----------
        structure
            Any cell near equilibrium, primitive or not.
        prev_dir
            Handed on to the Makers.

        Raises
        ------
        InputError
            The structure can't be computed by these Makers.
        """
        from atomate2.common.flows.eos import CommonEosMaker

        static, relax = self.static_maker, self.initial_relax_maker
        if isinstance(structure, Structure):
            check_structure(structure)
            static = prepared(static, structure)
            relax = prepared(relax, structure) if relax else None
        points = CommonEosMaker(
            name=f"{self.name} points", initial_relax_maker=relax, eos_relax_maker=static,
            linear_strain=self.linear_strain, number_of_frames=self.number_of_frames,
            postprocessor=None,
        ).make(structure, prev_dir=prev_dir)
        # atomate2 counts the relaxation as a point; another Maker's energy has no place among
        # those of one Maker.
        first = 1 if relax else 0
        result = {name: values[first:] for name, values in points.output["relax"].items()}
        fit = fit_eos(
            volumes=result["volume"], energies=result["energy"], structures=result["structure"],
            dir_names=result["dir_name"], recipe=_recipe(static),
            code=_reference(points, result["energy"][0], "code"),
            relax_dir_name=points.output["relax"]["dir_name"][0] if relax else None,
        )
        fit.name = f"{self.name} fit"
        return Flow([points, fit], output=fit.output, name=self.name)


def prepared(maker: Maker, structure: Structure) -> Maker:
    """Return a Maker checked against a structure before its strained copies exist.

    Makers that choose something from the structure (a k-point grid, files) do it here once: chosen
    anew for each strained cell it would jump and spoil the curve.

    Raises
    ------
    InputError
        The Maker can't compute the structure.
    """
    if hasattr(maker, "for_structure"):
        fixed: Maker = maker.for_structure(structure)
        return fixed
    if hasattr(maker, "check"):
        maker.check(structure)
    return maker


@job(output_schema=EosDocument)
def fit_eos(*, volumes: list[float], energies: list[float], structures: list[Structure],
            dir_names: list[str], recipe: dict[str, Any], code: str | None = None,
            relax_dir_name: str | None = None) -> EosDocument:
    """Fit the points of an equation of state.

    Parameters
    ----------
    volumes, energies
        Å³ and eV, in any order.
    structures
        The cells of the points.
    dir_names
        Folders of the runs.
    recipe
        How the points were computed.
    code
        Executable that computed them.
    relax_dir_name
        Folder of the relaxation before, if there was one.

    Raises
    ------
    InputError
        The points have no minimum between them, or one is missing.
    """
    order = np.argsort(volumes)
    fit = birch_murnaghan(volumes, energies)
    sorted_energies = [float(energies[i]) for i in order]
    nearest = structures[int(np.argmin(np.abs(np.asarray(volumes) - fit.v0)))]
    structure = nearest.copy()
    structure.scale_lattice(fit.v0)
    group, system, conventional = _symmetry(nearest)
    n = len(structure)
    warnings = []
    spread = sorted_energies[0] + sorted_energies[-1] - 2 * fit.e0
    if fit.rms > _POOR_FIT * spread:
        warnings.append(f"the points scatter by {fit.rms:.2g} eV about the fitted curve: look at "
                        "them before using the numbers")
    current = CURRENT_JOB.job
    return EosDocument(
        task_label=current.name if current else "eos fit",
        uuid=current.uuid if current else None,
        tags=list(current.metadata.get("tags", [])) if current else [],
        code=code, recipe=recipe,
        formula_pretty=structure.composition.reduced_formula,
        chemsys=structure.composition.chemical_system, nsites=n,
        space_group=group, crystal_system=system,
        volumes=[float(volumes[i]) for i in order], energies=sorted_energies,
        dir_names=[str(dir_names[i]) for i in order], relax_dir_name=relax_dir_name,
        **asdict(fit), energy_per_atom=fit.e0 / n, volume_per_atom=fit.v0 / n,
        a0=(fit.v0 / n * conventional) ** (1 / 3) if system == "cubic" else None,
        structure=structure, warnings=warnings,
    )


def _symmetry(structure: Structure) -> tuple[str, str, int]:
    """Return space group, crystal system and the number of atoms in the conventional cell."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    analyzer = SpacegroupAnalyzer(structure)
    conventional = analyzer.get_conventional_standard_structure()
    return analyzer.get_space_group_symbol(), analyzer.get_crystal_system(), len(conventional)


def _recipe(maker: Maker) -> dict[str, Any]:
    """Return a Maker as plain data: a description, not the object to run again."""
    fields = {k: v for k, v in maker.as_dict().items() if not k.startswith("@")}
    return {"maker": f"{type(maker).__module__}:{type(maker).__qualname__}", "fields": fields}


def _reference(points: Flow, known: Any, name: str) -> Any:
    """Return what a job's document has under a name, where its kind of document has it.

    Parameters
    ----------
    known
        A reference to anything else in the same document.
    """
    for made in points.jobs:
        schema = getattr(made, "output_schema", None)
        if made.uuid == known.uuid and name in getattr(schema, "model_fields", {}):
            return getattr(made.output, name)
    return None
