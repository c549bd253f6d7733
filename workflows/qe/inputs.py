"""Inputs of pw.x as text: from a structure and parameters, nothing read and nothing run."""

from __future__ import annotations

import difflib
import io
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from orionflow.errors import InputError
from orionflow.units import RYDBERG_PER_BOHR_EV_ANGSTROM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms
    from pymatgen.core import Structure

    from orionflow.workflows.qe.upf import Pseudo

PREFIX = "pw"
OUTDIR = "out"
PSEUDO_DIR = "pseudo"
"""Folder in the folder of the run with links to the files used: the input names no machine."""
# What the recipe decides; overriding it would make the document lie.
_OWNED = {
    "control": {"calculation", "prefix", "outdir", "pseudo_dir", "tprnfor", "tstress",
                "restart_mode", "max_seconds"},
    "system": {"ibrav", "celldm", "a", "b", "c", "cosab", "cosac", "cosbc", "nat", "ntyp",
               "ecutwfc", "ecutrho", "occupations", "smearing", "degauss", "nspin",
               "starting_magnetization", "input_dft"},
    "electrons": {"conv_thr", "scf_must_converge"},
}
# ASE lists the variables of QE 7.1 and later; these were &system's until then.
_UNTIL_7_0 = ("lda_plus_u", "lda_plus_u_kind", "u_projection_type", "hubbard_u", "hubbard_j0",
              "hubbard_j", "hubbard_v", "hubbard_parameters")
_MIN_EMPTY = 2
_EMPTY_SHARE = 0.1


def k_grid(structure: Structure, spacing: float) -> tuple[int, int, int]:
    """Return the Monkhorst-Pack grid with at most this spacing.

    Parameters
    ----------
    structure
        Its reciprocal lattice vectors count *with* 2π, as in VASP's KSPACING.
    spacing
        Largest distance between neighbouring k-points along a reciprocal vector, 1/Å.

    Returns
    -------
    tuple of int
        ``max(1, ceil(|b_i| / spacing))`` for each vector.

    Notes
    -----
    The grid jumps as a cell is strained. Compute it once, from the unstrained cell, for all
    cells whose energies are compared.

    Raises
    ------
    InputError
        The spacing is not positive.
    """
    if not (math.isfinite(spacing) and spacing > 0):
        raise InputError(f"k_spacing = {spacing} 1/Å must be positive", hint="0.15 to 0.3 is usual")
    lengths = np.asarray(structure.lattice.reciprocal_lattice.abc)
    # The small number keeps a grid that fits exactly from growing by rounding.
    n = [max(1, math.ceil(length / spacing - 1e-6)) for length in lengths]
    return n[0], n[1], n[2]


def electrons(structure: Structure, pseudos: Mapping[str, Pseudo],
              overrides: Mapping[str, Mapping[str, Any]] | None = None) -> float:
    """Return the number of valence electrons of the cell, its charge included."""
    charge = float((overrides or {}).get("system", {}).get("tot_charge", 0.0))
    return sum(pseudos[site.specie.symbol].z_valence for site in structure) - charge


def bands_with_gap(n_electrons: float) -> int:
    """Return nbnd for fixed occupations: some empty, so that a metal shows itself."""
    filled = math.ceil(n_electrons / 2)
    return filled + max(_MIN_EMPTY, math.ceil(_EMPTY_SHARE * filled))


def force_threshold_ry(threshold: float) -> float:
    """Return Ry/bohr from eV/Å."""
    return threshold / RYDBERG_PER_BOHR_EV_ANGSTROM


