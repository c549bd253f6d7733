from __future__ import annotations

import subprocess

import pytest

pytestmark = [pytest.mark.needs_slurm, pytest.mark.needs_mongod]


def test_stock_qlaunch_submits_to_the_private_slurm(slurm_project, wait_until):
    done = subprocess.run([".orionflow/slurm/bin/sbatch", "--wrap", "srun -n2 hostname", "-n2"], capture_output=True, text=True)
    assert done.stdout.startswith("Submitted"), done
