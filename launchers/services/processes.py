"""Processes that outlive the command that started them: who they are, alive or not, ended."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import signal
import socket
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, never confused with a later one that got the same number.

    Attributes
    ----------
    pid
        Process number.
    started
        Start of the process in clock ticks since boot (``/proc/<pid>/stat``).
    boot
        Id of the boot the ticks count from.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of a living process, None when there is none (or a zombie).

        A zombie whose other threads still end counts as living: its files and ports are not
        free yet.
        """
        try:
            # The second field is the command in brackets and may hold spaces and brackets.
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, threads, started = fields[0], int(fields[17]), int(fields[19])
        return None if state in "ZX" and threads <= 1 else cls(pid, started, _boot_id())

    def alive(self) -> bool:
        """Return whether this very process still runs."""
        return ProcessIdentity.of(self.pid) == self

    def uptime(self) -> float:
        """Return the seconds since it was started."""
        since_boot = float((_PROC / "uptime").read_text().split()[0])
        return since_boot - self.started / os.sysconf("SC_CLK_TCK")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a state file."""
        return {"pid": self.pid, "started": self.started, "boot": self.boot}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ProcessIdentity:
        """Return what ``to_dict`` wrote."""
        return cls(int(data["pid"]), int(data["started"]), str(data["boot"]))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process, or to nobody."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():  # checked while the handle pins the number
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def find_processes(*arguments: str) -> list[ProcessIdentity]:
    """Return our own processes whose command line holds all these arguments, exactly."""
    wanted = {os.fsencode(a) for a in arguments}
    return [p for folder in _own() if wanted <= _words(folder / "cmdline")
            and (p := ProcessIdentity.of(int(folder.name)))]


def processes_with(*variables: str) -> dict[str, list[ProcessIdentity]]:
    """Return our own processes started with these variables, by command name.

    Parameters
    ----------
    variables
        ``NAME=value``, or ``NAME`` alone for any value.
    """
    found: dict[str, list[ProcessIdentity]] = {}
    exact = {os.fsencode(v) for v in variables if "=" in v}
    names = {os.fsencode(v) for v in variables if "=" not in v}
    for folder in _own():
        environment = _words(folder / "environ")
        if exact <= environment and names <= {e.partition(b"=")[0] for e in environment}:
            with suppress(OSError):
                command = (folder / "comm").read_text().strip()
                if process := ProcessIdentity.of(int(folder.name)):
                    found.setdefault(command, []).append(process)
    return found


def _own() -> Iterator[Path]:
    for folder in _PROC.iterdir():
        with suppress(OSError):  # it ended while we looked
            if folder.name.isdigit() and folder.stat().st_uid == os.geteuid():
                yield folder


def _words(path: Path) -> set[bytes]:
    try:
        return set(path.read_bytes().split(b"\0"))
    except OSError:
        return set()


def end_processes(processes: Sequence[ProcessIdentity], *, patience: float = 30.0) -> None:
    """End processes: SIGTERM, then SIGKILL for those left after ``patience`` seconds.

    Raises
    ------
    LaunchError
        One survives SIGKILL (it hangs in the kernel, on a dead file system for example).
    """
    for process in processes:
        process.signal(signal.SIGTERM)
    if wait_for(lambda: not any(p.alive() for p in processes), patience):
        return
    for process in processes:
        process.signal(signal.SIGKILL)
    if not wait_for(lambda: not any(p.alive() for p in processes), 10.0):
        left = [p.pid for p in processes if p.alive()]
        raise LaunchError(f"processes {left} do not end",
                          hint="they wait for a file system that does not answer; see `ps -l`")


def wait_for(condition: Callable[[], bool], timeout: float, pause: float = 0.02) -> bool:
    """Return True as soon as the condition holds, False after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.3, 0.25)
    return True


def free_port(count: int = 1) -> int:
    """Return the first of ``count`` consecutive TCP ports nobody listens on right now.

    They lie below 32768, where Linux begins to take ports for outgoing connections: a server
    that keeps its port must find it free after a pause, too.
    """
    for _ in range(200):
        first = 20000 + secrets.randbelow(32768 - 20000 - count)
        if not any(port_taken(port) for port in range(first, first + count)):
            return first
    raise LaunchError(f"no {count} consecutive free TCP ports between 20000 and 32767",
                      hint="too many servers run on this machine; see `ss -ltn`", transient=True)


def port_taken(port: int) -> bool:
    """Return whether somebody listens on this TCP port of the loopback address."""
    with socket.socket() as probe:
        # As servers do: connections in TIME_WAIT are no hindrance, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def write_private(path: Path, text: str) -> None:
    """Write a file only its owner can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def private_folder(path: Path) -> Path:
    """Make a folder only its owner can enter, and return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def socket_base() -> str:
    """Return a folder for folders of sockets, whose names may have 107 bytes in all.

    The temporary folder, unless its path is long or holds characters that Slurm's configuration
    can't.
    """
    base = tempfile.gettempdir()
    short = re.fullmatch(r"[\w/.+-]{1,40}", base)
    return base if short else "/tmp"  # noqa: S108  callers make a folder of mode 0700 in it


def read_state(path: Path) -> dict[str, Any]:
    """Return a state file's values, nothing when there is none.

    Raises
    ------
    LaunchError
        The file is damaged.
    """
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise LaunchError(f"state file {path} is damaged: {error}",
                          hint="remove it and start the service again") from error
    return dict(data)


@contextmanager
def locked(path: Path, *, patience: float = 90.0) -> Iterator[None]:
    """Hold a lock file; the kernel releases it even when the holder is killed.

    Raises
    ------
    LaunchError
        Somebody else holds it for longer than ``patience`` seconds.
    """
    with path.open("a") as file:
        def take() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        if not wait_for(take, patience):
            raise LaunchError(f"another command has held {path} for {patience:.0f} s",
                              hint="wait for it, or end it (`fuser` on that file names it)",
                              transient=True)
        yield
