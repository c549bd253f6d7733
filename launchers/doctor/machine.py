"""Checks of the machine: executables, MPI, Slurm, cron, disk."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import ConfigError
from orionflow.launchers.cron import STOP_FILE, cron_state
from orionflow.launchers.doctor.database import connection
from orionflow.launchers.doctor.finding import Finding
from orionflow.launchers.mpi import mpi_command
from orionflow.launchers.project import STATE_FOLDER
from orionflow.launchers.resources import Resources
from orionflow.launchers.sbatch import slurm_commands
from orionflow.launchers.slurm import format_walltime

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orionflow.launchers.doctor.finding import Site

CODES = {"pw.x": ".workflows.qe.", "lmp": ".workflows.lammps."}
"""Executable -> what the address of its recipes holds."""
_CRON_LATE = timedelta(minutes=30)
_DISK_WARN, _DISK_BROKEN = 20.0, 2.0
# Libraries by which an executable shows whose MPI it was built with.
_LIBRARIES = (
    (re.compile(r"\blibmpi\.so\.(?:20|40)\b|\blibopen-pal\b"), "Open MPI"),
    (re.compile(r"\blibmpich\b|\blibmpi\.so\.12\b|\blibmpi_cray\b|\blibmpicxx\b"), "MPICH"),
)
# What the launchers say of themselves; Intel's and Cray's are MPICH inside (same ABI).
_LAUNCHERS = ((re.compile(r"open.?mpi|openrte", re.IGNORECASE), "Open MPI"),
              (re.compile(r"hydra|mpich|intel", re.IGNORECASE), "MPICH"))


def executables(site: Site) -> Iterator[Finding]:
    """Whether the codes are there, by the machine profile."""
    found = {name: _executable(site, name) for name in CODES}
    for name, path in found.items():
        if path is not None:
            yield Finding(name, "ok", path)
            continue
        waiting = _waiting(site, CODES[name])
        needed = waiting or not any(found.values())
        what = f"; {waiting} waiting jobs need it" if waiting else ""
        yield Finding(name, "broken" if needed else "warn",
                      f"not found by machine profile {site.machine.name!r}{what}",
                      f"install it, or set `executables: {{{name}: /path}}` or `modules` in the "
                      "machine profile")


def mpi(site: Site) -> Iterator[Finding]:
    """Whether the MPI launcher starts two ranks and is the one the codes were built with."""
    machine = site.machine
    if machine.mpi == "none":
        yield Finding("MPI", "ok", "`mpi: none`: jobs of one rank only")
        return
    if machine.mpi == "srun":
        done = _run(site, [_slurm(site, "srun"), "--mpi=list"])
        plugins = done.stdout + done.stderr
        asked = next((o.removeprefix("--mpi=") for o in machine.mpi_options
                      if o.startswith("--mpi=")), None)
        if done.returncode != 0 or (asked and asked not in plugins.split()):
            yield Finding("MPI", "broken", f"srun has no MPI plugin {asked!r}: {_last(plugins)}",
                          "correct `mpi_options` in the machine profile; `srun --mpi=list` shows "
                          "what there is")
        else:
            yield Finding("MPI", "ok", f"srun, plugin {asked or 'by default'}")
        return
    command = mpi_command(machine, Resources(ranks=2), ["echo", "orionflow-rank"])
    done = _run(site, command)
    ranks = done.stdout.split().count("orionflow-rank")
    if done.returncode != 0 or ranks != 2:  # noqa: PLR2004  asked for two
        yield Finding("MPI", "broken", f"`{shlex.join(command)}` started {ranks} of 2 ranks: "
                      f"{_last(done.stderr) or f'exit code {done.returncode}'}",
                      "correct `mpi`, `mpi_options` or `modules` in the machine profile")
        return
    version = _run(site, ["mpirun", "--version"])
    launcher = _family(version.stdout + version.stderr, _LAUNCHERS)
    yield Finding("MPI", "ok", f"mpirun ({launcher or 'unknown make'}) starts two ranks")
    for name in CODES:
        path = _executable(site, name)
        if path is not None:
            yield _built_with(site, name, path, launcher)


def _built_with(site: Site, name: str, path: str, launcher: str | None) -> Finding:
    title = f"{name} and MPI"
    libraries = _run(site, ["ldd", path]).stdout
    built = _family(libraries, _LIBRARIES)
    if built is None:
        return Finding(title, "warn", f"{path} is linked with no MPI library known here",
                       "a serial build runs the same job in each rank: ask for `ranks: 1`, or "
                       "install a build with MPI")
    if launcher is not None and built != launcher:
        return Finding(title, "broken", f"{path} was built with {built}, but mpirun is {launcher}: "
                       "each rank would run the whole job on its own",
                       f"put the mpirun of {built} first on PATH, or take a build with {launcher}")
    return Finding(title, "ok", f"built with {built}")


def slurm(site: Site) -> Iterator[Finding]:
    """Whether Slurm answers and would take our allocations."""
    if site.machine.scheduler != "slurm":
        return
    done = _run(site, [_slurm(site, "sinfo"), "--noheader", "--format=%P|%D|%T"])
    if done.returncode != 0:
        yield Finding("Slurm", "broken", _last(done.stderr) or "sinfo fails",
                      "start your own: orionflow slurm start; or ask who runs the cluster")
        return
    rows = [line.split("|") for line in done.stdout.split() if line.count("|") == 2]  # noqa: PLR2004  three columns
    partition = site.machine.partition
    ours = [r for r in rows if partition is None or r[0].rstrip("*") == partition]
    if not ours:
        known = ", ".join(sorted({r[0].rstrip("*") for r in rows})) or "none"
        yield Finding("Slurm", "broken", f"no partition {partition!r} (there are: {known})",
                      "correct `partition` in the machine profile")
        return
    usable = sum(int(n) for _, n, state in ours
                 if re.match(r"idle|mixed|alloc|comp|plan|resv", state))
    states = ", ".join(f"{n} {state}" for _, n, state in ours)
    if not usable:
        yield Finding("Slurm", "broken", f"no node is in service ({states})",
                      "`sinfo -R` tells why; own Slurm: orionflow slurm stop, then start")
        return
    yield Finding("Slurm", "ok", f"nodes: {states}")
    yield _would_take(site)


def _would_take(site: Site) -> Finding:
    machine = site.machine
    options = {"nodes": machine.allocation.nodes, "ntasks-per-node": machine.cores,
               "time": format_walltime(machine.allocation.walltime),
               "partition": machine.partition, "account": machine.account, "qos": machine.qos,
               "constraint": machine.constraint,
               "mem": f"{machine.memory_per_node}M" if machine.memory_per_node else "0"}
    command = [_slurm(site, "sbatch"), "--test-only", "--wrap=true",
               *(f"--{k}={v}" for k, v in options.items() if v is not None)]
    done = _run(site, command)
    if done.returncode != 0:
        return Finding("allocations", "broken", f"sbatch refuses them: {_last(done.stderr)}",
                       "correct partition, account, qos or allocation in the machine profile")
    return Finding("allocations", "ok", f"sbatch would take one of {machine.allocation.nodes} "
                   f"node(s) for {options['time']}")


def cron(site: Site) -> Iterator[Finding]:
    """Whether `orionflow cron` ran lately and could submit."""
    state = cron_state(site.project)
    stop = site.project / STATE_FOLDER / STOP_FILE
    if not state and site.machine.scheduler != "slurm":
        return  # nothing is submitted for this machine; `orionflow launch` recovers by itself
    line = f"* * * * * cd {shlex.quote(str(site.project))} && {_command()} cron"
    if stop.exists():
        yield Finding("cron", "warn", f"{stop} stops it", f"rm {shlex.quote(str(stop))}")
    elif not state.get("last_run"):
        yield Finding("cron", "warn", "never ran: READY jobs get no allocation by themselves",
                      f"add with `crontab -e`: {line}")
    elif state.get("failures"):
        yield Finding("cron", "broken", f"{state['failures']} submissions failed in a row: "
                      f"{state.get('last_error')}", "correct that, then run: orionflow cron")
    else:
        yield cron_finding(datetime.now(UTC) - datetime.fromisoformat(state["last_run"]),
                           str(state.get("problem") or ""), line)


def cron_finding(age: timedelta, problem: str, line: str) -> Finding:
    """Judge when cron ran last and what it said; ``line`` is its line in the crontab."""
    seen = f"ran {_ago(age)} ago"
    if age > _CRON_LATE:
        return Finding("cron", "warn", seen, f"is the line there (`crontab -l`)? {line}")
    if problem:
        return Finding("cron", "warn", f"{seen}, but: {problem}", "see .orionflow/log/cron.log")
    return Finding("cron", "ok", seen)


def disk(site: Site) -> Iterator[Finding]:
    """Room where jobs and the database write."""
    folders = {"disk": site.project}
    if site.machine.scratch is not None:
        folders["scratch"] = site.machine.scratch
    for name, folder in folders.items():
        if not folder.is_dir():
            yield Finding(name, "broken", f"there is no folder {folder}",
                          "correct `scratch` in the machine profile")
            continue
        yield disk_finding(name, str(folder), shutil.disk_usage(folder).free / 1e9)


def disk_finding(name: str, folder: str, free: float) -> Finding:
    """Judge the free space of a folder, in GB."""
    seen = f"{free:.1f} GB free in {folder}"
    if free < _DISK_BROKEN:
        return Finding(name, "broken", seen, "make room now: MongoDB and the codes stop when full")
    if free < _DISK_WARN:
        return Finding(name, "warn", seen, "make room; old runs: find . -name '*.wfc*' -o -name "
                       "'*.save'")
    return Finding(name, "ok", seen)


def _ago(age: timedelta) -> str:
    seconds = age.total_seconds()
    if seconds < 120:  # noqa: PLR2004  two minutes
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004


def _command() -> str:
    own = Path(sys.executable).with_name("orionflow")
    return shlex.quote(str(own)) if own.is_file() else "orionflow"


def _executable(site: Site, name: str) -> str | None:
    try:
        return site.machine.executable(name)
    except ConfigError:
        if not site.machine.modules:
            return None
    # It may be there once its modules are loaded, as the job script does.
    wanted = site.machine.executables.get(name, name)
    done = _run(site, ["sh", "-c", 'command -v "$0"', wanted])
    return done.stdout.strip() or None


def _waiting(site: Site, address: str) -> int:
    """Return how many waiting jobs are recipes of a code; 0 when nobody can tell."""
    try:
        with connection(site) as (client, name):
            return client[name]["fireworks"].count_documents({
                "state": {"$in": ["READY", "WAITING"]},
                "spec._tasks.job.function.@module": {"$regex": re.escape(address)}})
    except ConnectionError:
        return 0


def _run(site: Site, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command as a job script would: modules loaded, the profile's variables set."""
    words = list(command)
    if site.machine.modules:
        load = " && ".join(f"module load {shlex.quote(m)}" for m in site.machine.modules)
        words = ["bash", "-lc", f'{load} && exec "$@"', "orionflow", *words]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False,
                              stdin=subprocess.DEVNULL, cwd=site.project,
                              env={**os.environ, **site.machine.environment})
    except FileNotFoundError:
        return subprocess.CompletedProcess(words, 127, "", f"{words[0]}: not found")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", f"{words[0]}: no answer in 60 s")


def _slurm(site: Site, name: str) -> str:
    own = slurm_commands(site.project)
    return own.get(name) or os.path.join(os.path.dirname(own["sbatch"]), name)  # noqa: PTH118, PTH120  "" stays ""


def _family(text: str, table: Sequence[tuple[re.Pattern[str], str]]) -> str | None:
    return next((family for pattern, family in table if pattern.search(text)), None)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else ""
