"""Every captured failure is named, corrected as the catalogue says, and not for ever."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from orionflow.launchers.custodian.rules import RuleHandler, find_failure
from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.failures_qe import QE_FAILURES

DATA = Path(__file__).parents[2] / "data" / "qe_failures"
FAILED = sorted(p.name for p in DATA.iterdir() if (p / "run.json").is_file())
HEALTHY = sorted(p.name for p in (DATA / "healthy").iterdir())
LAUNCHERS = Path(__file__).parents[3] / "launchers"

# First change made to the input; None where a person must act.
FIRST_CHANGE = {
    "QE_SCF_NOT_CONVERGED": "electron_maxstep: 4 -> ",
    "QE_SCF_PRETENDED": "electron_maxstep: 3 -> ",
    "QE_MORE_BANDS_THAN_PW": "nbnd: 100 -> 0",
    "QE_TOO_FEW_BANDS": "nbnd: 3 -> 0",
    "QE_SMEARING_NEEDED": "occupations: (default) -> smearing",
    "QE_METAL_AS_INSULATOR": "occupations: (default) -> smearing",
    "QE_TOP_BAND_OCCUPIED": "nbnd: 2 -> 6",
    "QE_NSTEP": "restart_mode: (default) -> restart",
    "QE_FORCES_NOT_CONVERGED": "restart_mode: (default) -> from_scratch",
    "QE_CELL_FACTOR": "cell_factor: 1.0001 -> 2.0002",
    "QE_FINAL_PRESSURE": "restart_mode: (default) -> from_scratch",
    "QE_XML_BROKEN": "restart_mode: restart -> from_scratch",
    "QE_WFC_BROKEN": "startingwfc: file -> atomic+random",
    "QE_DIAGONALISATION": "diagonalization: (default) -> paro",
    "QE_SYMMETRY_CELL": "restart_mode: (default) -> from_scratch",
    "QE_SYMMETRY_ATOMS": "nosym: (default) -> .true.",
    "QE_BANDS_NOT_CONVERGED": "diagonalization: cg -> david",
    "QE_POOLS": "-nk on the command line: 3 -> 2",
    "QE_WALLTIME": "max_seconds: 1 -> 60",
    "QE_KILLED": "run again unchanged",
    "QE_CRASHED": "run again unchanged",
    "QE_MESSAGE_LOST": "run again unchanged",
    "QE_FERMI_LEVEL": "nbnd: 3 -> 0",
    "QE_RESTART_BROKEN": "restart_mode: restart -> from_scratch",
    "QE_OUT_OF_MEMORY": "diagonalization: (default) -> cg",
    "PH_NOT_CONVERGED": "recover: (default) -> .true.",
    "PH_EPSIL_METAL": "epsil: .true. -> .false.",
}
HOPELESS = sorted(set(FAILED) - set(FIRST_CHANGE))


def test_every_reproduced_failure_has_its_run():
    named = {mode.id for mode in QE_FAILURES if mode.reproduced.startswith("qe_failures/")}
    assert named == set(FAILED)


@pytest.mark.parametrize("mode", QE_FAILURES, ids=lambda mode: mode.id)
def test_evidence_in_catalogue_exists(mode):
    assert mode.title
    assert mode.advice
    assert mode.shows
    if mode.reproduced:
        assert (DATA.parents[1] / "data" / mode.reproduced).exists() or (
            DATA.parents[1] / mode.reproduced).exists()


def test_every_id_in_the_code_is_in_the_catalogue():
    sources = [*LAUNCHERS.glob("custodian/*qe*.py"), *LAUNCHERS.glob("custodian/common.py"),
               LAUNCHERS / "preflight_qe.py", LAUNCHERS / "run_input.py"]
    used = {name for path in sources
            for name in re.findall(r'"((?:QE|PH|CODE|INPUT)_[A-Z_]+|INTERRUPTED)"',
                                   path.read_text())}
    assert len(used) > 40
    assert used <= set(CATALOGUE)


def test_ids_are_unique():
    ids = [mode.id for mode in QE_FAILURES]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", FAILED)
def test_failure_is_named(captured, name):
    case = captured(name)
    found = find_failure(case.rules, case.attempt)
    assert found is not None
    assert found.rule.failure_id == name
    assert found.evidence.strip()
    assert name in CATALOGUE


@pytest.mark.parametrize("name", sorted(FIRST_CHANGE))
def test_correctable_failure_is_corrected(captured, name):
    case = captured(name)
    handler = RuleHandler(job=case.run.job, rules=case.rules)
    handler.attempt = lambda _directory: case.attempt
    before = (case.folder / case.run.input_file).read_text()
    assert handler.check(str(case.folder))
    assert handler.correct(str(case.folder))["actions"]
    (correction,) = handler.corrections
    assert correction["changes"][0].startswith(FIRST_CHANGE[name])
    assert correction["failure_id"] == name
    kept = case.folder / correction["folder"] / case.run.input_file
    assert kept.read_text() == before


@pytest.mark.parametrize("name", HOPELESS)
def test_hopeless_failure_stops_at_once_and_leaves_the_input(captured, name):
    case = captured(name)
    handler = RuleHandler(job=case.run.job, rules=case.rules)
    handler.attempt = lambda _directory: case.attempt
    before = (case.folder / case.run.input_file).read_text()
    assert handler.check(str(case.folder))
    assert handler.correct(str(case.folder))["actions"] is None
    assert handler.corrections == []
    assert (case.folder / case.run.input_file).read_text() == before


@pytest.mark.parametrize("name", FAILED)
def test_corrections_stop(captured, name):
    case = captured(name)
    handler = RuleHandler(job=case.run.job, rules=case.rules, budget=5)
    handler.attempt = lambda _directory: case.attempt
    rounds = 0
    while handler.check(str(case.folder)) and handler.correct(str(case.folder))["actions"]:
        rounds += 1
        assert rounds <= 5
    assert handler.failure is not None  # the validator refuses what is left
    assert len(handler.corrections) == rounds


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_fires_on_healthy_run(captured, name):
    case = captured(f"healthy/{name}")
    found = find_failure(case.rules, case.attempt)
    assert found is None, found.evidence


@pytest.mark.parametrize(("name", "returncode", "failure_id"), [
    ("ok_si", 1, None), ("ok_si", 143, None), ("relax_ok", -9, None),  # only MPI was hit
    ("ok_si", 2, "CODE_UNKNOWN"), ("relax_ok", 3, "CODE_UNKNOWN"),     # codes of pw.x itself
    ("phok", 1, "QE_KILLED"),  # may be ph.x's own: it runs again
])
def test_return_code_after_the_end_is_weighed(captured, name, returncode, failure_id):
    case = captured(f"healthy/{name}")
    found = find_failure(case.rules, replace(case.attempt, returncode=returncode))
    assert (found.rule.failure_id if found else None) == failure_id
    if failure_id == "QE_KILLED":
        assert found.rule.fix(case.attempt, 0) == []
        assert found.rule.fix(case.attempt, 1) is None


@pytest.mark.parametrize("name", FAILED)
def test_twin_of_each_failure_is_kept(name):
    twin = json.loads((DATA / name / "run.json").read_text())["twin"]
    assert twin in HEALTHY


# Routine, message, failure and a word of the advice: boxes printed for conv_thr = 1e-8x (pw.x reads
# on and quotes a line of ATOMIC_SPECIES), for a relax without &ions, and for LDA mixed with PBE.
BOXES = [
    ("read_namelists", 'bad line in namelist &electrons: " Si 28.086 Si.pz-vbc.UPF" (error ...',
     "QE_INPUT_NAMELIST", None),
    ("read_namelists", 'bad line in namelist &ions: "" (error could be in the previous line)',
     "QE_INPUT_NAMELIST", "needs the namelist"),
    ("set_dft_from_name", "conflicting values for icorr", "QE_INPUT_REFUSED", "functionals"),
]


@pytest.mark.parametrize(("routine", "message", "failure_id", "advice"), BOXES)
def test_mistake_is_named_by_its_cause(captured, routine, message, failure_id, advice):
    case = captured("QE_INPUT_NAMELIST")
    line = " " + "%" * 78 + "\n"
    box = f"{line}     Error in routine  {routine} (1):\n      {message}\n{line}"
    head = case.attempt.stdout.split(" %%%%%")[0]
    found = find_failure(case.rules, replace(case.attempt, stdout=head + box))
    assert found is not None
    assert found.rule.failure_id == failure_id
    assert (advice or "") in (found.rule.advice or "")
    assert bool(advice) == bool(found.rule.advice)


def test_words_of_a_failure_name_program_and_setting(captured):
    case = captured("PH_EPSIL_METAL")
    box = case.attempt.stdout.replace("no elec. field with metals", "something new")
    found = find_failure(case.rules, replace(case.attempt, stdout=box.replace("phq_readin", "abc")))
    assert found.rule.failure_id == "QE_ERROR"
    assert found.rule.title.startswith("ph.x stopped")
    case = captured("QE_SMEARING_NEEDED")
    path = case.folder / "pw.in"
    text = re.sub("(?i)&system", "&system\n  occupations = 'tetrahedra'", path.read_text())
    path.write_text(text)
    found = find_failure(case.rules, case.attempt)
    assert "occupations = 'tetrahedra'" in found.rule.title
    assert found.rule.fix(case.attempt, 0) is None
