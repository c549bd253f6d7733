"""A process that has imported what jobs need, and forks workers that need not import it again.

Run by the launcher as ``python -m orionflow.launchers.zygote FD``. It adopts what dead workers
leave behind, ends it, and ends all there is when the launcher dies.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from orionflow.launchers.lease import Hold
from orionflow.launchers.process_tree import (
    adopt_orphans,
    children,
    descendants,
    die_with_parent,
    reap,
    signal_all,
)

# Imported for all jobs. What else the waiting ones need, the launcher names.
NEEDED = ("fireworks.core.rocket", "jobflow.managers.fireworks", "orionflow.launchers.worker")
# Our recipes run codes.
RECIPES = "orionflow.workflows."
CODES = ("custodian.custodian", "orionflow.launchers.qe", "orionflow.launchers.lammps")
# Recipes import these while they run.
LATER = ("pymatgen.io.ase", "pymatgen.symmetry.analyzer", "pymatgen.entries.computed_entries",
         "ase.build", "f90nml")
# Only of these packages: others may start threads when they are imported, and forks would hang.
SAFE = ("orionflow", "atomate2", "jobflow", "pymatgen", "emmet")
# Orphans of a dead worker (codes, their guards) have so long to end after SIGTERM, s.
_POLITE = 6.0
_FORCED = 5.0
_MESSAGE = 65536


class Zygote:
    """Forks workers on demand.

    Parameters
    ----------
    control
        Connection to the launcher: packets of JSON, for a fork with the worker's socket.
    """

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.workers: set[int] = set()
        # Ended workers whose orphans are still being ended: status by pid, and since when.
        self.ended: dict[int, int] = {}
        self.since = 0.0
        self.asked: set[int] = set()
        self.hold = Hold()

    def run(self) -> None:
        """Serve until the launcher is gone."""
        adopt_orphans()
        wake, alarm = os.pipe()
        os.set_blocking(alarm, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._send({"kind": "ready"})
        control = self.control.fileno()
        while True:
            wait = 0.1 if self.ended else self.hold.pause
            readable, _, _ = select.select([control, wake], [], [], wait)
            if wake in readable:
                os.read(wake, 512)
            self._bury()
            self.hold.look(self.workers)
            if control in readable and not self._serve((wake, alarm)):
                self._end_all()
                return

    def _serve(self, own: tuple[int, int]) -> bool:
        """Take one message; False when the launcher is gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self.control, _MESSAGE, 1)
        except ConnectionError:
            return False
        if not data:
            return False
        task = json.loads(data)
        if task["kind"] == "fork":
            try:
                pid = self._fork(fds[0], task["setup"], own)
            except OSError as error:  # no memory, or too many processes: those that run go on
                self._send({"kind": "not forked", "number": task["number"], "why": str(error)})
            else:
                self._send({"kind": "forked", "number": task["number"], "pid": pid})
            os.close(fds[0])
        elif task["kind"] == "renew":
            self.hold.renew(task["until"])
        elif task["kind"] == "preload":
            preload(task["modules"])
        elif task["pid"] in self.workers:
            os.kill(task["pid"], task["number"])
        return True

    def _fork(self, channel: int, setup: dict[str, Any], own: tuple[int, int]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self.workers.add(pid)
            return pid
        code = 1
        try:
            die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            self.control.close()
            for fd in own:
                os.close(fd)
            from orionflow.launchers.worker import Worker

            Worker(socket.socket(fileno=channel), setup).serve()
            code = 0
        except BaseException:  # noqa: BLE001  nothing may return into the zygote's loop
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def _bury(self) -> None:
        """Collect the dead, end what they left, and tell once all of it is gone."""
        for pid, status in reap().items():
            if pid in self.workers:
                self.workers.discard(pid)
                self.ended[pid] = status
                self.since = time.monotonic()
        if not self.ended:
            return
        orphans = self._orphans()
        waited = time.monotonic() - self.since
        if orphans and waited < _POLITE + _FORCED:
            if waited > _POLITE:
                signal_all(orphans, signal.SIGKILL)
            else:  # once each: mpirun takes a second one for impatience
                signal_all([p for p in orphans if p not in self.asked], signal.SIGTERM)
                self.asked.update(orphans)
            return
        for pid, status in self.ended.items():
            self._send({"kind": "exited", "pid": pid,
                        "status": os.waitstatus_to_exitcode(status)})
        self.ended.clear()
        self.asked.clear()

    def _orphans(self) -> list[int]:
        mine = [pid for pid in children(os.getpid()) if pid not in self.workers]
        return [p for pid in mine for p in (pid, *descendants(pid))]

    def _end_all(self) -> None:
        signal_all(list(self.workers), signal.SIGKILL)
        end = time.monotonic() + _POLITE
        while time.monotonic() < end + _FORCED:
            reap()
            left = descendants(os.getpid())
            if not left:
                return
            signal_all(left, signal.SIGTERM if time.monotonic() < end else signal.SIGKILL)
            time.sleep(0.05)

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self.control.send(json.dumps(message).encode())
        except OSError:
            return  # the launcher is gone; the next look at the connection shows it


def preload(names: list[str]) -> None:
    """Import modules for all workers to come; one that can't be imported fails in its job."""
    safe = [name for name in names if name.split(".", 1)[0] in SAFE]
    codes = CODES if any(name.startswith(RECIPES) for name in safe) else ()
    for name in (*codes, *safe, *(LATER if safe else ())):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # no collection in a worker touches, and so copies, the pages all share


def main(fd: int) -> None:
    """Import what jobs need, then fork workers on demand."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the launcher decides
    control = socket.socket(fileno=fd)
    control.set_inheritable(False)
    for name in NEEDED:
        importlib.import_module(name)
    Zygote(control).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
