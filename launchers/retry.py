"""Whether a job that failed runs again, and with what changed; told from the class of the failure.

Pure: a failure and a policy in, a decision out. Who ran the job carries it out.
"""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from pymongo.errors import ConnectionFailure

from orionflow.errors import CodeError, ConfigError, InputError, OrionflowError, StoreError
from orionflow.launchers.resources import Resources
from orionflow.launchers.sbatch import queueadapter_spec
from orionflow.settings import RetrySettings

if TYPE_CHECKING:
    from orionflow.launchers.machine import MachineProfile
    from orionflow.settings import Settings

Counts = Literal["lost", "continued", "stopped"]
# A month of computing in allocations of half a day, with three reruns.
CONTINUED_FACTOR = 20
RETRIES_KEY = "_retries"
_HISTORY = 20
_UNUSABLE = (errno.EIO, errno.ESTALE, errno.EROFS, errno.ENODEV, errno.ETIMEDOUT)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class FailureClass(StrEnum):
    """What kind of failure it was; each has its own limit in `RetrySettings`."""

    NODE = "node"
    PREEMPTION = "preemption"
    MEMORY = "memory"
    WALLTIME = "walltime"
    INFRASTRUCTURE = "infrastructure"
    DATABASE = "database"
    USER = "user"
    UNKNOWN = "unknown"


# Failures of the catalogue that are not the fault of the job's own input.
CLASS_OF_FAILURE: dict[str, FailureClass] = {
    "CODE_FROZEN": FailureClass.NODE,
    "CODE_NOT_STARTED": FailureClass.NODE,
    "QE_NOT_STARTED": FailureClass.NODE,
    "LAMMPS_NOT_STARTED": FailureClass.NODE,
    "INTERRUPTED": FailureClass.PREEMPTION,
    "QE_KILLED": FailureClass.INFRASTRUCTURE,
    "LAMMPS_KILLED": FailureClass.INFRASTRUCTURE,
    "QE_DISK_FULL": FailureClass.INFRASTRUCTURE,
    "LAMMPS_DISK_FULL": FailureClass.INFRASTRUCTURE,
    "QE_OUT_OF_MEMORY": FailureClass.MEMORY,
    "LAMMPS_MEMORY": FailureClass.MEMORY,
    "QE_WALLTIME": FailureClass.WALLTIME,
    "LAMMPS_WALLTIME": FailureClass.WALLTIME,
}
_SLURM = {
    "NODE_FAIL": FailureClass.NODE, "BOOT_FAIL": FailureClass.NODE,
    "PREEMPTED": FailureClass.PREEMPTION, "CANCELLED": FailureClass.PREEMPTION,
    "REVOKED": FailureClass.PREEMPTION, "REQUEUED": FailureClass.PREEMPTION,
    "OUT_OF_MEMORY": FailureClass.MEMORY,
    "TIMEOUT": FailureClass.WALLTIME, "DEADLINE": FailureClass.WALLTIME,
}


@dataclass(frozen=True)
class FailureInfo:
    """How one launch failed; survives pickle, so that a worker process can send it.

    Attributes
    ----------
    kind
        Class of the failure.
    reason
        One line for people.
    failure_id
        Its name in the failure catalogue, if it has one.
    progressed
        It stopped by its own clock and the next launch starts from further on.
    folder
        Where it ran.
    host, at
        Where and when (ISO time, UTC).
    """

    kind: FailureClass
    reason: str
    failure_id: str = ""
    progressed: bool = False
    folder: str = ""
    host: str = ""
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def blames_node(self) -> bool:
        """Whether it says something about the node, so that a launcher may stop claiming."""
        return self.kind in {FailureClass.NODE, FailureClass.INFRASTRUCTURE}

    @classmethod
    def from_exception(cls, error: BaseException, *, folder: str = "",
                       host: str = "") -> FailureInfo:
        """Return what an exception of a job means.

        What is not ours and says nothing of memory, disk or database is the job's own fault.
        """
        info = cls(_class_of(error), _line(error), folder=folder, host=host)
        if not isinstance(error, CodeError):
            return info
        kind, progressed = info.kind, False
        if kind is FailureClass.WALLTIME:
            # A code that ran out of time without getting further says that it is not transient.
            kind, progressed = ((kind, True) if error.transient else (FailureClass.USER, False))
        return replace(info, kind=kind, progressed=progressed, failure_id=error.failure_id)

    @classmethod
    def from_dict(cls, data: object) -> FailureInfo:
        """Return what a worker has told of a failure; what can't be read is the job's own fault."""
        told = data if isinstance(data, dict) else {}
        try:
            kind = FailureClass(str(told.get("kind")))
        except ValueError:
            kind = FailureClass.USER
        return cls(kind, str(told.get("reason") or ""), progressed=told.get("progressed") is True,
                   **{name: str(told[name]) for name in ("failure_id", "folder", "host", "at")
                      if told.get(name)})

    @classmethod
    def from_exit(cls, code: int, *, out_of_memory: bool = False, folder: str = "",
                  host: str = "") -> FailureInfo:
        """Return what the end of the process that ran a job means.

        Parameters
        ----------
        code
            Its exit code; minus the signal if one ended it, as `subprocess` has it.
        out_of_memory
            The kernel or Slurm says that memory was the reason.
        """
        if out_of_memory:
            return cls(FailureClass.MEMORY, "its process was ended for want of memory",
                       folder=folder, host=host)
        if code >= 0:
            return cls(FailureClass.UNKNOWN, f"its process ended by itself with code {code}",
                       folder=folder, host=host)
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        outside = name in {"SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGBUS"}
        return cls(FailureClass.INFRASTRUCTURE if outside else FailureClass.UNKNOWN,
                   f"its process was ended by {name}", folder=folder, host=host)

    @classmethod
    def from_slurm(cls, state: str, job_id: str, *, folder: str = "",
                   host: str = "") -> FailureInfo:
        """Return what the end of the allocation means for the job in it."""
        word = state.strip().split(" ")[0].rstrip("+").upper()
        return cls(_SLURM.get(word, FailureClass.INFRASTRUCTURE),
                   f"Slurm job {job_id} ended: {word}", folder=folder, host=host)

    @classmethod
    def stopped(cls, reason: str, *, time_over: bool = False, kept: bool = False,
                folder: str = "", host: str = "") -> FailureInfo:
        """Return that the launcher stopped the job: at the end of its time, or when told to.

        Parameters
        ----------
        kept
            Its code was asked, and left restart files.
        """
        return cls(FailureClass.WALLTIME if time_over else FailureClass.PREEMPTION, reason,
                   progressed=kept and time_over, folder=folder, host=host)

    @classmethod
    def launcher_lost(cls, why: str, *, folder: str = "", host: str = "") -> FailureInfo:
        """Return that the launcher died with the job."""
        return cls(FailureClass.NODE, f"lost: {why}", folder=folder, host=host)


