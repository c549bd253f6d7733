"""Texts of a private Slurm: slurm.conf, slurmdbd.conf and the wrapper commands."""

from __future__ import annotations

import hashlib
import os
import pwd
import shlex
import socket
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orionflow.errors import InputError
from orionflow.launchers.services.processes import free_port, socket_base

CLUSTER = "private"
PARTITION = "main"
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "srun", "salloc")


@dataclass(frozen=True)
class SlurmLayout:
    """Everything the texts depend on.

    Attributes
    ----------
    runtime
        Short folder without spaces; holds the sockets and the link ``state``.
    hostname
        This machine.
    user
        Account that owns and runs everything.
    port
        slurmctld's; the nodes' follow it, slurmdbd's is the last.
    nodes
        Virtual nodes.
    cpus
        CPUs each of them claims to have.
    memory
        MiB each of them claims to have.
    accounting
        Whether slurmdbd keeps the history for `sacct`.
    """

    runtime: str
    hostname: str
    user: str
    port: int
    nodes: int
    cpus: int
    memory: int
    accounting: bool

    @property
    def state(self) -> str:
        """The project's folder of this Slurm, by its short name."""
        return f"{self.runtime}/state"

    @property
    def conf(self) -> str:
        """Value of SLURM_CONF."""
        return f"{self.state}/slurm.conf"

    @property
    def munge_socket(self) -> str:
        """Socket of the project's munged."""
        return f"{self.runtime}/munge.sock"

    @property
    def mariadb_socket(self) -> str:
        """Socket of the project's MariaDB."""
        return f"{self.runtime}/mariadb.sock"

    @property
    def node_names(self) -> list[str]:
        """Names of the virtual nodes."""
        return [f"n{i}" for i in range(1, self.nodes + 1)]

    @property
    def ports(self) -> range:
        """All TCP ports in use."""
        return range(self.port, self.port + self.nodes + 2)


def slurm_conf(layout: SlurmLayout) -> str:
    """Return ``slurm.conf``.

    All daemons listen on the loopback address only. The virtual nodes share the real cores, so
    nothing is bound (task/none) and slurmd believes its configuration (config_overrides).
    """
    c = layout
    if c.accounting:
        accounting = f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={c.ports[-1]}
AccountingStoragePass={c.munge_socket}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
"""
    else:
        accounting = """\
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
"""
    nodes = "".join(
        f"NodeName={name} NodeHostname={c.hostname} NodeAddr=127.0.0.1 Port={c.port + i} "
        f"CPUs={c.cpus} RealMemory={c.memory}\n"
        for i, name in enumerate(c.node_names, 1))
    return f"""\
# Written by `orionflow slurm start`; changes are lost at the next start.
ClusterName={CLUSTER}
SlurmctldHost={c.hostname}(127.0.0.1)
SlurmctldPort={c.port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={c.munge_socket}
SlurmUser={c.user}
SlurmdUser={c.user}
StateSaveLocation={c.state}/slurmctld
SlurmdSpoolDir={c.state}/%n
SlurmctldPidFile={c.state}/slurmctld.pid
SlurmdPidFile={c.state}/slurmd.%n.pid
SlurmctldLogFile={c.state}/slurmctld.log
SlurmdLogFile={c.state}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,batch_sched_delay=0
ReturnToService=2
MpiDefault=none
SlurmdTimeout=30
MessageTimeout=30
KillWait=15
{accounting}\
DefMemPerCPU={c.memory // c.cpus}
{nodes}\
PartitionName={PARTITION} Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
"""


def slurmdbd_conf(layout: SlurmLayout) -> str:
    """Return ``slurmdbd.conf``; MariaDB knows the user by the socket and asks no password."""
    c = layout
    return f"""\
# Written by `orionflow slurm start`; changes are lost at the next start.
AuthType=auth/munge
AuthInfo=socket={c.munge_socket}
DbdHost={c.hostname}
DbdAddr=127.0.0.1
DbdPort={c.ports[-1]}
CommunicationParameters=NoInAddrAny
SlurmUser={c.user}
PidFile={c.state}/slurmdbd.pid
LogFile={c.state}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={c.user}
StorageLoc=slurm_acct_db
"""


def wrapper(layout: SlurmLayout, program: str) -> str:
    """Return a shell script that runs a Slurm command on the private Slurm.

    Parameters
    ----------
    program
        Absolute path of the command.
    """
    conf = shlex.quote(layout.conf)
    return f"""\
#!/bin/sh
# Written by `orionflow slurm start`.
SLURM_CONF={conf}
export SLURM_CONF
if [ ! -e "$SLURM_CONF" ]; then
    echo "the project's Slurm does not run; start it: orionflow slurm start" >&2
    exit 1
fi
exec {shlex.quote(program)} "$@"
"""


def plan_layout(folder: Path, old: SlurmLayout | None, *, nodes: int | None = None,
                cpus: int | None = None, accounting: bool | None = None,
                new_ports: bool = False) -> SlurmLayout:
    """Return the layout of the next start: what is asked for, else as last time.

    Parameters
    ----------
    folder
        The project's folder of this Slurm.
    old
        The layout of last time.
    new_ports
        Take other ports than last time.

    Raises
    ------
    InputError
        Impossible numbers.
    """
    cores = len(os.sched_getaffinity(0))
    count = nodes if nodes is not None else old.nodes if old else 4
    _check("nodes", count, 64)
    same = old is not None and old.nodes == count
    each = cpus if cpus is not None else old.cpus if old and same else max(2, cores // count)
    _check("CPUs per node", each, 1024)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return SlurmLayout(
        runtime=str(_runtime_folder(folder, old)),
        hostname=socket.gethostname().split(".")[0],
        user=pwd.getpwuid(os.geteuid()).pw_name,
        port=old.port if old and same and not new_ports else free_port(count + 2),
        nodes=count, cpus=each, memory=max(each, total * 9 // 10 // count),
        accounting=accounting if accounting is not None else bool(old and old.accounting),
    )


def _check(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise InputError(f"{name} = {value} is impossible", hint=f"1 to {most}")


def _runtime_folder(folder: Path, old: SlurmLayout | None) -> Path:
    """Return a short folder of ours for sockets: their names may have 107 bytes at most.

    Slurm's and munge's files are also named through it (by a link), because the project's own
    path may hold spaces and quotes.
    """
    if old is not None and _is_ours(Path(old.runtime)):
        return Path(old.runtime)
    base = socket_base()
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    path = Path(base) / f"orionflow-{os.geteuid()}-{digest}"
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    # Somebody else may have taken the name; then one nobody can guess.
    return path if _is_ours(path) else Path(tempfile.mkdtemp(prefix="orionflow-", dir=base))


def _is_ours(path: Path) -> bool:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o077