def check_overrides(overrides: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse namelist variables that pw.x does not know or the recipe decides.

    Raises
    ------
    InputError
        Names the variable; a misspelt one with the nearest that exists.
    """
    from ase.io.espresso_namelist.keys import ALL_KEYS

    known: dict[str, list[str]] = {g: list(keys) for g, keys in ALL_KEYS["pw"].items()}
    known["system"] += _UNTIL_7_0
    for group, values in overrides.items():
        if group not in known or not hasattr(values, "items"):
            raise InputError(
                f"overrides: {group!r} is not a namelist of pw.x with its variables",
                hint=f"write overrides={{'system': {{'nbnd': 12}}}}; valid: {', '.join(known)}")
        for key, value in values.items():
            bare = str(key).split("(")[0].lower()
            if bare in _OWNED.get(group, ()):
                raise InputError(
                    f"overrides: {group}.{key} is decided by the recipe",
                    hint="use the recipe's own parameter (ecutwfc, kpoints, occupations, magmoms, "
                    "force_threshold ...)")
            if bare not in known[group]:
                elsewhere = [g for g, keys in known.items() if bare in keys]
                close = difflib.get_close_matches(bare, known[group], n=3)
                raise InputError(
                    f"overrides: pw.x has no variable {key!r} in &{group}",
                    hint=f"it belongs to &{elsewhere[0]}" if elsewhere else
                    f"did you mean {', '.join(close)}?" if close else
                    f"valid: {', '.join(known[group])}")
            if not isinstance(value, (bool, int, float, str)):
                raise InputError(f"overrides: {group}.{key} = {value!r} is not a plain value",
                                 hint="numbers, strings and true/false only")


def pw_input(structure: Structure, namelists: Mapping[str, Mapping[str, Any]],
             pseudos: Mapping[str, Pseudo], *, kpoints: tuple[int, int, int],
             k_shift: tuple[int, int, int] = (0, 0, 0),
             magmoms: Mapping[str, float] | None = None) -> str:
    """Return the text of a pw.x input.

    Parameters
    ----------
    structure
        Checked; fixed coordinates in the site property ``selective_dynamics`` are kept.
    namelists
        ``{"control": {...}, "system": {...}, ...}``.
    pseudos
        By element.
    kpoints, k_shift
        Monkhorst-Pack grid and its shift (0 or 1 half steps).
    magmoms
        Starting moments by element, μB for each atom; else the site property ``magmom``.

    Raises
    ------
    InputError
        A moment larger than the number of valence electrons.
    """
    from ase.io.espresso import write_espresso_in

    atoms = _atoms(structure, pseudos, magmoms)
    text = io.StringIO()
    write_espresso_in(
        text, atoms, input_data={group: dict(values) for group, values in namelists.items()},
        pseudopotentials={element: p.name for element, p in pseudos.items()},
        kpts=kpoints, koffset=k_shift, crystal_coordinates=True,
    )
    # ASE writes all namelists it knows; pw.x 6.7 warns of those it does not expect.
    return re.sub(r"^&[A-Z]+\n/\n", "", text.getvalue(), flags=re.MULTILINE)


def _atoms(structure: Structure, pseudos: Mapping[str, Pseudo],
           magmoms: Mapping[str, float] | None) -> Atoms:
    from pymatgen.io.ase import AseAtomsAdaptor

    bare = structure.copy()
    moments = [_moment(site, magmoms) for site in structure]
    for name in ("magmom", "final_magmom", "charge", "velocities"):
        if name in bare.site_properties:
            bare.remove_site_property(name)
    atoms: Atoms = AseAtomsAdaptor.get_atoms(bare, msonable=False)
    fractions = []
    for site, moment in zip(structure, moments, strict=True):
        # starting_magnetization is the share of the valence electrons up to QE 7.2.
        share = moment / pseudos[site.specie.symbol].z_valence
        if abs(share) > 1:
            raise InputError(
                f"magmoms: {moment:g} μB on {site.specie.symbol}, which has only "
                f"{pseudos[site.specie.symbol].z_valence:g} valence electrons",
                hint="give the expected moment of one atom in μB")
        fractions.append(share)
    atoms.set_initial_magnetic_moments(fractions if any(fractions) else None)
    return atoms


def _moment(site: Any, magmoms: Mapping[str, float] | None) -> float:
    if magmoms is not None:
        return float(magmoms.get(site.specie.symbol, 0.0))
    value = site.properties.get("magmom") or 0.0
    return float(value) if isinstance(value, (int, float)) else 0.0


def is_magnetic(structure: Structure, magmoms: Mapping[str, float] | None) -> bool:
    """Whether any atom starts with a magnetic moment."""
    return any(_moment(site, magmoms) for site in structure)
