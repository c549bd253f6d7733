"""Killed ranks, launchers and owners; full disks; frozen codes: right name, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import working_in

from orionflow.launchers.machine import load_machine
from orionflow.launchers.run_input import Exit, parse_steps, run_input
from orionflow.settings import load_settings

needs_pw = pytest.mark.needs_code("pw.x", "mpirun")
TWO = ["mpirun", "-np", "2", "--bind-to", "none", "--oversubscribe", "pw.x", "-in", "pw.in"]
# A few seconds on two ranks: enough to be hit, short enough to run again.
WORK = {"ecut": "24.0", "kpoints": "automatic\n  6 6 6 0 0 0",
        "system": "nosym = .true., noinv = .true."}


def processes(folder: Path, name: str = "") -> list[int]:
    """Return the processes that work in a folder."""
    return [pid for pid, found in working_in(folder).items() if name in found]


def wait_until(condition, timeout=60.0):
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


def started(folder, command=TWO, until=lambda text: "iteration #" in text):
    """Start `orionflow run-input` as a user does and wait for its output to tell something."""
    program = str(Path(sys.executable).with_name("orionflow"))
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen([program, "run-input", str(folder), "--", *command],
                                   stdout=said, stderr=subprocess.STDOUT)
    wait_until(lambda: until(_text(folder / "pw.out")))
    return process


def energies(text):
    return [float(x) for x in re.findall(r"^!+ +total energy +=\s+(\S+) Ry", text, re.MULTILINE)]


def _text(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def summary(folder):
    return json.loads((folder / "run_input.json").read_text())


def scripted(inputs, body, **options):
    """Run an input whose command is a script in place of pw.x."""
    inputs.silicon()
    script = inputs.folder / "pw.sh"
    script.write_text("#!/bin/sh\n" + body)
    script.chmod(0o755)
    steps = parse_steps(["./pw.sh", "-in", "pw.in"], inputs.folder, "pw.x")
    lines = []
    return run_input(inputs.folder, steps, load_settings(), load_machine("local"),
                     say=lines.append, **options), lines


@needs_pw
@pytest.mark.parametrize("victim", ["rank", "mpirun", "group"])
def test_killed_run_is_repeated_unchanged(inputs, victim):
    text = inputs.silicon(**WORK).read_text()
    process = started(inputs.folder)
    mpirun = processes(inputs.folder, "mpirun")[0]
    if victim == "rank":
        os.kill(processes(inputs.folder, "pw.x")[0], signal.SIGKILL)
    elif victim == "mpirun":
        os.kill(mpirun, signal.SIGKILL)
    else:
        os.killpg(mpirun, signal.SIGTERM)
    assert process.wait(120) == 0, _text(inputs.folder / "said")
    (correction,) = summary(inputs.folder)["steps"][0]["corrections"]
    assert correction["failure_id"] == "QE_KILLED"
    assert correction["changes"] == ["run again unchanged"]
    assert (inputs.folder / "pw.in").read_text() == text
    assert processes(inputs.folder) == []


@needs_pw
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_owner_leaves_no_orphan_and_no_success(inputs, number):
    text = inputs.silicon(**WORK).read_text()
    process = started(inputs.folder)
    os.kill(process.pid, number)
    code = process.wait(30)
    wait_until(lambda: not processes(inputs.folder), timeout=10)
    assert code == (-9 if number == signal.SIGKILL else Exit.INTERRUPTED)
    state = json.loads((inputs.folder / "orionflow_run.json").read_text())
    assert state["state"] in {"running", "interrupted"}
    assert (inputs.folder / "pw.in").read_text() == text


@needs_pw
@pytest.mark.parametrize("victim", ["pw.x", "owner", "owner asked", "owner and its scratch"])
def test_killed_relaxation_goes_on_from_its_last_step(inputs, unfailed, victim):
    text = inputs.silicon(calculation="relax", ecut="16.0", conv="1.0d-9", more="&IONS\n/\n",
                          control="forc_conv_thr = 1e-4",
                          positions="  Si 0.00 0.00 0.00\n  Si 0.29 0.25 0.22",
                          kpoints="automatic\n  3 3 3 1 1 1",
                          system="nosym = .true., noinv = .true.").read_text()
    whole = energies(unfailed(text).read_text())
    folder = inputs.folder
    process = started(folder, ["pw.x", "-in", "pw.in"], until=lambda said: (
        len(energies(said)) > 1 and "iteration #" in said.rsplit("\n!", 1)[-1]))
    if victim == "pw.x":
        os.kill(processes(folder, "pw.x")[0], signal.SIGKILL)
    else:
        os.kill(process.pid, signal.SIGTERM if victim == "owner asked" else signal.SIGKILL)
        process.wait(30)
        wait_until(lambda: not processes(folder))
        if victim == "owner and its scratch":
            shutil.rmtree(folder / "out")
        process = started(folder, ["pw.x", "-in", "pw.in"])
    assert process.wait(120) == 0, _text(folder / "said")
    before, after = (energies(_text(folder / name)) for name in ("attempt_1/pw.out", "pw.out"))
    assert 1 < len(before) < len(whole)
    assert after[-1] == pytest.approx(whole[-1], abs=1e-5)
    changes = [c["changes"] for c in summary(folder)["steps"][0]["corrections"]]
    if victim == "owner and its scratch":  # only the structure is known
        assert after[0] < before[0]
        assert [c[-1] for c in changes] == ["ATOMIC_POSITIONS: the last positions of the run"]
    else:
        # A step cut off before the ions were moved is done again, no other one.
        assert len(whole) <= len(before) + len(after) <= len(whole) + 1
        # What an earlier launch left is no part of the input.
        assert ((folder / "pw.in").read_text() == text) == (victim != "pw.x")
        assert changes == ([["restart_mode: (default) -> restart"]] if victim == "pw.x" else [])
    assert ("user request" in _text(folder / "attempt_1/pw.out")) == (victim == "owner asked")
    assert not list(folder.rglob("*.EXIT"))


@needs_pw
def test_cell_relaxation_stopped_in_its_last_scf_does_only_that_again(inputs, unfailed):
    """Its restart files have other plane waves than a restart makes."""
    text = inputs.silicon(calculation="vc-relax", ecut="16.0", conv="1.0d-9",
                          more="&IONS\n/\n&CELL\n  press_conv_thr = 5.0\n/\n",
                          positions="  Si 0.00 0.00 0.00\n  Si 0.26 0.25 0.24",
                          kpoints="automatic\n  3 3 3 1 1 1",
                          system="nosym = .true., noinv = .true.").read_text()
    whole = energies(unfailed(text).read_text())
    process = started(inputs.folder, ["pw.x", "-in", "pw.in"], until=lambda said: (
        "iteration #" in said.partition("Final scf calculation")[2]))
    process.terminate()
    assert process.wait(30) == Exit.INTERRUPTED
    process = started(inputs.folder, ["pw.x", "-in", "pw.in"])
    assert process.wait(120) == 0, _text(inputs.folder / "said")
    changes = [c["changes"] for c in summary(inputs.folder)["steps"][0]["corrections"]]
    assert changes == [["removed: density and wavefunctions of the last SCF, which is done again",
                        "restart_mode: (default) -> restart"]]
    after = energies(_text(inputs.folder / "pw.out"))
    assert len(after) == 2
    assert after == pytest.approx(whole[-2:], abs=1e-6)


@needs_pw
def test_launcher_that_fails_after_the_end_does_not_spoil_the_result(inputs, unfailed):
    outcome, lines = scripted(inputs, "pw.x -in pw.in\nexit 1\n")
    assert outcome.exit_code is Exit.DONE
    assert outcome.steps[0].record.attempts == 1
    assert any("return code 1" in line for line in lines)
    assert "return code 1" in (inputs.folder / "corrections.md").read_text()
    right = energies(unfailed(inputs.silicon_text()).read_text())
    assert energies(_text(inputs.folder / "pw.out")) == pytest.approx(right, abs=1e-5)


def test_run_killed_every_time_is_transient(inputs):
    outcome, _ = scripted(inputs, "kill -9 $$\n")
    assert outcome.exit_code is Exit.TRANSIENT
    assert outcome.failure_id == "QE_KILLED"
    assert outcome.steps[0].record.attempts == 3


@needs_pw
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_is_no_success(inputs):
    text = inputs.silicon().read_text()
    out = inputs.folder / "out"
    out.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(out)],
                             check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        steps = parse_steps(["pw.x", "-in", "pw.in"], inputs.folder)
        outcome = run_input(inputs.folder, steps, load_settings(), load_machine("local"), say=len)
    finally:
        subprocess.run(["umount", str(out)], check=True)
    assert outcome.exit_code is Exit.TRANSIENT
    assert outcome.failure_id == "QE_DISK_FULL"
    assert outcome.steps[0].record.attempts == 1
    assert (inputs.folder / "pw.in").read_text() == text


def test_frozen_code_is_ended_and_named(inputs):
    outcome, _ = scripted(inputs, "echo '     Program PWSCF v.6.7'\nsleep 300 & wait\n",
                          frozen_after=1.0)
    assert outcome.exit_code is Exit.TRANSIENT
    assert outcome.failure_id == "CODE_FROZEN"
    assert outcome.steps[0].record.attempts == 2
    assert processes(inputs.folder) == []


def test_busy_silence_is_not_frozen(inputs):
    outcome, _ = scripted(
        inputs, "echo '     Program PWSCF v.6.7'\ni=0\necho trouble >&2\n"
        "while [ $i -lt 8 ]; do sleep 0.3; echo $i; i=$((i+1)); done\nexit 7\n", frozen_after=1.0)
    assert outcome.failure_id == "CODE_UNKNOWN"
    assert "return code 7" in outcome.message


def test_claim_of_success_without_files_is_refused(inputs):
    done = ("echo '     Program PWSCF v.6.7'\n"
            "echo '!    total energy              =     -15.79449557 Ry'\n"
            "echo '   This run was terminated on:  20:33:50  22Nov2026'\necho\n"
            "echo '=------=';echo '   JOB DONE.';echo '=------='\n")
    outcome, _ = scripted(inputs, done)
    assert outcome.exit_code is Exit.EXHAUSTED
    assert outcome.failure_id == "QE_RESULT_INCOMPLETE"


def test_command_that_is_not_there_is_refused(inputs):
    inputs.silicon()
    steps = parse_steps(["./nothing.sh", "-in", "pw.in"], inputs.folder, "pw.x")
    outcome = run_input(inputs.folder, steps, load_settings(), load_machine("local"), say=len)
    assert outcome.exit_code is Exit.REFUSED
    assert "nothing.sh" in outcome.message


def test_short_job_costs_little_more_than_itself(inputs):
    body = ("sleep 0.3\n"
            "echo '     Program PWSCF v.6.7'\n")
    script = inputs.folder / "bare.sh"
    script.write_text("#!/bin/sh\n" + body)
    script.chmod(0o755)
    scripted(inputs, body)  # imports done

    def bare():
        begin = time.perf_counter()
        subprocess.run([str(script)], check=True, cwd=inputs.folder, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin

    def whole():
        begin = time.perf_counter()
        scripted(inputs, body)
        return time.perf_counter() - begin

    # The best of a few: other work on the machine only ever adds.
    assert min(whole() for _ in range(4)) - min(bare() for _ in range(4)) < 0.3
