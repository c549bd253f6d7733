"""The story of a firework, told from the database and the folder of its launch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = "from orionflow.launchers.qe import run_pw; run_pw('.')"


def call(program, *words):
    """Run a program beside this interpreter in the project, which is the current folder."""
    return subprocess.run([str(Path(sys.executable).with_name(program)), *words],
                          capture_output=True, text=True, check=False)


@pytest.mark.needs_mongod
@pytest.mark.needs_code("pw.x", "mpirun")
def test_firework_is_explained(launchpad, inputs):
    from fireworks import Firework, Workflow
    from fireworks.user_objects.firetasks.script_task import ScriptTask

    inputs.silicon(electrons="electron_maxstep = 4")
    task = ScriptTask.from_str(f'{sys.executable} -c "{RUN}"', {"use_shell": True})
    ids = launchpad.add_wf(Workflow([Firework(task, name="silicon",
                                              spec={"_launch_dir": str(inputs.folder)})]))
    fw_id = str(next(iter(ids.values())))
    missing = call("orionflow", "explain", "-i", "999")
    assert missing.returncode == 1
    assert "no firework 999" in missing.stderr
    assert "has not been launched" in call("orionflow", "explain", "-i", fw_id).stdout
    launched = call("rlaunch", "singleshot", "-f", fw_id)
    told = call("orionflow", "explain", "-i", fw_id).stdout
    assert "silicon: COMPLETED" in told, launched.stdout + launched.stderr
    assert "QE_SCF_NOT_CONVERGED" in told
    assert "electron_maxstep: 4 -> " in told
