"""How workflows ended: what each cost, and which failures a new try may cure.

Read from FireWorks' own documents, whoever ran them: a job is COMPLETED, or it has no result.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.run_state import read_state
from orionflow.launchers.spending import COST_FIELDS, SET_ASIDE, USED_UP, core_seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jobflow import JobStore
    from pymongo.database import Database

# The place is a field of its own; without it equal failures have equal words.
_IN_FOLDER = re.compile(r" \(folder [^()]*\)$")
_ACTIVE = ("READY", "RESERVED", "RUNNING")
_STARTED = ("RESERVED", "RUNNING")
_UNCONVERGED = frozenset({
    "QE_SCF_NOT_CONVERGED", "QE_SCF_PRETENDED", "QE_BANDS_NOT_CONVERGED", "QE_NSTEP",
    "QE_RELAX_UNFINISHED", "QE_FORCES_NOT_CONVERGED", "PH_NOT_CONVERGED", "LAMMPS_MIN_STEPS",
    "LAMMPS_MIN_LINESEARCH", "LAMMPS_MIN_ENERGY_TOLERANCE",
})


class FailureKind(StrEnum):
    """What a failure says of a candidate.

    INFRASTRUCTURE: nothing; a new try may succeed. UNFINISHED: the core-hours set aside for it did
    not suffice; with more it goes on. UNCONVERGED: the code did not reach what was asked of it,
    though corrected. HOPELESS: the input itself can't work.
    """

    INFRASTRUCTURE = "infrastructure"
    UNFINISHED = "unfinished"
    UNCONVERGED = "unconverged"
    HOPELESS = "hopeless"


@dataclass(frozen=True)
class FailedJob:
    """One job of a workflow that is FIZZLED.

    Attributes
    ----------
    launch_id
        Its last launch; None when it could not even be decoded.
    failure_id
        Name in the failure catalogue, or empty.
    message
        One line.
    corrections
        How many changes Custodian had made before.
    continued
        It had got further in each of some launches since a person or a campaign last had it run.
    """

    fw_id: int
    name: str
    launch_id: int | None
    folder: str | None
    kind: FailureKind
    failure_id: str
    message: str
    corrections: int = 0
    continued: bool = False

    @property
    def may_succeed(self) -> bool:
        """Whether another try has a sense."""
        return self.kind in {FailureKind.INFRASTRUCTURE, FailureKind.UNFINISHED}

    def describe(self) -> str:
        """Return kind, name of the failure and message in one line."""
        after = (f" after {self.corrections} correction(s)"
                 if self.corrections and "correction(s)" not in self.message else "")
        what = f"{self.failure_id}: " if self.failure_id and self.failure_id not in self.message \
            else ""
        return f"{self.kind}{after}: {what}{self.message}"


@dataclass
class Fate:
    """Where a workflow stands.

    Attributes
    ----------
    states
        State of each firework.
    spent
        Core-seconds of each: all its launches so far, failed ones included, each with the ranks and
        threads it had.
    set_aside
        Core-seconds each may take at most, where that was said.
    failed
        Its FIZZLED jobs.
    """

    states: dict[int, str]
    spent: dict[int, float] = field(default_factory=dict)
    set_aside: dict[int, int] = field(default_factory=dict)
    failed: list[FailedJob] = field(default_factory=list)

    @property
    def core_seconds(self) -> int:
        """Core-seconds of all its jobs so far."""
        # Rounded first: a sum of what was granted may miss a whole number by its last digit.
        return math.ceil(round(sum(self.spent.values()), 3))

    @property
    def state(self) -> str:
        """RUNNING, READY (nothing started), COMPLETED, FIZZLED, DEFUSED, PAUSED or WAITING."""
        states = set(self.states.values())
        if states & set(_ACTIVE):
            return "RUNNING" if states & {*_STARTED, "COMPLETED"} else "READY"
        for state in ("FIZZLED", "DEFUSED", "ARCHIVED", "PAUSED"):
            if state in states:
                return "DEFUSED" if state == "ARCHIVED" else state
        return "COMPLETED" if states == {"COMPLETED"} else "WAITING"


def fates(db: Database[Any], keys: Iterable[str]) -> dict[str, Fate]:
    """Return where the workflows with these submission keys stand; absent ones are left out.

    Parameters
    ----------
    db
        The project's database.
    keys
        As given to `submit`.
    """
    wanted = list(keys)
    nodes = _nodes(db, wanted)
    fields = {"fw_id": 1, "name": 1, "state": 1, "launches": 1, "spec.resources": 1,
              "spec._exception_details": 1, f"spec.{SET_ASIDE}": 1, "spec._continued": 1}
    while True:
        fireworks = {fw["fw_id"]: fw for fw in db.fireworks.find({"fw_id": {"$in": list(nodes)}},
                                                                 fields)}
        # A job that makes others ends only after they are in its workflow: had it ended meanwhile,
        # it would look as if it were all there is.
        if (later := _nodes(db, wanted)) == nodes:
            break
        nodes = later
    found = {key: Fate({}) for key in nodes.values()}
    for fw_id, fw in fireworks.items():
        fate, allowed = found[nodes[fw_id]], (fw.get("spec") or {}).get(SET_ASIDE)
        fate.states[fw_id] = fw["state"]
        if isinstance(allowed, int):
            fate.set_aside[fw_id] = allowed
    for fw_id, spent in _costs(db, fireworks).items():
        found[nodes[fw_id]].spent[fw_id] = spent
    _add_failures(db, fireworks, nodes, found)
    return found


def _nodes(db: Database[Any], keys: list[str]) -> dict[int, str]:
    """Return the submission key of each firework of these workflows."""
    return {fw_id: wf["metadata"]["submit_key"] for wf in db.workflows.find(
        {"metadata.submit_key": {"$in": keys}}, {"nodes": 1, "metadata.submit_key": 1})
        for fw_id in wf["nodes"]}


def result(store: JobStore, uuid: str, fw_ids: Sequence[int], paths: Sequence[str]
           ) -> dict[str, Any] | None:
    """Return the result of a job, as far as the paths go; None when there is none.

    Parameters
    ----------
    store
        The project's, open.
    uuid
        Id of the job. Of a job that was replaced while it ran, the last replacement counts.
    fw_ids
        Fireworks it may have run in: a document of any other run is not this job's result.
    paths
        Dotted paths in the result that are wanted.
    """
    properties = ["uuid", "index", "metadata.fw_id", *{f"output.{_plain_part(p)}" for p in paths}]
    document = store.docs_store.query_one(
        {"uuid": uuid, "metadata.fw_id": {"$in": list(fw_ids)}}, properties=properties,
        sort={"index": -1})
    if document is None:
        return None
    output = document.get("output")
    return output if isinstance(output, dict) else {}


def _plain_part(path: str) -> str:
    """Return the path up to the first number: MongoDB projects no single elements of lists."""
    parts: list[str] = []
    for part in path.split("."):
        if part.isdigit():
            break
        parts.append(part)
    return ".".join(parts)


def spent_by(db: Database[Any], fw_ids: Iterable[int]) -> dict[int, float]:
    """Return the core-seconds each of these fireworks has taken in all its launches."""
    return _costs(db, {fw["fw_id"]: fw for fw in db.fireworks.find(
        {"fw_id": {"$in": list(fw_ids)}},
        {"fw_id": 1, "spec.resources": 1, f"spec.{SET_ASIDE}": 1})})


def _costs(db: Database[Any], fireworks: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    spent = dict.fromkeys(fireworks, 0.0)
    for launch in db.launches.find({"fw_id": {"$in": list(fireworks)}}, COST_FIELDS):
        fw_id = launch["fw_id"]
        spent[fw_id] += core_seconds_of(launch, fireworks[fw_id].get("spec") or {})
    return spent


def _add_failures(db: Database[Any], fireworks: Mapping[int, Mapping[str, Any]],
                  nodes: Mapping[int, str], found: Mapping[str, Fate]) -> None:
    fizzled = {i: fw for i, fw in fireworks.items() if fw["state"] == "FIZZLED"}
    last = [fw["launches"][-1] for fw in fizzled.values() if fw.get("launches")]
    launches = {item["launch_id"]: item for item in db.launches.find(
        {"launch_id": {"$in": last}},
        {"launch_id": 1, "launch_dir": 1, "action.stored_data": 1})} if last else {}
    for fw_id, fw in sorted(fizzled.items()):
        launch = launches.get(fw["launches"][-1], {}) if fw.get("launches") else {}
        found[nodes[fw_id]].failed.append(judge(fw, launch))


def judge(firework: Mapping[str, Any], launch: Mapping[str, Any]) -> FailedJob:
    """Return what a FIZZLED firework died of.

    Parameters
    ----------
    firework, launch
        Documents of the firework and of its last launch (empty when there was none).
    """
    stored = (launch.get("action") or {}).get("stored_data") or {}
    exception = stored.get("_exception") or {}
    undecoded = (firework.get("spec") or {}).get("_exception_details") or {}
    details = exception.get("_details")
    details = details if isinstance(details, dict) else {}
    folder = launch.get("launch_dir")
    state = read_state(Path(folder)) if folder else None
    failure = state.failure if state is not None and details.get("failure_id") else None
    failure_id = str(details.get("failure_id") or "")
    trace = str(exception.get("_stacktrace") or undecoded.get("_stacktrace") or "").strip()
    message = str(details.get("message") or (trace.splitlines()[-1] if trace else "")
                  or stored.get("_message") or "it ended without a word (node or launcher lost)")
    mode = CATALOGUE.get(failure_id)
    if details.get(USED_UP):
        kind = FailureKind.UNFINISHED
    elif failure_id in _UNCONVERGED:
        kind = FailureKind.UNCONVERGED
    elif (details.get("transient") or (mode is not None and mode.transient)
          or (failure is not None and failure.transient) or (not exception and not undecoded)):
        # Without an exception the job did not fail: whoever ran it disappeared.
        kind = FailureKind.INFRASTRUCTURE
    else:
        kind = FailureKind.HOPELESS
    return FailedJob(
        fw_id=int(firework["fw_id"]), name=str(firework.get("name", "")),
        launch_id=launch.get("launch_id"), folder=folder, kind=kind, failure_id=failure_id,
        message=_IN_FOLDER.sub("", " ".join(message.split()))[:500],
        corrections=len(state.corrections) if state is not None else 0,
        continued=bool((firework.get("spec") or {}).get("_continued")))
