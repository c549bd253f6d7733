"""A private Slurm: munge, slurmctld and several slurmd on this machine, as the current user."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import LaunchError
from orionflow.launchers.services.accounting import start_history
from orionflow.launchers.services.processes import (
    end_processes,
    find_processes,
    locked,
    port_taken,
    private_folder,
    processes_with,
    read_state,
    wait_for,
    write_private,
)
from orionflow.launchers.services.programs import (
    bound_logs,
    find_program,
    last_error,
    log_size,
    start_daemon,
)
from orionflow.launchers.services.slurm_config import (
    COMMANDS,
    SlurmLayout,
    plan_layout,
    slurm_conf,
    wrapper,
)
from orionflow.log import get_logger

if TYPE_CHECKING:
    from orionflow.launchers.services.processes import ProcessIdentity

logger = get_logger(__name__)

# Who is still spoken to ends last.
_ORDER = ("slurmd", "slurmctld", "slurmscriptd", "slurmdbd", "mariadbd", "munged")
_BAD_STATES = ("down", "drain", "fail", "unknown", "*")
_READY_SECONDS = 60.0


@dataclass(frozen=True)
class SlurmStatus:
    """What is known of a project's Slurm.

    Attributes
    ----------
    running
        Whether everything is as it should be.
    problems
        What is not, one line each.
    nodes
        State of each virtual node, as `sinfo` names it.
    jobs_running, jobs_pending
        Jobs in the queue.
    cpus
        CPUs of each node.
    """

    running: bool
    problems: list[str] = field(default_factory=list)
    nodes: dict[str, str] = field(default_factory=dict)
    jobs_running: int = 0
    jobs_pending: int = 0
    cpus: int = 0
    version: str = ""
    conf: str = ""


def slurm_environment(project: Path) -> dict[str, str]:
    """Return the variables by which Slurm's programs find the private Slurm of a project.

    Empty when the project has none: then the machine's own Slurm, if any, is meant.
    """
    layout = PrivateSlurm.of(project).layout()
    return {"SLURM_CONF": layout.conf} if layout is not None else {}


class PrivateSlurm:
    """The Slurm of one project.

    Parameters
    ----------
    folder
        Where it keeps everything (``<project>/.orionflow/slurm``).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._state_file = self.folder / "slurm.json"

    @classmethod
    def of(cls, project: Path) -> PrivateSlurm:
        """Return the Slurm of a project folder."""
        return cls(project / ".orionflow" / "slurm")

    def layout(self) -> SlurmLayout | None:
        """Return what the last start used, None before the first."""
        state = read_state(self._state_file)
        return SlurmLayout(**state) if state else None

    def start(self, *, nodes: int | None = None, cpus: int | None = None,
              accounting: bool | None = None) -> SlurmLayout:
        """Start what does not run yet and wait until every node takes jobs.

        Parameters
        ----------
        nodes
            Virtual nodes; those of last time, at first 4.
        cpus
            CPUs of each; those of last time, at first a fair share of the machine, at least 2.
        accounting
            Keep a history for `sacct` (needs slurmdbd and MariaDB); as last time when None.

        Raises
        ------
        ConfigError
            Slurm, munge or MariaDB are not installed.
        InputError
            Impossible numbers.
        LaunchError
            It runs with other numbers, or a daemon fails.
        """
        for name in ("munged", "slurmctld", "slurmd", *COMMANDS):
            find_program(name)
        private_folder(self.folder)
        with locked(self.folder / "lock"):
            old = self.layout()
            new = plan_layout(self.folder, old, nodes=nodes, cpus=cpus, accounting=accounting)
            repair = old is not None and bool(self._daemons(old))
            if old is not None and repair:
                _refuse_change(old, new)  # what runs is repaired in place
            elif any(port_taken(port) for port in new.ports):
                new = plan_layout(self.folder, old, nodes=nodes, cpus=cpus,
                                  accounting=accounting, new_ports=True)
            self._prepare(new)
            bound_logs(self.folder)
            since = log_size(self.folder / "slurmctld.log")
            try:
                self._start_daemons(new)
                self._wait_ready(new, since)
            except BaseException:
                if not repair:
                    self._end(new)  # half a Slurm is of no use and would be left behind
                raise
            return new

    def stop(self) -> bool:
        """End everything, running jobs included; jobs that wait stay in the queue.

        Returns whether anything was running.
        """
        layout = self.layout()
        if layout is None:
            return False
        with locked(self.folder / "lock"):
            daemons = self._daemons(layout)
            if daemons.get("slurmctld") and daemons.get("munged"):
                self._cancel_running(layout)
            return self._end(layout)

    def _end(self, layout: SlurmLayout) -> bool:
        daemons = self._daemons(layout)
        for name in _ORDER[:-1]:
            end_processes(daemons.get(name, []))
        jobs = self._job_processes(layout)
        end_processes(jobs, patience=5)
        end_processes(daemons.get(_ORDER[-1], []))
        shutil.rmtree(layout.runtime, ignore_errors=True)
        return bool(daemons or jobs)

    def cancel_jobs(self) -> None:
        """Cancel all jobs, running and waiting, and wait until the queue is empty.

        Raises
        ------
        LaunchError
            slurmctld does not answer, or jobs do not end.
        """
        layout = self.layout()
        if layout is None:
            return
        self._ask(layout, "scancel", f"--user={layout.user}")
        if not wait_for(lambda: not self._ask(layout, "squeue", "-h").strip(), 60):
            raise LaunchError("jobs do not end after scancel",
                              hint=f"`squeue` with SLURM_CONF={layout.conf} names them")

    def status(self) -> SlurmStatus:
        """Look at the processes and ask slurmctld; never raises for a dead one."""
        layout = self.layout()
        if layout is None:
            return SlurmStatus(running=False, problems=["never started"])
        if not (daemons := self._daemons(layout)):
            return SlurmStatus(running=False, problems=["stopped"], conf=layout.conf)
        expected = ["munged", "slurmctld", *(["mariadbd", "slurmdbd"] * layout.accounting)]
        problems = [f"{name} does not run" for name in expected if not daemons.get(name)]
        problems += [f"slurmd of node {name} does not run"
                     for name in self._missing_nodes(layout)]
        nodes: dict[str, str] = {}
        states: list[str] = []
        version = ""
        if not daemons.get("munged") or not daemons.get("slurmctld"):
            return SlurmStatus(running=False, problems=problems, cpus=layout.cpus,
                               conf=layout.conf)  # asking would take a minute of retries
        try:
            nodes = self._node_states(layout)
            states = self._ask(layout, "squeue", "-h", "-o", "%T").split()
            version = self._ask(layout, "sinfo", "--version").strip()
        except LaunchError as error:
            problems.append(f"slurmctld does not answer: {error.stderr.strip() or error.message}")
        problems += [f"node {n} is {s}" for n, s in nodes.items() if _bad(s)]
        return SlurmStatus(running=not problems, problems=problems, nodes=nodes,
                           jobs_running=states.count("RUNNING"),
                           jobs_pending=states.count("PENDING"), cpus=layout.cpus,
                           version=version, conf=layout.conf)

    # -- start -------------------------------------------------------------------------------

    def _prepare(self, layout: SlurmLayout) -> None:
        """Write folders, key, configuration and wrappers."""
        link = Path(layout.runtime) / "state"
        private_folder(link.parent)
        if not link.is_symlink() or link.readlink() != self.folder:
            link.unlink(missing_ok=True)
            link.symlink_to(self.folder)
        for name in ("slurmctld", *layout.node_names):
            private_folder(self.folder / name)
        key = self.folder / "munge.key"
        if not key.exists():
            write_private(key, secrets.token_hex(64))
        write_private(self._state_file, json.dumps(asdict(layout)))
        write_private(self.folder / "slurm.conf", slurm_conf(layout))
        for name in COMMANDS:
            path = private_folder(self.folder / "bin") / name
            write_private(path, wrapper(layout, find_program(name)))
            path.chmod(0o700)

    def _start_daemons(self, layout: SlurmLayout) -> None:
        environment = {**os.environ, "SLURM_CONF": layout.conf}
        for name in [n for n in environment if n.startswith("SLURM_") and n != "SLURM_CONF"]:
            del environment[name]  # those of a job we may be started from
        running = self._daemons(layout)
        if not running.get("munged"):
            # --force: a socket that only we can reach is what munge warns of, and what we want.
            start_daemon([
                find_program("munged"), "--force", "--num-threads=2",
                f"--key-file={layout.state}/munge.key", f"--socket={layout.munge_socket}",
                f"--pid-file={layout.state}/munged.pid", f"--log-file={layout.state}/munged.log",
                f"--seed-file={layout.state}/munged.seed",
            ], environment, self.folder / "munged.log")
        if layout.accounting:
            start_history(layout)
        if not running.get("slurmctld"):
            end_processes(running.get("slurmscriptd", []))
            start_daemon([find_program("slurmctld"), "-f", layout.conf], environment,
                         self.folder / "slurmctld.log")
        for name in self._missing_nodes(layout):
            start_daemon([find_program("slurmd"), "-f", layout.conf, "-N", name], environment,
                         self.folder / f"slurmd.{name}.log")

    def _wait_ready(self, layout: SlurmLayout, since: int) -> None:
        """Wait until every node takes jobs, and wake those that were put aside."""
        seen: dict[str, str] = {}
        log = self.folder / "slurmctld.log"

        def ready() -> bool:
            seen.clear()
            if "slurmctld" not in self._daemons(layout):
                raise LaunchError(f"slurmctld ended at once: {last_error(log, since)}",
                                  hint=f"its log: {log}")
            try:
                seen.update(self._node_states(layout))
                for name, state in seen.items():
                    if state.startswith(("down", "drain", "fail")):
                        self._ask(layout, "scontrol", "update", f"nodename={name}",
                                  "state=resume")
            except LaunchError:
                return False  # slurmctld is still reading its state
            return len(seen) == layout.nodes and not any(_bad(s) for s in seen.values())

        if not wait_for(ready, _READY_SECONDS):
            logs = ", ".join(sorted(p.name for p in self.folder.glob("*.log")))
            states = ", ".join(f"{n} {s}" for n, s in seen.items()) or "slurmctld does not answer"
            raise LaunchError(f"Slurm is not ready after {_READY_SECONDS:.0f} s: {states}",
                              hint=f"logs in {self.folder}: {logs}", transient=True)

    # -- stop --------------------------------------------------------------------------------

    def _cancel_running(self, layout: SlurmLayout) -> None:
        def none_left() -> bool:
            states = ("-t", "RUNNING,COMPLETING,SUSPENDED,CONFIGURING,STOPPED")
            return not self._ask(layout, "squeue", "-h", *states).strip()

        try:
            if none_left():
                return
            for state in ("RUNNING", "SUSPENDED"):
                self._ask(layout, "scancel", f"--user={layout.user}", f"--state={state}")
            if not wait_for(none_left, 30):
                logger.warning("jobs did not end in 30 s after scancel; they are killed now")
        except LaunchError as error:
            logger.warning("running jobs could not be cancelled (%s); they are killed now",
                           error.stderr.strip() or error.message)

    # -- looking -----------------------------------------------------------------------------

    def _daemons(self, layout: SlurmLayout) -> dict[str, list[ProcessIdentity]]:
        """Return our daemons by name; each was started with SLURM_CONF of this project."""
        found = processes_with(f"SLURM_CONF={layout.conf}")
        return {name: found[name] for name in _ORDER if name in found}

    def _missing_nodes(self, layout: SlurmLayout) -> list[str]:
        return [name for name in layout.node_names
                if not find_processes("-f", layout.conf, "-N", name)]

    def _job_processes(self, layout: SlurmLayout) -> list[ProcessIdentity]:
        """Return what runs inside jobs: slurmstepd and all they started."""
        conf = f"SLURM_CONF={layout.conf}"
        steps = processes_with(conf).get("slurmstepd", [])
        inside = [p for ps in processes_with(conf, "SLURM_JOB_ID").values() for p in ps]
        return list({*steps, *inside})

    def _node_states(self, layout: SlurmLayout) -> dict[str, str]:
        lines = self._ask(layout, "sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        return dict(line.split() for line in lines)

    def _ask(self, layout: SlurmLayout, program: str, *arguments: str) -> str:
        command = [find_program(program), *arguments]
        try:
            done = subprocess.run(command, env={**os.environ, "SLURM_CONF": layout.conf},
                                  capture_output=True, text=True, check=False, timeout=60)
        except subprocess.TimeoutExpired as error:
            raise LaunchError(f"{program} does not answer in 60 s", command=command,
                              transient=True) from error
        if done.returncode != 0:
            raise LaunchError(f"{program} failed", command=command, code=done.returncode,
                              stderr=done.stderr, transient=True)
        return done.stdout


def _refuse_change(old: SlurmLayout, new: SlurmLayout) -> None:
    for name in ("nodes", "cpus", "accounting"):
        if getattr(old, name) != getattr(new, name):
            raise LaunchError(
                f"the project's Slurm runs already, with {name} = {getattr(old, name)}",
                hint="`orionflow slurm stop`, then start it with the new numbers")


def _bad(state: str) -> bool:
    return any(bad in state for bad in _BAD_STATES)
