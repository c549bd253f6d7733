"""Results of pw.x: from the XML file (numbers) and stdout (time, warnings) to plain data.

Pure: text in, data out. An energy is returned only when the file itself says that it belongs to a
converged calculation of the kind that was asked for; all else is an `OutputError`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np

from orionflow.errors import OutputError
from orionflow.units import BOHR_ANGSTROM, HARTREE_EV, HARTREE_PER_BOHR3_KBAR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

FORCE_UNIT = HARTREE_EV / BOHR_ANGSTROM
MOVED = 1e-3
"""Å; pw.x writes the positions after one move more when it runs out of steps."""
OCCUPIED = 0.005
"""A last band filled more than this (of 1) means that states are missing."""
_NOISE = ("using ibrav=0 with symmetry is DISCOURAGED",)


@dataclass(frozen=True)
class IonicStep:
    """One step of a relaxation.

    Attributes
    ----------
    energy
        eV.
    lattice
        Rows are vectors, shape (3, 3), Å.
    positions
        Cartesian, shape (n, 3), Å.
    forces
        Shape (n, 3), eV/Å; None when the XML has none.
    """

    energy: float
    lattice: FloatArray
    positions: FloatArray
    forces: FloatArray | None


@dataclass(frozen=True)
class Bands:
    """Kohn-Sham states at the irreducible k-points.

    Attributes
    ----------
    kpoints
        Fractions of the reciprocal vectors, shape (k, 3).
    weights
        Sum to 1, shape (k,).
    eigenvalues, occupations
        Shape (spins, k, bands); eV, and 0 to 1.
    """

    kpoints: FloatArray
    weights: FloatArray
    eigenvalues: FloatArray
    occupations: FloatArray


@dataclass(frozen=True)
class PwXml:
    """What the XML of one finished pw.x run says; see the schema for meanings."""

    version: str
    calculation: str
    functional: str
    symbols: list[str]
    lattice: FloatArray
    positions: FloatArray
    energy: float
    smearing_energy: float | None
    forces: FloatArray | None
    stress: FloatArray | None
    fermi_energy: float | None
    homo: float | None
    lumo: float | None
    total_magnetization: float | None
    absolute_magnetization: float | None
    n_electrons: float
    n_bands: int
    grid: tuple[int, int, int] | None
    shift: tuple[int, int, int] | None
    occupations: str
    smearing: str | None
    degauss: float | None
    scf_iterations: int
    scf_accuracy: float
    ecutwfc: float
    ecutrho: float
    bands: Bands
    steps: list[IonicStep] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PwStdout:
    """What only stdout says."""

    version: str | None
    wall_seconds: float | None
    done: bool
    memory_mb: float | None
    warnings: list[str]


def parse_xml(text: str | bytes, *, calculation: str, path: str = "data-file-schema.xml") -> PwXml:
    """Read the results of a converged run.

    Parameters
    ----------
    text
        Contents of ``data-file-schema.xml``.
    calculation
        What was asked for: ``scf``, ``relax`` or ``vc-relax``.
    path
        Named in errors.

    Raises
    ------
    OutputError
        The file is cut or of another calculation; SCF or relaxation not converged, or its
        accuracy worse than asked; a metal in fixed occupations; a positive energy.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314  written by pw.x on this machine, for us
    except ET.ParseError as error:
        raise OutputError(f"{path} is not whole: {error}", path=path, line=error.position[0],
                          expected="the XML file pw.x writes at the end",
                          hint="the run was killed while writing, or the disk is full") from error
    reader = _Reader(root, path)
    found = reader.text("input/control_variables/calculation")
    if found != calculation:
        raise OutputError(f"{path} holds a {found!r} calculation, not {calculation!r}", path=path,
                          expected=calculation, hint="another run wrote into the same folder")
    if root.find("output") is None:
        raise OutputError(f"{path} has no results", path=path, expected="<output>",
                          hint="the run did not end by itself")
    _check_converged(reader, calculation)
    return _collect(reader, calculation)


class _Reader:
    """XML with the errors of this package."""

    def __init__(self, root: ET.Element, path: str) -> None:
        self.root = root
        self.path = path

    def find(self, where: str, start: ET.Element | None = None) -> ET.Element:
        element = (self.root if start is None else start).find(where)
        if element is None:
            raise OutputError(f"{self.path} has no <{where}>", path=self.path, expected=where,
                              hint="the XML format of this pw.x version is not known")
        return element

    def text(self, where: str, start: ET.Element | None = None) -> str:
        return (self.find(where, start).text or "").strip()

    def number(self, where: str, start: ET.Element | None = None) -> float:
        return float(self.text(where, start))

    def optional(self, where: str, start: ET.Element | None = None) -> float | None:
        element = (self.root if start is None else start).find(where)
        return None if element is None or not element.text else float(element.text)

    def array(self, where: str, start: ET.Element | None = None) -> FloatArray:
        return _floats(self.text(where, start))

    def fail(self, message: str, hint: str, expected: str = "") -> OutputError:
        return OutputError(f"{self.path}: {message}", path=self.path, hint=hint, expected=expected)