@dataclass(frozen=True)
class RetryPolicy:
    """The project's limits and what its machine can give.

    Attributes
    ----------
    max_reruns
        Setting of that name: most reruns from which nothing was gained.
    limits
        Setting ``retry``; a job's own, in its spec, goes before it.
    memory_per_node
        MiB, None when the profile does not say.
    cores_per_node
        Cores of a node.
    max_walltime
        Longest job of the machine, s.
    """

    max_reruns: int = 3
    limits: RetrySettings = field(default_factory=RetrySettings)
    memory_per_node: int | None = None
    cores_per_node: int = 1
    max_walltime: int | None = None

    @classmethod
    def of(cls, settings: Settings, machine: MachineProfile) -> RetryPolicy:
        """Return the policy of a project."""
        return cls(max_reruns=settings.max_reruns, limits=settings.retry,
                   memory_per_node=machine.memory_per_node, cores_per_node=machine.cores,
                   max_walltime=machine.max_walltime)

    def for_job(self, spec: dict[str, Any]) -> RetryPolicy:
        """Return the policy with what the job itself says in ``spec["retry"]``."""
        own = spec.get("retry")
        if not isinstance(own, dict):
            return self
        try:
            return replace(self, limits=parse_retry(
                {**self.limits.model_dump(exclude_unset=True), **own}))
        except InputError:  # added by other tools; ours are checked at submission
            return self

    def most(self, failure: FailureInfo) -> int | None:
        """Return how often a job may run again after failures of this class; None: any number."""
        if failure.kind is FailureClass.USER:
            return 0
        own: int | None = getattr(self.limits, failure.kind.value)
        if own is not None:
            return own
        if failure.kind is FailureClass.PREEMPTION:
            return None
        if failure.progressed:
            return CONTINUED_FACTOR * self.max_reruns
        return self.max_reruns


@dataclass(frozen=True)
class Decision:
    """What to do with a failed job.

    Attributes
    ----------
    put_back
        READY again; else FIZZLED.
    reason
        For people, with what was changed and how often it may still happen; goes into the launch.
    spec
        Entries to set in the firework's spec, whole values by name.
    counts
        ``lost``: nothing was gained; ``continued``: it got further; ``stopped``: from outside.
    """

    put_back: bool
    reason: str
    spec: dict[str, Any]
    counts: Counts


