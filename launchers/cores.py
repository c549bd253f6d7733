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
from pathlib import Path
from typing import IO, Self

from orionflow.log import get_logger

log = get_logger(__name__)


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