def _floats(text: str) -> FloatArray:
    return np.array(text.split(), dtype=float)


def _check_converged(reader: _Reader, calculation: str) -> None:
    info = reader.find("output/convergence_info")
    if reader.text("scf_conv/convergence_achieved", info) != "true":
        raise reader.fail("the SCF did not converge", "more steps or gentler mixing; the energy "
                          "in the file is not a result", "convergence_achieved true")
    asked = reader.number("input/electron_control/conv_thr")
    reached = reader.number("scf_conv/scf_error", info)
    # scf_must_converge=.false. writes "true" whatever was reached.
    if reached > asked * (1 + 1e-6):
        raise reader.fail(f"SCF accuracy {2 * reached:.1e} Ry is worse than {2 * asked:.1e} Ry",
                          "more SCF steps", "scf_error below conv_thr")
    if calculation == "scf":
        return
    if reader.text("opt_conv/convergence_achieved", info) != "true":
        raise reader.fail(
            f"the relaxation did not converge in {reader.text('opt_conv/n_opt_steps', info)} steps",
            "more steps (max_steps) or a start nearer to the minimum", "opt_conv true")


def _collect(reader: _Reader, calculation: str) -> PwXml:
    output = reader.find("output")
    structure = reader.find("atomic_structure", output)
    symbols, lattice, positions = _geometry(reader, structure)
    n = len(symbols)
    energy = reader.number("total_energy/etot", output) * HARTREE_EV
    if energy >= 0:
        raise reader.fail(f"the total energy is positive ({energy:.3f} eV)",
                          "atoms lie on top of each other, or the pseudopotential is wrong")
    steps = [_step(reader, element) for element in reader.root.findall("step")]
    if calculation != "scf" and steps and np.abs(steps[-1].positions - positions).max() > MOVED:
        raise reader.fail("the final positions are not those of the last step",
                          "the relaxation was cut short")
    structure_of_bands = reader.find("band_structure", output)
    bands = _bands(reader, structure_of_bands, lattice)
    kind = reader.text("occupations_kind", structure_of_bands)
    homo, lumo = _levels(bands, kind)
    warnings = _band_warnings(reader, bands, kind, homo, lumo)
    forces = output.find("forces")
    stress = output.find("stress")
    smearing = structure_of_bands.find("smearing")
    magnetic = reader.text("magnetization/lsda", output) == "true"
    grid = structure_of_bands.find("starting_k_points/monkhorst_pack")
    fermi = reader.optional("fermi_energy", structure_of_bands)
    demet = reader.optional("total_energy/demet", output)
    return PwXml(
        version=reader.find("general_info/creator").get("VERSION", ""),
        calculation=calculation, functional=reader.text("dft/functional", output),
        symbols=symbols, lattice=lattice, positions=positions, energy=energy,
        smearing_energy=None if demet is None else demet * HARTREE_EV,
        forces=None if forces is None else _floats(forces.text or "").reshape(n, 3) * FORCE_UNIT,
        # XML and stdout have VASP's sign: positive when the cell is compressed.
        stress=None if stress is None else
        _floats(stress.text or "").reshape(3, 3) * HARTREE_PER_BOHR3_KBAR,
        fermi_energy=None if fermi is None or kind == "fixed" else fermi * HARTREE_EV,
        homo=homo, lumo=lumo,
        total_magnetization=reader.optional("magnetization/total", output) if magnetic else None,
        absolute_magnetization=(
            reader.optional("magnetization/absolute", output) if magnetic else None),
        n_electrons=reader.number("nelec", structure_of_bands),
        n_bands=bands.eigenvalues.shape[2],
        grid=_three(grid, "nk") if grid is not None else None,
        shift=_three(grid, "k") if grid is not None else None,
        occupations=kind, smearing=None if smearing is None else (smearing.text or "").strip(),
        degauss=None if smearing is None else round(2 * float(smearing.get("degauss", "nan")), 9),
        scf_iterations=int(reader.number("convergence_info/scf_conv/n_scf_steps", output)),
        scf_accuracy=reader.number("convergence_info/scf_conv/scf_error", output) * HARTREE_EV,
        # In Ry and to the digits people write; twice a hartree is not always that.
        ecutwfc=round(2 * reader.number("basis_set/ecutwfc", output), 9),
        ecutrho=round(2 * reader.number("basis_set/ecutrho", output), 9),
        bands=bands, steps=steps, warnings=warnings,
    )


def _three(element: ET.Element, name: str) -> tuple[int, int, int]:
    return (int(element.get(f"{name}1", "0")), int(element.get(f"{name}2", "0")),
            int(element.get(f"{name}3", "0")))