def decide(failure: FailureInfo, spec: dict[str, Any], policy: RetryPolicy) -> Decision:
    """Return whether a job runs again, and what changes.

    Parameters
    ----------
    failure
        How it failed.
    spec
        Spec of the firework as it was claimed; it counts its own reruns.
    policy
        The project's.

    Returns
    -------
    Decision
        A job that runs again goes on in its folder. After a lack of memory it asks for more, or
        for half the ranks where the node has no more.
    """
    counts = _counts(failure)
    policy = policy.for_job(spec)
    if failure.kind is FailureClass.USER:
        return Decision(put_back=False, reason=failure.reason, spec={}, counts=counts)
    stored = spec.get(RETRIES_KEY)
    told: dict[str, Any] = stored if isinstance(stored, dict) else {}
    counted, history = told.get("counts"), told.get("history")
    tally = {k: _int(v) for k, v in counted.items()} if isinstance(counted, dict) else {}
    # Walltime with and without progress are told apart: a long run may continue often.
    name = f"{failure.kind.value}_continued" if failure.progressed else failure.kind.value
    number = tally.get(name, 0) + 1
    reruns = _int(spec.get("_reruns")) + (counts == "lost")
    continued = _int(spec.get("_continued")) + (counts == "continued")
    most = policy.most(failure)
    if most is not None and number > most:
        return _give_up(failure, counts, f"{failure.kind} may be retried {most} time(s)")
    if counts == "lost" and reruns > policy.max_reruns:
        return _give_up(failure, counts, f"lost {reruns} times (max_reruns {policy.max_reruns})")
    changes: dict[str, Any] = {}
    did = ""
    if failure.kind is FailureClass.MEMORY:
        resources, did = _with_more_memory(spec, policy)
        if resources is None:
            return _give_up(failure, counts, did)
        changes["resources"] = resources.to_spec()
        changes["_queueadapter"] = queueadapter_spec(resources, policy.max_walltime)
    limit = "" if most is None else f" of {most}"
    reason = f"{failure.reason}; again{f' with {did}' if did else ''} ({name} {number}{limit})"
    entry = {"class": failure.kind.value, "reason": failure.reason, "at": failure.at,
             **{k: v for k, v in (("failure_id", failure.failure_id), ("host", failure.host),
                                  ("changed", did)) if v}}
    changes[RETRIES_KEY] = {"counts": {**tally, name: number},
                            "history": [*(history if isinstance(history, list) else []),
                                        entry][-_HISTORY:]}
    if counts == "lost":
        changes["_reruns"] = reruns
    elif counts == "continued":
        changes["_continued"] = continued
    own = spec.get("_launch_dir")
    if folder := own if own and isinstance(own, str) else failure.folder:
        changes["_launch_dir"] = folder
    return Decision(put_back=True, reason=reason, spec=changes, counts=counts)


def parse_retry(value: RetrySettings | dict[str, Any] | None) -> RetrySettings:
    """Return checked limits, as a submission or a recipe gives them.

    Raises
    ------
    InputError
        A name is unknown or a value impossible.
    """
    from pydantic import ValidationError

    if isinstance(value, RetrySettings):
        return value
    try:
        return RetrySettings.model_validate(value or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"retry: {'.'.join(map(str, first['loc']))} = {first.get('input')!r}: {first['msg']}",
            hint=f"valid: {', '.join(RetrySettings.model_fields)}") from error


def _counts(failure: FailureInfo) -> Counts:
    if failure.progressed:
        return "continued"
    return "stopped" if failure.kind is FailureClass.PREEMPTION else "lost"


def _give_up(failure: FailureInfo, counts: Counts, why: str) -> Decision:
    return Decision(put_back=False, reason=f"{failure.reason}; given up: {why}", spec={},
                    counts=counts)


def _with_more_memory(spec: dict[str, Any], policy: RetryPolicy) -> tuple[Resources | None, str]:
    """Return what to ask for after a lack of memory, and in words what changed."""
    try:
        asked = Resources.parse(spec.get("resources"))
    except InputError as error:
        return None, error.message
    node = policy.memory_per_node
    had = asked.memory
    if had is None and node is not None:
        had = max(1, round(node * min(1.0, asked.cores / (asked.nodes * policy.cores_per_node))))
    if had is not None and (node is None or had < node):
        more = round(had * policy.limits.memory_factor)
        more = more if node is None else min(more, node)
        return (asked.model_copy(update={"memory": more}),
                f"{more} MiB on a node instead of {had}")
    fewer = asked.ranks // 2
    if fewer < asked.nodes:
        return None, (f"a node has no more memory ({node} MiB) and there are no fewer ranks"
                      if node is not None else "there are no fewer ranks, and the machine profile "
                      "names no memory_per_node")
    return (asked.model_copy(update={"ranks": fewer}),
            f"{fewer} rank(s) instead of {asked.ranks}")


def _class_of(error: BaseException) -> FailureClass:
    found = FailureClass.USER
    if isinstance(error, CodeError):
        found = CLASS_OF_FAILURE.get(error.failure_id, (
            FailureClass.INFRASTRUCTURE if error.transient else FailureClass.USER))
    elif isinstance(error, (ConnectionFailure, StoreError)):
        found = FailureClass.DATABASE
    elif isinstance(error, MemoryError):
        found = FailureClass.MEMORY
    elif isinstance(error, OrionflowError) and error.transient:
        found = FailureClass.INFRASTRUCTURE
    elif isinstance(error, ConfigError):
        # The profile was read at submission too: what it lacks here, another node may have.
        found = FailureClass.NODE
    elif isinstance(error, OSError):
        found = (FailureClass.INFRASTRUCTURE if error.errno in _FULL
                 else FailureClass.NODE if error.errno in _UNUSABLE else FailureClass.USER)
    return found


def _line(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0].strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
