"""The processes of a job that stock `rlaunch` runs on this host."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from orionflow.launchers.services.processes import ProcessIdentity


def children_in(folder: str) -> tuple[ProcessIdentity | None, list[ProcessIdentity]]:
    """Return the `rlaunch` process that works in a folder, and all below it.

    `rlaunch` changes into the folder of the job it runs; what it starts there, and what that
    starts elsewhere, are its descendants.

    Parameters
    ----------
    folder
        ``launch_dir`` of the launch.

    Returns
    -------
    tuple
        The topmost process of ours in that folder (None: there is none), and its descendants.
    """
    parents: dict[int, int] = {}
    inside: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # gone meanwhile, or another user's
            if entry.stat().st_uid != os.geteuid():
                continue
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(stat[1])
            if (entry / "cwd").samefile(folder):
                inside.add(int(entry.name))
    tops = [pid for pid in inside if parents.get(pid) not in inside and pid != os.getpid()
            and _is_launcher(pid)]
    if not tops:
        return None, []
    below: list[int] = []
    todo = [tops[0]]
    while todo:
        here = todo.pop()
        kids = [pid for pid, parent in parents.items() if parent == here]
        below += kids
        todo += kids
    identities = [ProcessIdentity.of(pid) for pid in below]
    return ProcessIdentity.of(tops[0]), [i for i in identities if i is not None]


def _is_launcher(pid: int) -> bool:
    """Whether it is rlaunch or mlaunch: a person's shell may stand in the folder as well."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(Path(os.fsdecode(w)).name in {"rlaunch", "mlaunch"} for w in words if w)
