"""What happened to one job: state, place, time, corrections, error and the next step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.analysis.store import queue, reading
from orionflow.errors import InputError
from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.run_state import RECORD_FILE, read_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orionflow.launchers.record import RunRecord
    from orionflow.launchers.run_state import RunState

_IDENTITY = "orionflow"
"""Key under which our launcher leaves its identity in a launch's ``fworker.env``."""


@dataclass
class JobStory:
    """All that is known of one job.

    Attributes
    ----------
    corrections
        Fields of `Correction`, with the ``title`` of the failure added.
    error
        What went wrong for good, or empty.
    next
        What a person does now.
    run
        Fields of `RunRecord`, None when no code ran or none is known.
    history
        How earlier launches ended and who stopped it, one line each, oldest first.
    """

    folder: str | None = None
    fw_id: int | None = None
    name: str = ""
    state: str = ""
    campaign: str | None = None
    host: str | None = None
    slurm_job_id: str | None = None
    launches: int = 0
    uuid: str | None = None
    run: dict[str, Any] | None = None
    corrections: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    next: str = ""
    history: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def job_story(fw_id: int, project: Path | str | None = None) -> JobStory:
    """Return the story of a firework.

    Raises
    ------
    InputError
        There is no such firework.
    ConfigError, StoreError
        No project, or its database can't be read.
    """
    with queue(project) as launchpad:
        firework = launchpad.fireworks.find_one({"fw_id": fw_id})
        if firework is None:
            last = launchpad.fireworks.find_one({}, {"fw_id": 1}, sort=[("fw_id", -1)])
            raise InputError(f"there is no firework {fw_id}", hint=(
                f"ids go from 1 to {last['fw_id']}: lpad get_fws" if last
                else "nothing has been submitted yet"))
        # Where it was cancelled or put back, the last launch is still worth a look.
        launches = firework["launches"] or firework.get("archived_launches") or [None]
        launch = launchpad.launches.find_one({"launch_id": launches[-1]}) or {}
        workflow = launchpad.workflows.find_one(
            {"nodes": fw_id}, {"parent_links": 1, "fw_states": 1}) or {}
    story = JobStory(
        fw_id=fw_id, name=firework["name"], state=firework["state"],
        campaign=firework["spec"].get("campaign"), host=launch.get("host"),
        folder=launch.get("launch_dir"), slurm_job_id=slurm_job(launch),
        launches=len(firework["launches"]) + len(firework.get("archived_launches") or ()),
        uuid=_uuid(firework), history=_history(firework["spec"]),
    )
    state = read_state(Path(story.folder)) if story.folder else None
    document = _document(story, project) if story.state == "COMPLETED" else None
    if document is not None:
        story.run = document
        story.corrections = _titled(document.get("corrections") or [])
        story.slurm_job_id = document.get("slurm_job_id") or story.slurm_job_id
    elif state is not None:
        _take(story, state)
    if story.state == "FIZZLED":
        story.error = story.error or error_line(launch, firework)
    story.next = _next(story, launch, workflow)
    return story


def folder_story(folder: Path) -> JobStory:
    """Return the story of a run's folder, without any database.

    Raises
    ------
    InputError
        No code was run there by us.
    """
    state = read_state(folder)
    if state is None:
        raise InputError(f"{folder} holds no {RECORD_FILE}",
                         hint="give the folder of one run, or a firework: orionflow show -i ID")
    story = JobStory(folder=str(folder.resolve()), name=Path(state.executable).name,
                     state=state.state)
    try:
        written = json.loads((folder / "FW.json").read_text())
        story.fw_id, story.name = written.get("fw_id"), written.get("name") or story.name
        story.campaign = written.get("spec", {}).get("campaign")
    except (OSError, ValueError):
        pass  # a run without FireWorks
    _take(story, state)
    story.next = {
        "done": "nothing: the result passed all checks",
        "running": "it still runs, or was killed together with its launcher: orionflow recover",
        "interrupted": "start it again: it continues from its restart files",
    }.get(state.state, state.failure.advice if state.failure else "")
    return story


def error_line(launch: Mapping[str, Any], firework: Mapping[str, Any]) -> str:
    """Return the error of a fizzled firework in one line.

    A firework whose job can't be decoded fizzles without a launch; FireWorks then leaves the
    reason in its spec.
    """
    data = ((launch.get("action") or {}).get("stored_data") or {})
    exception = data.get("_exception") or {}
    details = exception.get("_details")
    if isinstance(details, dict) and details.get("message"):
        return str(details["message"])
    undecoded = firework["spec"].get("_exception_details") or {}
    trace = str(exception.get("_stacktrace") or data.get("_message")
                or undecoded.get("_stacktrace") or "").strip()
    return trace.splitlines()[-1] if trace else "no error was stored"


