"""Jobs that would hurt their launcher or their neighbours, if they could."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

from jobflow import job


@job
def vanish(code=3):
    """End the process without a word."""
    sys.stdout.write("so long")
    os._exit(code)


@job
def crash():
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


@job
def spoil():
    """Change everything a job can change of its process."""
    os.chdir("/")
    os.environ["SPOILT"] = "yes"
    del os.environ["PATH"]
    os.umask(0o777)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    sys.path.insert(0, "/spoilt")
    sys.stdout = sys.stderr = None
    warnings.simplefilter("error")
    return os.getpid()


@job
def surroundings():
    """Return what a job finds."""
    umask = os.umask(0)
    os.umask(umask)
    return {"pid": os.getpid(), "spoilt": os.environ.get("SPOILT"), "path": "PATH" in os.environ,
            "umask": umask, "sys_path": "/spoilt" in sys.path, "stdout": sys.stdout is not None,
            "ignored": signal.getsignal(signal.SIGTERM) is signal.SIG_IGN,
            "filter": warnings.filters[0][0], "cwd": str(Path.cwd())}


@job
def leave_behind():
    """Leave a child, a daemon and a thread running."""
    child = subprocess.Popen(["sleep", "600"])
    script = "sleep 601 > /dev/null 2>&1 & echo $!"
    daemon = subprocess.run(["sh", "-c", script], check=True, stdout=subprocess.PIPE, text=True,
                            start_new_session=True).stdout
    threading.Thread(target=time.sleep, args=(0.5,)).start()
    return [child.pid, int(daemon)]


@job
def fork_and_return():
    """Let both of two processes return."""
    os.fork()
    return os.getpid()


@job
def print_much(mib):
    for _ in range(mib):
        sys.stdout.write("x" * 2**20)


@job
def never_end(folder):
    """Ignore every signal there is, in this process and in one it starts."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if number not in {signal.SIGCHLD, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])  # inherits what is ignored
    (Path(folder) / "part").write_text(str(child.pid))
    (Path(folder) / "part").rename(Path(folder) / "child")
    while True:
        time.sleep(1)


@job
def eat(mib):
    """Take more and more memory."""
    food = []
    for _ in range(mib // 16):
        food.append(bytearray(os.urandom(2**20) * 16))
        time.sleep(0.05)
    return len(food)


@job
def affinity(seconds, folder):
    """Run an MPI rank that notes on which cores it may run."""
    ask = 'grep Cpus_allowed_list /proc/self/status > "$1"; sleep "$2"'
    subprocess.run(["mpirun", "-np", "1", "sh", "-c", ask, "ask",
                    f"{folder}/rank_{os.getpid()}", str(seconds)], check=True)
    return sorted(os.sched_getaffinity(0))


class _Hanging:
    def write(self, text):
        return len(text)

    def flush(self):
        """Wait for ever."""
        while True:
            time.sleep(1)


@job
def hang_afterwards():
    """Return, and leave behind what its process hangs on."""
    sys.stdout = _Hanging()
    return 1
