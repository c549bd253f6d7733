"""Ends a process session when its owner is gone; a script of the standard library only.

Usage, by `CodeJob`: ``guard.py SESSION``. It reads standard input, whose other end only the owner
holds: a line means the owner has seen the session end, end of file that the owner was killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def session_members(session: int) -> list[int]:
    """Return the processes of a session, zombies left out (Linux: read from /proc)."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name in parentheses may hold blanks; state, ppid, pgrp, session follow it.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            members.append(int(entry.name))
    return members


def end_session(session: int, patience: float = 5.0) -> bool:
    """Terminate, then kill, all processes of a session.

    Ranks that mpirun starts get process groups of their own, but keep the session: a signal to
    the group alone would miss them.

    Parameters
    ----------
    session
        Session id: the process id of the first process started in it.
    patience
        How long they may take to end after SIGTERM, s.

    Returns
    -------
    bool
        Whether none is left.
    """
    for sig, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        members = session_members(session)
        for pid in members:
            try:
                os.kill(pid, sig)
                if sig == signal.SIGTERM:
                    os.kill(pid, signal.SIGCONT)  # a stopped process can't act on SIGTERM
            except ProcessLookupError:
                continue
        end = time.monotonic() + wait
        pause = 0.01
        while members and time.monotonic() < end:
            time.sleep(pause)
            pause = min(0.2, pause * 2)
            members = session_members(session)
        if not members:
            return True
    return False


def main() -> None:
    """Wait for the owner's word or death."""
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)  # Ctrl-C goes to the owner, who decides
    if not sys.stdin.buffer.readline():
        end_session(int(sys.argv[1]))


if __name__ == "__main__":
    main()