def _geometry(reader: _Reader,
              element: ET.Element) -> tuple[list[str], FloatArray, FloatArray]:
    atoms = element.findall("atomic_positions/atom")
    # Species are Fe, Fe1, Fe2 when their moments differ.
    symbols = [re.sub(r"\d+$", "", atom.get("name", "").strip()) for atom in atoms]
    positions = np.array([_floats(atom.text or "") for atom in atoms]) * BOHR_ANGSTROM
    lattice = np.array([reader.array(f"cell/a{i}", element) for i in (1, 2, 3)]) * BOHR_ANGSTROM
    return symbols, lattice, positions


def _step(reader: _Reader, element: ET.Element) -> IonicStep:
    _, lattice, positions = _geometry(reader, reader.find("atomic_structure", element))
    forces = element.find("forces")
    return IonicStep(
        energy=reader.number("total_energy/etot", element) * HARTREE_EV, lattice=lattice,
        positions=positions,
        forces=None if forces is None or not forces.text
        else _floats(forces.text).reshape(-1, 3) * FORCE_UNIT,
    )


def _bands(reader: _Reader, element: ET.Element, lattice: FloatArray) -> Bands:
    spins = 2 if reader.text("lsda", element) == "true" else 1
    points, weights, energies, occupations = [], [], [], []
    for state in element.findall("ks_energies"):
        point = reader.find("k_point", state)
        points.append(_floats(point.text or ""))
        weights.append(float(point.get("weight", "0")))
        energies.append(reader.array("eigenvalues", state).reshape(spins, -1))
        occupations.append(reader.array("occupations", state).reshape(spins, -1))
    alat = float(reader.find("output/atomic_structure").get("alat", "nan")) * BOHR_ANGSTROM
    share = np.array(weights)
    return Bands(
        # Cartesian in 2π/alat; k·a_i in units of 2π is the fraction along b_i.
        kpoints=np.array(points) @ lattice.T / alat, weights=share / share.sum(),
        eigenvalues=np.array(energies).transpose(1, 0, 2) * HARTREE_EV,
        occupations=np.array(occupations).transpose(1, 0, 2),
    )


def _levels(bands: Bands, kind: str) -> tuple[float | None, float | None]:
    """Return highest occupied and lowest empty level, eV; occupation 0.5 divides them."""
    filled = bands.occupations > (OCCUPIED if kind == "fixed" else 0.5)
    homo = bands.eigenvalues[filled].max() if filled.any() else None
    lumo = bands.eigenvalues[~filled].min() if (~filled).any() else None
    return (None if homo is None else float(homo)), (None if lumo is None else float(lumo))


def _band_warnings(reader: _Reader, bands: Bands, kind: str, homo: float | None,
                   lumo: float | None) -> list[str]:
    last = float(bands.occupations[:, :, -1].max())
    if kind == "fixed":
        if homo is not None and lumo is not None and homo > lumo:
            raise reader.fail(
                f"a metal in fixed occupations: the highest filled level ({homo:.3f} eV) lies "
                f"above the lowest empty one ({lumo:.3f} eV)", "set occupations='smearing'")
        return []
    if last > OCCUPIED:
        return [f"the last band is filled to {last:.3f}: set more bands (overrides system.nbnd)"]
    return []


def parse_stdout(text: str) -> PwStdout:
    """Read version, time, memory and warnings; the end of the text may be missing."""
    version = re.search(r"Program PWSCF v\.?\s*(\S+)", text)
    wall = re.findall(r"^\s+PWSCF\s+:.*?CPU\s+(.*?)\s*WALL", text, re.MULTILINE)
    memory = re.search(r"Estimated max dynamical RAM per process >\s+([\d.]+)\s*(MB|GB)", text)
    return PwStdout(
        version=version[1] if version else None,
        wall_seconds=_seconds(wall[-1]) if wall else None, done="JOB DONE." in text,
        memory_mb=float(memory[1]) * (1024 if memory[2] == "GB" else 1) if memory else None,
        warnings=_warnings(text),
    )


def _seconds(text: str) -> float | None:
    """Return s from ``1h 2m``, ``3m 4.56s`` or ``7.89s``."""
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
    found = re.findall(r"([\d.]+)\s*([dhms])", text)
    return sum(float(n) * units[u] for n, u in found) if found else None


def _warnings(text: str) -> list[str]:
    """Return each warning once, in the order of appearance, without those every run prints."""
    found = [" ".join(m.split()) for m in re.findall(
        r"^\s*Message from routine [^\n]*\n[^\n]*", text, re.MULTILINE)]
    found += [" ".join(line.split()) for line in text.splitlines()
              if re.search(r"\bwarning\b", line, re.IGNORECASE)]
    return list(dict.fromkeys(w for w in found if not any(noise in w for noise in _NOISE)))