def slurm_job(launch: Mapping[str, Any]) -> str | None:
    """Return the Slurm job a launch ran in, or None."""
    env = (launch.get("fworker") or {}).get("env") or {}
    found = (env.get(_IDENTITY) or {}).get("slurm_job_id")
    return str(found) if found else None


def describe(correction: Mapping[str, Any]) -> str:
    """Return one correction in words."""
    changes = "; ".join(correction["changes"])
    seen = " ".join(correction.get("evidence", "").split())
    return (f"attempt {correction['attempt']}: {correction.get('title') or ''} "
            f"({correction['failure_id']})" + (f", seen in {seen!r}" if seen else "")
            + f"; changed: {changes}")


def _take(story: JobStory, state: RunState) -> None:
    record: RunRecord | None = state.record
    story.run = record.model_dump(mode="json") if record else None
    story.corrections = _titled([c.model_dump(mode="json") for c in state.corrections])
    if record is not None:
        story.host = story.host or record.hostname
        story.slurm_job_id = story.slurm_job_id or record.slurm_job_id
    if state.failure is not None:
        story.error = f"{state.failure.failure_id}: {state.failure.title}"
        if state.failure.evidence:
            story.error += f" ({state.failure.evidence})"


def _titled(corrections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for item in corrections:
        mode = CATALOGUE.get(item["failure_id"])
        item["title"] = mode.title if mode else ""
    return corrections


def _document(story: JobStory, project: Path | str | None) -> dict[str, Any] | None:
    """Return the stored run record of a completed job."""
    if story.uuid is None:
        return None
    with reading(project) as store:
        found = store.docs_store.query_one(
            {"uuid": story.uuid, "metadata.fw_id": story.fw_id,
             "output.provenance.run": {"$exists": True}},
            properties=["output.provenance.run"], sort={"completed_at": -1})
    if found is None:
        return None  # a job that ran no code
    # As in the folder's record: times as text.
    return {key: value.isoformat() if isinstance(value, datetime) else value
            for key, value in found["output"]["provenance"]["run"].items()}


def _uuid(firework: Mapping[str, Any]) -> str | None:
    for task in firework["spec"].get("_tasks", ()):
        if isinstance(task.get("job"), dict):
            return str(task["job"].get("uuid"))
    return None


def _next(story: JobStory, launch: Mapping[str, Any], workflow: Mapping[str, Any]) -> str:
    fw_id = story.fw_id
    if story.state == "COMPLETED":
        return (f"python: from orionflow.analysis.tables import results; "
                f"results({{'uuid': '{story.uuid}'}})") if story.run else ""
    if story.state == "FIZZLED":
        data = ((launch.get("action") or {}).get("stored_data") or {})
        details = (data.get("_exception") or {}).get("_details") or {}
        hint = details.get("hint") if isinstance(details, dict) else None
        again = f"then run it again: lpad rerun_fws -i {fw_id}"
        first = hint or (f"read {story.folder}" if story.folder else "correct the cause")
        return f"{first}; {again}"
    if story.state == "WAITING":
        states = workflow.get("fw_states", {})
        parents = workflow.get("parent_links", {}).get(str(fw_id), [])
        listed = ", ".join(f"{p} {states.get(str(p), '')}".strip() for p in parents)
        return f"it waits for {listed}"
    if story.state in {"RUNNING", "RESERVED"}:
        history = launch.get("state_history") or [{}]
        seen = history[-1].get("updated_on") or history[-1].get("created_on")
        age = _age(seen)
        return f"last sign of life {age} ago" if age else ""
    return {
        "READY": "it waits for a worker: orionflow launch, or cron; orionflow doctor tells whether "
                 "one takes it",
        "DEFUSED": f"orionflow resume --cancelled -i {fw_id} makes it ready again",
        "PAUSED": f"orionflow resume -i {fw_id} makes it ready again",
        "ARCHIVED": "it was deleted by lpad; submit it again",
    }.get(story.state, "")


def _history(spec: Mapping[str, Any]) -> list[str]:
    """Return what retries and cancellations left in a spec."""
    from orionflow.launchers.cancel import CANCELLED_KEY, CancelRequest
    from orionflow.launchers.retry import RETRIES_KEY

    lines: list[tuple[str, str]] = []
    told = spec.get(RETRIES_KEY)
    for entry in (told.get("history") or ()) if isinstance(told, dict) else ():
        changed = f"; again with {entry['changed']}" if entry.get("changed") else "; put back"
        lines.append((str(entry.get("at", "")), f"{entry.get('reason', '')}{changed}"))
    if isinstance(spec.get(CANCELLED_KEY), dict):
        request = CancelRequest.from_dict(spec[CANCELLED_KEY])
        lines.append((request.at, request.describe()))
    return [f"{at[:19].replace('T', ' ')} {text}" for at, text in sorted(lines)]


def _age(value: Any) -> str:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return ""
    then = value if value.tzinfo else value.replace(tzinfo=UTC)
    return f"{(datetime.now(UTC) - then).total_seconds():.0f} s"
