"""Quantum ESPRESSO recipes: one pw.x run each, made of a structure.

They also stand wherever `atomate2.common` flows take a Maker.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobflow import CURRENT_JOB, Maker, job
from pymatgen.core import Structure

from orionflow.errors import InputError
from orionflow.settings import load_settings
from orionflow.units import RYDBERG_EV
from orionflow.workflows.qe import _base, inputs
from orionflow.workflows.qe.inputs import k_grid
from orionflow.workflows.qe.pseudos import Cutoffs, choose_cutoffs, choose_pseudos
from orionflow.workflows.qe.upf import functional_name
from orionflow.workflows.schemas.base import FileHash
from orionflow.workflows.schemas.qe import QeTaskDocument
from orionflow.workflows.structures import check_structure

if TYPE_CHECKING:
    from typing import Self

    from jobflow import Job

    from orionflow.workflows.qe.upf import Pseudo

__all__ = ["PwMaker", "RelaxMaker", "StaticMaker", "VcRelaxMaker", "k_grid"]

Occupations = Literal["smearing", "fixed", "tetrahedra_opt", "tetrahedra"]
Smearing = Literal["mv", "gauss", "mp", "fd"]
# Without "volume" and "ibrav", which pw.x refuses for ibrav = 0, as all our inputs have.
CellDofree = Literal["all", "shape", "xyz", "x", "y", "z", "xy", "xz", "yz", "2Dxy",
                     "2Dshape", "epitaxial_ab", "epitaxial_ac", "epitaxial_bc"]
# Set by `for_structure`, not by people.
_INTERNAL = {"internal": True}


@dataclass
class PwMaker(Maker):
    """What the pw.x recipes share; use `StaticMaker`, `RelaxMaker` or `VcRelaxMaker`.

    Parameters
    ----------
    name
        Name of the job.
    functional
        ``pbe``, ``pz`` (LDA), ``pbesol`` ...: pseudopotentials made with it are chosen from the
        folder `pseudo_dir` of the settings.
    pseudos
        File names by element that win over the choice.
    ecutwfc, ecutrho
        Plane-wave cutoffs, Ry; None: from the pseudopotentials (our table, else their header).
    kpoints
        Monkhorst-Pack grid; None: computed once from `k_spacing`.
    k_spacing
        Largest spacing of the grid, 1/Å, reciprocal vectors with 2π (VASP's KSPACING).
    k_shift
        0 or 1 half steps along each vector.
    occupations
        ``smearing`` suits metals and insulators; ``fixed`` for known insulators, with empty bands
        so that a metal is noticed.
    smearing
        ``mv`` cold, ``gauss``, ``mp`` Methfessel-Paxton, ``fd`` Fermi-Dirac.
    degauss
        Width of the smearing, Ry.
    conv_thr_per_atom
        Accuracy of the SCF energy, Ry for one atom.
    magmoms
        Starting moments by element, μB for one atom; makes the run spin-polarised. Without it the
        site property ``magmom`` of the structure counts.
    overrides
        More variables of pw.x: ``{"system": {"nbnd": 12}, "electrons": {"mixing_beta": 0.3}}``.
    keep_wavefunctions
        Keep the wavefunction files after a good run.
    """

    name: str = "pw.x"
    functional: str = "pbe"
    pseudos: dict[str, str] | None = None
    ecutwfc: float | None = None
    ecutrho: float | None = None
    kpoints: tuple[int, int, int] | None = None
    k_spacing: float = 0.2
    k_shift: tuple[int, int, int] = (0, 0, 0)
    occupations: Occupations = "smearing"
    smearing: Smearing = "mv"
    degauss: float = 0.01
    conv_thr_per_atom: float = 1e-9
    magmoms: dict[str, float] | None = None
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    keep_wavefunctions: bool = False
    pseudo_hashes: dict[str, str] | None = field(default=None, metadata=_INTERNAL)
    cutoff_source: dict[str, str] | None = field(default=None, metadata=_INTERNAL)

    def __post_init__(self) -> None:
        """Make tuples again of what JSON made lists."""
        if isinstance(self.kpoints, list):
            self.kpoints = tuple(self.kpoints)
        if isinstance(self.k_shift, list):
            self.k_shift = tuple(self.k_shift)

    @property
    def calculation(self) -> str:
        """``scf``, ``relax`` or ``vc-relax``."""
        return "scf"

    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Job:
        """Return the job for a structure.

        Parameters
        ----------
        structure
            Cell to compute, or the reference to one another job will give.
        prev_dir
            Accepted for the common flows; every run starts from atomic densities.

        Raises
        ------
        InputError
            The structure, a pseudopotential or a parameter is wrong. With a reference this can
            only be found when the job runs, except for the parameters.
        """
        self._check_parameters()
        maker = self.for_structure(structure) if isinstance(structure, Structure) else self
        made: Job = maker.calculate(structure, prev_dir=prev_dir)
        return made

    def for_structure(self, structure: Structure) -> Self:
        """Return this recipe with all choices made: files, hashes, cutoffs and k-point grid.

        What has been chosen stays for every later cell, so a flow that strains a cell calls this
        once, on the unstrained one: the grid would otherwise jump between the cells.

        Raises
        ------
        InputError
            The structure, a pseudopotential or a parameter is wrong.
        """
        self._check_parameters()
        check_structure(structure)
        pseudos = self._choose(structure)
        cutoffs = choose_cutoffs(pseudos, self.ecutwfc, self.ecutrho)
        self._check_electrons(structure, pseudos)
        return replace(
            self, functional=functional_name(self.functional),
            pseudos={element: p.name for element, p in pseudos.items()},
            pseudo_hashes=self.pseudo_hashes or {
                element: FileHash.of(p.path).sha256 for element, p in pseudos.items()},
            ecutwfc=cutoffs.ecutwfc, ecutrho=cutoffs.ecutrho,
            cutoff_source=self.cutoff_source or cutoffs.source,
            kpoints=_three(self.kpoints or k_grid(structure, self.k_spacing)),
            k_shift=_three(self.k_shift),
        )

    def input_text(self, structure: Structure) -> str:
        """Return the ``pw.in`` this recipe writes for a structure."""
        maker = self.for_structure(structure)
        return inputs.pw_input(
            structure, maker.namelists(structure), maker._choose(structure),  # noqa: SLF001  own class
            kpoints=_three(maker.kpoints or (1, 1, 1)), k_shift=maker.k_shift,
            magmoms=self.magmoms)

    def namelists(self, structure: Structure) -> dict[str, dict[str, Any]]:
        """Return the namelists of pw.x for a structure, overrides included."""
        system: dict[str, Any] = {"ecutwfc": self.ecutwfc, "ecutrho": self.ecutrho,
                                  "occupations": self.occupations}
        if self.occupations == "smearing":
            system |= {"smearing": self.smearing, "degauss": self.degauss}
        elif self.occupations == "fixed":
            n = inputs.electrons(structure, self._choose(structure), self.overrides)
            system["nbnd"] = inputs.bands_with_gap(n)
        namelists: dict[str, dict[str, Any]] = {
            "control": {
                "calculation": self.calculation, "prefix": inputs.PREFIX,
                "outdir": f"./{inputs.OUTDIR}", "pseudo_dir": f"./{inputs.PSEUDO_DIR}",
                "tprnfor": True, "tstress": True,
            },
            "system": system,
            "electrons": {"conv_thr": self.conv_thr_per_atom * len(structure)},
        }
        for group, values in (*self._more(structure).items(), *self.overrides.items()):
            namelists.setdefault(group, {}).update(values)
        return namelists

    def _more(self, structure: Structure) -> dict[str, dict[str, Any]]:  # noqa: ARG002  for subclasses
        """Return what a kind of calculation adds to the namelists."""
        return {}

    @job(output_schema=QeTaskDocument, data=["bands", "trajectory"])
    def calculate(self, structure: Structure,
                  prev_dir: str | Path | None = None) -> QeTaskDocument:  # noqa: ARG002  see make
        """Run pw.x in the current folder and return its document; use `make` for the job.

        Raises
        ------
        CodeError
            pw.x failed and corrections did not help.
        OutputError
            It left no converged result.
        """
        from orionflow.launchers.qe import run_pw

        folder = Path.cwd()
        maker = self.for_structure(structure)
        pseudos = maker._choose(structure)  # noqa: SLF001  own class
        _base.check_hashes(pseudos, maker.pseudo_hashes)
        text = maker.input_text(structure)
        _base.write_run(folder, text, pseudos)
        record = run_pw(folder, input_file=_base.INPUT, output_file=_base.OUTPUT)
        xml, stdout = _base.read_results(folder, calculation=self.calculation, record=record)
        current = CURRENT_JOB.job
        document = _base.summarise(
            xml, stdout, directory=folder, record=record, input_text=text, start=structure,
            pseudos=pseudos, cutoffs=Cutoffs(maker.ecutwfc or 0.0, maker.ecutrho or 0.0,
                                             maker.cutoff_source or {}),
            # Through JSON, so that the document is the same before and after storing.
            parameters=json.loads(json.dumps({"recipe": type(self).__name__, **asdict(maker)})),
            task_label=current.name if current else self.name,
            tags=list(current.metadata.get("tags", [])) if current else [],
            uuid=current.uuid if current else None,
            pressure_threshold=getattr(self, "pressure_threshold", None),
        )
        if not self.keep_wavefunctions:
            _base.drop_wavefunctions(folder)
        return document

    def _choose(self, structure: Structure) -> dict[str, Pseudo]:
        elements = {site.specie.symbol for site in structure}
        if self.pseudo_hashes and (missing := elements - set(self.pseudos or {})):
            raise InputError(
                f"this recipe was fixed for {', '.join(sorted(self.pseudos or {}))}, the structure "
                f"has {', '.join(sorted(missing))}",
                hint="call for_structure of a fresh recipe with this structure")
        return choose_pseudos(load_settings().pseudo_dir, elements, self.functional, self.pseudos)

    def _check_parameters(self) -> None:
        _check_choice("occupations", self.occupations, Occupations)
        _check_choice("smearing", self.smearing, Smearing)
        if self.kpoints is not None:
            _check_numbers("kpoints", self.kpoints, range(1, 1000), "three whole numbers from 1")
        _check_numbers("k_shift", self.k_shift, range(2), "three numbers, each 0 or 1")
        for name in ("degauss", "conv_thr_per_atom", "k_spacing", "ecutwfc", "ecutrho",
                     "force_threshold", "energy_threshold", "pressure_threshold", "max_steps"):
            value = getattr(self, name, None)
            if value is not None and not value > 0:
                raise InputError(f"{name} = {value} must be positive", hint=f"set {name} > 0")
        inputs.check_overrides(self.overrides)
        _check_choice("cell_dofree", getattr(self, "cell_dofree", "all"), CellDofree)

    def _check_electrons(self, structure: Structure, pseudos: dict[str, Pseudo]) -> None:
        symbols = {site.specie.symbol for site in structure}
        if self.magmoms and not set(self.magmoms) & symbols:
            raise InputError(
                f"magmoms are for {', '.join(self.magmoms)}, the structure has "
                f"{', '.join(sorted(symbols))}", hint="write magmoms={'Fe': 2.2}")
        if self.occupations != "fixed":
            return
        n = inputs.electrons(structure, pseudos, self.overrides)
        magnetic = inputs.is_magnetic(structure, self.magmoms)
        if magnetic and "tot_magnetization" not in self.overrides.get("system", {}):
            raise InputError("magnetic moments in fixed occupations need tot_magnetization",
                             hint="set occupations='smearing', or overrides={'system': "
                             "{'tot_magnetization': <μB>}}")
        if not magnetic and round(n) % 2:
            raise InputError(f"{n:g} electrons can't fill bands in pairs (occupations='fixed')",
                             hint="set occupations='smearing'")


@dataclass
class StaticMaker(PwMaker):
    """Energy, forces and stress of a structure as it is (pw.x ``scf``)."""

    name: str = "qe static"


@dataclass
class RelaxMaker(PwMaker):
    """Positions of least energy in a fixed cell (pw.x ``relax``, BFGS).

    Parameters
    ----------
    force_threshold
        Largest component of a force at the end, eV/Å.
    energy_threshold
        Change of energy between the last steps, eV for one atom.
    max_steps
        Steps after which the run counts as failed.
    """

    name: str = "qe relax"
    force_threshold: float = 0.01
    energy_threshold: float = 1e-4
    max_steps: int = 100

    @property
    def calculation(self) -> str:
        """``relax``."""
        return "relax"

    def _more(self, structure: Structure) -> dict[str, dict[str, Any]]:
        return {
            "control": {
                "forc_conv_thr": inputs.force_threshold_ry(self.force_threshold),
                "etot_conv_thr": self.energy_threshold * len(structure) / RYDBERG_EV,
                "nstep": self.max_steps,
            },
            "ions": {"ion_dynamics": "bfgs"},
        }


@dataclass
class VcRelaxMaker(RelaxMaker):
    """Cell and positions of least enthalpy (pw.x ``vc-relax``, BFGS).

    The energy is that of a last SCF on the basis of the final cell. At a low cutoff its pressure
    is not zero (Pulay): see ``qe.pulay_pressure`` of the document.

    Parameters
    ----------
    pressure
        Target, kbar.
    pressure_threshold
        Largest deviation of a stress component at the end, kbar.
    cell_dofree
        What of the cell may change: ``all``, ``shape``, ``z``, ``2Dxy`` ... as in pw.x. Directions
        are Cartesian; where they break the symmetry, add ``nosym`` to the overrides.
    """

    name: str = "qe vc-relax"
    pressure: float = 0.0
    pressure_threshold: float = 0.5
    cell_dofree: CellDofree = "all"

    @property
    def calculation(self) -> str:
        """``vc-relax``."""
        return "vc-relax"

    def _more(self, structure: Structure) -> dict[str, dict[str, Any]]:
        return super()._more(structure) | {"cell": {
            "cell_dynamics": "bfgs", "press": self.pressure,
            "press_conv_thr": self.pressure_threshold, "cell_dofree": self.cell_dofree,
        }}


def _three(values: Any) -> tuple[int, int, int]:
    a, b, c = values
    return int(a), int(b), int(c)


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in choices.__args__:
        raise InputError(f"{name} = {value!r} is not known",
                         hint=f"valid: {', '.join(choices.__args__)}")


def _check_numbers(name: str, values: Any, valid: range, usage: str) -> None:
    try:
        good = len(values) == 3 and all(v in valid for v in values)  # noqa: PLR2004  directions
    except TypeError:
        good = False
    if not good:
        raise InputError(f"{name} = {values!r} must be {usage}", hint=f"write {name}=(4, 4, 4)"
                         if name == "kpoints" else f"write {name}=(0, 0, 0)")
