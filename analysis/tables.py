"""Results and jobs of a project as DataFrames."""

from __future__ import annotations

from dataclasses import fields
from functools import reduce
from typing import TYPE_CHECKING, Any

import pandas as pd

from orionflow.analysis.figures import EosCurve
from orionflow.analysis.literature import reference
from orionflow.analysis.physics.eos import EosFit
from orionflow.analysis.store import queue, reading
from orionflow.analysis.story import error_line, slurm_job

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_RUN = "output.provenance.run"
_QE = "output.qe"
_MORE = (f"{_QE}.functional", f"{_QE}.scf_converged", f"{_QE}.ionic_converged",
         "output.provenance.files")
RESULT_COLUMNS: dict[str, str] = {
    "campaign": "metadata.campaign",
    "label": "output.task_label",
    "formula": "output.formula_pretty",
    "atoms": "output.nsites",
    "code": "output.code",
    "energy_ev": "output.output.energy",
    "energy_per_atom_ev": "output.output.energy_per_atom",
    "volume_a3": "output.output.structure.lattice.volume",
    "pressure_kbar": "output.output.stress",
    "model": _QE,
    "converged": _QE,
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
        ``model`` is the functional or the potential file;
        ``converged`` is False where the run stopped before its own criterion;
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
    paths = [p for p in RESULT_COLUMNS.values() if p != _QE]
    with reading(project) as store:
        documents = list(store.docs_store.query(
            criteria, properties=[*paths, *_MORE], sort={"completed_at": 1}, limit=limit))
    rows = [{name: _pick(d, path) for name, path in RESULT_COLUMNS.items()} for d in documents]
    for row, document in zip(rows, documents, strict=True):
        stress = row["pressure_kbar"]
        row["pressure_kbar"] = None if stress is None else sum(stress[i][i] for i in range(3)) / 3
        own = row["model"] or {}
        files = _pick(document, "output.provenance.files") or [{}]
        row["model"] = own.get("functional") or files[0].get("name") or ""
        row["converged"] = all(own.get(k) is not False for k in ("scf_converged",
                                                                 "ionic_converged"))
        row["corrections"] = len(row["corrections"] or ())
        row["tags"] = ", ".join(row["tags"] or ())
    table = pd.DataFrame(rows, columns=list(RESULT_COLUMNS))
    table["completed_at"] = pd.to_datetime(table["completed_at"])
    table["fw_id"] = table["fw_id"].astype("Int64")
    return table


JOB_COLUMNS = ("fw_id", "name", "state", "campaign", "seconds", "host", "slurm_job_id", "launches",
               "updated_on", "folder", "error")


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
            "spec._exception_details": 1,
        }).sort("fw_id"))
        last = [f["launches"][-1] for f in fireworks if f["launches"]]
        launches = {item["launch_id"]: item for item in launchpad.launches.find(
            {"launch_id": {"$in": last}}, {
                "launch_id": 1, "host": 1, "launch_dir": 1, "runtime_secs": 1,
                "fworker.env.orionflow": 1, "action.stored_data": 1})}
    rows = []
    for firework in fireworks:
        launch = launches.get(firework["launches"][-1], {}) if firework["launches"] else {}
        rows.append({
            "fw_id": firework["fw_id"], "name": firework["name"], "state": firework["state"],
            "campaign": firework["spec"].get("campaign"),
            "seconds": launch.get("runtime_secs"), "host": launch.get("host"),
            "slurm_job_id": slurm_job(launch), "launches": len(firework["launches"]),
            "updated_on": firework["updated_on"], "folder": launch.get("launch_dir"),
            "error": (error_line(launch, firework) if firework["state"] == "FIZZLED"
                      else None),
        })
    table = pd.DataFrame(rows, columns=list(JOB_COLUMNS))
    # FireWorks stores text or dates, depending on who wrote last.
    table["updated_on"] = pd.to_datetime(table["updated_on"].map(str), format="ISO8601", utc=True)
    return table


TABLE_COLUMNS = ("label", "formula", "code", "model", "a0_angstrom", "a0_reference", "a0_source",
                 "b0_gpa", "b0_reference", "b0_source", "b0_prime", "energy_per_atom_ev",
                 "volume_per_atom_a3", "points", "corrections", "core_seconds", "warnings",
                 "fw_id", "uuid")


