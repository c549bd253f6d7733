"""What a run leaves in its folder for people and for the next launch of the same job."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orionflow.launchers.record import Correction, RunRecord  # noqa: TC001  pydantic

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
    notes
        What is odd about a result that passed all checks.
    """

    model_config = ConfigDict(extra="ignore")

    state: Literal["running", "done", "failed", "interrupted"]
    executable: str
    inputs: dict[str, str] = Field(default_factory=dict)
    inputs_now: dict[str, str] = Field(default_factory=dict)
    continued: int = 0
    corrections: list[Correction] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    failure: Failure | None = None
    record: RunRecord | None = None

    def same_inputs(self, inputs: dict[str, str]) -> bool:
        """Whether these are the inputs of that run, as given or as corrected."""
        return bool(inputs) and inputs in (self.inputs, self.inputs_now)


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
