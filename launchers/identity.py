"""Who runs a job: enough to tell later, from elsewhere, whether that process is still alive."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.launchers.services.processes import ProcessIdentity

if TYPE_CHECKING:
    from collections.abc import Mapping

# Name under which it lies in the launch document, in `fworker.env`.
ENV_KEY = "orionflow"


@dataclass(frozen=True)
class LauncherIdentity:
    """One launcher process.

    Attributes
    ----------
    boot, pid, started
        Boot id of the host, process number and its start in clock ticks since boot.
    pid_namespace
        Name of the kernel's pid namespace; numbers of another one mean nothing here.
    slurm_job_id, slurm_restarts
        Slurm job and how often it had been requeued, when there is one.
    slurm_cluster
        Whose Slurm: numbers of another one mean other jobs.
    lease
        It holds its jobs still when it could not say for so long that it lives, s; None for one
        that does not (see `lease`).
    """

    host: str
    boot: str
    pid: int
    started: int
    pid_namespace: str
    slurm_job_id: str | None = None
    slurm_restarts: int = 0
    slurm_cluster: str | None = None
    lease: float | None = None

    @classmethod
    def of_this_process(cls) -> LauncherIdentity:
        """Return who we are."""
        me = ProcessIdentity.of(os.getpid())
        if me is None:  # pragma: no cover  a process that reads this is alive
            raise ProcessLookupError(os.getpid())
        return cls(
            host=socket.gethostname(), boot=me.boot, pid=me.pid, started=me.started,
            pid_namespace=_pid_namespace(),
            slurm_job_id=os.environ.get("SLURM_JOB_ID") or None,
            slurm_restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            slurm_cluster=os.environ.get("SLURM_CLUSTER_NAME") or None,
        )

    @property
    def token(self) -> str:
        """The same as one word, for a variable that a job's processes inherit."""
        return f"{self.host}:{self.boot}:{self.pid}:{self.started}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a document."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> LauncherIdentity | None:
        """Return what ``to_dict`` wrote; None for anything else (a stock `rlaunch`).

        What a later version may have added is left out.
        """
        try:
            known = {k: v for k, v in data.items() if k in _FIELDS} if data else {}
            found = cls(**known) if known else None
            hash(found)  # other tools may have put anything there
        except (TypeError, AttributeError):
            return None
        return found if found is not None and isinstance(found.pid, int) else None

    @classmethod
    def of_launch(cls, launch: Mapping[str, Any]) -> LauncherIdentity | None:
        """Return who runs a launch, given as stored; None for a stock `rlaunch`."""
        worker = launch.get("fworker")
        env = worker.get("env") if isinstance(worker, dict) else None
        return cls.from_dict(env.get(ENV_KEY) if isinstance(env, dict) else None)

    def alive_here(self) -> bool | None:
        """Whether the process lives; None when this host can't know.

        True and False are certain: same host, same boot, same pid namespace.
        """
        if self.pid_namespace != _pid_namespace() or self.host != socket.gethostname():
            return None
        if self.boot != _boot():
            return None
        return ProcessIdentity(self.pid, self.started, self.boot).alive()

    def rebooted_here(self) -> bool:
        """Whether a host of this name has been started anew since.

        Likely, not certain, that nothing is left: two hosts may share a name.
        """
        return self.host == socket.gethostname() and self.boot != _boot()


_FIELDS = frozenset(f.name for f in fields(LauncherIdentity))


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())
