"""From recipe to running job: `init`, `recipes`, `submit`, `launch`, `cron`, `recover`."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orionflow.cli.output import OutputFormat, console, dump
from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fireworks.core.firework import Workflow

    from orionflow.workflows.compile import SubmitResult

EXIT_TRY_LATER = 75
Output = Annotated[OutputFormat | None, typer.Option(
    "--output", "-o", help="Print data instead of text.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (init, recipes, submit, launch, recover, cron):
        app.command(command.__name__)(command)


def init(
    folder: Annotated[Path, typer.Argument(help="The project; made when missing.")] = Path(),
    *,
    machine: Annotated[str | None, typer.Option(
        "--machine", "-m", help="Machine profile, by name or path; `local` unless given.")] = None,
    force: Annotated[bool, typer.Option(
        "--force", help="Replace files that were edited (a copy stays as .bak).")] = False,
) -> None:
    """Make a project folder: settings, and the files FireWorks finds its way by."""
    from orionflow.launchers.machine import load_machine
    from orionflow.launchers.project import init_project

    report = init_project(folder, machine=machine, force=force)
    profile = load_machine(project=folder.resolve())
    print(f"project {folder.resolve()}, machine {profile.name}")
    for name in report.written:
        print(f"  wrote {name}")
    for name in report.kept:
        print(f"  kept {name}: it was edited by hand; --force replaces it", file=sys.stderr)
    if not (folder / "my_launchpad.yaml").exists():
        print("next: `orionflow db start`, or put your MongoDB into my_launchpad.yaml and "
              "jobflow.yaml", file=sys.stderr)


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show the parameters of this one.")] = None,
    *,
    output: Output = None,
) -> None:
    """List the recipes, or the parameters of one."""
    from rich.table import Table

    from orionflow.workflows import registry

    if name is None:
        found = registry.recipes()
        if output is not None:
            dump([{"name": r.name, "code": r.code, "summary": r.summary} for r in found], output)
            return
        table = Table("recipe", "code", "what it gives", box=None)
        for recipe in found:
            table.add_row(recipe.name, recipe.code, recipe.summary)
        console().print(table)
        return
    recipe = registry.get_recipe(name)
    if output is not None:
        dump(recipe.schema(), output)
        return
    table = Table("parameter", "type", "default", "meaning", box=None)
    for key, parameter in recipe.parameters().items():
        default = "(required)" if parameter.required else json.dumps(parameter.default,
                                                                     default=str)
        table.add_row(key, parameter.type, default, parameter.description)
    console().print(f"{recipe.name}: {recipe.summary} ({recipe.code})")
    console().print(table)


def submit(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; see `orionflow recipes`.")],
    structures: Annotated[list[str], typer.Argument(
        metavar="STRUCTURE...", help="CIF, POSCAR or XYZ files, or names such as "
        "'Si diamond 5.43'; for qe.input and lammps.input your input files or folders.")],
    *,
    parameter: Annotated[list[str] | None, typer.Option(
        "--parameter", "-p", metavar="NAME=VALUE", help="Parameter of the recipe; repeatable.",
    )] = None,
    campaign: Annotated[str | None, typer.Option("--campaign", "-c", help="Name on all.")] = None,
    key: Annotated[str | None, typer.Option(
        "--key", "-k", help="Name of this request: submitted again, it stays one workflow.",
    )] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", help="Compute nodes.")] = None,
    ranks: Annotated[int | None, typer.Option("--ranks", "-n", help="MPI processes.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads of each.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="On each node: 4GB.")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", help="On each node.")] = None,
    walltime: Annotated[str | None, typer.Option(
        "--walltime", "-t", help="Longest time of one job: 02:00:00.")] = None,
    priority: Annotated[int | None, typer.Option(
        "--priority", help="Higher runs first.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Repeatable.")] = None,
    retry: Annotated[list[str] | None, typer.Option(
        "--retry", metavar="CLASS=N", help="How often a job may run again after a class of "
        "failure: memory=0; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", help="Check everything, store nothing.")] = False,
    output: Output = None,
) -> None:
    """Submit a recipe for one structure or many, one workflow each.

    All structures and parameters are checked before the first workflow is stored.
    """
    from orionflow.workflows.compile import compile_flow, project_of
    from orionflow.workflows.registry import get_recipe

    project = project_of()
    resources = _resources(nodes=nodes, ranks=ranks, threads=threads, memory=memory,
                           gpus=gpus, walltime=walltime)
    chosen = get_recipe(recipe)
    values = _parameters(parameter or [])
    keys = _keys(key, structures)
    ready = []
    with _progress(len(structures), "checking") as step:
        for structure, one in zip(structures, keys, strict=True):
            ready.append(compile_flow(
                chosen.make(structure, values), project=project, key=one, campaign=campaign,
                resources=resources, priority=priority, tags=tag or [],
                retry=_parameters(retry or []),
                name=f"{recipe} {_label(structure)}"))
            step(_label(structure))
    if dry_run:
        _describe(ready, output)
    else:
        _report(_store(project, ready), output)


def launch(
    *,
    max_jobs: Annotated[int | None, typer.Option(
        "--max-jobs", min=1, help="End after so many jobs.")] = None,
    patience: Annotated[float, typer.Option(
        "--patience", min=0, help="Wait so many seconds for new work while none is READY.",
    )] = 0.0,
    time: Annotated[str | None, typer.Option(
        "--time", "-t", help="End after this time (02:00:00); jobs that go on are put back.",
    )] = None,
    cores: Annotated[int | None, typer.Option("--cores", help="Use only so many cores.")] = None,
    parallel: Annotated[int | None, typer.Option(
        "--parallel", min=1, help="Run at most so many jobs at once.")] = None,
    fw_id: Annotated[int | None, typer.Option(
        "--fw_id", "-i", help="Run this firework alone (`qlaunch -r` adds it).")] = None,
    singleshot_if_reserved: Annotated[bool, typer.Option(  # noqa: ARG001  see the help
        "--singleshot-if-reserved", help="Does nothing: `qlaunch -r` wants to read 'singleshot' "
        "in the job script before it adds --fw_id.")] = False,
    output: Output = None,
) -> None:
    """Run READY jobs side by side on the cores there are, until none fits or the time is over.

    In a Slurm job it takes the cores and the end of that job; elsewhere this machine, without
    an end. A job that is stopped goes back to the queue and continues in its folder.
    """
    from orionflow.launchers.launcher import Launcher, LaunchOptions
    from orionflow.launchers.resources import parse_walltime
    from orionflow.workflows.compile import project_of

    project = project_of()
    seconds = None if time is None else _positive("time", parse_walltime(time))
    options = LaunchOptions(max_jobs=max_jobs, patience=patience, time_limit=seconds,
                            cores=cores, parallel=parallel, fw_id=fw_id)
    inside = os.environ.get("SLURM_JOB_ID") is not None
    folder = None if inside or fw_id is not None else _block(project)
    report = Launcher(project, options, folder).run()
    if output is not None:
        dump({"states": dict(report.states), "fw_ids": report.fw_ids, "ended": report.ended},
             output)
    else:
        print(report.describe())


def recover(
    *,
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", help="Only say what would be done.")] = False,
    wait: Annotated[float, typer.Option(
        "--wait", min=0, help="Seconds to watch launchers on other hosts that are silent; one is "
        "known to be dead after 55.")] = 60.0,
    output: Output = None,
) -> None:
    """Bring into order what killed launchers, submissions and nodes left half done.

    Safe at any time, beside running launchers; they and `orionflow cron` do it too.
    """
    from orionflow.launchers.launchpad import open_launchpad
    from orionflow.launchers.recovery import recover as run
    from orionflow.workflows.compile import project_of

    project, said = project_of(), set[bool]()
    with closing(open_launchpad(project)) as pad, console(stderr=True).status("") as status:
        def tell(line: str) -> None:
            status.update(line)
            if not sys.stderr.isatty() and not said:  # where nobody sees it change, once
                said.add(True)
                print(line, file=sys.stderr)

        steps = run(project, pad, dry_run=dry_run, patience=wait, tell=tell)
    if output is not None:
        dump([step.to_dict() for step in steps], output)
        return
    for step in steps:
        print(f"would be {step.describe()}" if dry_run else step.describe())
    if not steps:
        print("nothing to recover")


def cron(
    *,
    verbose: Annotated[bool, typer.Option(
        "--verbose", "-v", help="Say on stdout what goes to the log.")] = False,
    status: Annotated[bool, typer.Option(
        "--status", help="Only show what the last run did, and how long it waits.")] = False,
    output: Output = None,
) -> None:
    """Recover what was lost, then submit allocations for READY work; for crontab.

    Quiet while all is well. Two never overlap: the second exits with 75. A file
    `.orionflow/cron.stop` makes it do nothing. After a failed sbatch it waits, longer each time.
    """
    from orionflow.launchers.cron import run_cron
    from orionflow.workflows.compile import project_of

    if status:
        _cron_status(project_of(), output)
        return
    report = run_cron(project_of())
    if output is not None:
        dump(report.to_dict(), output)
    elif verbose or (report.problem and not report.try_later) or sys.stderr.isatty():
        print(report.describe(), file=sys.stderr if report.problem else sys.stdout)
    elif report.news:  # cron sends it by mail, once
        print("\n".join(report.news), file=sys.stderr)
    if report.problem:
        raise typer.Exit(EXIT_TRY_LATER if report.try_later else 1)


# ---------------------------------------------------------------------------------------- helpers


def _store(project: Path, ready: Sequence[Workflow]) -> list[SubmitResult]:
    from orionflow.launchers.launchpad import open_launchpad
    from orionflow.workflows.compile import store_workflow

    results = []
    with closing(open_launchpad(project)) as pad, _progress(len(ready), "submitting") as step:
        for wf in ready:
            results.append(store_workflow(wf, launchpad=pad))
            step(wf.name)
    return results


def _describe(ready: Sequence[Workflow], output: OutputFormat | None) -> None:
    """Say what would be stored; jobs that a job makes while running are not known yet."""
    found = [{"name": wf.name, "jobs": len(wf), "key": wf.metadata.get("submit_key"),
              "category": next(iter(wf)).spec["_category"],
              "resources": next(iter(wf)).spec["resources"]} for wf in ready]
    if output is not None:
        dump(found, output)
        return
    for wf in found:
        asked = ", ".join(f"{k} {v}" for k, v in wf["resources"].items() if v is not None)
        print(f"{wf['name']}: {wf['jobs']} job(s) to begin with; {asked}; "
              f"category {wf['category']}")


def _report(results: list[SubmitResult], output: OutputFormat | None) -> None:
    if output is not None:
        dump([{"workflow_id": r.workflow_id, "fw_ids": r.fw_ids, "created": r.created,
               "name": r.name} for r in results], output)
        return
    for r in results:
        jobs = (f"firework {r.fw_ids[0]}" if len(r.fw_ids) == 1
                else f"fireworks {r.fw_ids[0]}-{r.fw_ids[-1]}")
        print(f"{r.name}: {jobs}" + ("" if r.created else " (submitted before with this key)"))


def _cron_status(project: Path, output: OutputFormat | None) -> None:
    from datetime import datetime
    from time import time

    from orionflow.launchers.cron import STOP_FILE, cron_state

    state = cron_state(project)
    stopped = (project / ".orionflow" / STOP_FILE).exists()
    if output is not None:
        dump({**state, "stopped": stopped}, output)
        return
    if not state:
        print("cron has never run in this project")
        return
    ago = time() - datetime.fromisoformat(state["last_run"]).timestamp()
    print(f"last run {ago:.0f} s ago: {len(state['submitted'])} submitted, "
          f"{len(state['recovered'])} recovered; {state['problem'] or state['note'] or 'all well'}")
    if (wait := float(state.get("not_before") or 0) - time()) > 0:
        print(f"{state['failures']} failed submission(s) in a row; the next in {wait:.0f} s: "
              f"{state['last_error']}")
    if stopped:
        print(f"stopped: remove .orionflow/{STOP_FILE} to go on")


def _resources(**given: Any) -> dict[str, Any] | None:
    values = {k: v for k, v in given.items() if v is not None}
    if isinstance(text := values.get("walltime"), str) and text.lstrip("-").isdigit():
        values["walltime"] = int(text)
    if isinstance(text := values.get("memory"), str) and text.lstrip("-").isdigit():
        values["memory"] = int(text)
    return values or None


def _parameters(pairs: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise InputError(f"parameter {pair!r} has no `=`", hint="write -p name=value")
        if name.strip() in values:
            raise InputError(f"parameter {name.strip()!r} is given twice", hint="give it once")
        values[name.strip()] = _value(text.strip())
    return values


def _value(text: str) -> Any:
    """Return a number, list, mapping or word; JSON first, for YAML takes 1e-6 as a word."""
    import yaml

    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _keys(key: str | None, structures: Sequence[str]) -> list[str | None]:
    """Return one key for each workflow: the key, and for several the structure beside it."""
    if key is None or len(structures) == 1:
        return [key] * len(structures)
    labels = [f"{key}:{structure}" for structure in structures]
    if len(set(labels)) < len(labels):
        raise InputError("a structure is given twice", hint="give each once, or leave --key out")
    return list(labels)


def _label(structure: str) -> str:
    path = Path(structure)
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.is_file() else structure


def _positive(name: str, value: object) -> int:
    if isinstance(value, str) and value.lstrip("-").isdigit():
        value = int(value)
    if not isinstance(value, int) or value <= 0:
        raise InputError(f"{name} = {value!r}", hint="give it as 02:00:00 or in seconds")
    return value


def _block(project: Path) -> Path:
    """Return the folder for this launcher's jobs; `qlaunch` makes one itself."""
    from datetime import UTC, datetime

    return project / f"block_{datetime.now(UTC).strftime('%Y-%m-%d-%H-%M-%S-%f')}"


class _progress:  # noqa: N801  used as a function
    """A bar on stderr for more than a few: ``with _progress(n, "checking") as step: ...``."""

    def __init__(self, total: int, what: str) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), transient=True, disable=total < 3)  # noqa: PLR2004  a few
        self.task = self.bar.add_task(what, total=total)

    def __enter__(self) -> Any:
        self.bar.start()
        return self._step

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def _step(self, name: str) -> None:
        self.bar.update(self.task, advance=1, description=name)
