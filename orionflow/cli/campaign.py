"""`orionflow campaign`: searches that run themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orionflow.cli.output import OutputFormat, console, dump
from orionflow.cli.tables import print_frame, records
from orionflow.errors import InputError

if TYPE_CHECKING:
    from orionflow.agents.campaign import Campaigns, CampaignStatus

app = typer.Typer(name="campaign", no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Searches that run themselves: objective, search space, budget, end.")
ledger_app = typer.Typer(name="ledger", no_args_is_help=True,
                         help="What was written down of a campaign, row by row.")
app.add_typer(ledger_app)

Output = Annotated[OutputFormat | None, typer.Option(
    "--output", "-o", help="Print data instead of text.")]
Name = Annotated[str, typer.Argument(help="Name of the campaign.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the ledger.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, store nothing.")]


def register(main: typer.Typer) -> None:
    """Add the commands of this module."""
    main.add_typer(app)


@app.command()
def template(
    name: Annotated[str | None, typer.Argument(help="Which one; without it they are listed.")
                    ] = None,
) -> None:
    """Print a campaign document to begin with: `orionflow campaign template alloy > my.yaml`."""
    found = templates()
    if name is None:
        for key, text in found.items():
            print(f"{key}: {text.splitlines()[0].lstrip('# ')}")
        return
    if name not in found:
        raise InputError(f"there is no template {name!r}", hint=f"valid: {', '.join(found)}")
    print(found[name], end="")


@app.command()
def create(
    file: Annotated[Path, typer.Argument(help="Campaign document, YAML.")],
    *,
    start_now: Annotated[bool, typer.Option("--start", help="Start it as well.")] = False,
    dry_run: DryRun = False,
    output: Output = None,
) -> None:
    """Check a campaign document and store it as a DRAFT; nothing is submitted yet."""
    from orionflow.agents.campaign import Campaign, Campaigns

    campaign = Campaign.from_file(file)
    with Campaigns() as campaigns:
        if dry_run:
            campaigns.check(campaign)
            if output is not None:
                dump(campaign.to_data(), output)
            else:
                print(f"{campaign.name}: {file} is a good campaign; nothing is stored")
            return
        new = campaigns.create(campaign, _who())
        if start_now:
            campaigns.start(campaign.name, _who())
        _show_status(campaigns.status(campaign.name), output,
                     "" if new else "it was there already")


@app.command(name="list")
def list_(*, output: Output = None) -> None:
    """List the campaigns of the project."""
    from orionflow.agents.frames import statuses_frame

    with _campaigns() as campaigns:
        found = campaigns.statuses()
    if output is not None:
        dump([s.to_dict() for s in found], output)
    elif not found:
        console(stderr=True).print("no campaign yet: orionflow campaign template")
    else:
        print_frame(statuses_frame(found))


@app.command()
def show(name: Name, *, document: Annotated[bool, typer.Option(
        "--document", help="Only the campaign document, as YAML.")] = False,
         output: Output = None) -> None:
    """Show a campaign with all its candidates."""
    from orionflow.agents.frames import candidates_frame

    with _campaigns() as campaigns:
        view, status = campaigns.view(name), campaigns.status(name)
    if document:
        print(view.campaign.to_yaml(), end="")
        return
    table = candidates_frame(view)
    if output is not None:
        dump({**status.to_dict(), "candidates": records(table)}, output)
        return
    _show_status(status, None)
    if len(table):
        hidden = ["better", "reserved_core_hours", "proposed_at", "settled_at", "result", "fw_ids"]
        shown = table.drop(columns=hidden)
        shown["spent_core_hours"] = shown["spent_core_hours"].round(5)
        print_frame(shown.rename(columns={"spent_core_hours": "core-h"}))


@app.command()
def status(name: Name, *, output: Output = None) -> None:
    """Show where a campaign stands: best so far, spent, failures, what is next."""
    with _campaigns() as campaigns:
        _show_status(campaigns.status(name), output)


@app.command()
def start(name: Name, *, reason: Reason = "", output: Output = None) -> None:
    """Let a DRAFT run; `orionflow campaign advance` (in crontab) does the rest."""
    with _campaigns() as campaigns:
        done = campaigns.start(name, _who(), reason)
        _show_status(campaigns.status(name), output, "" if done else "it runs already")


@app.command()
def pause(name: Name, *, reason: Reason = "", output: Output = None) -> None:
    """Propose and submit nothing more for now; what runs is still collected."""
    with _campaigns() as campaigns:
        done = campaigns.pause(name, _who(), reason)
        _show_status(campaigns.status(name), output, "" if done else "it is paused already")


@app.command()
def resume(name: Name, *, reason: Reason = "", output: Output = None) -> None:
    """Let a paused campaign run again."""
    with _campaigns() as campaigns:
        done = campaigns.resume(name, _who(), reason)
        _show_status(campaigns.status(name), output, "" if done else "it runs already")


@app.command()
def cancel(name: Name, *, reason: Reason = "", dry_run: DryRun = False,
           output: Output = None) -> None:
    """End a campaign for good: what waits is withdrawn, what runs is asked to stop."""
    with _campaigns() as campaigns:
        if dry_run:
            open_ = campaigns.status(name).open
            print(f"{name}: {open_} open candidate(s) would be withdrawn")
            return
        campaigns.cancel(name, _who(), reason)
        _show_status(campaigns.status(name), output)


@app.command()
def add(
    name: Name,
    points: Annotated[list[str], typer.Argument(
        metavar="POINT...", help="JSON or YAML: '{pressure: 50000, alloy: {Cu: 16, Ni: 16}}'.")],
    *,
    dry_run: DryRun = False,
    output: Output = None,
) -> None:
    """Add candidates you thought of; they count, and the proposer learns from them."""
    with _campaigns() as campaigns:
        found = [_point(text) for text in points]
        if dry_run:
            space = campaigns.view(name).campaign.space
            checked = [space.check(point) for point in found]
            dump(checked, output or OutputFormat.JSON)
            return
        numbers = campaigns.add_points(name, found, "user", _who())
    if output is not None:
        dump({"candidates": numbers}, output)
    else:
        print(f"{name}: candidate(s) {', '.join(map(str, numbers))}; the next "
              f"`orionflow campaign advance {name}` submits them")


@app.command()
def approve(
    name: Name,
    candidates: Annotated[list[int] | None, typer.Argument(
        metavar="[CANDIDATE]...", help="Their numbers; all that wait for it unless given.")] = None,
    *,
    dry_run: DryRun = False,
    output: Output = None,
) -> None:
    """Agree to the cost of candidates that need a person's consent."""
    with _campaigns() as campaigns:
        if dry_run:
            done = campaigns.status(name).awaiting_approval
        else:
            done = campaigns.approve(name, _who(), candidates or None)
    if output is not None:
        dump({"approved": [] if dry_run else done, "awaiting": done if dry_run else []}, output)
    else:
        print(f"{name}: {'waiting' if dry_run else 'approved'}: "
              f"{', '.join(map(str, done)) or 'none'}")


