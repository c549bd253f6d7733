"""A campaign watched while it runs: states, Slurm jobs and what happened last, on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orionflow.cli.output import console
from orionflow.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fireworks.core.launchpad import LaunchPad
    from rich.console import RenderableType

    from orionflow.launchers.slurm import SlurmJob

_EVENTS = 6
_PAUSE = 1.0
_LINE_EVERY = 15.0
_ACTIVE = ("READY", "RESERVED", "RUNNING")


@dataclass
class Snapshot:
    """A campaign at one moment.

    Attributes
    ----------
    states
        State of each firework.
    names
        Name of each firework.
    slurm
        Slurm jobs of this user; empty where there is no Slurm.
    """

    states: dict[int, str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    slurm: list[SlurmJob] = field(default_factory=list)

    def count(self, *states: str) -> int:
        """Return how many jobs are in one of these states."""
        return sum(s in states for s in self.states.values())

    @property
    def over(self) -> bool:
        """Whether nothing can move any more: all done, or the rest waits for what failed."""
        stuck = bool(self.count("FIZZLED", "DEFUSED", "PAUSED"))
        return bool(self.states) and not self.count(*_ACTIVE) and (
            stuck or not self.count("WAITING"))


class Watch:
    """Follow a campaign until nothing moves any more.

    Parameters
    ----------
    launchpad
        Open LaunchPad of the project.
    campaign
        Its name.
    project
        Project folder; its Slurm is asked for the queue.
    slurm
        Whether there is a queue.
    """

    def __init__(self, launchpad: LaunchPad, campaign: str, project: Path, *,
                 slurm: bool) -> None:
        self.launchpad = launchpad
        self.campaign = campaign
        self.project = project
        self.slurm = slurm
        self.snapshot = Snapshot()
        self.started = time.monotonic()
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._moved = time.monotonic()
        self._printed = 0.0

    def run(self, each_turn: Callable[[Snapshot], None], *, stalled_after: float) -> Snapshot:
        """Look every second, calling ``each_turn`` in between; return the last look.

        Parameters
        ----------
        each_turn
            What keeps the campaign going (cron).
        stalled_after
            Give up when no state has changed for so long, s.

        Raises
        ------
        LaunchError
            Nothing moved for too long.
        """
        from rich.live import Live

        err = console(stderr=True)
        if not sys.stderr.isatty():
            return self._loop(each_turn, stalled_after, self._line)
        with Live(console=err, refresh_per_second=4, transient=True) as live:
            return self._loop(each_turn, stalled_after, lambda: live.update(self._view()))

    def _loop(self, each_turn: Callable[[Snapshot], None], stalled_after: float,
              show: Callable[[], None]) -> Snapshot:
        while True:
            self._look()
            show()
            if self.snapshot.over:
                return self.snapshot
            if time.monotonic() - self._moved > stalled_after:
                raise LaunchError(
                    f"nothing moved for {stalled_after:.0f} s: {self._counts()}",
                    hint=f"cd {self.project}; orionflow doctor; orionflow cron --verbose")
            each_turn(self.snapshot)
            time.sleep(_PAUSE)

    def _look(self) -> None:
        docs = list(self.launchpad.fireworks.find(
            {"spec.campaign": self.campaign}, {"fw_id": 1, "name": 1, "state": 1}))
        now = Snapshot({d["fw_id"]: d["state"] for d in docs},
                       {d["fw_id"]: d["name"] for d in docs}, self._queue())
        clock = time.strftime("%H:%M:%S")
        for fw_id, state in sorted(now.states.items()):
            if state != self.snapshot.states.get(fw_id) and state in {
                    "RUNNING", "COMPLETED", "FIZZLED"}:
                self._events.append(f"{clock} {state.lower():<9} {fw_id} {now.names[fw_id]}")
        if now.states != self.snapshot.states:
            self._moved = time.monotonic()
        self.snapshot = now

    def _queue(self) -> list[SlurmJob]:
        if not self.slurm:
            return []
        from orionflow.launchers.scheduler import Scheduler

        try:
            return Scheduler(self.project).my_queue()
        except LaunchError:
            return self.snapshot.slurm  # busy; the next look will tell

    def _counts(self) -> str:
        shown = ("COMPLETED", "RUNNING", "RESERVED", "READY", "WAITING", "FIZZLED")
        return ", ".join(f"{n} {s.lower()}" for s in shown if (n := self.snapshot.count(s)))

    def _allocations(self) -> str:
        jobs = self.snapshot.slurm
        return ", ".join(f"job {j.job_id} {j.state.lower()}" for j in jobs) or "none in the queue"

    def _line(self) -> None:
        """Print one line now and then, where nobody can see a live view."""
        now = time.monotonic()
        if now - self._printed > _LINE_EVERY or self.snapshot.over:
            self._printed = now
            done, total = self.snapshot.count("COMPLETED"), len(self.snapshot.states)
            slurm = f"; Slurm: {self._allocations()}" if self.slurm else ""
            console(stderr=True).print(
                f"{now - self.started:4.0f} s  {done}/{total} jobs  ({self._counts()}){slurm}")

    def _view(self) -> RenderableType:
        from rich.console import Group
        from rich.markup import escape
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        done, total = self.snapshot.count("COMPLETED"), max(1, len(self.snapshot.states))
        head = Table.grid(padding=(0, 1))
        head.add_row(Text(self.campaign, style="bold"), ProgressBar(total=total, completed=done,
                                                                    width=40),
                     f"{done}/{total} jobs", f"{time.monotonic() - self.started:.0f} s")
        lines = [f"jobs   {self._counts()}"]
        if self.slurm:
            lines.append(f"Slurm  {self._allocations()}")
        lines += [f"[dim]{escape(event)}[/]" for event in self._events]
        return Group(head, *(Text.from_markup(line) for line in lines))
