"""`doctor`: every check of a project in one table, each with what to do."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orionflow.cli.output import OutputFormat, dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orionflow.launchers.doctor.finding import Finding, Site

_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "broken": "[bold red]broken[/]"}
_SHOWN = 3


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("doctor")(doctor)


def doctor(
    *,
    output: Annotated[OutputFormat | None, typer.Option(
        "--output", "-o", help="Print the findings as data.")] = None,
) -> None:
    """Check this project and machine; exit 1 when something is broken.

    Each check does the real thing: it writes to the database and to the result store, starts two
    MPI ranks, asks Slurm whether it would take an allocation.
    """
    findings = diagnose(_project())
    broken = [f for f in findings if f.state == "broken"]
    if output is not None:
        dump([f.to_dict() for f in findings], output)
    else:
        _show(findings)
    raise typer.Exit(1 if broken else 0)


def diagnose(project: Path) -> list[Finding]:
    """Return the findings of every check, those of the base first.

    Raises
    ------
    ConfigError
        Settings or machine profile are wrong: nothing else can be judged then.
    """
    from orionflow.launchers.doctor.finding import Site, run_checks

    return run_checks(Site.of(project), _checks())


def _checks() -> Iterable[Callable[[Site], Iterator[Finding]]]:
    from orionflow.launchers.doctor import database, machine, queue

    return (database.database, database.private_files, result_store, jobflow_variables,
            database.fireworks_configuration, queue.ready_jobs, queue.leftovers,
            machine.executables, machine.mpi, pseudopotentials, potentials, machine.slurm,
            machine.cron,
            machine.disk)


def result_store(site: Site) -> Iterator[Finding]:
    """Write to the JobStore as a job does, documents and data, and read them back."""
    from orionflow.analysis.store import DATA_STORE, reading
    from orionflow.launchers.doctor.finding import Finding

    with reading(site.project) as store:
        kinds: dict[str, Any] = vars(store)["additional_stores"]
        if DATA_STORE not in kinds:
            yield Finding("result store", "broken", f"no additional store {DATA_STORE!r} in "
                          f"{site.project / 'jobflow.yaml'}",
                          "runs would fail at their very end: orionflow init writes it")
            return
        key = {"uuid": f"orionflow-doctor-{uuid.uuid4().hex}", "index": 1}
        try:
            store.update({**key, "output": {"data": [1.5, 2.5]}}, key=["uuid", "index"],
                         save={DATA_STORE: ["data"]})
            read = store.query_one({"uuid": key["uuid"]}, load=True)
        finally:
            store.remove_docs({"uuid": key["uuid"]})
        if read is None or read["output"]["data"] != [1.5, 2.5]:
            yield Finding("result store", "broken", "does not give back what is written",
                          "look at docs_store and additional_stores in jobflow.yaml")
            return
        docs = store.docs_store
        yield Finding("result store", "ok",
                      f"{type(docs).__name__} {docs.name} with "
                      f"{type(kinds[DATA_STORE]).__name__} {DATA_STORE!r}: written and read back")


def jobflow_variables(site: Site) -> Iterator[Finding]:
    """Look at the variables that can send results of a plain `rlaunch` elsewhere."""
    from orionflow.launchers.doctor.finding import Finding

    name = "jobflow variables"
    ours = site.project / "jobflow.yaml"
    stray = sorted(v for v in os.environ if v.upper().startswith("JOBFLOW_JOB_STORE"))
    file = os.environ.get("JOBFLOW_CONFIG_FILE")
    if stray:
        yield Finding(name, "broken", f"{stray[0]} is set; jobflow reads it as a store itself and "
                      "fails or forgets this project's", f"unset {stray[0]}")
    elif file is None:
        yield Finding(name, "ok", "our launcher sets them; before a plain `rlaunch`: "
                      f"export JOBFLOW_CONFIG_FILE={ours}")
    elif not Path(file).is_file():
        yield Finding(name, "broken", f"JOBFLOW_CONFIG_FILE={file} does not exist: jobflow would "
                      "keep the results of `rlaunch` in memory and lose them",
                      f"export JOBFLOW_CONFIG_FILE={ours}")
    elif Path(file).resolve() != ours.resolve():
        yield Finding(name, "warn", f"JOBFLOW_CONFIG_FILE={file} belongs to another project",
                      f"export JOBFLOW_CONFIG_FILE={ours}")
    else:
        yield Finding(name, "ok", "JOBFLOW_CONFIG_FILE names this project's store")


def pseudopotentials(site: Site) -> Iterator[Finding]:
    """Look for UPF files that can be read, with the hashes of those we have cutoffs for."""
    from orionflow.launchers.doctor.finding import Finding
    from orionflow.workflows.qe.pseudos import cutoff_table, read_folder
    from orionflow.workflows.schemas.base import FileHash

    name, folder = "pseudopotentials", site.settings.pseudo_dir
    found = read_folder(folder)
    if not found:
        yield Finding(name, "broken", f"no UPF file in {folder}",
                      "install quantum-espresso-data, or set `pseudo_dir` in orionflow.yaml")
        return
    elements = {p.element for p in found}
    tested = [p for p in found if p.name in cutoff_table()]
    hashes = ", ".join(f"{p.name} {FileHash.of(p.path).sha256[:12]}" for p in tested[:_SHOWN])
    yield Finding(name, "ok", f"{len(found)} files for {len(elements)} elements in {folder}"
                  + (f"; {hashes}" if hashes else ""))


def potentials(site: Site) -> Iterator[Finding]:
    """Look for the files of the named force fields, with hashes of some."""
    from orionflow.launchers.doctor.finding import Finding
    from orionflow.workflows.lammps.potentials import file_sha256
    from orionflow.workflows.lammps.presets import PRESETS

    name, folder = "potentials", site.settings.potentials_dir
    there = {preset: folder / p.file for preset, p in PRESETS.items()
             if (folder / p.file).is_file()}
    missing = sorted(set(PRESETS) - set(there))
    if not there:
        yield Finding(name, "broken", f"none of the {len(PRESETS)} named force fields is in "
                      f"{folder}", "install lammps-data, or set `potentials_dir` in "
                      "orionflow.yaml")
        return
    hashes = ", ".join(f"{there[n].name} {file_sha256(there[n])[:12]}"
                       for n in ("Si.sw", "Cu_mishin") if n in there)
    seen = f"{len(there)} of {len(PRESETS)} named force fields in {folder}; {hashes}"
    if missing:
        yield Finding(name, "warn", f"{seen}; missing: {', '.join(missing)}",
                      "these can't be used by name here; newer LAMMPS ships them")
    else:
        yield Finding(name, "ok", seen)


def _project() -> Path:
    from orionflow.analysis.store import project_folder

    return project_folder()


def _show(findings: list[Finding]) -> None:
    from collections import Counter

    from rich.markup import escape
    from rich.table import Table

    from orionflow.cli.output import console

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = escape(finding.seen)
        if finding.advice:
            text += f"\n[bold]->[/] {escape(finding.advice)}"
        table.add_row(_MARKS[finding.state], finding.name, text)
    console().print(table)
    count = Counter(f.state for f in findings)
    console(stderr=True).print(f"{count['ok']} ok, {count['warn']} to look at, "
                               f"{count['broken']} broken")
