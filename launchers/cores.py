"""Cores of this node that one launcher alone gives to its jobs.

Several launchers may run on one node: on a laptop, in Slurm jobs that share it, on virtual nodes of
one host. Each locks the cores it hands out; the kernel frees the locks of a killed one. Where not
enough are left, or Slurm confines nobody, jobs are counted but not bound.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

log = get_logger(__name__)
_CPUS = Path("/sys/devices/system/cpu")


class CoreLease:
    """Cores held by this process until `release`.

    Attributes
    ----------
    ids
        Their numbers; empty when cores can't be told apart from those of others.
    """

    def __init__(self, ids: tuple[int, ...], files: list[IO[str]]) -> None:
        self.ids = ids
        self._files = files

    @classmethod
    def take(cls, count: int, *, exclusive: bool = True) -> Self:
        """Lock so many of the cores this process may run on.

        Parameters
        ----------
        count
            How many; all or none are taken.
        exclusive
            False where somebody outside gives the cores out without saying which.
        """
        allowed = sorted(os.sched_getaffinity(0))
        if not exclusive or count > len(allowed):
            return cls((), [])
        files: list[IO[str]] = []
        ids: list[int] = []
        for core in allowed:
            if len(ids) == count:
                break
            if (file := _lock(core)) is not None:
                files.append(file)
                ids.append(core)
        if len(ids) < count:
            log.info("other launchers hold cores of this machine: jobs are not bound to cores")
            for file in files:
                file.close()
            return cls((), [])
        return cls(tuple(ids), files)

    def release(self) -> None:
        """Let others have them."""
        for file in self._files:
            file.close()
        self._files.clear()


def open_mpi_numbers(ids: Sequence[int], topology: Path = _CPUS) -> tuple[int, ...] | None:
    """Return the numbers Open MPI has for cores, None where they can't be told for sure.

    It counts cores in the order of the hardware (package, cache, core), the kernel as the firmware
    lists them. They agree where no core has two threads and neighbours have neighbouring numbers.

    Parameters
    ----------
    ids
        Numbers as the kernel has them.
    topology
        Its description of the processors.
    """
    there = sorted(int(p.name[3:]) for p in topology.glob("cpu[0-9]*"))

    def values(kind: str) -> list[str]:
        return [_read(topology / f"cpu{cpu}" / kind) for cpu in there]

    packages, cores = values("topology/physical_package_id"), values("topology/core_id")
    if "" in cores or len(set(zip(packages, cores, strict=True))) < len(there):
        return None  # nothing is known, or cores have two threads
    for groups in (packages, values("cache/index3/id")):
        runs = [group for group, _ in groupby(groups)]
        if len(runs) != len(set(runs)):
            return None
    if not set(ids) <= set(there):
        return None
    return tuple(there.index(i) for i in ids)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _lock(core: int) -> IO[str] | None:
    folder = Path(tempfile.gettempdir()) / f"orionflow-cores-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():
            return None
        file = (folder / str(core)).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file
    return None
