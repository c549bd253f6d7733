"""What every launcher is doing, live: `top`."""

from __future__ import annotations

import sys
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orionflow.cli.output import OutputFormat, console, dump

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from orionflow.launchers.status import JobStatus, LauncherStatus, Status

_SHOWN = 12
_COLOURS = {"running": "green", "starting": "cyan", "draining": "yellow", "unhealthy": "bold red",
            "silent": "bold yellow", "dead": "bold red"}
_BECAME = {"COMPLETED": "done", "FIZZLED": "failed", "put_back": "put back"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("top")(top)


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print once and end.")] = False,
    interval: Annotated[float, typer.Option(
        "--interval", "-d", min=0.2, help="Seconds between two looks.")] = 2.0,
    output: Annotated[OutputFormat | None, typer.Option(
        "--output", "-o", help="Print data instead of text, once.")] = None,
) -> None:
    """Watch all launchers: their jobs with the last energy or step, cores, time left; the queue.

    Ctrl-C ends it; the launchers don't notice.
    """
    from orionflow.launchers.launchpad import open_launchpad
    from orionflow.launchers.status import StatusReader
    from orionflow.workflows.compile import project_of

    project = project_of()
    with closing(open_launchpad(project)) as pad:
        reader = StatusReader(project, pad)
        if output is not None:
            dump(reader.read().to_dict(), output)
        elif once or not sys.stdout.isatty():
            console().print(view(reader.read()))
        else:
            with suppress(KeyboardInterrupt):
                _live(reader, interval)


def _live(reader: Any, interval: float) -> None:
    from pymongo.errors import PyMongoError
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    shown: RenderableType = Text("looking ...")
    with Live(shown, console=console(), screen=True, refresh_per_second=4) as live:
        while True:
            try:
                shown = view(reader.read())
                live.update(shown)
            except PyMongoError:
                live.update(Group(Text("MongoDB does not answer; as it was last seen:",
                                       style="bold red"), shown))
            time.sleep(interval)


def view(status: Status) -> RenderableType:
    """Return a status as people read it."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    parts: list[RenderableType] = []
    for launcher in status.launchers:
        parts.append(Text.from_markup(_head(launcher)))
        if launcher.note:
            parts.append(Text.from_markup(f"  [yellow]{escape(launcher.note)}[/]"))
        if launcher.jobs:
            parts.append(_jobs(launcher.jobs))
        parts.append(Text(""))
    if status.elsewhere:
        parts += [Text("not in one of these launchers", style="bold"),
                  _jobs(status.elsewhere), Text("")]
    parts.append(Text.from_markup("[bold]jobs[/]         " + (
        ", ".join(f"{n} {s}" for s, n in status.states.items()) or "none")))
    if status.allocations is not None:
        queue = ", ".join(f"{n} {s.lower()}" for s, n in status.allocations.items())
        parts.append(Text.from_markup(f"[bold]allocations[/]  {queue or 'none in the queue'}"))
    if status.problem:
        parts.append(Text.from_markup(f"[bold red]Slurm[/]        {escape(status.problem)}"))
    if status.hint:
        parts.append(Text.from_markup(f"[bold]->[/] {escape(status.hint)}"))
    return Group(*parts)


def _head(launcher: LauncherStatus) -> str:
    from rich.markup import escape

    where = escape(launcher.host)
    if launcher.slurm_job_id:
        where += f", Slurm job {escape(str(launcher.slurm_job_id))}"
    if launcher.nodes > 1:
        where += f", {launcher.nodes} nodes"
    words = [f"[bold]{where}[/]", f"[{_COLOURS.get(launcher.state, 'white')}]{launcher.state}[/]"]
    if launcher.state in {"silent", "dead"}:
        words[-1] += f" for {_time(launcher.silent)}"
    words.append(f"{launcher.busy}/{launcher.cores} cores busy")
    if launcher.left is not None:
        words.append(f"{_time(launcher.left)} left")
    words += [f"{n} {_BECAME.get(what, what)}" for what, n in launcher.counts.items() if n]
    return "  ".join(words)


def _jobs(jobs: Iterable[JobStatus]) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    # Only the last column gives way where the terminal is narrow.
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=40)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    rows = sorted(jobs, key=lambda job: -job.seconds)
    for job in rows[:_SHOWN]:
        where = f"on {job.host}  " if job.host else ""
        table.add_row(f"  {job.fw_id}", escape(job.name),
                      f"{job.cores} core{'s' if job.cores > 1 else ''}", _time(job.seconds),
                      f"{escape(where)}[dim]{escape(job.line)}[/]")
    if len(rows) > _SHOWN:
        table.add_row("", f"and {len(rows) - _SHOWN} more", "", "", "")
    return table


def _time(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
