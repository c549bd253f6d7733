"""What the text of a pw.x or ph.x input alone shows to be wrong.

Only what every release from 6.x on refuses, or computes as something else than the input says.
Each check was compared with pw.x 6.7; the values are those of
https://www.quantum-espresso.org/Doc/INPUT_PW.html, all releases.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from orionflow.launchers.problem import Problem

if TYPE_CHECKING:
    from orionflow.launchers.qe_input import Card, QeInput

_SCF = ("scf", "relax", "vc-relax", "md", "vc-md")
_MOVES = {"relax": ("ions",), "md": ("ions",), "vc-relax": ("ions", "cell"),
          "vc-md": ("ions", "cell")}
# Group, key, what the key may be, in lower case.
_VALUES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("control", "calculation", ("scf", "nscf", "bands", "relax", "vc-relax", "md", "vc-md")),
    ("control", "restart_mode", ("from_scratch", "restart")),
    ("system", "occupations",
     ("smearing", "fixed", "from_input", "tetrahedra", "tetrahedra_lin", "tetrahedra-lin",
      "tetrahedra_opt", "tetrahedra-opt")),
    ("system", "smearing",
     ("gaussian", "gauss", "methfessel-paxton", "m-p", "mp", "marzari-vanderbilt", "cold", "m-v",
      "mv", "fermi-dirac", "f-d", "fd")),
    ("electrons", "diagonalization",
     ("david", "davidson", "cg", "ppcg", "paro", "rmm-davidson", "rmm-paro", "david-serial")),
    ("electrons", "mixing_mode", ("plain", "tf", "local-tf")),
    ("ions", "ion_dynamics",
     ("bfgs", "damp", "fire", "verlet", "langevin", "langevin-smc", "beeman", "none", "sd", "cg",
      "ipi")),
    ("cell", "cell_dynamics", ("bfgs", "none", "sd", "damp-pr", "damp-w", "pr", "w", "ipi")),
)
_LOGICAL = ("tprnfor", "tstress", "nosym", "noinv", "nosym_evc", "lspinorb", "noncolin",
            "tefield", "dipfield", "lelfield", "wf_collect", "scf_must_converge",
            "diago_full_acc", "one_atom_occupations", "lda_plus_u", "no_t_rev", "force_symmorphic",
            "epsil", "trans", "ldisp", "recover", "zue", "zeu", "lraman", "elop", "search_sym",
            "fpol", "reduce_io", "qplot")
_NUMBERS = ("ibrav", "nat", "ntyp", "nbnd", "tot_charge", "tot_magnetization", "ecutwfc",
            "ecutrho", "degauss", "nspin", "a", "b", "c", "cosab", "cosac", "cosbc", "conv_thr",
            "electron_maxstep", "mixing_beta", "mixing_ndim", "nstep", "etot_conv_thr",
            "forc_conv_thr", "press", "press_conv_thr", "cell_factor", "max_seconds", "dt",
            "tr2_ph", "niter_ph", "nq1", "nq2", "nq3", "last_irr", "start_irr", "start_q",
            "last_q", "upscale")
_AUTOMATIC = 6
_LISTS = ("tpiba", "crystal", "tpiba_b", "crystal_b", "tpiba_c", "crystal_c")


def check_types(found: QeInput) -> Problem | None:
    """Refuse words where Fortran reads a number or a logical."""
    for group, values in found.namelists.items():
        for key, value in values.items():
            if not isinstance(value, str):
                continue
            if key in _LOGICAL and not re.match(r"\s*\.?[tf]", value, re.IGNORECASE):
                return Problem("QE_INPUT_NAMELIST", f"{key} = {value} in &{group} is no logical",
                               f"write {key} = .true. or .false.")
            if key in _NUMBERS and not re.match(r"\s*[-+.\d]", value):
                return Problem("QE_INPUT_NAMELIST", f"{key} = {value} in &{group} is no number",
                               f"give {key} a number")
    return None


def check_values(found: QeInput) -> Problem | None:
    """Refuse a value of an enumeration that is none of it."""
    for group, key, known in _VALUES:
        value = found.get(group, key)
        if not isinstance(value, str) or value.strip().lower() in known:
            continue
        close = difflib.get_close_matches(value.strip().lower(), known, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        return Problem("QE_INPUT_REFUSED", f"{key} = {value!r} is unknown to pw.x",
                       f"{guess}valid: {', '.join(known)}")
    for group in _MOVES.get(found.calculation, ()):
        if group not in found.namelists:
            return Problem("QE_INPUT_NAMELIST",
                           f"calculation = '{found.calculation}' needs a namelist &{group}",
                           f"add &{group} and a line with / behind &electrons; it may be empty")
    system = found.namelists.get("system", {})
    if "celldm" in system and found.number("system", "a", 0.0):
        return Problem("QE_INPUT_REFUSED", "both celldm and A are given in &system",
                       "give the lattice one way: celldm (bohr and ratios) or A, B, C (Å)")
    return None


def check_spins(found: QeInput) -> Problem | None:
    """Refuse spins of which pw.x can't know how they begin."""
    nspin = int(found.number("system", "nspin", 1))
    if nspin not in {1, 2, 4}:
        return Problem("QE_SPIN_SETUP", f"nspin = {nspin} is not possible",
                       "nspin is 1 (no spin), 2 (up and down) or 4 (noncollinear)")
    total = found.number("system", "tot_magnetization", -1.0)
    if nspin != 2 or found.calculation not in _SCF or total >= 0 or (  # noqa: PLR2004
            found.get("control", "restart_mode") == "restart"):
        return None
    occupations = str(found.get("system", "occupations", "fixed")).strip().lower()
    if occupations == "fixed" and "tot_magnetization" not in found.namelists["system"]:
        return Problem("QE_SPIN_SETUP",
                       "nspin = 2 with fixed occupations needs tot_magnetization",
                       "give tot_magnetization, or smear the occupations")
    if occupations in {"smearing", "tetrahedra", "tetrahedra_lin", "tetrahedra_opt"} and not any(
            key.startswith(("starting_magnetization", "tot_magnetization"))
            for key in found.namelists["system"]):
        return Problem("QE_SPIN_SETUP", "nspin = 2 without any starting_magnetization",
                       "give starting_magnetization(i) of the species that carry a moment, or "
                       "tot_magnetization")
    return None