@app.command()
def advance(
    name: Annotated[str | None, typer.Argument(help="Name of the campaign.")] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Every campaign; for crontab.")] = False,
    verbose: Annotated[bool, typer.Option(
        "--verbose", "-v", help="With --all: a line for those with nothing to do, too.")] = False,
    output: Output = None,
) -> None:
    """Collect finished work, apply the stopping rules, propose and submit the next candidates.

    Safe at any time, in any number at once; killed, the next one goes on where it was.
    """
    if (name is None) != all_:
        raise typer.BadParameter("give the NAME of a campaign, or --all")
    with _campaigns() as campaigns:
        found = (campaigns.advance_all(_who("cron")) if name is None
                 else [campaigns.advance(name, _who())])
    if output is not None:
        dump([r.to_dict() for r in found], output)
    for one in found:
        if one.error:
            print(f"error: {one.name}: {one.error}", file=sys.stderr)
        elif output is None and (not one.idle or not all_ or verbose):
            print(one.describe())
    if any(one.error for one in found):
        raise typer.Exit(1)


@app.command()
def watch(
    name: Name,
    *,
    advance_too: Annotated[bool, typer.Option(
        "--advance", help="Advance it as well, where no crontab does.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between looks.")] = 5.0,
) -> None:
    """Follow a campaign until it ends or Ctrl-C: best so far, spent, predicted finish."""
    from orionflow.cli.campaign_watch import CampaignWatch

    with _campaigns() as campaigns:
        last = CampaignWatch(campaigns, name, every=every,
                             step=(lambda: campaigns.advance(name, _who())) if advance_too
                             else None).run()
        _show_status(last, None)


@app.command()
def report(
    name: Name,
    *,
    file: Annotated[Path | None, typer.Option(
        "--file", "-f", help="Where to; figures/NAME.html of the project unless given.")] = None,
) -> None:
    """Write one HTML page with figures: convergence, model against result, cost, failures."""
    from orionflow.agents.report import report_html

    with _campaigns() as campaigns:
        page, project = report_html(campaigns.view(name)), campaigns.project
    path = file or project / "figures" / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    print(path)


