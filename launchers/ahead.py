"""Jobs claimed ahead of their turn: whether their launcher died before it started them.

The folder of such a job is made when it starts, not when it is claimed; its launch names another
folder that its launcher had made in the same place. Where that is seen and the job's own is not,
nothing of the job has ever run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

#: In a launch: a folder made before, beside which its own is made when it starts.
AHEAD = "ahead"
#: In a firework's spec: how often it was put back because it had never started.
UNSTARTED = "_unstarted"
# A node's crash may take the newest folders with it, and a job may be the reason of the crash.
_MOST = 10


def unstarted(launch: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any] | None:
    """Return what to set in the spec of a job that never started, so that it costs it no rerun.

    Parameters
    ----------
    launch
        Its launch: ``launch_dir`` and `AHEAD`. Its launcher is dead.
    spec
        Spec of its firework.

    Returns
    -------
    dict or None
        None where it may have started, or this has happened too often.
    """
    other, times = launch.get(AHEAD), spec.get(UNSTARTED)
    times = times if isinstance(times, int) else 0
    if not isinstance(other, str) or times >= _MOST:
        return None
    own = launch["launch_dir"]
    if Path(own).parent != Path(other).parent or os.path.lexists(own) or not Path(other).is_dir():
        return None
    return {UNSTARTED: times + 1}
