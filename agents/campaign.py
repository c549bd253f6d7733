"""Campaigns of a project: made, started, watched, steered and advanced. What the CLI calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from orionflow.agents.campaign_document import (
    ENDED,
    Campaign,
    CampaignState,
)
from orionflow.agents.candidates import build, check_objectives
from orionflow.agents.ledger import BehindError, Ledger
from orionflow.agents.proposers import check_proposer, get_proposer
from orionflow.agents.records import budget_seconds
from orionflow.agents.status import CampaignStatus, status_of
from orionflow.agents.step import AdvanceReport, Step, write_down
from orionflow.agents.uncertainty import note, noted
from orionflow.errors import InputError, OrionflowError, StoreError
from orionflow.launchers.launchpad import open_launchpad
from orionflow.workflows.compile import compile_flow, project_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from pandas import DataFrame

    from orionflow.agents.records import View
    from orionflow.agents.space import Point

__all__ = ["AdvanceReport", "Campaign", "CampaignState", "CampaignStatus", "Campaigns"]

_PATIENCE = 200
_SAMPLES = 5
_LATE = timedelta(days=1)
# With less a job has not begun before its time is over, s.
_LEAST = 10.0


class Campaigns:
    """The campaigns of a project; a context manager that closes what it opened.

    Parameters
    ----------
    project
        Project folder; found from the current folder unless given.
    launchpad
        An open LaunchPad to use, which stays open.

    Raises
    ------
    ConfigError, StoreError
        There is no project, or its database can't be reached.
    """

    def __init__(self, project: Path | None = None, launchpad: Any = None) -> None:
        self.project = project_of(project)
        self._own = launchpad is None
        self.pad = open_launchpad(self.project) if launchpad is None else launchpad
        self.ledger = Ledger(self.pad.db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the LaunchPad, if it was opened here."""
        if self._own:
            self.pad.connection.close()

    # --------------------------------------------------------------------------- reading

    def names(self) -> list[str]:
        """Return the names of all campaigns."""
        return self.ledger.names()

    def view(self, name: str) -> View:
        """Return a campaign with all its candidates; see `Ledger.view`."""
        return self.ledger.view(name)

    def status(self, name: str) -> CampaignStatus:
        """Return where a campaign stands; only reads.

        Raises
        ------
        InputError
            There is none of that name.
        """
        view = self.ledger.view(name)
        return status_of(view, sigma=noted(self.pad.db, view))

    def statuses(self) -> list[CampaignStatus]:
        """Return the status of every campaign, by name."""
        return [self.status(name) for name in self.names()]

    def candidates(self, name: str) -> DataFrame:
        """Return the candidates of a campaign; see `frames.candidates_frame`."""
        from orionflow.agents.frames import candidates_frame

        return candidates_frame(self.ledger.view(name))

    def figures(self, name: str) -> dict[str, Figure]:
        """Return the figures of a campaign: ``convergence``, ``parity``, ``cost``."""
        from orionflow.agents.report import figures

        return figures(self.ledger.view(name))

    # --------------------------------------------------------------------------- writing

    def check(self, campaign: Campaign) -> None:
        """Build and compile the workflow of a sample point; nothing is stored.

        Raises
        ------
        InputError
            No workflow could be made of any sample, the machine can't give what is asked for, or
            an objective is not in the recipe's result.
        """
        from orionflow.agents.candidates import load

        check_proposer(campaign.proposer.name, campaign.space)
        built, problem = None, None
        for point in _samples(campaign):
            try:
                built = build(campaign, point)
                break
            except InputError as error:
                problem = InputError(f"a candidate such as {point}: {error.message}",
                                     hint=error.hint)
        if built is None:
            raise problem or InputError("the search space is empty", hint="relax its constraints")
        check_objectives(campaign, built)
        compile_flow(load(built.text), project=self.project, campaign=campaign.name,
                     owner=campaign.owner, resources=campaign.resources.parsed())
        seconds = campaign.reservation_of_job(built.jobs) / campaign.resources.parsed().cores
        if seconds < _LEAST:
            raise InputError(
                f"budget: each of a candidate's {built.jobs} job(s) would have {seconds:.3g} s",
                hint="raise budget.core_hours_each; or leave it out and give resources.walltime")
        if campaign.reservation(built.jobs) > budget_seconds(campaign):
            raise InputError(
                f"budget: {campaign.budget.core_hours:g} core-hours do not suffice for one "
                f"candidate of {built.jobs} jobs, which may take "
                f"{campaign.reservation(built.jobs) / 3600:.3g}",
                hint="raise budget.core_hours, lower resources.walltime, or give "
                "budget.core_hours_each")

    def create(self, campaign: Campaign, who: str) -> bool:
        """Check a campaign and store it as DRAFT.

        Returns
        -------
        bool
            False when the very same one was there already.

        Raises
        ------
        InputError
            See `check`; or another campaign has this name.
        """
        self.ledger.prepare()
        self.check(campaign)
        return self.ledger.create(campaign, who=who)

    def start(self, name: str, who: str, reason: str = "") -> bool:
        """Make a DRAFT run; False when it runs already."""
        if self.ledger.view(name).state is CampaignState.PAUSED:
            raise InputError(f"campaign {name!r} is PAUSED, not a DRAFT",
                             hint=f"orionflow campaign resume {name}")
        return self._change(name, CampaignState.RUNNING, who, reason)

    def pause(self, name: str, who: str, reason: str = "") -> bool:
        """Propose and submit nothing more for now; what runs is still collected."""
        return self._change(name, CampaignState.PAUSED, who, reason)

    def resume(self, name: str, who: str, reason: str = "") -> bool:
        """Let a paused campaign run again."""
        if self.ledger.view(name).state is CampaignState.DRAFT:
            raise InputError(f"campaign {name!r} is a DRAFT",
                             hint=f"orionflow campaign start {name}")
        return self._change(name, CampaignState.RUNNING, who, reason)

    def cancel(self, name: str, who: str, reason: str = "") -> bool:
        """End a campaign for good: what waits is withdrawn, what runs is asked to stop.

        The next `advance` settles what that leaves.
        """
        changed = self._change(name, CampaignState.CANCELLED, who, reason)
        self.advance(name, who)
        return changed

    def _change(self, name: str, state: CampaignState, who: str, reason: str) -> bool:
        return self.ledger.change_state(name, state, reason=reason, who=who)

    def add_points(self, name: str, points: Sequence[Mapping[str, Any]], source: str,
                   who: str) -> list[int]:
        """Add candidates somebody thought of; the next `advance` submits them.

        Parameters
        ----------
        points
            ``{variable: value}`` each. All are checked before the first is added.
        source
            Such as ``user`` or ``agent``.

        Returns
        -------
        list of int
            Number of each candidate; of the one there is for a point that is known already.

        Raises
        ------
        InputError
            A point is wrong, or the campaign is not RUNNING.
        PolicyError
            The budget is used up; those before it have been added.
        """
        view = self.ledger.view(name)
        checked = [view.campaign.space.check(point) for point in points]
        found: list[int] = []
        for point in checked:
            seq, view = self._add(view, point, source, who)
            found.append(seq)
        return found

    def _add(self, view: View, point: Point, source: str, who: str) -> tuple[int, View]:
        name, x_hash = view.campaign.name, view.campaign.space.x_hash(point)
        for _ in range(_PATIENCE):
            known = next((c for c in view.candidates.values() if c.x_hash == x_hash), None)
            if known is not None:
                return known.seq, view
            try:
                seq = write_down(self.ledger, view, point, source=source, who=who)
            except BehindError:
                view = self.ledger.view(name)
                continue
            if seq is not None:
                return seq, view
            view = self.ledger.view(name)
        raise StoreError(f"campaign {name!r}: others write faster than this process can",
                         hint="try again", transient=True)

    def approve(self, name: str, who: str, candidates: Sequence[int] | None = None) -> list[int]:
        """Agree to the cost of candidates; the next `advance` submits them.

        Parameters
        ----------
        candidates
            Their numbers; all that wait for it unless given.

        Returns
        -------
        list of int
            Those that had not been approved before.

        Raises
        ------
        InputError
            One of them needs no approval.
        """
        view = self.ledger.view(name)
        chosen = ([c.seq for c in view.open if view.needs_approval(c)] if candidates is None
                  else list(candidates))
        return [seq for seq in chosen if self.ledger.approve(name, seq, who=who)]

    # --------------------------------------------------------------------------- the step

    def advance(self, name: str, who: str) -> AdvanceReport:
        """Collect finished work, settle its cost, apply the stopping rules, propose, submit.

        Idempotent: any number of processes may do it at once, anywhere, and be killed at any
        moment. The next one goes on.

        Raises
        ------
        InputError
            There is no such campaign, or its workflows can't be submitted on this machine.
        StoreError
            MongoDB can't be reached.
        """
        self.ledger.prepare()
        report = Step(self.ledger, self.pad, self.project, name, who).run()
        note(self.pad.db, self.ledger.view(name))
        return report

    def advance_all(self, who: str) -> list[AdvanceReport]:
        """Advance every campaign that runs, or has ended and still has work under way.

        One that can't be advanced stops no other: its report has an ``error``.

        Raises
        ------
        StoreError
            MongoDB can't be reached.
        """
        found = []
        for name in self.active():
            try:
                found.append(self.advance(name, who))
            except OrionflowError as error:
                if error.transient:
                    raise
                view = self.ledger.view(name)
                found.append(AdvanceReport(name, view.state.value, view.reason, error=str(error)))
        return found

    def active(self) -> list[str]:
        """Return the campaigns an `advance` may find something to do for."""
        found = []
        for name in self.names():
            view = self.ledger.view(name)
            recent = view.changed_at and (
                datetime.now(UTC) - datetime.fromisoformat(view.changed_at) < _LATE)
            if view.state is not CampaignState.DRAFT and (
                    view.state not in ENDED or view.open or recent):
                found.append(name)
        return found


def _samples(campaign: Campaign) -> list[Point]:
    given = [campaign.space.check(p) for p in campaign.initial.given]
    return given[:1] + get_proposer("sobol")(campaign.space, [], given, _SAMPLES, 0)
