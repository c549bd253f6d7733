"""A code that is asked to stop: when, how, and that the question does not outlive it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from orionflow.launchers.custodian import jobs, lammps_monitor, watch
from orionflow.launchers.custodian.jobs import CodeJob
from orionflow.launchers.custodian.qe_walltime import max_seconds
from orionflow.launchers.custodian.watch import DeadlineMonitor, FrozenMonitor
from orionflow.launchers.stopping import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable
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


@pytest.mark.parametrize("look", [FrozenMonitor, lambda: lammps_monitor.SlowRows(
    lammps_monitor._Watch())], ids=["any code", "LAMMPS"])
def test_code_that_was_held_still_with_its_watcher_is_not_taken_for_frozen(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[], Any]) -> None:
    """The launcher could not reach MongoDB for an hour: it stops all processes of its jobs."""
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
    rows = iter(["Step Temp TotEng\n 0 1.0 -2.0\n", " 10 1.0 -2.0\n", ""])

    def ends_within(process: Any, seconds: float) -> bool:
        if (row := next(rows, None)) is None:
            process.wait()
            return True
        with (tmp_path / "out").open("a") as file:
            file.write(row)
        now[0] += seconds if row else seconds + 3600.0
        return False

    job = CodeJob(["true"], stdout="out", stderr="err", monitors=[look()])
    monkeypatch.setattr(jobs, "_ends_within", ends_within)
    for module in (jobs, watch, lammps_monitor):
        monkeypatch.setattr(module, "time", clock, raising=False)
    job.run(str(tmp_path))
    assert job.stopped_by is None
