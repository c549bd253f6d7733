"""LAMMPS recipes: energy and forces, minimisation, molecular dynamics.

Names of fields are LAMMPS's own and their units those of its `metal` style: eV, Å, ps, K, bar.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from jobflow import Maker, job
from pymatgen.core import Structure

from orionflow.errors import InputError, OutputError
from orionflow.settings import load_settings
from orionflow.workflows.lammps import inputs, outputs
from orionflow.workflows.lammps._base import run, symbols
from orionflow.workflows.lammps.potentials import (
    ForceField,
    ResolvedForceField,
    as_force_field,
    file_sha256,
    resolve,
)
from orionflow.workflows.schemas.lammps import Ensemble, LammpsDocument
from orionflow.workflows.structures import check_structure

if TYPE_CHECKING:
    from pathlib import Path

    from jobflow import Job

    from orionflow.workflows.lammps.frame import Frame
    from orionflow.workflows.lammps.outputs import Log, RunTable

Couple = Literal["iso", "aniso", "tri"]
MinStyle = Literal["cg", "sd", "hftn", "fire", "quickmin"]
Thermostat = Literal["nose-hoover", "langevin"]

_LINE_SEARCH_STYLES = ("cg", "sd", "hftn")
_MAX_SEED = 900_000_000
_MAX_STEPS = 1_000_000_000  # intervals of dumps are 32-bit numbers
_ROUNDING_PRESSURE = 10.0  # bar; a strain of 1e-6 even in a soft metal


@dataclass
class LammpsMaker(Maker):
    """What the LAMMPS recipes share; use `StaticMaker`, `MinimizeMaker`, `NvtMaker` ...

    Attributes
    ----------
    name
        Name of the job.
    force_field
        Name of a preset, such as ``"Si.sw"`` or ``"Cu_mishin"``, or a `ForceField` with explicit
        lines (as a mapping: ``pair_style``, ``pair_coeff``, ``files``, ``elements`` ...).
    """

    name: str = "lammps"
    force_field: str | dict[str, Any] | ForceField = field(kw_only=True)

    ensemble: ClassVar[Ensemble]
    dynamic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what can't be run as soon as it is written down."""
        as_force_field(self.force_field)
        self.check_fields()

    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Job:
        """Return the job for a structure.

        Parameters
        ----------
        structure
            Where to start, or the reference to what another job will give; sites keep their order.
        prev_dir
            Folder of the run to go on from; ignored unless the recipe has ``continue_previous``
            set (the common flows pass it always).

        Raises
        ------
        InputError
            The structure can't be simulated with this force field. With a reference this is found
            when the job runs.
        """
        sha256 = self.check(structure) if isinstance(structure, Structure) else None
        made: Job = self.calculate(structure, prev_dir, sha256)
        return made

    @job(output_schema=LammpsDocument, data=["thermo", "trajectory"])
    def calculate(self, structure: Structure, prev_dir: str | Path | None = None,
                  sha256: dict[str, str] | None = None) -> LammpsDocument:
        """Run LAMMPS in the current folder and return its document; use `make` for the job.

        Raises
        ------
        CodeError
            LAMMPS failed and corrections did not help.
        OutputError
            It ended, but not as asked.
        """
        return run(self, structure, prev_dir, sha256)

    def check_fields(self) -> None:
        """Check the fields of the recipe; nothing to check unless a recipe says so."""

    def check(self, structure: Structure) -> dict[str, str]:
        """Check a structure against the recipe before anything is submitted.

        Returns
        -------
        dict
            SHA-256 of each potential file by name; the run refuses files that have changed.

        Raises
        ------
        InputError
            The structure can't be simulated, or the force field lacks one of its elements.
        """
        check_structure(structure)
        if not all(structure.lattice.pbc):
            raise InputError("the structure is not periodic in all directions",
                             hint="give it vacuum and a periodic cell")
        if self.dynamic and len(structure) < 2:  # noqa: PLR2004  what is left is the centre of mass
            raise InputError("one atom has no temperature: its motion is that of the whole cell",
                             hint="use a supercell")
        resolved = self.resolve(structure)
        return {path.name: file_sha256(path) for path in resolved.files}

    def resolve(self, structure: Structure) -> ResolvedForceField:
        """Return the force field for the elements of a structure."""
        return resolve(as_force_field(self.force_field), symbols(structure),
                       load_settings().potentials_dir)

    def triclinic(self, frame: Frame) -> bool:
        """Whether the box must be able to hold tilts."""
        return frame.triclinic

    def input_text(self, force_field: ResolvedForceField, *, triclinic: bool,
                   first_step: int | None) -> str:
        """Return the input file of this recipe."""
        raise NotImplementedError

    def judge(self, log: Log, path: Path, first_step: int) -> RunTable:  # noqa: ARG002  others use it
        """Return the last run of a log, or refuse it."""
        return outputs.check_finished(log, path=path)

    @property
    def changes_cell(self) -> bool:
        """Whether the cell of the result may differ from that of the structure."""
        return False

    def parameters(self) -> dict[str, Any]:
        """Return what is stored as the input of the run."""
        fields = {k: v for k, v in asdict(self).items() if k != "force_field"}
        return {"recipe": type(self).__name__, **fields}


