"""The demo's search: which alloy is it, found by a campaign that runs and ends by itself."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

from orionflow.cli.output import console
from orionflow.errors import LaunchError

if TYPE_CHECKING:
    from pathlib import Path

    from orionflow.agents.campaign import AdvanceReport, Campaigns, CampaignStatus
    from orionflow.cli.drivers import Cron, Local

TEMPLATE = "alloy"
_WHO = "demo"
_ADVANCE_EVERY = 2.0
_STALLED = 240.0


def search(project: Path, *, slurm: bool) -> CampaignStatus:
    """Run the campaign of the template `alloy`, or go on with one that was interrupted.

    Parameters
    ----------
    project
        Project folder; its database and, with ``slurm``, its Slurm run.
    slurm
        Run through Slurm, or on this machine directly.

    Raises
    ------
    LaunchError
        Nothing moved for minutes.
    """
    from orionflow.agents.campaign import Campaigns
    from orionflow.agents.report import report_html
    from orionflow.cli.campaign_watch import CampaignWatch
    from orionflow.cli.drivers import Cron, Local

    with closing(Campaigns(project)) as campaigns:
        name = _campaign(campaigns)
        with Cron(project) if slurm else Local(project) as worker:
            driver = _Driver(campaigns, name, worker)
            status = CampaignWatch(campaigns, name, every=1.0, step=driver.step).run()
        page = project / "figures" / f"{name}.html"
        page.parent.mkdir(exist_ok=True)
        page.write_text(report_html(campaigns.view(name)), encoding="utf-8")
    _tell(status, page)
    return status


def _campaign(campaigns: Campaigns) -> str:
    """Return the unfinished search of an earlier demo, or start the next one."""
    from orionflow.agents.campaign import Campaign
    from orionflow.agents.campaign_document import ENDED
    from orionflow.cli.campaign import templates

    document = Campaign.from_yaml(templates()[TEMPLATE], source=TEMPLATE)
    number = 1
    while True:
        name = TEMPLATE if number == 1 else f"{TEMPLATE}-{number}"
        if name not in campaigns.names():
            campaigns.create(document.model_copy(update={"name": name}), _WHO)
            break
        if campaigns.view(name).state not in ENDED:
            break
        number += 1
    if campaigns.status(name).state == "DRAFT":
        campaigns.start(name, _WHO)
    elif campaigns.status(name).state == "PAUSED":
        campaigns.resume(name, _WHO)
    return name


class _Driver:
    """What crontab does elsewhere: advance the campaign, and get its work run."""

    def __init__(self, campaigns: Campaigns, name: str, worker: Cron | Local) -> None:
        self.campaigns, self.name, self.worker = campaigns, name, worker
        self.last = -_ADVANCE_EVERY
        self.moved = time.monotonic()

    def step(self) -> AdvanceReport | None:
        """Do what is due."""
        from orionflow.cli.watch import Snapshot

        found = self.campaigns.pad.fireworks.find(
            {"spec.campaign": self.name}, {"fw_id": 1, "name": 1, "state": 1})
        seen = Snapshot({fw["fw_id"]: fw["state"] for fw in found})
        self.worker.keep_going(seen)
        now = time.monotonic()
        if now - self.last < _ADVANCE_EVERY:
            return None
        self.last = now
        report = self.campaigns.advance(self.name, _WHO)
        if not report.idle or seen.count("RUNNING"):
            self.moved = now
        if now - self.moved > _STALLED:
            raise LaunchError(
                f"campaign {self.name}: nothing moved for {_STALLED:.0f} s",
                hint="orionflow doctor; orionflow cron --verbose; orionflow campaign status "
                f"{self.name}")
        return report


def _tell(status: CampaignStatus, page: Path) -> None:
    from orionflow.agents.frames import words

    out = console()
    if status.best is not None:
        out.print(f"\nSearch {status.name}: {status.done} of {status.evaluations} candidates "
                  f"computed, {status.spent:.3f} of {status.core_hours:g} core-hours\n"
                  f"  ended    {status.state}: {status.reason}\n"
                  f"  found    {words(status.best.point)}\n"
                  f"  has      {words(status.best.values)}\n"
                  f"  sought   {'; '.join(status.objectives)}\n"
                  f"  report   {page}", markup=False, soft_wrap=True)
