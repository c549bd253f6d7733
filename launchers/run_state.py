"""What a run leaves in its folder for people and for the next launch of the same job."""

from __future__ import annotations

import hashlib
import json
import os
import time
from datetime import datetime  # noqa: TC003  pydantic reads it at run time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orionflow.launchers.record import Correction, RunRecord  # noqa: TC001  pydantic
from orionflow.launchers.services.processes import ProcessIdentity

if TYPE_CHECKING:
    from collections.abc import Sequence

RECORD_FILE = "orionflow_run.json"
STORY_FILE = "corrections.md"


class Failure(BaseModel):
    """How a run failed for good.

    Attributes
    ----------
    transient
        Whether the same input may succeed in another launch.
    exhausted
        Whether corrections were tried first.
    """

    model_config = ConfigDict(extra="forbid")

    failure_id: str
    title: str = ""
    evidence: str = ""
    advice: str = ""
    transient: bool = False
    exhausted: bool = False


class RunState(BaseModel):
    """Content of ``orionflow_run.json``.

    Attributes
    ----------
    state
        ``running`` stays behind when the process that ran the code was killed.
    inputs
        sha256 of each input file as it was given, before any correction.
    inputs_now
        The same after the last correction.
    started_at
        When this launch began.
    cores
        Cores it uses.
    earlier_seconds, earlier_core_seconds
        What earlier launches of the same inputs took that did not finish them.
    notes
        What is odd about a result that passed all checks.
    """

    model_config = ConfigDict(extra="ignore")

    state: Literal["running", "done", "failed", "interrupted"]
    executable: str
    inputs: dict[str, str] = Field(default_factory=dict)
    inputs_now: dict[str, str] = Field(default_factory=dict)
    started_at: datetime | None = None
    cores: int = 1
    earlier_seconds: float = 0.0
    earlier_core_seconds: float = 0.0
    continued: int = 0
    corrections: list[Correction] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    failure: Failure | None = None
    record: RunRecord | None = None

    def same_inputs(self, inputs: dict[str, str]) -> bool:
        """Whether these are the inputs of that run, as given or as corrected."""
        return bool(inputs) and inputs in (self.inputs, self.inputs_now)


def spent_before(folder: Path, inputs: dict[str, str]) -> tuple[float, float]:
    """Return what earlier launches of these inputs took that did not finish them.

    Parameters
    ----------
    folder
        Folder of the run, before this launch has written its own state.
    inputs
        sha256 of the input files as they are given now.

    Returns
    -------
    tuple
        Seconds and core-seconds. A launch that was killed wrote no end: the last file it wrote
        tells.
    """
    old = read_state(folder)
    if old is None or old.state == "done" or not old.same_inputs(inputs):
        return 0.0, 0.0
    if old.record is not None:  # holds those before it
        return old.record.wall_seconds, old.record.core_seconds
    seconds = 0.0
    if old.started_at is not None:
        begun = old.started_at.timestamp()
        seconds = max(0.0, _last_written(folder) - begun)
    return old.earlier_seconds + seconds, old.earlier_core_seconds + seconds * old.cores


def _last_written(folder: Path) -> float:
    """Return when anything was last written here before this launch began, unix time."""
    try:
        now = (folder / "FW.json").stat().st_mtime  # the first thing a launch writes
    except OSError:  # started by hand, in a process of its own
        me = ProcessIdentity.of(os.getpid())
        now = time.time() - (me.uptime() if me is not None else 0.0)
    last = 0.0
    for path in folder.rglob("*"):
        try:
            when = path.stat().st_mtime
        except OSError:
            continue
        if last < when < now and path.is_file():
            last = when
    return last


def hash_inputs(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the sha256 of each file that exists."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in names if (folder / name).is_file()}


def read_state(folder: Path, file: str = RECORD_FILE) -> RunState | None:
    """Return what an earlier run left in a folder; None without one, or if it can't be read."""
    try:
        return RunState.model_validate(json.loads((folder / file).read_text()))
    except (OSError, ValueError, ValidationError):
        return None  # cut by a crash or a full disk: as good as none, the run starts afresh


def write_state(folder: Path, state: RunState, file: str = RECORD_FILE) -> None:
    """Write the state, whole or not at all."""
    text = json.dumps(state.model_dump(mode="json"), indent=1)
    part = folder / f".{file}.part"
    part.write_text(text)
    part.replace(folder / file)


def story(state: RunState) -> str:
    """Return ``corrections.md``: what went wrong, what was changed and how it ended."""
    code = Path(state.executable).name
    lines = [f"# Corrections of {code}", ""]
    if state.continued:
        lines += [f"Continues {state.continued} earlier launch(es) of the same input.", ""]
    for item in state.corrections:
        lines += [f"## Attempt {item.attempt}: {item.failure_id}", "",
                  f"Seen: `{item.evidence.strip()}`", ""]
        lines += [f"- changed: {change}" for change in item.changes]
        lines += [f"- input and output of this attempt: `{item.folder}/`", ""]
    if not state.corrections:
        lines += ["No correction was made.", ""]
    lines += ["## Result", ""]
    if state.state == "done":
        attempts = state.record.attempts if state.record else 1
        lines.append(f"Finished; the result passed all checks in attempt {attempts}.")
        lines += [f"\nNote: {note}." for note in state.notes]
    elif state.failure is not None:
        tried = "Corrections did not help" if state.failure.exhausted else "Not corrected"
        lines += [f"Failed: {state.failure.failure_id}, {state.failure.title}.", "",
                  f"Seen: `{state.failure.evidence.strip()}`", "",
                  f"{tried}. What to do: {state.failure.advice}"]
        if state.failure.transient:
            lines += ["", "The cause is outside the input, which may run again unchanged."]
    else:
        lines.append("The run was interrupted.")
    return "\n".join(lines) + "\n"
