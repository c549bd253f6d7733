"""The script that installs Debian packages; its installing part runs on a bare machine only."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install-system.sh"


@pytest.fixture
def machine(tmp_path):
    """Return a function that runs the script where some packages are missing."""

    def run(missing, *, uid, apt="exit 99"):
        policy = tmp_path / "policy-rc.d"
        stubs = {
            "dpkg-query": f'for p; do :; done\ncase " {missing} " in *" $p "*) exit 1;; esac\n'
                          "printf installed",
            "id": f"echo {uid}",
            "apt-get": f'echo "$@" >> "{tmp_path}/calls"; sh "{policy}"; echo "policy $?" '
                       f'>> "{tmp_path}/calls"\n{apt}',
        }
        for name, text in stubs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        return subprocess.run(["sh", SCRIPT], capture_output=True, text=True, check=False,
                              env={**os.environ, "POLICY_RC_D": str(policy),
                                   "PATH": f"{tmp_path}:{os.environ['PATH']}"})

    return run


def test_nothing_missing_is_silent(machine, tmp_path):
    done = machine("", uid=1000)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "calls").exists()


def test_without_root_prints_the_exact_line_and_fails(machine, tmp_path):
    done = machine("lammps munge", uid=1000)
    assert done.returncode == 1
    assert done.stdout == "sudo apt-get install --no-install-recommends lammps munge\n"
    assert not (tmp_path / "calls").exists()


def test_as_root_installs_only_what_is_missing(machine, tmp_path):
    done = machine("lammps munge", uid=0, apt="exit 0")
    assert done.returncode == 0, done.stderr
    update, policy, install, _ = (tmp_path / "calls").read_text().splitlines()
    assert update.endswith("update")
    assert install.endswith("install --no-install-recommends lammps munge")
    assert " -y " in install
    assert policy == "policy 101"  # no service may start meanwhile
    assert not (tmp_path / "policy-rc.d").exists()


def test_failing_installation_shows_why_and_fails(machine):
    done = machine("lammps", uid=0, apt='echo "E: no network" >&2; exit 100')
    assert done.returncode == 1
    assert "E: no network" in done.stderr
