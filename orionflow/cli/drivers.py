"""What keeps a campaign going while a command watches it: cron's work, or a launcher here."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import LaunchError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Self

    from orionflow.cli.watch import Snapshot
    from orionflow.launchers.cron import CronReport

_CRON_EVERY = 5.0


class Cron:
    """Do what a crontab does, so that none is needed: `orionflow cron` every few seconds.

    In a thread, because it waits for sbatch, and the view should not.
    """

    def __init__(self, project: Path) -> None:
        self.project = project
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[CronReport] | None = None
        self._ended = -_CRON_EVERY

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def keep_going(self, _: Snapshot) -> None:
        """Run it when it is time; what it says is looked at in the next turn."""
        if self._running is None:
            if time.monotonic() - self._ended > _CRON_EVERY:
                self._running = self._pool.submit(_run_cron, self.project)
            return
        if not self._running.done():
            return
        report = self._running.result()
        self._running, self._ended = None, time.monotonic()
        if report.problem and not report.try_later:
            raise LaunchError(report.problem,
                              hint=f"cd {shlex.quote(str(self.project))}; orionflow doctor")


def _run_cron(project: Path) -> CronReport:
    from orionflow.launchers.cron import run_cron

    return run_cron(project)


class Local:
    """`orionflow launch` on this machine, started again when it has ended too early."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.log = project / ".orionflow" / "log" / "demo-launch.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def keep_going(self, seen: Snapshot) -> None:
        """Start the launcher while there is something to do for it.

        Raises
        ------
        LaunchError
            It says that it can't run jobs here, and would say so again.
        """
        code = 0 if self.process is None else self.process.poll()
        if code is None or not seen.count("READY"):
            return
        if code == 1:
            raise _last_error(self.log, self.project)
        command = [str(Path(sys.executable).with_name("orionflow")), "launch"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.project, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)


def _last_error(log: Path, project: Path) -> LaunchError:
    """Return what a launcher said last."""
    _, _, said = log.read_text(errors="replace").rpartition("error: ")
    message, _, hint = said.strip().partition("\n  -> ")
    return LaunchError(message or "the launcher ended with an error; it says no more",
                       hint=hint or f"cd {shlex.quote(str(project))}; orionflow doctor")
