"""Children of a process, orphans included: who adopts them, who ends them (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")


def adopt_orphans() -> None:
    """Make this process the parent of all orphans below it, so that none gets lost."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies.

    Parameters
    ----------
    parent
        Who that is; should it be gone already, this process ends here.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def children(pid: int) -> list[int]:
    """Return the direct children of a process, zombies included."""
    found: list[int] = []
    with suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Return all processes below one, nearest first."""
    found = children(pid)
    for one in found:  # grows while we go
        found += children(one)
    return found


def signal_all(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to each that still is there."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            if number == signal.SIGTERM:
                os.kill(pid, signal.SIGCONT)  # a stopped process can't act on SIGTERM


def reap() -> dict[int, int]:
    """Collect ended children without waiting; returns their wait statuses."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def end_descendants(patience: float = 3.0) -> bool:
    """End all processes below this one, politely first; returns whether any had to be ended."""
    reap()
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # none, as after most jobs: /proc takes a hundred times as long
        return False
    found = False
    for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        end, pause = time.monotonic() + wait, 0.005
        while below := descendants(os.getpid()):
            found = True
            signal_all(below, number)
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
            reap()
            if time.monotonic() > end:
                break
    return found


def memory_of(pids: list[int]) -> float:
    """Return the memory of processes, MiB; what several share is counted once in all."""
    total = 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024
