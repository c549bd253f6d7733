"""The story of a run in plain words, with the next step for a person."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from orionflow.errors import InputError
from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.run_state import RECORD_FILE, RunState, read_state
from orionflow.settings import find_project


def explain_folder(folder: Path) -> str:
    """Return what happened in the folder of a run.

    Raises
    ------
    InputError
        Nothing was run there.
    """
    summary = folder / "run_input.json"
    if summary.is_file():
        try:
            data: dict[str, Any] = json.loads(summary.read_text())
        except ValueError as error:
            raise InputError(f"{summary} is damaged: {error}") from error
        parts = [_tell(RunState.model_validate(step)) for step in data.get("steps", [])]
        parts.append(f"In the end: {data['message']}." if data["exit_code"] == 0 else
                     f"In the end: {data['failure_id']}: {data['message']}")
        if data.get("hint"):
            parts.append(f"What to do: {data['hint']}")
        return "\n\n".join(parts)
    state = read_state(folder)
    if state is None:
        raise InputError(f"no {RECORD_FILE} in {folder}",
                         hint="give the folder in which the code ran")
    return _tell(state)


def explain_firework(fw_id: int) -> str:
    """Return what happened in the last launch of a firework.

    Raises
    ------
    InputError
        There is no such firework, or it has not been launched.
    """
    from orionflow.launchers.launchpad import open_launchpad

    with closing(open_launchpad(find_project() or Path.cwd())) as pad:
        try:
            firework = pad.get_fw_by_id(fw_id)
        except ValueError as error:
            raise InputError(f"no firework {fw_id}", hint="`lpad get_fws` lists them") from error
    lines = [f"Firework {fw_id}, {firework.name}: {firework.state}."]
    launches = [*firework.archived_launches, *firework.launches]
    if not launches:
        return "\n".join([*lines, "It has not been launched."])
    launch = launches[-1]
    lines.append(f"{len(launches)} launch(es); the last one on {launch.host} in "
                 f"{launch.launch_dir}.")
    folder = Path(launch.launch_dir)
    if (folder / RECORD_FILE).is_file():
        lines += ["", explain_folder(folder)]
    elif launch.action is not None and "_exception" in (launch.action.stored_data or {}):
        stack = str(launch.action.stored_data["_exception"].get("_stacktrace", "")).strip()
        lines += ["", "It stopped with:", stack.splitlines()[-1] if stack else "an exception"]
    return "\n".join(lines)


def _tell(state: RunState) -> str:
    code = Path(state.executable).name
    lines = []
    if state.record is not None:
        attempts = f"{state.record.attempts} attempt{'s' if state.record.attempts > 1 else ''}"
        lines.append(f"{code} ran on {state.record.hostname} in {attempts}, "
                     f"{state.record.wall_seconds:.1f} s: {' '.join(state.record.command)}")
    if state.continued:
        lines.append(f"It went on from {state.continued} earlier launch(es).")
    for item in state.corrections:
        title = CATALOGUE[item.failure_id].title if item.failure_id in CATALOGUE else ""
        lines.append(f"Attempt {item.attempt} failed: {title or item.failure_id} "
                     f"({item.failure_id}).")
        lines.append(f"  seen: {item.evidence}")
        lines += [f"  changed: {change}" for change in item.changes]
        lines.append(f"  kept in: {item.folder}/")
    if state.state == "done":
        lines.append("The result passed all checks.")
    elif state.failure is not None:
        failure = state.failure
        lines += [f"It failed for good: {failure.title} ({failure.failure_id}).",
                  f"  seen: {failure.evidence}", f"  what to do: {failure.advice}"]
        if failure.transient:
            lines.append("  The input is not at fault: it may run again unchanged.")
    else:
        lines.append("It did not come to its end: its process was killed or still runs.")
    return "\n".join(lines)
