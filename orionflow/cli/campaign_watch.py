"""A campaign of searches watched while it runs, on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from orionflow.cli.output import console

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from orionflow.agents.campaign import AdvanceReport, Campaigns, CampaignStatus

_LINE_EVERY = 15.0
_ENDED = ("COMPLETED", "FAILED", "CANCELLED")


class CampaignWatch:
    """Follow a campaign until it has ended and nothing of it runs any more.

    Parameters
    ----------
    campaigns
        Of the project.
    name
        The campaign.
    every
        Seconds between looks.
    step
        Called before each look: an advance, cron's work.
    """

    def __init__(self, campaigns: Campaigns, name: str, *, every: float = 5.0,
                 step: Callable[[], AdvanceReport | None] | None = None) -> None:
        self.campaigns, self.name = campaigns, name
        self.every, self.step = every, step
        self.started = time.monotonic()
        self._printed = -_LINE_EVERY
        self._said = ""

    def run(self) -> CampaignStatus:
        """Look until it is over; return the last status."""
        from rich.live import Live

        if not sys.stderr.isatty():
            return self._loop(self._line)
        with Live(console=console(stderr=True), refresh_per_second=4, transient=True) as live:
            return self._loop(lambda status: live.update(self._view(status)))

    def _loop(self, show: Callable[[CampaignStatus], None]) -> CampaignStatus:
        while True:
            if self.step is not None:
                report = self.step()
                if report is not None and not report.idle:
                    self._said = report.describe()
            status = self.campaigns.status(self.name)
            show(status)
            if status.state in _ENDED and not status.open:
                return status
            time.sleep(self.every)

    def _line(self, status: CampaignStatus) -> None:
        """Print a line when something has happened, where nobody can see a live view."""
        now = time.monotonic()
        if not self._said and now - self._printed < _LINE_EVERY:
            return
        self._printed = now
        best = f"; best {_words(status)}" if status.best else ""
        finish = (f"; over by {status.predicted_finish}" if status.predicted_finish else "")
        console(stderr=True).print(
            f"{now - self.started:4.0f} s  {self._said or status.name + ': ' + status.state}"
            f"; {status.done}/{status.evaluations_allowed} results, {status.spent:.3g} of "
            f"{status.core_hours:g} core-hours{best}{finish}", markup=False, soft_wrap=True)
        self._said = ""

    def _view(self, status: CampaignStatus) -> RenderableType:
        from rich.console import Group
        from rich.markup import escape
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        from orionflow.cli.campaign import status_rows

        head = Table.grid(padding=(0, 1))
        head.add_row(Text(status.name, style="bold"),
                     ProgressBar(total=status.evaluations_allowed, completed=status.done, width=30),
                     f"{status.done}/{status.evaluations_allowed} results",
                     f"{time.monotonic() - self.started:.0f} s")
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in status_rows(status):
            table.add_row(name, escape(text))
        said = [Text(self._said, style="dim")] if self._said else []
        return Group(head, table, *said)


def _words(status: CampaignStatus) -> str:
    from orionflow.agents.frames import with_sigma

    return with_sigma(status.best) if status.best else ""