def check_counts(found: QeInput) -> Problem | None:
    """Refuse cards with more atoms than ``nat``: pw.x leaves the others out without a word."""
    positions = found.cards["ATOMIC_POSITIONS"]
    nat = int(found.number("system", "nat", 0))
    if "_sg" in positions.option or "space_group" in found.namelists.get("system", {}):
        return None
    if nat < 1:
        return Problem("QE_INPUT_CARDS", f"nat = {nat}" if "nat" in found.namelists["system"]
                       else "nat is missing", "set nat in &system to the number of atoms")
    if len(positions.lines) > nat:
        return Problem("QE_INPUT_CARDS",
                       f"ATOMIC_POSITIONS has {len(positions.lines)} atoms, nat = {nat}: pw.x "
                       "would leave out the rest", "make them agree")
    species = found.cards["ATOMIC_SPECIES"].lines
    ntyp = int(found.number("system", "ntyp", 0))
    known = {line.split()[0].lower() for line in species[:ntyp]}
    for line in positions.lines:
        label = line.split()[0]
        if label.lower() not in known and any(
                label.lower() == s.split()[0].lower() for s in species):
            return Problem("QE_INPUT_CARDS",
                           f"species {label} is beyond the first {ntyp} of ATOMIC_SPECIES "
                           f"(ntyp = {ntyp})", f"ntyp = {len(species)}")
    return None


