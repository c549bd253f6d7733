"""What happened: `show`, `results`; and what is wrong: `doctor`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003  typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orionflow.cli import doctor
from orionflow.cli.output import OutputFormat, console, dump
from orionflow.cli.tables import print_frame, print_results, records

if TYPE_CHECKING:
    from orionflow.analysis.story import JobStory

_STATES = ("READY", "WAITING", "RESERVED", "RUNNING", "COMPLETED", "FIZZLED", "DEFUSED", "PAUSED")
_COLOURS = {"COMPLETED": "green", "done": "green", "FIZZLED": "bold red", "failed": "bold red",
            "RUNNING": "cyan", "RESERVED": "cyan"}
_LISTED = 8
_SHORT = ("campaign", "label", "formula", "code", "model", "energy_per_atom_ev", "pressure_kbar",
          "corrections", "core_seconds", "host", "slurm_job_id", "fw_id")


class TableFormat(StrEnum):
    """What `results -o` takes."""

    CSV = "csv"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("show")(show)
    app.command("results")(results)
    doctor.register(app)


def show(
    *,
    folder: Annotated[Path | None, typer.Argument(
        help="Folder of one run; no database is asked.", exists=True, file_okay=False)] = None,
    fw_id: Annotated[int | None, typer.Option("--fw_id", "-i", help="One job.")] = None,
    campaign: Annotated[str | None, typer.Option("--campaign", help="All jobs of one.")] = None,
    output: Annotated[OutputFormat | None, typer.Option(
        "--output", "-o", help="Print data instead of text.")] = None,
) -> None:
    """Show what happened to one job, a run's folder, or a campaign; without any: all campaigns."""
    from orionflow.analysis.story import folder_story, job_story

    if sum(x is not None for x in (folder, fw_id, campaign)) > 1:
        raise typer.BadParameter("give one of FOLDER, --fw_id and --campaign")
    if fw_id is not None or folder is not None:
        story = folder_story(folder) if folder is not None else job_story(fw_id or 0)
        if output is not None:
            dump(story.to_dict(), output)
        else:
            _show_story(story)
    elif campaign is not None:
        _show_campaign(campaign, output)
    else:
        _show_campaigns(output)


def results(
    *,
    campaign: Annotated[str | None, typer.Option("--campaign", help="Only this one.")] = None,
    formula: Annotated[str | None, typer.Option("--formula", help="Reduced formula.")] = None,
    code: Annotated[str | None, typer.Option("--code", help="pw.x or lmp.")] = None,
    output: Annotated[TableFormat | None, typer.Option(
        "--output", "-o", help="All columns, for other programs.")] = None,
) -> None:
    """Print the results of the project, one run a line."""
    from orionflow.analysis.tables import results as query

    table = query(campaign=campaign, formula=formula, code=code)
    if output is TableFormat.CSV:
        print(table.to_csv(index=False), end="")
    elif output is TableFormat.JSON:
        dump(records(table), OutputFormat.JSON)
    elif table.empty:
        console(stderr=True).print("no results yet: orionflow show")
    else:
        print_frame(table[list(_SHORT)])


def _show_campaigns(output: OutputFormat | None) -> None:
    from orionflow.analysis.tables import campaigns

    table = campaigns()
    if output is not None:
        dump(records(table), output)
    elif table.empty:
        console(stderr=True).print("nothing has been submitted yet: orionflow recipes")
    else:
        print_frame(table)


def _show_campaign(name: str, output: OutputFormat | None) -> None:
    from rich.markup import escape

    from orionflow.analysis.tables import campaign_table, jobs
    from orionflow.errors import InputError

    table = jobs(campaign=name)
    if table.empty:
        raise InputError(f"no job of a campaign {name!r}", hint="orionflow show lists them")
    found = campaign_table(name)
    if output is not None:
        dump({"campaign": name, "jobs": records(table), "results": records(found)}, output)
        return
    counts = table["state"].value_counts()
    console().print(f"[bold]{name}[/]: " + ", ".join(
        f"{counts[s]} {s}" for s in _STATES if s in counts))
    print_frame(table[["fw_id", "name", "state", "seconds", "host", "slurm_job_id", "launches"]])
    if not found.empty:
        print_results(found)
    failed = table[table["state"] == "FIZZLED"]
    for error, group in failed.groupby("error", sort=False):
        ids = [str(i) for i in group["fw_id"]]
        more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
        console().print(f"[bold red]failed:[/] {', '.join(ids[:_LISTED])}{more}: "
                        f"{escape(str(error))}\n[bold]->[/] orionflow show -i {ids[0]}")


def _show_story(story: JobStory) -> None:
    from rich.markup import escape
    from rich.table import Table

    from orionflow.analysis.story import describe

    run = story.run or {}
    place = story.host or ""
    if story.slurm_job_id:
        place += f", Slurm job {story.slurm_job_id}"
    rows: list[tuple[str, str]] = [
        ("job", f"{story.fw_id or ''} {story.name}".strip()),
        ("state", f"[{_COLOURS.get(story.state, 'yellow')}]{story.state}[/]"),
        ("campaign", story.campaign or ""),
        ("where", escape(place)), ("folder", escape(story.folder or "")),
        ("command", escape(" ".join(run.get("command", ())))),
        ("time", _time(run)),
        *(("corrected", escape(describe(c))) for c in story.corrections),
        *(("before", escape(line)) for line in story.history),
        ("error", f"[red]{escape(story.error)}[/]" if story.error else ""),
        ("next", escape(story.next)),
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, value)
    console().print(table)


def _time(run: dict[str, Any]) -> str:
    if not run:
        return ""
    text = (f"{run['wall_seconds']:.1f} s on {run['ranks']} rank(s) x {run['threads']} thread(s) = "
            f"{run['core_seconds']:.1f} core-seconds; {run['attempts']} attempt(s)")
    if run.get("continued"):
        text += f"; continues {run['continued']} earlier launch(es)"
    return text
