"""One step of a user's own run: the given command under the rules of its code."""

from __future__ import annotations

import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.errors import InputError
from orionflow.launchers.custodian.handlers_qe import late_end, ph_rules, pw_rules, tool_rules
from orionflow.launchers.custodian.jobs import CodeJob
from orionflow.launchers.custodian.qe_base import QeRun, patterns, stop_options
from orionflow.launchers.custodian.qe_walltime import max_seconds
from orionflow.launchers.qe import Resumed, monitors, resume
from orionflow.launchers.qe_electrons import electron_count
from orionflow.launchers.qe_input import (
    QeInput,
    edit_input,
    read_input,
    replace_card,
    write_whole,
)
from orionflow.launchers.run import run_code
from orionflow.launchers.run_state import hash_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orionflow.launchers.context import JobContext
    from orionflow.launchers.record import RunRecord
    from orionflow.launchers.run_input import Step

_METALS_ANY_VALENCE = frozenset(
    "Sc Ti V Cr Mn Fe Co Ni Cu Y Zr Nb Mo Tc Ru Rh Pd Ag La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm "  # noqa: SIM905
    "Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Sn In Ga Th Pa U Np Pu".split())
_METALS = {"Li": 1, "Na": 1, "K": 1, "Rb": 1, "Cs": 1, "Be": 2, "Mg": 2, "Ca": 2, "Sr": 2,
           "Ba": 2, "Zn": 2, "Cd": 2, "Al": 3}
_ANIONS = {"H": 1, "F": 1, "Cl": 1, "Br": 1, "I": 1, "O": 2, "S": 2, "Se": 2, "Te": 2, "N": 3,
           "P": 3, "As": 3}


def run_step(folder: Path, step: Step, context: JobContext, *, environment: Mapping[str, str],
             on_correction: Callable[[dict[str, Any]], None], deadline: float | None,
             frozen_after: float | None, say: Callable[[str], None]) -> RunRecord:
    """Run one command of a user; see `run_input`.

    Raises
    ------
    CodeError
        The code failed and corrections did not help.
    """
    if step.code == "lmp":
        return _run_lammps(folder, step, context, environment=environment, deadline=deadline,
                           on_correction=on_correction, frozen_after=frozen_after)
    found = _read(folder, step)
    stale, watched = patterns(found, folder, environment) if found else (("CRASH",), ())
    job = CodeJob(list(step.command), stdout=f"{step.stem}.out", stderr=f"{step.stem}.err",
                  environment=environment, stale=stale, inputs=[step.input_file], watched=watched,
                  stdin=step.input_file if step.stdin else None, also=["CRASH"],
                  monitors=monitors(deadline, frozen_after),
                  **(stop_options(found) if found and step.code in {"pw.x", "ph.x"} else {}))
    run = QeRun(folder=folder, input_file=step.input_file, job=job)
    given = hash_inputs(folder, [step.input_file])
    resumed = Resumed()
    if step.code in {"pw.x", "ph.x"} and found is not None:
        resumed = resume(run, given)
        if resumed.continued:
            say(f"  goes on where an earlier launch was stopped ({resumed.continued} so far)")
        for correction in resumed.corrections:
            for change in correction.changes:
                say(f"  {change}")
        for change in _prepare(run, deadline):
            say(f"  prepared: {change}")
    rules = {"pw.x": pw_rules, "ph.x": ph_rules}.get(step.code, tool_rules)(run)
    going_on = bool(resumed.continued and not resumed.corrections and found is not None)
    ours = run.input.text if going_on else ""
    try:
        return run_code(job, rules, context, executable=_executable(step), directory=folder,
                        deadline=deadline, inputs=given, continued=resumed.continued,
                        corrected=resumed.corrections, note=late_end,
                        on_correction=on_correction)
    finally:
        # The user's next run with this input is to begin anew.
        if going_on and found is not None and run.input.text == ours:
            write_whole(run.input_path, found.text)


