"""Stopping and holding jobs: `cancel`, `pause`, `resume`."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orionflow.cli.output import OutputFormat, console, dump
from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orionflow.launchers.steer import SteerReport

EXIT_TRY_LATER = 75
_LISTED = 20
Ids = Annotated[list[str] | None, typer.Option(
    "--fw_id", "-i", metavar="ID[,ID...]", help="Single jobs; repeatable.")]
Workflows = Annotated[list[str] | None, typer.Option(
    "--workflow", "-w", metavar="ID[,ID...]",
    help="Whole workflows, each by the id of any of its jobs.")]
Campaign = Annotated[str | None, typer.Option("--campaign", "-c", help="All jobs of one.")]
Query = Annotated[str | None, typer.Option(
    "--query", "-q", metavar="JSON", help='MongoDB query on fireworks: \'{"name": "qe relax"}\'.')]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Reason, stored with the jobs.")]
Wait = Annotated[float, typer.Option(
    "--wait", min=0, help="Seconds to wait for running jobs to stop.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Output = Annotated[OutputFormat | None, typer.Option(
    "--output", "-o", help="Print data instead of text.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (cancel, pause, resume):
        app.command(command.__name__)(command)


def cancel(
    *,
    fw_id: Ids = None,
    workflow: Workflows = None,
    campaign: Campaign = None,
    query: Query = None,
    restartable: Annotated[bool, typer.Option(
        "--restartable", help="What runs goes back to the queue and continues in its folder; "
        "what waits stays there.")] = False,
    why: Why = "",
    wait: Wait = 30.0,
    dry_run: DryRun = False,
    output: Output = None,
) -> None:
    """Stop jobs, from any host: what waits is defused, what runs is ended, neighbours go on.

    Results written so far stay in the folder. `orionflow resume --cancelled` undoes it.
    Exits with 75 while a job that was asked to stop has not.
    """
    from orionflow.launchers import steer

    def work(project: Any, pad: Any, jobs: Any, show: _Show) -> SteerReport:
        return steer.cancel(project, pad, jobs, why=why, restartable=restartable, patience=wait,
                            step=show.step, tell=show.tell)

    _run(_Named(fw_id, workflow, campaign, query), work, output,
         verb="put back" if restartable else "cancelled", dry_run=dry_run,
         states=("RESERVED", "RUNNING") if restartable else (
             "WAITING", "READY", "PAUSED", "RESERVED", "RUNNING"))


def pause(
    *,
    fw_id: Ids = None,
    workflow: Workflows = None,
    campaign: Campaign = None,
    query: Query = None,
    now: Annotated[bool, typer.Option(
        "--now", help="Stop what runs as well; resumed, it continues in its folder.")] = False,
    why: Why = "",
    wait: Wait = 30.0,
    dry_run: DryRun = False,
    output: Output = None,
) -> None:
    """Take jobs out of the queue until `orionflow resume`; what runs finishes."""
    from orionflow.launchers import steer

    def work(project: Any, pad: Any, jobs: Any, show: _Show) -> SteerReport:
        return steer.pause(project, pad, jobs, why=why, now=now, patience=wait, step=show.step,
                           tell=show.tell)

    _run(_Named(fw_id, workflow, campaign, query), work, output, verb="paused", dry_run=dry_run,
         states=("WAITING", "READY", "RESERVED", *(["RUNNING"] if now else ())))


def resume(
    *,
    fw_id: Ids = None,
    workflow: Workflows = None,
    campaign: Campaign = None,
    query: Query = None,
    cancelled: Annotated[bool, typer.Option(
        "--cancelled", help="Cancelled (defused) jobs as well.")] = False,
    dry_run: DryRun = False,
    output: Output = None,
) -> None:
    """Put paused jobs back into the queue."""
    from orionflow.launchers import steer

    def work(project: Any, pad: Any, jobs: Any, show: _Show) -> SteerReport:  # noqa: ARG001  as the others
        return steer.resume(pad, jobs, cancelled=cancelled, step=show.step)

    _run(_Named(fw_id, workflow, campaign, query), work, output, verb="resumed", dry_run=dry_run,
         states=("PAUSED", *(["DEFUSED"] if cancelled else ())))


# ---------------------------------------------------------------------------------------- helpers


class _Named:
    """The jobs named on the command line."""

    def __init__(self, fw_ids: list[str] | None, workflows: list[str] | None,
                 campaign: str | None, query: str | None) -> None:
        self.fw_ids = _ids("--fw_id", fw_ids)
        self.workflows = _ids("--workflow", workflows)
        self.campaign = campaign
        self.query = _parse(query)
        if not (self.fw_ids or self.workflows or campaign is not None or query is not None):
            raise typer.BadParameter("name jobs: --fw_id, --workflow, --campaign or --query")


class _Show:
    """A bar for jobs that are only marked, a line for those that are awaited; on stderr."""

    def __init__(self, total: int, verb: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.progress = Progress(TextColumn("{task.description}"), BarColumn(),
                                 MofNCompleteColumn(), console=console(stderr=True),
                                 transient=True, disable=not sys.stderr.isatty())
        self.bar = self.progress.add_task(verb, total=total)
        self._last = ""

    def step(self, count: int) -> None:
        self.progress.advance(self.bar, count)

    def tell(self, line: str) -> None:
        if not self.progress.disable:
            self.progress.update(self.bar, description=line)
        elif not self._last:  # where nobody sees a bar, once
            print(line, file=sys.stderr)
        self._last = line


def _run(named: _Named, work: Callable[[Any, Any, Any, _Show], SteerReport],
         output: OutputFormat | None, *, verb: str, dry_run: bool,
         states: tuple[str, ...]) -> None:
    from orionflow.launchers.launchpad import open_launchpad
    from orionflow.launchers.steer import select
    from orionflow.workflows.compile import project_of

    project = project_of()
    with closing(open_launchpad(project)) as pad:
        jobs = select(pad, fw_ids=named.fw_ids, workflows=named.workflows,
                      campaign=named.campaign, query=named.query)
        if dry_run:
            _plan(jobs, states, verb, output)
            return
        show = _Show(len(jobs), verb)
        with show.progress:
            report = work(project, pad, jobs, show)
    if output is not None:
        dump(_data(report), output)
    else:
        _describe(report, verb)
    if not report.complete:
        raise typer.Exit(EXIT_TRY_LATER)


def _plan(jobs: list[dict[str, Any]], states: tuple[str, ...], verb: str,
          output: OutputFormat | None) -> None:
    meant = [fw for fw in jobs if fw["state"] in states]
    if output is not None:
        dump([{"fw_id": fw["fw_id"], "name": fw.get("name", ""), "state": fw["state"]}
              for fw in meant], output)
        return
    counts = _counts(fw["state"] for fw in meant)
    print(f"would be {verb}: {counts or 'nothing'}")
    for fw in [fw for fw in meant if fw["state"] in {"RESERVED", "RUNNING"}][:_LISTED]:
        print(f"  {fw['fw_id']} {fw.get('name', '')}: {fw['state']}")


def _describe(report: SteerReport, verb: str) -> None:
    marked = [*report.held, *report.woken]
    if marked:
        print(f"{verb}: {len(marked)} job(s) {'that slept' if report.woken else 'that waited'}: "
              f"{_ranges(marked)}")
    for job in report.jobs:
        ended = {"stopped": f"stopped, now {job.after}", "unreserved": f"now {job.after}",
                 "finished": f"{job.after}", "asked": f"still {job.after}"}[job.what]
        print(f"{job.fw_id} {job.name}: {ended}" + (f": {job.detail}" if job.detail else ""))
    if report.over:
        print("left as they are: " + ", ".join(f"{n} {s}" for s, n in sorted(
            report.over.items())))
    if report.running:
        print(f"{report.running} running job(s) finish first; --now stops them")
    if not (marked or report.jobs or report.running):
        print(f"nothing to be {verb}")
    if report.dependents:
        print(f"{report.dependents} job(s) wait for these and will not run either; --workflow "
              "takes them along", file=sys.stderr)


def _data(report: SteerReport) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(report), "complete": report.complete}


def _counts(states: Any) -> str:
    counts: dict[str, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{n} {s}" for s, n in sorted(counts.items()))


def _ranges(ids: list[int]) -> str:
    """Return ``3-7, 9`` for ids, cut when there are many groups."""
    groups: list[list[int]] = []
    for i in sorted(ids):
        if groups and i == groups[-1][1] + 1:
            groups[-1][1] = i
        else:
            groups.append([i, i])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in groups]
    more = f" and {len(shown) - _LISTED} more ranges" if len(shown) > _LISTED else ""
    return ", ".join(shown[:_LISTED]) + more


def _ids(option: str, values: list[str] | None) -> list[int]:
    found: list[int] = []
    for word in ",".join(values or []).split(","):
        if not word.strip():
            continue
        if not word.strip().isdigit():
            raise InputError(f"{option} {word.strip()!r} is no id",
                             hint="ids are numbers: 3 or 3,4")
        found.append(int(word))
    return found


def _parse(query: str | None) -> dict[str, Any] | None:
    if query is None:
        return None
    try:
        value = json.loads(query)
    except ValueError as error:
        raise InputError(f"--query is no JSON: {error}",
                         hint='write it in single quotes: \'{"state": "READY"}\'') from error
    if not isinstance(value, dict):
        raise InputError("--query must be a JSON object",
                         hint='such as \'{"spec.resources.ranks": {"$gt": 4}}\'')
    return value
