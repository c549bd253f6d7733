"""Results and jobs of a project as DataFrames."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import pandas as pd

from orionflow.analysis.store import queue, reading

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_RUN = "output.provenance.run"
RESULT_COLUMNS: dict[str, str] = {
    "campaign": "metadata.campaign",
    "label": "output.task_label",
    "formula": "output.formula_pretty",
    "code": "output.code",
    "energy_ev": "output.output.energy",
    "energy_per_atom_ev": "output.output.energy_per_atom",
    "volume_a3": "output.output.structure.lattice.volume",
    "pressure_kbar": "output.output.stress",
    "converged": "output.converged",
    "corrections": f"{_RUN}.corrections",
    "wall_seconds": f"{_RUN}.wall_seconds",
    "core_seconds": f"{_RUN}.core_seconds",
    "host": f"{_RUN}.hostname",
    "slurm_job_id": f"{_RUN}.slurm_job_id",
    "code_version": "output.code_version",
    "owner": "metadata.owner",
    "tags": "metadata.tags",
    "fw_id": "metadata.fw_id",
    "dir_name": "output.dir_name",
    "uuid": "uuid",
    "completed_at": "completed_at",
}
"""Column of ``results`` -> path in a stored document."""


def results(query: Mapping[str, Any] | None = None, *, campaign: str | None = None,
            formula: str | None = None, code: str | None = None, limit: int = 0,
            project: Path | str | None = None) -> pd.DataFrame:
    """Return the runs of a project, one row each, oldest first.

    Parameters
    ----------
    query
        A MongoDB query on the stored documents, such as ``{"output.nsites": {"$gt": 8}}``.
    campaign, formula, code
        Only these: campaign name, reduced formula, ``pw.x`` or ``lmp``.
    limit
        At most so many rows; 0 means all.
    project
        Project folder; the one around the current folder unless given.

    Returns
    -------
    pandas.DataFrame
        The columns of ``RESULT_COLUMNS``, also when there is no row. The unit is in the name;
        ``pressure_kbar`` is a third of the trace of the stress, positive when compressed;
        ``corrections`` counts what Custodian changed.

    Raises
    ------
    ConfigError, StoreError
        No project, or its database can't be read.
    """
    wanted = {"metadata.campaign": campaign, "output.formula_pretty": formula,
              "output.code": code}
    criteria = {_RUN: {"$exists": True}, **(query or {}),
                **{path: value for path, value in wanted.items() if value is not None}}
    with reading(project) as store:
        documents = list(store.docs_store.query(
            criteria, properties=list(RESULT_COLUMNS.values()), sort={"completed_at": 1},
            limit=limit))
    rows = [{name: _pick(d, path) for name, path in RESULT_COLUMNS.items()} for d in documents]
    for row in rows:
        stress = row["pressure_kbar"]
        row["pressure_kbar"] = None if stress is None else sum(stress[i][i] for i in range(3)) / 3
        row["corrections"] = len(row["corrections"] or ())
        row["tags"] = ", ".join(row["tags"] or ())
    table = pd.DataFrame(rows, columns=list(RESULT_COLUMNS))
    table["completed_at"] = pd.to_datetime(table["completed_at"])
    table["fw_id"] = table["fw_id"].astype("Int64")
    return table


JOB_COLUMNS = ("fw_id", "name", "state", "campaign", "seconds", "host", "launches", "updated_on",
               "launch_dir", "error")


def jobs(*, campaign: str | None = None, state: str | None = None,
         project: Path | str | None = None) -> pd.DataFrame:
    """Return the fireworks of a project with their states, in order of submission.

    Parameters
    ----------
    campaign, state
        Only these; ``state`` as FireWorks spells it, such as ``READY`` or ``FIZZLED``.
    project
        Project folder; the one around the current folder unless given.

    Returns
    -------
    pandas.DataFrame
        Columns ``JOB_COLUMNS``: time in the last launch in seconds, its host and folder, and the
        last line of its error, if any.

    Raises
    ------
    ConfigError, StoreError
        No project, or its database can't be read.
    """
    criteria = {k: v for k, v in (("spec.campaign", campaign), ("state", state)) if v is not None}
    with queue(project) as launchpad:
        fireworks = list(launchpad.fireworks.find(criteria, {
            "fw_id": 1, "name": 1, "state": 1, "spec.campaign": 1, "updated_on": 1, "launches": 1,
        }).sort("fw_id"))
        last = [f["launches"][-1] for f in fireworks if f["launches"]]
        launches = {item["launch_id"]: item for item in launchpad.launches.find(
            {"launch_id": {"$in": last}}, {
                "launch_id": 1, "host": 1, "launch_dir": 1, "runtime_secs": 1,
                "action.stored_data._exception": 1})}
    rows = []
    for firework in fireworks:
        launch = launches.get(firework["launches"][-1], {}) if firework["launches"] else {}
        rows.append({
            "fw_id": firework["fw_id"], "name": firework["name"], "state": firework["state"],
            "campaign": firework["spec"].get("campaign"),
            "seconds": launch.get("runtime_secs"), "host": launch.get("host"),
            "launches": len(firework["launches"]),
            "updated_on": firework["updated_on"], "launch_dir": launch.get("launch_dir"),
            "error": error_line(launch) if firework["state"] == "FIZZLED" else None,
        })
    table = pd.DataFrame(rows, columns=list(JOB_COLUMNS))
    table["updated_on"] = pd.to_datetime(table["updated_on"])
    return table


def error_line(launch: Mapping[str, Any]) -> str | None:
    """Return what a fizzled launch says of its error in one line, or None."""
    details = _pick(launch, "action.stored_data._exception._details")
    if isinstance(details, dict) and details.get("message"):
        return str(details["message"])
    trace = str(_pick(launch, "action.stored_data._exception._stacktrace") or "").strip()
    return trace.splitlines()[-1] if trace else None


def _pick(document: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, or None."""
    def step(value: Any, key: str) -> Any:
        return value.get(key) if isinstance(value, dict) else None

    return reduce(step, path.split("."), document)
