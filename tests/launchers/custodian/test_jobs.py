"""A code that is asked to stop: when, how, and that the question does not outlive it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from orionflow.launchers.custodian.jobs import CodeJob
from orionflow.launchers.custodian.qe_walltime import max_seconds
from orionflow.launchers.custodian.watch import DeadlineMonitor
from orionflow.launchers.stopping import Stopped

if TYPE_CHECKING:
    from pathlib import Path

LISTENER = "echo $0; while [ ! -e pw.EXIT ]; do sleep 0.02; done; echo saved"


@dataclass
class Interrupting:
    """Does what a signal of the launcher does, as soon as the code has printed something."""

    grace_of_stop: float
    failure_id: str = "QE_KILLED"

    def look(self, job: CodeJob, folder: Path) -> str | None:
        if job.output_size(folder):
            raise Stopped("time is over", self.grace_of_stop)
        return None

    def grace(self) -> float:
        return 0.0


@pytest.mark.parametrize(("says", "grace", "kept"), [
    ("Calculation", 30.0, True), ("Reading input", 30.0, False), ("Calculation", 0.0, False)])
def test_code_is_asked_where_it_listens_and_given_time(
        tmp_path: Path, says: str, grace: float, *, kept: bool) -> None:
    (tmp_path / "pw.EXIT").touch()  # of an earlier run: it must not end this one at once
    job = CodeJob(["sh", "-c", LISTENER, says], stdout="out", stderr="err",
                  monitors=[Interrupting(grace)], stop_file="pw.EXIT",
                  listens_after="^Calculation")
    with pytest.raises(Stopped) as stopped:
        job.run(str(tmp_path))
    assert stopped.value.kept == kept
    assert (tmp_path / "out").read_text() == f"{says}\n" + ("saved\n" if kept else "")
    assert not (tmp_path / "pw.EXIT").exists()
    assert job.process is not None
    assert job.process.poll() is not None


@pytest.mark.parametrize("left", [5.0, 7.0, 20.0, 3600.0])
def test_clock_of_pw_comes_before_ours_also_in_short_slices(left: float) -> None:
    assert 0.3 * left < max_seconds(left) < left - DeadlineMonitor(0.0, "QE_WALLTIME").margin