def campaign_table(name: str, *, project: Path | str | None = None) -> pd.DataFrame:
    """Return the results of a campaign, one row each, with published values beside them.

    Equations of state come first; their points, and the relaxation before these, are counted in
    that row and have none of their own.

    Parameters
    ----------
    name
        The campaign.
    project
        Project folder; the one around the current folder unless given.

    Returns
    -------
    pandas.DataFrame
        Columns ``TABLE_COLUMNS``: lattice constant of the cubic cell in Å, bulk modulus in GPa,
        energy and volume of an atom at the minimum, and time and corrections of all points.
        ``model`` is the functional or the potential file. ``a0_source`` and ``b0_source`` cite
        the published value; a potential is compared with its own where there is one.

    Raises
    ------
    ConfigError, StoreError
        No project, or its database can't be read.
    """
    runs = results(campaign=name, project=project)
    rows, points = [], set()
    for document in _eos_documents(name, project):
        output = document["output"]
        # The relaxation before the points is part of the same result, though no point.
        folders = {*output["dir_names"], output.get("relax_dir_name")}
        points |= folders
        own = runs[runs["dir_name"].isin(folders)]
        model = _model(output["recipe"])
        row = {
            "label": output["task_label"], "formula": output["formula_pretty"],
            "code": output["code"], "model": model, "a0_angstrom": output["a0"],
            "b0_gpa": output["b0"], "b0_prime": output["b0_prime"],
            "energy_per_atom_ev": output["energy_per_atom"],
            "volume_per_atom_a3": output["volume_per_atom"], "points": len(output["volumes"]),
            "corrections": int(own["corrections"].sum()),
            "core_seconds": float(own["core_seconds"].sum()),
            "warnings": "; ".join(output["warnings"]),
            "fw_id": _pick(document, "metadata.fw_id"), "uuid": document["uuid"],
        }
        for quantity in ("a0", "b0"):
            found = reference(output["formula_pretty"], quantity,
                              space_group=output["space_group"], model=model)
            row[f"{quantity}_reference"] = found.value if found else None
            row[f"{quantity}_source"] = found.cite() if found else None
        rows.append(row)
    rows += [{**{k: run[k] for k in TABLE_COLUMNS if k in run}, "points": 1,
              "volume_per_atom_a3": run["volume_a3"] / run["atoms"]}
             for run in runs[~runs["dir_name"].isin(points)].to_dict("records")]
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS))
    numbers = [c for c in TABLE_COLUMNS if c.startswith(("a0_", "b0_")) and "source" not in c]
    table[numbers] = table[numbers].astype(float)
    table["fw_id"] = table["fw_id"].astype("Int64")
    return table


def eos_curves(campaign: str, *, project: Path | str | None = None) -> list[EosCurve]:
    """Return the equations of state of a campaign, ready for ``figures.plot_eos``.

    Raises
    ------
    ConfigError, StoreError
        No project, or its database can't be read.
    """
    curves = []
    for document in _eos_documents(campaign, project):
        output = document["output"]
        model = _model(output["recipe"])
        published = reference(output["formula_pretty"], "a0", space_group=output["space_group"],
                              model=model)
        a0, per_atom = output["a0"], output["volume_per_atom"]
        curves.append(EosCurve(
            label=f"{output['code']} {model}", formula=output["formula_pretty"],
            atoms=output["nsites"], volume=output["volumes"], energy=output["energies"],
            fit=EosFit(**{f.name: output[f.name] for f in fields(EosFit)}),
            reference_volume=per_atom * (published.value / a0) ** 3 if published and a0 else None,
        ))
    return curves


def _eos_documents(campaign: str, project: Path | str | None) -> list[dict[str, Any]]:
    with reading(project) as store:
        found = list(store.docs_store.query(
            {"metadata.campaign": campaign, "output.volumes": {"$exists": True},
             "output.b0": {"$exists": True}},
            properties=["uuid", "metadata.fw_id", "output"], sort={"completed_at": 1}))
    return sorted(found, key=lambda d: (d["output"]["formula_pretty"], str(d["output"]["code"])))


def _model(recipe: Mapping[str, Any]) -> str:
    """Return what stands for the interaction: the functional or the potential file."""
    from orionflow.workflows.lammps.presets import PRESETS

    settings = recipe.get("fields", {})
    field = settings.get("force_field")
    if isinstance(field, dict):
        files = field.get("files") or ()
        return str(files[0]).rsplit("/", maxsplit=1)[-1] if files else str(field.get("name"))
    if field:
        return PRESETS[field].file if field in PRESETS else str(field)
    return str(settings.get("functional") or "")


CAMPAIGN_COLUMNS = ("campaign", "jobs", "ready", "waiting", "running", "completed", "fizzled",
                    "other", "last_change")


def campaigns(*, project: Path | str | None = None) -> pd.DataFrame:
    """Return the campaigns of a project with the number of jobs in each state.

    Raises
    ------
    ConfigError, StoreError
        No project, or its database can't be read.
    """
    with queue(project) as launchpad:
        groups = list(launchpad.fireworks.aggregate([
            {"$group": {"_id": {"campaign": "$spec.campaign", "state": "$state"},
                        "jobs": {"$sum": 1}, "last": {"$max": {"$toDate": "$updated_on"}}}}]))
    rows: dict[str, dict[str, Any]] = {}
    for group in groups:
        name = group["_id"].get("campaign") or ""
        row = rows.setdefault(name, {"campaign": name, "last_change": None,
                                     **dict.fromkeys(CAMPAIGN_COLUMNS[1:-1], 0)})
        state = str(group["_id"]["state"]).lower()
        state = "running" if state == "reserved" else state if state in row else "other"
        row[state] += group["jobs"]
        row["jobs"] += group["jobs"]
        row["last_change"] = max(str(group["last"]), row["last_change"] or "")
    table = pd.DataFrame(sorted(rows.values(), key=lambda r: str(r["last_change"])),
                         columns=list(CAMPAIGN_COLUMNS))
    table["last_change"] = pd.to_datetime(table["last_change"], format="ISO8601", utc=True)
    return table


def _pick(document: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, or None."""
    def step(value: Any, key: str) -> Any:
        return value.get(key) if isinstance(value, dict) else None

    return reduce(step, path.split("."), document)
