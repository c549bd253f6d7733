"""What a job may have changed in the process it ran in, put back before the next one."""

from __future__ import annotations

import gc
import logging
import os
import random
import resource
import signal
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# Limits a job may have lowered; those of the process that are ours to raise again.
_LIMITS = ("RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE",
           "RLIMIT_NOFILE", "RLIMIT_STACK")
_PYMONGO = "pymongo"


class Snapshot:
    """The state of this process now, to go back to."""

    def __init__(self) -> None:
        self.folder = Path.cwd()
        self.environment = dict(os.environ)
        self.umask = _umask()
        self.handlers = {n: signal.getsignal(n) for n in signal.valid_signals()}
        self.affinity = os.sched_getaffinity(0)
        self.path = list(sys.path)
        self.argv = list(sys.argv)
        self.streams = (sys.stdin, sys.stdout, sys.stderr)
        self.excepthook = sys.excepthook
        self.filters = list(warnings.filters)
        self.log = (list(logging.root.handlers), logging.root.level, logging.root.disabled,
                    logging.root.manager.disable)
        self.recursion = sys.getrecursionlimit()
        self.limits = {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS}
        self.nice = os.nice(0)
        self.threads = _own_threads()

    def restore(self) -> str:
        """Put everything back; returns why this process should not be used again, if so."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                with suppress(OSError, ValueError):  # SIGKILL and such can't be set
                    signal.signal(number, handler)
        os.chdir(self.folder)
        os.umask(self.umask)
        if dict(os.environ) != self.environment:
            for name in set(os.environ) - set(self.environment):
                del os.environ[name]
            os.environ.update(self.environment)
        sys.path[:] = self.path
        sys.argv[:] = self.argv
        sys.stdin, sys.stdout, sys.stderr = self.streams
        sys.excepthook = self.excepthook
        if warnings.filters != self.filters:
            warnings.filters[:] = self.filters  # type: ignore[index]  # a list, by its own source
            warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001  drops its cache
        logging.root.handlers[:], level, logging.root.disabled, logging.root.manager.disable = (
            self.log)
        logging.root.setLevel(level)
        sys.setrecursionlimit(self.recursion)
        gc.enable()
        return self._lasting()

    def bind(self, cores: Sequence[int]) -> None:
        """Bind this process to these cores; to those it had at the start if there are none."""
        wanted = set(cores) or self.affinity
        if os.sched_getaffinity(0) != wanted:
            with suppress(OSError):  # a core was taken offline
                os.sched_setaffinity(0, wanted)

    def _lasting(self) -> str:
        """Return what can't be put back."""
        for name, limit in self.limits.items():
            kind = getattr(resource, name)
            if resource.getrlimit(kind) != limit:
                try:
                    resource.setrlimit(kind, limit)
                except (OSError, ValueError):
                    return f"it lowered {name}"
        if os.nice(0) != self.nice:
            return "it changed its priority"
        if left := _own_threads() - self.threads:
            return f"it left {len(left)} thread(s) running"
        return ""


def wait_for_threads(snapshot: Snapshot, patience: float) -> None:
    """Give threads a job has left some time to end."""
    for thread in threading.enumerate():
        if thread.ident in _own_threads() - snapshot.threads and not thread.daemon:
            thread.join(patience)


def reseed() -> None:
    """Give this process random numbers of its own: forked ones have their parent's."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        # Without a seed it asks the kernel as well, and takes seven times as long.
        numpy.random.seed(numpy.frombuffer(os.urandom(32), dtype=numpy.uint32))


def _own_threads() -> set[Any]:
    return {t.ident for t in threading.enumerate() if not t.name.startswith(_PYMONGO)}


def _umask() -> int:
    old = os.umask(0o022)
    os.umask(old)
    return old
