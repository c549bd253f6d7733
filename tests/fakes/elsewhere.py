"""Processes on a host of another name, as far as they can tell."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCRIPT = 'hostname elsewhere && exec "$@"'


def elsewhere(command: Sequence[object], **options: Any) -> subprocess.Popen[str]:
    """Start a command in a name space of its own, where the host is called `elsewhere`."""
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return subprocess.Popen(["unshare", *root, "--uts", "sh", "-c", _SCRIPT, "sh",
                             *map(str, command)], **options)
