"""What tests share that kill processes, or run several at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

from pymongo.monitoring import CommandListener

FORK = multiprocessing.get_context("fork")
WRITES = frozenset({"insert", "update", "delete", "findAndModify"})
# They carry nothing.
_TALK = frozenset({"hello", "ping", "endSessions", "saslStart", "saslContinue"})


class Killer(CommandListener):
    """Kills its process before the database command of a given number, once armed.

    Attributes
    ----------
    only
        Names of the commands that count; all unless given.
    left
        How many of them still pass; None: not armed.
    """

    def __init__(self, only=()):
        self.only, self.left = only, None

    def started(self, event):
        name = event.command_name
        if self.left is None or name in _TALK or (self.only and name not in self.only):
            return
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


def _alone(work, arguments):
    work(*arguments)
    os._exit(0)  # a fork must not run what pytest has registered for its end


def killed(work, *arguments, timeout=120):
    """Run ``work`` in a fork that may be killed in it; return whether it was."""
    child = FORK.Process(target=_alone, args=(work, arguments))
    child.start()
    child.join(timeout)
    assert child.exitcode in {0, -signal.SIGKILL}
    return child.exitcode != 0


def side_by_side(count, work, *arguments, timeout=120):
    """Run ``work(*arguments, barrier, number)`` in so many forks at once; all must end well."""
    barrier = FORK.Barrier(count)
    children = [FORK.Process(target=_alone, args=(work, (*arguments, barrier, number)))
                for number in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout)
        assert child.exitcode == 0


def working_in(folder):
    """Return the living processes whose current folder this is: number and name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                here = (entry / "cwd").readlink() == Path(folder)
                stat = (entry / "stat").read_text()
            except OSError:  # gone meanwhile
                continue
            if here and stat.rpartition(")")[2].split()[0] not in "ZX":
                found[int(entry.name)] = stat.partition("(")[2].rpartition(")")[0]
    return found
