"""Job scripts as FireWorks writes them from our queue adapter: golden one, awkward paths."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter

from orionflow.errors import ConfigError
from orionflow.launchers.machine import load_machine
from orionflow.launchers.resources import Resources
from orionflow.launchers.sbatch import launch_line, qadapter_config, queueadapter_spec

GOLDEN = Path(__file__).parents[1] / "data" / "sbatch" / "example-cluster.script"


def script(config):
    return CommonAdapter.from_dict(dict(config)).get_script_str("/anywhere")


def test_script_for_a_big_cluster_is_the_golden_one():
    config = qadapter_config(load_machine("example-cluster"), Path("/home/ann/campaign one"))
    text = script(config).replace(shlex.quote(str(Path(sys.executable).with_name("orionflow"))),
                                  "/home/ann/venv/bin/orionflow")
    assert text == GOLDEN.read_text()


def test_every_key_has_a_place_in_the_template(recwarn):
    script(qadapter_config(load_machine("example-cluster"), Path("/p")))
    assert not [w for w in recwarn if "not present in template" in str(w.message)]


@pytest.mark.parametrize("name", ["plain", "pro ject's", "a'; echo foo", 'dou"ble', "$HOME `x` \\"])
def test_awkward_project_paths_arrive_whole_in_the_job(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    config = qadapter_config(load_machine("local"), folder)
    config["rocket_launch"] = 'printf %s "$ORIONFLOW_PROJECT|$JOBFLOW_CONFIG_FILE"'
    (folder / "script").write_text(script(config))
    done = subprocess.run(["bash", str(folder / "script")], cwd=folder, text=True,
                          capture_output=True, check=True)
    assert done.stdout.endswith(f"{folder}|{folder}/jobflow.yaml")
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["a$$b", "a\nb"])
def test_paths_that_no_script_can_hold_are_refused(name):
    with pytest.raises(ConfigError, match="can't hold the project path"):
        qadapter_config(load_machine("local"), Path("/home") / name)


def test_launch_line_suits_reserved_mode():
    assert "singleshot" in launch_line()
    assert launch_line().startswith("exec ")


def test_one_jobs_own_allocation_replaces_the_profiles():
    config = qadapter_config(load_machine("example-cluster"), Path("/p"))
    config.update(queueadapter_spec(Resources(nodes=1, ranks=32, threads=4, memory=64000,
                                              walltime=7200)))
    lines = script(config).splitlines()
    assert "#SBATCH --ntasks=32" in lines
    assert "#SBATCH --cpus-per-task=4" in lines
    assert "#SBATCH --mem=64000M" in lines
    assert "#SBATCH --time=02:03:00" in lines
    assert not [line for line in lines if "ntasks-per-node" in line]


def test_own_allocation_is_never_longer_than_the_machine_allows():
    assert queueadapter_spec(Resources(walltime=86400), 86400)["walltime"] == "1-00:00:00"


def test_private_slurm_of_the_project_is_used_when_there_is_one(tmp_path):
    assert "_q_commands_override" not in qadapter_config(load_machine("local"), tmp_path)
    own = tmp_path / ".orionflow" / "slurm" / "bin"
    own.mkdir(parents=True)
    (own / "sbatch").touch()
    config = qadapter_config(load_machine("local"), tmp_path)
    assert config["_q_commands_override"] == {"submit_cmd": str(own / "sbatch"),
                                              "status_cmd": str(own / "squeue")}


@pytest.mark.filterwarnings("ignore:Key")  # the little template has no place for most
def test_a_template_of_the_project_wins(tmp_path):
    (tmp_path / "slurm.tmpl").write_text("#!/bin/sh\n$${rocket_launch}\n")
    assert script(qadapter_config(load_machine("local"), tmp_path)).startswith("#!/bin/sh\nexec ")
