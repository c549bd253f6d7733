"""From a jobflow Flow to a stored FireWorks workflow: who may run it, with what, for whom.

Nothing is stored before everything has been checked, and a request with a key is stored once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from orionflow.errors import ConfigError, InputError
from orionflow.launchers.machine import load_machine
from orionflow.launchers.resources import Resources
from orionflow.launchers.retry import parse_retry
from orionflow.launchers.sbatch import queueadapter_spec
from orionflow.launchers.spending import SET_ASIDE
from orionflow.settings import PROJECT_FILE, find_project, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fireworks.core.firework import Workflow
    from jobflow import Flow, Job

    from orionflow.launchers.launchpad import ProjectLaunchPad
    from orionflow.launchers.machine import MachineProfile
    from orionflow.settings import RetrySettings

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_MAX_PRIORITY = 10**6


@dataclass(frozen=True)
class SubmitResult:
    """What a submission made or found.

    Attributes
    ----------
    workflow_id
        Id of the first firework; lpad names a workflow by any of its fireworks.
    fw_ids
        Ids of all fireworks, ascending.
    created
        False when the key was known: the workflow of the first submission is meant.
    """

    workflow_id: int
    fw_ids: list[int]
    created: bool
    name: str


def submit(flow: Flow | Job, *, project: Path | None = None, key: str | None = None,
           campaign: str | None = None, resources: Resources | dict[str, Any] | None = None,
           priority: int | None = None, tags: Sequence[str] = (), owner: str | None = None,
           name: str | None = None, retry: RetrySettings | dict[str, Any] | None = None,
           core_seconds: int | None = None,
           launchpad: ProjectLaunchPad | None = None) -> SubmitResult:
    """Store a flow as one workflow whose first jobs are READY.

    Parameters
    ----------
    flow
        What a recipe's ``make`` returns.
    project
        Project folder; found from the current folder unless given.
    key
        Name of this request, unique in the project. The same request with the same key, made
        again or by two processes at once or after a crash, is one workflow. Without a key
        every call makes a new one.
    campaign, owner, tags
        Written on every firework and document, also those of jobs made while running.
        The owner is the one of the settings unless given.
    resources
        For every job that its recipe gives none of its own.
    priority
        Higher runs first; 0 unless given.
    name
        Name of the workflow; the flow's unless given.
    retry
        How often a job may run again by itself after each class of failure, such as
        ``{"memory": 0}``; a recipe's own goes before it, the setting ``retry`` after it.
    core_seconds
        What each job, those made while running included, may take in all its launches: it is
        stopped then, and FIZZLED when there is nothing left to go on with. No limit unless given.
    launchpad
        An open LaunchPad, for many submissions in a row.

    Returns
    -------
    SubmitResult
        Ids, and whether this call made the workflow.

    Raises
    ------
    InputError
        The machine can't give the resources, a value is impossible, or the key belongs to
        another request. Nothing has been stored.
    ConfigError
        There is no project, or its files are wrong.
    StoreError
        MongoDB can't be reached.
    """
    folder = project_of(project)
    wf = compile_flow(flow, project=folder, campaign=campaign, resources=resources,
                      priority=priority, tags=tags, owner=owner, name=name, key=key,
                      retry=retry, core_seconds=core_seconds)
    return store_workflow(wf, project=folder, launchpad=launchpad)


def store_workflow(wf: Workflow, *, project: Path | None = None,
                   launchpad: ProjectLaunchPad | None = None) -> SubmitResult:
    """Store what `compile_flow` returned; see `submit`."""
    from orionflow.launchers.launchpad import open_launchpad

    pad = launchpad or open_launchpad(project_of(project))
    try:
        fw_ids, created = pad.add_once(wf)
    finally:
        if launchpad is None:
            pad.connection.close()
    return SubmitResult(workflow_id=fw_ids[0], fw_ids=fw_ids, created=created, name=wf.name)


def compile_flow(flow: Flow | Job, *, project: Path | None = None, key: str | None = None,
                 campaign: str | None = None,
                 resources: Resources | dict[str, Any] | None = None,
                 priority: int | None = None, tags: Sequence[str] = (),
                 owner: str | None = None, name: str | None = None,
                 retry: RetrySettings | dict[str, Any] | None = None,
                 core_seconds: int | None = None) -> Workflow:
    """Return the workflow `submit` would store; parameters and errors are the same.

    Each firework's spec holds ``_category``, ``_priority``, ``resources`` and ``_queueadapter``
    (for `qlaunch -r`), ``retry`` and ``core_seconds`` where they were given, and flat ``campaign``,
    ``owner``, ``tags``.
    """
    from jobflow.core.flow import get_flow
    from jobflow.managers.fireworks import flow_to_workflow

    folder = project_of(project)
    profile = load_machine(project=folder)
    who = owner or load_settings(folder).owner
    _check_request(flow, {"key": key, "campaign": campaign, "owner": who}, tags, priority)
    default = Resources.parse(resources)
    profile.check(default)
    limits = parse_retry(retry).model_dump(exclude_unset=True)
    name = name or flow.name  # of a Job, before it becomes a Flow named "Flow"
    try:
        flow = get_flow(flow)
    except ValueError as error:
        raise InputError(f"the flow can't be submitted: {error}",
                         hint="every job it refers to must be part of it") from error
    stores = _store_names(folder)
    fixed: dict[str, Any] = {"_category": profile.category}
    if priority is not None:
        fixed["_priority"] = priority
    if core_seconds is not None:
        fixed[SET_ASIDE] = core_seconds
    meta = {"owner": who, **({"campaign": campaign} if campaign else {})}
    jobs = list(_jobs(flow))
    if not jobs:
        raise InputError("the flow has no jobs", hint="add at least one job")
    for job in jobs:
        _check_stores(job, stores)
        _set_manager_config(job, fixed, default, profile, limits)
        own = job.metadata.get("tags", [])
        own = own if isinstance(own, list) else [own]
        all_tags = list(dict.fromkeys([*own, *tags]))
        # Dynamic: jobs this one makes while running get the same.
        job.update_metadata({**meta, **({"tags": all_tags} if all_tags else {})}, dynamic=True)
        same = {f"manager_config->{k}": job.config.manager_config[k] for k in fixed}
        job.update_config({"_set": same}, dict_mod=True, dynamic=True)
    wf = flow_to_workflow(flow, name=name, metadata=dict(meta))
    wf.metadata["submit_hash"] = request_hash(wf)
    if key is not None:
        wf.metadata["submit_key"] = key
    return wf


def _check_request(flow: Any, texts: dict[str, Any], tags: Any, priority: Any) -> None:
    from jobflow import Flow, Job

    if not isinstance(flow, (Flow, Job)):
        raise InputError(f"a {type(flow).__name__} can't be submitted",
                         hint="give a jobflow Flow or Job: what a recipe's `make` returns")
    for what, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise InputError(f"{what} = {text!r} is no text", hint=f'write {what}="{text}"')
        if text is not None and not text.strip():
            raise InputError(f"{what} is empty", hint=f"give a {what} or leave it out")
    if isinstance(tags, str):
        raise InputError(f"tags = {tags!r} is one text", hint=f"write tags=[{tags!r}]")
    if priority is not None and (not isinstance(priority, int) or abs(priority) > _MAX_PRIORITY):
        raise InputError(f"priority = {priority!r}", hint=f"between -{_MAX_PRIORITY} and "
                         f"{_MAX_PRIORITY}; higher runs first")


def project_of(project: Path | None = None) -> Path:
    """Return the project folder.

    Raises
    ------
    ConfigError
        There is none.
    """
    folder = project.resolve() if project is not None else find_project()
    if folder is None or not (folder / PROJECT_FILE).is_file():
        raise ConfigError(f"no project here ({PROJECT_FILE} not found)" if folder is None
                          else f"no {PROJECT_FILE} in {folder}",
                          hint="make one with `orionflow init`, change into it, or set "
                          "ORIONFLOW_PROJECT")
    return folder


def request_hash(wf: Workflow) -> str:
    """Return a sum that is equal for two builds of the same request.

    jobflow draws new uuids for every build, FireWorks new ids and dates; they are replaced by
    their order. Versions of libraries are left out: an upgrade makes no new request.
    """
    order = {fw_id: n for n, fw_id in enumerate(sorted(wf.id_fw, reverse=True))}
    content = {
        "name": wf.name,
        "owner": wf.metadata.get("owner"),
        "campaign": wf.metadata.get("campaign"),
        "fws": [[wf.id_fw[i].name, wf.id_fw[i].to_dict()["spec"]] for i in order],
        "links": sorted([order[p], sorted(order[c] for c in children)]
                        for p, children in wf.links.items()),
    }
    text = json.dumps(_without_versions(content), sort_keys=True, default=str)
    seen: dict[str, str] = {}
    text = _UUID.sub(lambda m: seen.setdefault(m[0], f"uuid-{len(seen)}"), text)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_versions(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _without_versions(v) for k, v in value.items() if k != "@version"}
    if isinstance(value, (list, tuple)):
        return [_without_versions(v) for v in value]
    return value


def _jobs(flow: Flow) -> Iterator[Job]:
    from jobflow import Flow

    for child in flow.jobs:
        if isinstance(child, Flow):
            yield from _jobs(child)
        else:
            yield child


def _set_manager_config(job: Job, fixed: dict[str, Any], default: Resources,
                        profile: MachineProfile, retry: dict[str, Any]) -> None:
    for name in ("manager_config", "response_manager_config"):
        own = dict(getattr(job.config, name))
        if name == "response_manager_config" and not own:
            continue  # empty: the jobs it makes get its own manager_config
        try:
            _check_names(own, name)
            wanted = Resources.parse(own["resources"]) if own.get("resources") else default
            profile.check(wanted)
            limits = {**retry, **parse_retry(own.get("retry")).model_dump(exclude_unset=True)}
        except InputError as error:
            raise InputError(f"job {job.name!r}: {error.message}", hint=error.hint) from error
        setattr(job.config, name, {
            **fixed, **own, **{k: v for k, v in fixed.items() if k in {"_priority", SET_ASIDE}},
            **({"retry": limits} if limits else {}),
            "resources": wanted.to_spec(),
            "_queueadapter": queueadapter_spec(wanted, profile.max_walltime),
        })


# What a job may say to FireWorks (its "reserved keywords") and to us; the rest of a spec is written
# by `submit` itself.
_MANAGER_NAMES = (
    "resources", "retry", "_add_fworker", "_add_launchpad_and_fw_id", "_allow_fizzled_parents",
    "_background_tasks", "_category", "_dupefinder", "_files_in", "_files_out", "_files_prev",
    "_fworker", "_launch_dir", "_pass_job_info", "_preserve_fworker", "_priority", "_queueadapter",
    "_recovery", "_trackers")


def _check_names(config: dict[str, Any], where: str) -> None:
    """Refuse a misspelt name, which FireWorks and the launcher would pass over in silence."""
    for name in config:
        if name in _MANAGER_NAMES:
            continue
        listed = f"valid: {', '.join(_MANAGER_NAMES)}"
        if name in {"campaign", "owner", "tags"}:
            raise InputError(f"{name!r} stands in its {where}", hint=f"give it to `submit`: "
                             f"submit(..., {name}=...)")
        close = difflib.get_close_matches(str(name), _MANAGER_NAMES, n=1)
        raise InputError(f"unknown name {name!r} in its {where}",
                         hint=f"did you mean {close[0]!r}? {listed}" if close else listed)


def _store_names(project: Path) -> set[str]:
    """Return the names of the project's additional stores (large data)."""
    path = project / "jobflow.yaml"
    try:
        values = yaml.safe_load(path.read_text())
        return set(values["JOB_STORE"].get("additional_stores") or {})
    except FileNotFoundError as error:
        raise ConfigError(f"no {path.name} in {project}: results would go nowhere",
                          hint="start a MongoDB with `orionflow db start`, or describe your "
                          "JobStore there") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} does not hold a JOB_STORE: {error!r}",
                          hint="see `orionflow doctor`") from error


def _check_stores(job: Job, stores: set[str]) -> None:
    # jobflow would find out only after the calculation.
    for name in job._kwargs:  # noqa: SLF001  jobflow keeps the names of @job(data=...) there
        if name not in stores:
            raise InputError(f"job {job.name!r} writes to the store {name!r}, which jobflow.yaml "
                             "does not name", hint=f"known: {', '.join(sorted(stores)) or 'none'}")
