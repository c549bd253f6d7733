"""The first campaign, end to end: `demo`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orionflow.cli.output import console
from orionflow.cli.tables import print_results
from orionflow.errors import InputError, LaunchError

if TYPE_CHECKING:
    from fireworks.core.launchpad import LaunchPad

    from orionflow.cli.watch import Snapshot

_STALLED = 240.0
# Few plane waves and points: enough for the numbers to mean something, not to publish them.
_REQUESTS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("Si, Quantum ESPRESSO", "qe.eos", "Si diamond 5.40",
     {"functional": "pz", "number_of_frames": 7, "linear_strain": [-0.03, 0.03]}),
    ("Al, Quantum ESPRESSO, smearing", "qe.eos", "Al fcc 3.96",
     {"functional": "pz", "number_of_frames": 7, "linear_strain": [-0.03, 0.03],
      "occupations": "smearing", "smearing": "mv", "degauss": 0.02}),
    ("Si, Stillinger-Weber", "lammps.eos", "Si diamond 5.43",
     {"force_field": "Si.sw", "number_of_frames": 7, "linear_strain": [-0.01, 0.01]}),
    ("Cu, embedded atoms", "lammps.eos", "Cu fcc 3.62",
     {"force_field": "Cu_mishin", "number_of_frames": 7, "linear_strain": [-0.005, 0.005]}),
    ("Si with too few SCF steps", "qe.static", "Si diamond 5.43",
     {"functional": "pz", "overrides": {"electrons": {"electron_maxstep": 3}}}),
)
_UNFINISHED = ("READY", "WAITING", "RESERVED", "RUNNING", "PAUSED")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[Path, typer.Argument(help="The project; made when missing.")] = Path("demo"),
    *,
    stop: Annotated[bool, typer.Option(
        "--stop/--keep-running", help="Stop MongoDB and Slurm at the end, or leave them running "
        "for a look around.")] = False,
    nodes: Annotated[int, typer.Option(
        "--nodes", min=1, max=16, help="Virtual nodes of the private Slurm.")] = 4,
    slurm: Annotated[bool, typer.Option(
        "--slurm/--no-slurm", help="Run through a private Slurm, or directly on this machine.",
    )] = True,
    campaign: Annotated[bool, typer.Option(
        "--campaign/--no-campaign", help="Then let a campaign search: which alloy is it?")] = True,
) -> None:
    """Run a first campaign from recipe to figure on this machine, in a few minutes.

    It starts a MongoDB and a Slurm of its own, computes equations of state of Si, Al and Cu with
    Quantum ESPRESSO and LAMMPS, and one job that fails at first and is healed. Then a campaign
    finds out which alloy has a given lattice constant and density. Run again, it adds
    another campaign; after an interruption it continues the last one.
    """
    from orionflow.analysis.store import open_launchpad
    from orionflow.launchers.project import project_environment

    begin = time.monotonic()
    project = _project(folder)
    os.environ.update(project_environment(project))
    with ExitStack() as cleanup:
        if stop:
            cleanup.callback(_stop_services, project)
        _start_services(project, nodes=nodes, slurm=slurm)
        launchpad = open_launchpad(project)
        cleanup.callback(launchpad.connection.close)
        name = _campaign(launchpad)
        _submit(project, name)
        last = _run(project, launchpad, name, slurm=slurm)
        _report(project, name, last, time.monotonic() - begin)
        if last.count("COMPLETED") < len(last.states):
            raise _incomplete(project, name, last)
        if campaign:
            from orionflow.cli.demo_campaign import search

            search(project, slurm=slurm)
        _look_further(project, name, running=not stop)


def _project(folder: Path) -> Path:
    from orionflow.cli.services import PROFILE
    from orionflow.launchers.project import init_project
    from orionflow.settings import PROJECT_FILE

    folder = folder.resolve()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PROJECT_FILE).is_file():
        raise InputError(f"{folder} is not empty and no orionflow project",
                         hint="name another folder: orionflow demo FOLDER")
    if not (folder / PROJECT_FILE).is_file():
        init_project(folder)
    elif (machine := _machine(folder)) not in {"local", PROFILE}:
        raise InputError(f"{folder} is a project for machine {machine!r}; the demo would change "
                         "that", hint="name another folder: orionflow demo FOLDER")
    return folder


def _machine(project: Path) -> str:
    """Return the machine of a project; not from the settings, which are kept once read."""
    import yaml

    from orionflow.settings import PROJECT_FILE

    return str((yaml.safe_load((project / PROJECT_FILE).read_text()) or {}).get("machine", "local"))


def _start_services(project: Path, *, nodes: int, slurm: bool) -> None:
    from orionflow.cli.services import PROFILE
    from orionflow.launchers.project import (
        init_project,
        write_database_config,
        write_machine_profile,
    )
    from orionflow.launchers.services.mongod import Mongod
    from orionflow.launchers.services.slurm import PrivateSlurm

    with console(stderr=True).status("starting MongoDB"):
        access = Mongod(project / ".orionflow" / "mongo").start()
        write_database_config(project, access)
    _say(f"MongoDB runs on {access.host}:{access.port}, data in {project}/.orionflow/mongo")
    if not slurm:
        init_project(project, machine="local")
        return
    with console(stderr=True).status(f"starting Slurm with {nodes} virtual nodes"):
        layout = PrivateSlurm.of(project).start(nodes=nodes)
        write_machine_profile(project, PROFILE, cores_per_node=layout.cpus,
                              max_queued=layout.nodes)
        init_project(project, machine=PROFILE)
    _say(f"Slurm runs: {layout.nodes} virtual nodes of {layout.cpus} CPUs")


def _stop_services(project: Path) -> None:
    from orionflow.launchers.services.mongod import Mongod
    from orionflow.launchers.services.slurm import PrivateSlurm

    with console(stderr=True).status("stopping the services"):
        PrivateSlurm.of(project).stop()
        Mongod(project / ".orionflow" / "mongo").stop()
    _say("services stopped; all results are kept")


def _campaign(launchpad: LaunchPad) -> str:
    """Return the last demo campaign if it is unfinished, else the next name."""
    numbers = {}
    for name in launchpad.fireworks.distinct("spec.campaign"):
        if match := re.fullmatch(r"demo(?:-(\d+))?", str(name)):
            numbers[int(match[1] or 1)] = name
    if not numbers:
        return "demo"
    last = max(numbers)
    states = launchpad.fireworks.distinct("state", {"spec.campaign": numbers[last]})
    if set(states) & set(_UNFINISHED) and "FIZZLED" not in states:
        _say(f"campaign {numbers[last]} is unfinished: it is continued")
        return str(numbers[last])
    return f"demo-{last + 1}"


def _submit(project: Path, campaign: str) -> None:
    from rich.progress import track

    from orionflow.launchers.launchpad import open_launchpad
    from orionflow.workflows.compile import submit
    from orionflow.workflows.registry import make

    pad = open_launchpad(project)
    jobs = 0
    try:
        for what, recipe, structure, parameters in track(
                _REQUESTS, "submitting", console=console(stderr=True), transient=True):
            done = submit(make(recipe, structure, parameters), project=project, launchpad=pad,
                          campaign=campaign, key=f"{campaign}: {what}", name=what,
                          resources={"ranks": 1, "walltime": 600})
            jobs += len(done.fw_ids)
    finally:
        pad.connection.close()
    _say(f"campaign {campaign}: {len(_REQUESTS)} workflows, {jobs} jobs")


def _run(project: Path, launchpad: LaunchPad, campaign: str, *, slurm: bool) -> Snapshot:
    from orionflow.cli.drivers import Cron, Local
    from orionflow.cli.watch import Watch

    watch = Watch(launchpad, campaign, project, slurm=slurm)
    try:
        with Cron(project) if slurm else Local(project) as worker:
            return watch.run(worker.keep_going, stalled_after=_STALLED)
    except KeyboardInterrupt:
        _say(f"interrupted: `orionflow demo {shlex.quote(str(project))}` continues")
        raise


def _report(project: Path, campaign: str, last: Snapshot, seconds: float) -> None:
    from orionflow.analysis.figures import plot_deviation, plot_eos
    from orionflow.analysis.story import describe, job_story
    from orionflow.analysis.tables import campaign_table, eos_curves, jobs, results

    runs = results(campaign=campaign, project=project)
    table = campaign_table(campaign, project=project)
    print_results(table)
    out = console()
    for fw_id in runs[runs["corrections"] > 0]["fw_id"]:
        story = job_story(int(fw_id), project)
        out.print(f"\nJob {fw_id} ({story.name}) failed at first and was healed:")
        for correction in story.corrections:
            out.print(f"  {describe(correction)}", markup=False, soft_wrap=True)
        energy = runs[runs["fw_id"] == fw_id]["energy_ev"].iloc[0]
        out.print(f"  attempt {(story.run or {}).get('attempts')}: converged, {energy:.4f} eV")
    figures = project / "figures"
    figures.mkdir(exist_ok=True)
    curves = eos_curves(campaign, project=project)
    if curves:
        plot_eos(curves, figures / f"{campaign}-eos.png")
        plot_deviation(table, figures / f"{campaign}-deviation.png")
        out.print(f"\nFigures: {figures}/{campaign}-eos.png\n"
                  f"         {figures}/{campaign}-deviation.png", soft_wrap=True)
    slurm = sorted(set(jobs(campaign=campaign, project=project)["slurm_job_id"].dropna()), key=int)
    where = f"{len(slurm)} Slurm jobs ({', '.join(slurm)})" if slurm else "no Slurm job"
    out.print(f"\n{last.count('COMPLETED')} of {len(last.states)} jobs completed in "
              f"{seconds:.0f} s: {where}, {runs['core_seconds'].sum():.0f} core-seconds in pw.x "
              "and lmp", soft_wrap=True)


def _incomplete(project: Path, campaign: str, last: Snapshot) -> LaunchError:
    from orionflow.analysis.tables import jobs

    failed = jobs(campaign=campaign, state="FIZZLED", project=project)
    missing = len(last.states) - last.count("COMPLETED")
    lines = [f"{missing} of {len(last.states)} jobs did not complete"]
    lines += [f"  {', '.join(map(str, group['fw_id']))} failed: {error}"
              for error, group in failed.groupby("error", sort=False)]
    return LaunchError(
        "\n".join(lines),
        hint=f"cd {shlex.quote(str(project))}; orionflow show --campaign {campaign}")


def _look_further(project: Path, campaign: str, *, running: bool) -> None:
    start = [] if running else ["orionflow db start"]
    stop = ["orionflow slurm stop; orionflow db stop    # when done"] if running else []
    own = Path(sys.executable).parent
    if Path(shutil.which("orionflow") or "/").parent != own:  # a venv that is not activated
        start.insert(0, f"export PATH={shlex.quote(str(own))}:$PATH")
    lines = [
        "", "To look further:", "", f"  cd {shlex.quote(str(project))}", *(f"  {s}" for s in start),
        f"  orionflow show --campaign {campaign}",
        f"  orionflow results --campaign {campaign} -o csv",
        "  orionflow doctor",
        "  lpad get_wflows -d more",
        f"  lpad get_fws -q '{{\"spec.campaign\": \"{campaign}\"}}' -d ids",
        "  lpad webgui",
        "  python", "    >>> from orionflow.analysis.tables import campaign_table, results",
        f"    >>> campaign_table({campaign!r})",
        f"    >>> results(campaign={campaign!r}, code='pw.x')",
        *(f"  {s}" for s in stop),
    ]
    console().print("\n".join(lines), markup=False, soft_wrap=True)


def _say(text: str) -> None:
    console(stderr=True).print(text, markup=False, soft_wrap=True)
