"""Programs of a private Slurm: where they are, and how a daemon is started and its failure told."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import ConfigError, LaunchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

APT_LINE = "sudo apt-get install slurm-wlm munge"
LOG_BYTES = 10_000_000
# Where Debian puts daemons; not on everybody's PATH.
_SBIN = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin"])


def find_program(name: str, apt_line: str = APT_LINE) -> str:
    """Return the absolute path of a program, also from the folders of daemons.

    Raises
    ------
    ConfigError
        It is not installed; the hint is the line that installs it.
    """
    found = shutil.which(name) or shutil.which(name, path=_SBIN)
    if found is None:
        raise ConfigError(f"{name} is not installed",
                          hint=f"on Debian or Ubuntu: `{apt_line}` "
                          "(the machine profile `local` works without Slurm)")
    return found


def start_daemon(command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Run a program that makes itself a daemon, and wait until its first process has ended.

    Raises
    ------
    LaunchError
        It fails at once; the message is its own last error.
    """
    before = log_size(log)
    done = subprocess.run(command, env=environment, cwd="/", stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = last_error(log, before) or _errors(done.stdout + done.stderr)
        raise LaunchError(
            f"{Path(command[0]).name} does not start: {said or f'exit code {done.returncode}'}",
            command=command, code=done.returncode, stderr=done.stderr, hint=f"its log: {log}")


def log_size(log: Path) -> int:
    """Return the bytes in a log, 0 when there is none."""
    return log.stat().st_size if log.exists() else 0


def last_error(log: Path, since: int = 0) -> str:
    """Return the last line after ``since`` bytes that tells an error, or nothing."""
    if not log.exists():
        return ""
    with log.open(errors="replace") as file:
        file.seek(since)
        return _errors(file.read())


def bound_logs(folder: Path) -> None:
    """Begin anew every log of a folder that has grown large; the old text stays in ``*.log.1``.

    The files are cut in place: daemons append, so they need not be told.
    """
    for log in folder.glob("*.log"):
        if log_size(log) > LOG_BYTES:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def _errors(text: str) -> str:
    lines = [line for line in text.splitlines()
             if "error" in line.lower() or "fatal" in line.lower()]
    fatal = [line for line in lines if "fatal" in line.lower()]
    return (fatal or lines or [""])[-1]
