"""Slurm's answers, captured from slurm-wlm 22.05.8 on a private cluster of two virtual nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orionflow.errors import OutputError
from orionflow.launchers import slurm
from orionflow.launchers.slurm import STATES, Fate, fate

DATA = Path(__file__).parents[1] / "data" / "slurm" / "22.05.8"


def read(name):
    return (DATA / name).read_text()


def test_sbatch_answer_gives_the_job_id_with_and_without_parsable():
    assert slurm.parse_sbatch(read("sbatch.txt").splitlines()[0]) == "3"
    assert slurm.parse_sbatch(read("sbatch_parsable.txt")) == "7"
    # Documented in sbatch(1), --parsable: "job id number and the cluster name, if present".
    assert slurm.parse_sbatch("42;cluster\n") == "42"
    assert slurm.parse_sbatch("Submitted batch job 42 on cluster big\n") == "42"


def test_sbatch_answer_without_job_id_is_an_error():
    with pytest.raises(OutputError, match="without a job id"):
        slurm.parse_sbatch("sbatch: error: Batch job submission failed: 3 nodes\n")


def test_squeue_answer_gives_jobs_even_with_bars_in_their_names():
    jobs = slurm.parse_squeue(read("squeue.txt"))
    assert [(j.job_id, j.state, j.name) for j in jobs[:2]] == [
        ("3", "PENDING", "a|b=c"), ("4", "PENDING", "a|b=c")]
    assert (jobs[-1].name, jobs[-1].fate) == ("orionflow", Fate.ALIVE)
    assert jobs[0].fate is Fate.WAITING
    assert len(jobs) == 7


def test_scontrol_answer_survives_blanks_quotes_and_equal_signs_in_values():
    job = slurm.parse_scontrol(read("scontrol_running.txt"))
    assert (job.job_id, job.state, job.name, job.restarts) == ("1", "RUNNING", "orionflow", 0)
    assert job.end == slurm.parse_time("2026-11-22T21:26:47")
    cancelled = slurm.parse_scontrol(read("scontrol_cancelled.txt"))
    assert (cancelled.name, cancelled.fate) == ("a|b=c", Fate.OVER)


def test_sacct_answer_gives_how_each_job_ended():
    jobs = {j.job_id: j for j in slurm.parse_sacct(read("sacct.txt"))}
    assert [jobs[n].state.split()[0] for n in "1234"] == [
        "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"]
    assert {j.fate for j in jobs.values()} == {Fate.OVER}
    assert jobs["3"].name == "a|b=c"
    assert jobs["1"].end is not None


@pytest.mark.parametrize(("state", "meaning"), [
    ("RUNNING", Fate.ALIVE), ("COMPLETING", Fate.ALIVE), ("CANCELLED by 1000", Fate.OVER),
    ("CANCELLED+", Fate.OVER), ("REQUEUED", Fate.WAITING), ("node_fail", Fate.OVER),
    ("A_STATE_OF_TOMORROW", Fate.UNKNOWN), ("", Fate.UNKNOWN),
])
def test_a_state_means_one_thing_and_a_new_one_is_unknown(state, meaning):
    assert fate(state) is meaning


def test_no_state_in_the_table_is_unknown():
    assert Fate.UNKNOWN not in STATES.values()


@pytest.mark.parametrize("parse", [slurm.parse_squeue, slurm.parse_sacct])
def test_other_columns_are_an_error_that_shows_the_line(parse):
    with pytest.raises(OutputError, match="slurm_load_jobs"):
        parse("slurm_load_jobs error: Unable to contact slurm controller\n")


@given(st.integers(min_value=0, max_value=10**7))
def test_walltime_is_read_back_as_written(seconds):
    from orionflow.launchers.resources import parse_walltime

    assert parse_walltime(slurm.format_walltime(seconds)) == seconds


@pytest.mark.parametrize(("text", "cores"), [
    ("72(x2),36", [72, 72, 36]), ("2", [2]), ("4(x1)", [4])])
def test_cores_of_each_node(text, cores):
    assert slurm.parse_cpus_per_node(text) == cores


def test_odd_cores_are_an_error():
    with pytest.raises(OutputError, match="SLURM_JOB_CPUS_PER_NODE"):
        slurm.parse_cpus_per_node("many")


def test_commands_are_argument_lists():
    assert slurm.sbatch_command("a b's.sh") == ["sbatch", "--parsable", "a b's.sh"]
    assert slurm.squeue_command(["1", "2"], program="/x y/squeue")[-1] == "--jobs=1,2"
    assert slurm.squeue_command(user="ann")[-1] == "--user=ann"
    assert slurm.scancel_command(["7"]) == ["scancel", "7"]
    assert slurm.scancel_command(["7"], signal="USR1") == ["scancel", "--batch", "--signal=USR1",
                                                           "7"]
    assert slurm.scontrol_command("7") == ["scontrol", "--oneliner", "show", "job", "7"]
    assert slurm.sacct_command(["7"])[-1] == "--jobs=7"