@app.command()
def simulate(
    campaign: Annotated[str, typer.Argument(
        metavar="FILE|NAME", help="Campaign document, or the name of a campaign.")],
    *,
    table: Annotated[Path | None, typer.Option(
        "--table", help="CSV of known results: columns are variables and objectives. Without it "
        "the results of the campaign NAME.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Campaigns to play.")] = 10,
    proposer: Annotated[str | None, typer.Option(
        "--proposer", help="Another than that of the document.")] = None,
    output: Output = None,
) -> None:
    """Play a campaign through on known results before core-hours are spent."""
    from rich.progress import Progress

    from orionflow.agents.campaign import Campaign
    from orionflow.agents.campaign_document import ProposerChoice
    from orionflow.agents.simulate import known_results, read_table
    from orionflow.agents.simulate import simulate as play

    if Path(campaign).is_file():
        document = Campaign.from_file(Path(campaign))
        if table is None:
            raise InputError("no known results given", hint="give --table results.csv")
        known = read_table(table, document)
    else:
        with _campaigns() as campaigns:
            view = campaigns.view(campaign)
        document = view.campaign
        known = known_results(view) if table is None else read_table(table, document)
    if proposer is not None:
        chosen = ProposerChoice(name=proposer, seed=document.proposer.seed)
        document = document.model_copy(update={"proposer": chosen})
    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("playing", total=seeds)
        found = play(document, known, seeds=seeds,
                     progress=lambda n: bar.update(task, completed=n))
    if output is not None:
        dump(found.to_dict(), output)
        return
    after = [n for n in found.found_after if n is not None]
    rows = [
        ("known results", f"{found.candidates}, of which {found.good} reach {found.goal}"),
        ("found by", f"{found.proposer}: {len(after)} of {found.seeds} campaigns within their "
         "rules" + (f", after {min(after)} to {max(after)} evaluations" if after else "")),
        ("by chance", f"{100 * found.random_found:.0f} % within {found.evaluations} evaluations"),
        ("acceleration", (f"{found.acceleration:.1f} ({found.interval[0]:.1f} to "
         f"{found.interval[1]:.1f}, 95 %)")),
        ("ended by", ", ".join(f"{k} {v}" for k, v in found.ended.items())),
    ]
    _print_rows(found.name, rows)


@ledger_app.command(name="show")
def ledger_show(name: Name, *, output: Output = None) -> None:
    """Print the rows of a campaign's ledger: who did what, when, at what cost."""
    from orionflow.agents.frames import rows_frame

    with _campaigns() as campaigns:
        campaigns.view(name)
        rows = list(campaigns.ledger.read(name))
    if output is not None:
        dump(rows, output)
    else:
        print_frame(rows_frame(rows))


@ledger_app.command()
def verify(name: Annotated[str | None, typer.Argument(help="All unless given.")] = None, *,
           output: Output = None) -> None:
    """Check that no row was changed, removed or put in, and that all sums are right."""
    with _campaigns() as campaigns:
        if name is not None:
            campaigns.view(name)
        counts = {n: campaigns.ledger.verify(n) for n in
                  ([name] if name is not None else campaigns.names())}
    if output is not None:
        dump(counts, output)
    else:
        for one, count in counts.items():
            print(f"{one}: {count} rows, chain and sums are right")


# ---------------------------------------------------------------------------------------- helpers


def _campaigns() -> Campaigns:
    from orionflow.agents.campaign import Campaigns

    return Campaigns()


def _who(default: str | None = None) -> str:
    from orionflow.settings import find_project, load_settings

    owner = load_settings(find_project()).owner
    return f"{owner} ({default})" if default else owner


def templates() -> dict[str, str]:
    """Return the campaign documents that come with the package, by name."""
    from importlib.resources import files

    folder = files("orionflow.agents") / "templates"
    return {item.name.removesuffix(".yaml"): item.read_text(encoding="utf-8")
            for item in sorted(folder.iterdir(), key=lambda f: f.name)
            if item.name.endswith(".yaml")}


def _point(text: str) -> dict[str, Any]:
    import yaml

    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"point {text!r}: {error}", hint="write {variable: value}") from error
    if not isinstance(value, dict):
        raise InputError(f"point {text!r} is no mapping", hint="write '{variable: value}'")
    return value


def _show_status(found: CampaignStatus, output: OutputFormat | None, note: str = "") -> None:
    if output is not None:
        dump(found.to_dict(), output)
        return
    _print_rows(found.name, status_rows(found))
    if note:
        print(note, file=sys.stderr)


def status_rows(found: CampaignStatus) -> list[tuple[str, str]]:
    """Return the lines of a status: name and text."""
    from orionflow.agents.frames import with_sigma, words
    from orionflow.agents.uncertainty import MEANING

    rows = [
        ("state", f"{found.state}  {found.reason}".rstrip()),
        ("sought", "; ".join(found.objectives)),
        ("candidates", (f"{found.evaluations} of at most {found.evaluations_allowed}: {found.done} "
         f"with a result, {found.failed} failed, {found.open} open")),
        ("core-hours", (f"{found.spent:.4g} spent, {found.reserved:.4g} reserved, {found.left:.4g} "
         f"left of {found.core_hours:g}")),
    ]
    if found.best is not None:
        rows += [("best so far", with_sigma(found.best)),
                 ("", MEANING),
                 ("", f"candidate {found.best.candidate}: {words(found.best.point)}")]
    rows += [("front", f"{words(b.values)}: {words(b.point)}") for b in found.front[:5]
             if len(found.front) > 1]
    rows += [("failed", f"{f['count']} x {f['reason']}") for f in found.failures]
    if found.predicted_finish:
        rows.append(("finish", f"{found.predicted_finish} at the latest, at this pace"))
    rows.append(("next", found.next))
    return rows


def _print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, title=escape(title),
                  title_justify="left", title_style="bold")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, escape(text))
    console().print(table)
