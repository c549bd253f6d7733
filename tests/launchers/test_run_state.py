"""What earlier launches of the same run have spent."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path  # noqa: TC003  used at run time by pytest's tmp_path

import pytest

from orionflow.launchers.record import RunRecord
from orionflow.launchers.run_state import RunState, hash_inputs, spent_before, write_state

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a launch of 4 cores that was killed 100 s after it began."""
    (tmp_path / "in").write_text("1")
    (tmp_path / "out").mkdir()
    for name, seconds in (("in", -5), ("log", 40), ("out/restart", 100), ("FW.json", 500),
                          ("new", 501)):
        path = tmp_path / name
        path.touch()
        when = (BEGUN + timedelta(seconds=seconds)).timestamp()
        os.utime(path, (when, when))
    keep(tmp_path, RunState(state="running", executable="/lmp", inputs=inputs(tmp_path),
                            started_at=BEGUN, cores=4, earlier_seconds=7,
                            earlier_core_seconds=14))
    return tmp_path


def inputs(folder: Path) -> dict[str, str]:
    return hash_inputs(folder, ["in"])


def keep(folder: Path, state: RunState) -> None:
    write_state(folder, state)
    when = BEGUN.timestamp()
    os.utime(folder / "orionflow_run.json", (when, when))


def test_spent_before_of_a_killed_launch_lasts_to_its_last_file(folder: Path) -> None:
    assert spent_before(folder, inputs(folder)) == (107, 414)


def test_spent_before_of_a_stopped_launch_is_in_its_record(folder: Path) -> None:
    record = RunRecord(executable="/lmp", command=[], hostname="h", started_at=BEGUN,
                       finished_at=BEGUN, wall_seconds=12, core_seconds=24, attempts=1)
    state = RunState(state="interrupted", executable="/lmp", inputs=inputs(folder), record=record)
    keep(folder, state)
    assert spent_before(folder, inputs(folder)) == (12, 24)
    state.state = "done"  # another run of the same input, asked for
    keep(folder, state)
    assert spent_before(folder, inputs(folder)) == (0, 0)


def test_spent_before_knows_nothing_of_other_inputs_and_older_states(folder: Path) -> None:
    assert spent_before(folder, {"in": "other"}) == (0, 0)
    keep(folder, RunState(state="running", executable="/lmp", inputs=inputs(folder)))
    assert spent_before(folder, inputs(folder)) == (0, 0)
