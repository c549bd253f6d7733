from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orionflow.errors import LaunchError
from orionflow.launchers.services.processes import (
    ProcessIdentity,
    end_processes,
    find_processes,
    free_port,
    locked,
    port_taken,
    processes_with,
    read_state,
    write_private,
)


def sleeper(seconds="60", **kwargs):
    child = subprocess.Popen(["sleep", seconds], **kwargs)
    # Popen returns within exec, a moment before the kernel shows the new arguments.
    line = Path(f"/proc/{child.pid}/cmdline")
    while seconds.encode() not in line.read_bytes().split(b"\0"):
        time.sleep(0.001)
    return child


def ended(seconds):
    child = subprocess.Popen(["sleep", seconds])
    time.sleep(0.2)  # ended, but nobody has asked for its exit code
    return child


def test_identity_of_living_process_survives_its_dict():
    with sleeper() as child:
        identity = ProcessIdentity.of(child.pid)
        assert identity is not None
        assert identity.alive()
        assert ProcessIdentity.from_dict(identity.to_dict()) == identity
        assert 0 <= identity.uptime() < 30
        child.kill()


def test_identity_of_zombie_is_none():
    child = ended("0")
    try:
        assert os.path.isdir(f"/proc/{child.pid}")  # noqa: PTH112  a path of the kernel
        assert ProcessIdentity.of(child.pid) is None
    finally:
        child.wait()


def test_zombie_whose_threads_still_hold_its_port_is_not_gone():
    program = (
        "import ctypes, platform, socket, threading, time\n"
        "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print(s.getsockname()[1], flush=True)\n"
        # Only the first thread ends, as happens for a moment in every server that is stopped.
        "number = {'x86_64': 60, 'aarch64': 93}[platform.machine()]\n"
        "ctypes.CDLL(None).syscall(number, 0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        port = int(child.stdout.readline())
        stat = Path(f"/proc/{child.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert port_taken(port)
        assert ProcessIdentity.of(child.pid) is not None
        child.kill()
        child.wait()
        assert not port_taken(port)


def test_same_pid_with_other_start_is_another_process_and_not_signalled():
    with sleeper() as child:
        real = ProcessIdentity.of(child.pid)
        earlier = ProcessIdentity(real.pid, real.started - 1, real.boot)
        assert not earlier.alive()
        earlier.signal(signal.SIGKILL)
        time.sleep(0.1)
        assert real.alive()
        real.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def test_command_with_brackets_and_spaces_is_parsed(tmp_path):
    program = tmp_path / "a) b (c"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as child:
        assert ProcessIdentity.of(child.pid).alive()
        child.kill()


def test_end_processes_kills_what_ignores_sigterm():
    code = ("import signal, time; signal.signal(15, signal.SIG_IGN)\n"
            "print(1, flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        end_processes([ProcessIdentity.of(child.pid)], patience=0.3)
        assert child.wait() == -signal.SIGKILL


def test_processes_are_found_by_whole_arguments_and_by_environment():
    mark = f"17.{os.getpid()}"
    env = {"PATH": os.environ["PATH"], "MARK": mark, "OTHER": "1"}
    with sleeper(mark, env=env) as child:
        assert [p.pid for p in find_processes(mark)] == [child.pid]
        assert find_processes(mark[:-1]) == []
        assert [p.pid for p in processes_with(f"MARK={mark}", "OTHER")["sleep"]] == [child.pid]
        assert processes_with(f"MARK={mark}", "ABSENT") == {}
        assert processes_with(f"MARK={mark[:-1]}") == {}
        child.kill()


def test_taken_port_is_seen_and_free_ports_are_free():
    first = free_port(3)
    assert not any(port_taken(p) for p in range(first, first + 3))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first))
        listener.listen()
        assert port_taken(first)
    assert not port_taken(first)


def test_lock_is_released_by_the_death_of_its_holder(tmp_path):
    path = tmp_path / "lock"
    code = ("import sys; from pathlib import Path\n"
            "from orionflow.launchers.services.processes import locked\n"
            "with locked(Path(sys.argv[1])): print(1, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        with pytest.raises(LaunchError, match="another command has held") as caught, \
                locked(path, patience=0.1):
            pass
        assert caught.value.transient
        child.kill()
        child.wait()
        with locked(path, patience=0.1):
            pass


def test_private_file_replaces_an_open_one_and_is_its_owners_alone(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_state_file_is_named(tmp_path):
    path = tmp_path / "state.json"
    assert read_state(path) == {}
    path.write_text('{"port": 1')
    with pytest.raises(LaunchError, match=r"state\.json is damaged"):
        read_state(path)
