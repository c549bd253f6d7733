"""`orionflow run-input` and `orionflow explain` as a user types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ORIONFLOW = str(Path(sys.executable).with_name("orionflow"))
INPUT = """&control
  prefix = 'si', pseudo_dir = '/usr/share/espresso/pseudo', outdir = './out'
/
&system
  ibrav = 2, celldm(1) = 10.2, nat = 2, ntyp = 1, ecutwfc = 12.0
/
&electrons
  electron_maxstep = 4   ! too few
  conv_thr = 1d-8
/
ATOMIC_SPECIES
 Si 28.086 Si.pz-vbc.UPF
ATOMIC_POSITIONS alat
 Si 0 0 0
 Si 0.25 0.25 0.25
K_POINTS automatic
 2 2 2 1 1 1
"""


def orionflow(*words):
    return subprocess.run([ORIONFLOW, *words], capture_output=True, text=True, check=False)


@pytest.mark.needs_code("pw.x", "mpirun")
def test_run_input_heals_and_explains(tmp_path):
    (tmp_path / "pw.in").write_text(INPUT)
    done = orionflow("run-input", str(tmp_path), "--", "mpirun", "-np", "2", "--oversubscribe",
                     "pw.x", "-in", "pw.in")
    assert done.returncode == 0, done.stderr
    assert "QE_SCF_NOT_CONVERGED: convergence NOT achieved after   4 iterations" in done.stdout
    assert "electron_maxstep: 4 -> " in done.stdout
    assert "all checks passed after 1 correction(s)" in done.stdout
    assert "! too few" in (tmp_path / "pw.in").read_text()
    told = orionflow("explain", str(tmp_path))
    assert told.returncode == 0
    assert "the SCF cycle did not converge (QE_SCF_NOT_CONVERGED)" in told.stdout


def test_refused_input_says_why(tmp_path):
    (tmp_path / "pw.in").write_text(INPUT.replace("ecutwfc", "ecutwfx"))
    done = orionflow("run-input", str(tmp_path), "--", "true", "-in", "pw.in", "pw.x")
    assert done.returncode == 4
    assert "ecutwf" in done.stderr
    assert "QE_INPUT_NAMELIST" in done.stderr
    assert "QE_INPUT_NAMELIST" in (tmp_path / "corrections.md").read_text()
    assert "QE_INPUT_NAMELIST" in orionflow("explain", str(tmp_path)).stdout


@pytest.mark.parametrize("words", [
    ["run-input", "nowhere", "--", "pw.x", "-in", "pw.in"], ["run-input", ".", "--", "pw.x"],
    ["explain"],
])
def test_wrong_use_exits_2(words):
    assert orionflow(*words).returncode == 2


def test_explain_of_an_empty_folder_names_it(tmp_path):
    done = orionflow("explain", str(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