def prepare_parent(failure_id: str | None, folder: Path, before: Sequence[Step],
                   repaired: set[str]) -> tuple[int, list[str]] | None:
    """Change the pw.x step a later step can't start from; return its index and the changes.

    Parameters
    ----------
    failure_id
        How the later step failed.
    before
        The steps before it.
    repaired
        Failures answered this way already; each is answered once.
    """
    index = next((i for i in range(len(before) - 1, -1, -1) if before[i].code == "pw.x"
                  and _read(folder, before[i]) is not None
                  and read_input(folder / before[i].input_file).calculation
                  not in {"nscf", "bands"}), None)
    if failure_id is None or index is None or failure_id in repaired:
        return None
    path = folder / before[index].input_file
    if failure_id == "PH_GAMMA_TRICKS":
        repaired.add(failure_id)
        replace_card(path, "K_POINTS", "automatic", ["  1 1 1 0 0 0"])
        return index, ["K_POINTS: gamma -> automatic 1 1 1 0 0 0 (the same point), run again"]
    if failure_id in {"QE_XML_BROKEN", "QE_DENSITY_BROKEN", "QE_WFC_BROKEN", "QE_PARENT_BROKEN"}:
        repaired.add(failure_id)
        return index, ["run again: its files are damaged"]
    return None


def empty_bands(found: QeInput) -> int | None:
    """Return nbnd with empty bands for an input in which a metal could not be seen, or None.

    A metal with the fixed occupations of an insulator converges without a word unless there is an
    empty band to show that levels cross. Compounds of main-group metals whose charges balance are
    taken for insulators, as are substances without a metal.
    """
    if found.calculation not in {"scf", "relax", "vc-relax"} or found.get("system", "nbnd") or (
            str(found.get("system", "occupations", "fixed")).strip().lower() != "fixed"):
        return None
    if int(found.number("system", "nspin", 1)) != 1 or not may_be_metal(found):
        return None
    electrons = electron_count(found)
    if electrons is None or round(electrons) % 2:
        return None  # an odd number stops pw.x by itself
    filled = round(electrons) // 2
    return filled + max(4, filled // 10)


def may_be_metal(found: QeInput) -> bool:
    """Whether the composition allows a metal."""
    import re

    card = found.cards.get("ATOMIC_POSITIONS")
    labels = [line.split()[0] for line in card.lines] if card else []
    symbols = []
    for label in labels:
        letters = re.match(r"[A-Za-z]{1,2}", label)
        name = letters[0].capitalize() if letters else ""
        known = name in _METALS or name in _METALS_ANY_VALENCE or name in _ANIONS
        symbols.append(name if known else name[:1])
    if any(s in _METALS_ANY_VALENCE for s in symbols):
        return True
    plus = sum(_METALS.get(s, 0) for s in symbols)
    minus = sum(_ANIONS.get(s, 0) for s in symbols)
    return plus > 0 and plus != minus


def _prepare(run: QeRun, deadline: float | None) -> list[str]:
    """Tell the code how long it may take, and let a metal be seen."""
    found = run.input
    group = "inputph" if "inputph" in found.namelists else "control"
    wanted: dict[str, dict[str, Any]] = {}
    if deadline is not None:
        limit = max_seconds(deadline - time.time())
        own = found.number(group, "max_seconds", limit)
        wanted[group] = {"max_seconds": min(own, limit)}
    if group == "control" and (bands := empty_bands(found)) is not None:
        wanted["system"] = {"nbnd": bands}
    if not wanted:
        return []
    try:
        changes = edit_input(run.input_path, wanted)
    except InputError:
        return []  # an input f90nml can't edit can still be run
    return [f"{line} (empty bands show whether it is a metal)" if line.startswith("nbnd") else line
            for line in changes]


def _read(folder: Path, step: Step) -> QeInput | None:
    try:
        return read_input(folder / step.input_file)
    except InputError:
        return None


def _executable(step: Step) -> str:
    names = {"pw.x": "pw.x", "ph.x": "ph.x", "lmp": "lmp"}
    for word in step.command:
        if Path(word).name == names.get(step.code) or Path(word).name.endswith(".x"):
            return shutil.which(word) or word
    return shutil.which(step.command[0]) or step.command[0]


def _run_lammps(folder: Path, step: Step, context: JobContext, *,
                environment: Mapping[str, str],
                on_correction: Callable[[dict[str, Any]], None], deadline: float | None,
                frozen_after: float | None) -> RunRecord:
    from orionflow.launchers.lammps import run_lammps_command

    words = list(step.command)
    log = next((value for word, value in pairwise(words) if word in {"-log", "-l"}), "log.lammps")
    return run_lammps_command(
        words, folder, step.input_file, context, executable=_executable(step),
        environment=environment, deadline=deadline, log=log, output=step.stem, stdin=step.stdin,
        frozen_after=frozen_after, on_correction=on_correction)