@dataclass
class StaticMaker(LammpsMaker):
    """Energy, forces and stress of a structure as it is."""

    name: str = "lammps static"
    ensemble: ClassVar[Ensemble] = "static"

    def input_text(self, force_field: ResolvedForceField, *, triclinic: bool,
                   first_step: int | None) -> str:  # noqa: ARG002  the Makers' common signature
        """Return the input file."""
        return inputs.static_input(force_field, triclinic=triclinic)


@dataclass
class MinimizeMaker(LammpsMaker):
    """Relax positions, and the cell when asked to.

    Attributes
    ----------
    relax_cell
        Relax the cell as well.
    couple
        What the cell may do: ``iso`` (scale), ``aniso`` (edges), ``tri`` (also shear).
    pressure
        Target pressure, bar.
    min_style
        LAMMPS's minimiser; a cell can be relaxed by ``cg``, ``sd`` and ``hftn`` only.
    etol
        Relative energy tolerance; 0 leaves the decision to the forces.
    ftol
        Largest force on an atom, eV/Å.
    maxiter
        Most iterations; reaching them is a failure, never a result.
    maxeval
        Most force evaluations; reaching them is a failure, too.
    vmax
        Largest relative volume change in one iteration.
    dump_every
        Steps between frames of the trajectory; 0 for none.
    """

    name: str = "lammps minimize"
    relax_cell: bool = False
    couple: Couple = "tri"
    pressure: float = 0.0
    min_style: MinStyle = "cg"
    etol: float = 0.0
    ftol: float = 1e-6
    maxiter: int = 10_000
    maxeval: int = 100_000
    vmax: float = 0.001
    dump_every: int = 0
    ensemble: ClassVar[Ensemble] = "minimize"

    def check_fields(self) -> None:
        """Refuse values LAMMPS would not take or not obey."""
        _one_of("couple", self.couple, get_args(Couple))
        _one_of("min_style", self.min_style, get_args(MinStyle))
        if self.relax_cell and self.min_style not in _LINE_SEARCH_STYLES:
            raise InputError(f"min_style {self.min_style!r} can't relax the cell",
                             hint=f"use one of {', '.join(_LINE_SEARCH_STYLES)}")
        if self.pressure and not self.relax_cell:
            raise InputError("pressure is set, but the cell is fixed",
                             hint="set relax_cell=True")
        _positive(ftol=self.ftol, maxiter=self.maxiter, maxeval=self.maxeval, vmax=self.vmax)
        _not_negative(etol=self.etol, dump_every=self.dump_every)

    @property
    def changes_cell(self) -> bool:
        """Whether the cell is relaxed."""
        return self.relax_cell

    def triclinic(self, frame: Frame) -> bool:
        """Whether the box must be able to hold tilts."""
        return frame.triclinic or (self.relax_cell and self.couple == "tri")

    def input_text(self, force_field: ResolvedForceField, *, triclinic: bool,
                   first_step: int | None) -> str:  # noqa: ARG002  the Makers' common signature
        """Return the input file."""
        box = f"{self.couple} {self.pressure!r} vmax {self.vmax!r}" if self.relax_cell else None
        return inputs.minimize_input(
            force_field, triclinic=triclinic, min_style=self.min_style, etol=self.etol,
            ftol=self.ftol, maxiter=self.maxiter, maxeval=self.maxeval, box_relax=box,
            dump_every=self.dump_every,
        )

    def judge(self, log: Log, path: Path, first_step: int) -> RunTable:  # noqa: ARG002  as above
        """Return the last run, or refuse one that is not in a minimum."""
        last = outputs.check_finished(log, path=path, ftol=self.ftol)
        if self.relax_cell:
            names = {"iso": ("press",), "aniso": ("pxx", "pyy", "pzz"),
                     "tri": ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz")}[self.couple]
            for name in names:
                target = 0.0 if name in {"pxy", "pxz", "pyz"} else self.pressure
                allowed = max(_ROUNDING_PRESSURE, 1e-3 * abs(self.pressure))
                if abs(last.last(name) - target) > allowed:
                    raise OutputError(
                        f"{path}: {name} is {last.last(name):.1f} bar after the minimisation, "
                        f"{target:g} was asked for", path=path, expected=f"within {allowed:g} bar",
                        hint="start from a cell nearer to equilibrium, or relax again from here",
                    )
        return last


@dataclass
class _Dynamics(LammpsMaker):
    """What the recipes of molecular dynamics share.

    Attributes
    ----------
    temperature
        Of the thermostat (without one: of the initial velocities), K.
    nsteps
        Steps of this run.
    timestep
        Time step, ps.
    seed
        Of the initial velocities, which do not depend on the number of processes.
    initial_temperature
        Temperature of the initial velocities where it shall differ from ``temperature``, K.
    thermo_every
        Steps between rows of the thermo table.
    dump_every
        Steps between frames of the trajectory; 0 for none.
    restart_every
        Steps between restart files.
    continue_previous
        Go on from the restart file in ``prev_dir``, with its velocities and thermostat; the
        structure must be the final one of that run.
    """

    temperature: float = 300.0
    nsteps: int = 10_000
    timestep: float = 0.001
    seed: int = 12345
    initial_temperature: float | None = None
    thermo_every: int = 100
    dump_every: int = 100
    restart_every: int = 1000
    continue_previous: bool = False
    dynamic: ClassVar[bool] = True

    def check_fields(self) -> None:
        """Refuse values LAMMPS would not take or not obey."""
        _positive(nsteps=self.nsteps, timestep=self.timestep, thermo_every=self.thermo_every,
                  restart_every=self.restart_every, seed=self.seed,
                  temperature=self.temperature)
        _not_negative(dump_every=self.dump_every, initial_temperature=self.initial_temperature)
        if self.nsteps > _MAX_STEPS:
            raise InputError(f"nsteps = {self.nsteps} is too large", hint=f"at most {_MAX_STEPS}")
        if self.seed > _MAX_SEED:
            raise InputError(f"seed = {self.seed} is too large", hint=f"at most {_MAX_SEED}")
        if self.continue_previous and self.initial_temperature is not None:
            raise InputError("a continued run keeps its velocities: initial_temperature has no use",
                             hint="leave out initial_temperature or continue_previous")

    def integrator(self) -> list[str]:
        """Return the commands that move the atoms."""
        raise NotImplementedError

    def input_text(self, force_field: ResolvedForceField, *, triclinic: bool,
                   first_step: int | None) -> str:
        """Return the input file."""
        start = self.temperature if self.initial_temperature is None else self.initial_temperature
        velocity = f"{start!r} {self.seed} mom yes rot no dist gaussian"
        return inputs.dynamics_input(
            force_field, triclinic=triclinic, timestep=self.timestep, nsteps=self.nsteps,
            integrator=self.integrator(), velocity=velocity if first_step is None else None,
            first_step=first_step, thermo_every=self.thermo_every, dump_every=self.dump_every,
            restart_every=self.restart_every,
        )

    def judge(self, log: Log, path: Path, first_step: int) -> RunTable:
        """Return the last run, or refuse one that stopped early."""
        return outputs.check_finished(log, path=path, last_step=first_step + self.nsteps)


@dataclass
class NveMaker(_Dynamics):
    """Dynamics at constant energy.

    A solid that starts at its minimum gives half of its kinetic energy to the potential: it ends
    near half of ``temperature``.
    """

    name: str = "lammps nve"
    ensemble: ClassVar[Ensemble] = "nve"

    def integrator(self) -> list[str]:
        """Return the commands that move the atoms."""
        return ["fix md all nve"]


@dataclass
class _Thermostatted(_Dynamics):
    """What the recipes with a thermostat share.

    Attributes
    ----------
    temperature_stop
        Temperature at the end, for a ramp, K.
    tdamp
        Relaxation time of the thermostat, ps; 100 time steps unless given.
    """

    temperature_stop: float | None = None
    tdamp: float | None = None

    def check_fields(self) -> None:
        """Refuse values LAMMPS would not take or not obey."""
        super().check_fields()
        _positive(temperature_stop=self.temperature_stop, tdamp=self.tdamp)

    def temperature_ramp(self) -> str:
        """Return start, end and damping time as LAMMPS wants them."""
        return _ramp(self.temperature, self.temperature_stop, self.tdamp or 100 * self.timestep)


@dataclass
class NvtMaker(_Thermostatted):
    """Dynamics at constant volume and temperature.

    Attributes
    ----------
    thermostat
        ``nose-hoover`` (deterministic; can be continued exactly) or ``langevin`` (also for small
        harmonic cells, in which Nose-Hoover does not mix).
    """

    name: str = "lammps nvt"
    thermostat: Thermostat = "nose-hoover"
    ensemble: ClassVar[Ensemble] = "nvt"

    def check_fields(self) -> None:
        """Refuse values LAMMPS would not take or not obey."""
        super().check_fields()
        _one_of("thermostat", self.thermostat, get_args(Thermostat))

    def integrator(self) -> list[str]:
        """Return the commands that move the atoms."""
        if self.thermostat == "langevin":
            return ["fix md all nve",
                    f"fix bath all langevin {self.temperature_ramp()} {self.seed + 1} zero yes"]
        return [f"fix md all nvt temp {self.temperature_ramp()}"]


@dataclass
class NptMaker(_Thermostatted):
    """Dynamics at constant pressure and temperature (Nose-Hoover).

    Attributes
    ----------
    pressure
        Of the barostat, bar.
    pressure_stop
        Pressure at the end, for a ramp, bar.
    pdamp
        Relaxation time of the barostat, ps; 1000 time steps unless given.
    couple
        What the cell may do: ``iso`` (scale), ``aniso`` (edges), ``tri`` (also shear).
    """

    name: str = "lammps npt"
    pressure: float = 0.0
    pressure_stop: float | None = None
    pdamp: float | None = None
    couple: Couple = "iso"
    ensemble: ClassVar[Ensemble] = "npt"

    def check_fields(self) -> None:
        """Refuse values LAMMPS would not take or not obey."""
        super().check_fields()
        _one_of("couple", self.couple, get_args(Couple))
        _positive(pdamp=self.pdamp)

    @property
    def changes_cell(self) -> bool:
        """Whether the cell moves: always."""
        return True

    def triclinic(self, frame: Frame) -> bool:
        """Whether the box must be able to hold tilts."""
        return frame.triclinic or self.couple == "tri"

    def integrator(self) -> list[str]:
        """Return the commands that move the atoms."""
        temp = self.temperature_ramp()
        press = _ramp(self.pressure, self.pressure_stop, self.pdamp or 1000 * self.timestep)
        return [f"fix md all npt temp {temp} {self.couple} {press}"]


def _ramp(start: float, stop: float | None, damp: float) -> str:
    return f"{float(start)!r} {float(start if stop is None else stop)!r} {round(damp, 12)!r}"


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} = {value!r} is not known", hint=f"valid: {', '.join(allowed)}")


def _positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} = {value} must be greater than 0")


def _not_negative(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value < 0:
            raise InputError(f"{name} = {value} must not be negative")