def check_kpoints(found: QeInput) -> Problem | None:
    """Refuse a K_POINTS card that is too short or makes no grid."""
    card = found.cards["K_POINTS"]
    option = card.option.split()[0] if card.option else "tpiba"
    if option == "gamma":
        return None
    if option not in {"automatic", *_LISTS}:
        close = difflib.get_close_matches(option, ("automatic", "gamma", *_LISTS), n=1)
        return Problem("QE_INPUT_CARDS", f"K_POINTS {option}: unknown option",
                       f"did you mean {close[0]!r}?") if close else None
    if not card.lines:
        return Problem("QE_INPUT_CARDS", f"K_POINTS {option} has no lines",
                       "automatic: nk1 nk2 nk3 s1 s2 s3; otherwise the number of points, then "
                       "one line each")
    if option == "automatic":
        return _grid(card)
    return _points(card, option) or (
        _weights(card) if found.calculation in _SCF and option in _LISTS[:2] else None)


def _grid(card: Card) -> Problem | None:
    words = " ".join(card.lines).replace(",", " ").split()[:_AUTOMATIC]
    how = "nk1 nk2 nk3 s1 s2 s3: six whole numbers, for example 4 4 4 0 0 0"
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        return None  # Fortran reads more than int() does
    if len(numbers) < _AUTOMATIC:
        return Problem("QE_INPUT_CARDS", f"K_POINTS automatic has {len(numbers)} numbers, not six",
                       how)
    if min(numbers[:3]) < 1:
        return Problem("QE_INPUT_CARDS", "K_POINTS automatic: a grid of "
                       f"{' x '.join(map(str, numbers[:3]))} points", how)
    if any(shift not in {0, 1} for shift in numbers[3:]):
        return Problem("QE_INPUT_CARDS",
                       f"K_POINTS automatic: offsets {' '.join(map(str, numbers[3:]))}",
                       "an offset is 0, or 1 for half a grid step")
    return None


def _points(card: Card, option: str) -> Problem | None:
    first = card.lines[0].replace(",", " ").split()[0]
    if not first.isdigit():
        return Problem("QE_INPUT_CARDS", f"K_POINTS {option}: {first!r} is no number of points",
                       "the first line is the number of points, then one line each")
    if len(card.lines) - 1 < int(first):
        return Problem("QE_INPUT_CARDS",
                       f"K_POINTS {option} has {len(card.lines) - 1} points, {first} are announced",
                       "make them agree")
    return None


def _weights(card: Card) -> Problem | None:
    weights = [line.replace(",", " ").split()[3:4] for line in card.lines[1:]]
    try:
        total = sum(float(w[0].lower().replace("d", "e")) for w in weights if w)
    except ValueError:
        return None
    if total > 0 and all(weights):
        return None
    return Problem("QE_INPUT_CARDS",
                   f"K_POINTS {card.option or 'tpiba'}: " + (
                       "all weights are 0" if all(weights) else "a point has no weight"),
                   "each line is x, y, z and a weight; the weights are normalised")


def unclosed_quote(text: str) -> str | None:
    """Return the first line of the namelists with a quote that is not closed."""
    for line in text.splitlines():
        if re.match(r"\s*(?:ATOMIC_|K_POINTS|CELL_PARAM)", line):
            return None
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", line).split("!")[0]
        if "'" in bare or '"' in bare:
            return line.strip()
    return None


def check_q_point(found: QeInput) -> Problem | None:
    """Refuse a ph.x input that ends where the q-point should be."""
    group = found.namelists["inputph"]
    if any(group.get(key) not in {None, False} for key in ("ldisp", "qplot")):
        return None
    rest = re.split(r"^\s*(?:/|&end)\s*$|/\s*$", found.text, maxsplit=1, flags=re.MULTILINE)
    if len(rest) > 1 and not rest[1].strip():
        return Problem("QE_INPUT_CARDS", f"no q-point behind &inputph in {found.path.name}",
                       "add a line with the q-point, for example 0 0 0, or set ldisp and nq1..3")
    return None
