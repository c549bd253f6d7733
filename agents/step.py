"""The one step of a campaign: collect what is finished, judge, propose, submit.

Every part can be done again, by anybody, at any time. What has been done is in the ledger, whose
rows are unique; what is in the database but not in the ledger is found again by its key.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orionflow.agents.campaign_document import ENDED, CampaignState
from orionflow.agents.candidates import build, load
from orionflow.agents.ledger import BehindError, Ledger
from orionflow.agents.next_try import NextTry
from orionflow.agents.proposing import proposals
from orionflow.agents.records import SETTLED, Candidate, CandidateState, View
from orionflow.agents.stopping import decide, exhausted
from orionflow.analysis.outcomes import FailureKind, Fate, fates, result
from orionflow.analysis.store import reading
from orionflow.errors import InputError, PolicyError
from orionflow.launchers.again import remove_strays, run_again, withdraw
from orionflow.workflows.compile import submit

if TYPE_CHECKING:
    from pathlib import Path

    from orionflow.agents.proposing import Proposal
    from orionflow.agents.space import Point

_PATIENCE = 200
_OVER = frozenset({"COMPLETED", "FIZZLED", "DEFUSED"})


@dataclass
class AdvanceReport:
    """What one step did.

    Attributes
    ----------
    collected
        Candidates settled: number, state, values, core-seconds, reason.
    proposed, submitted, retried, withdrawn
        Numbers of candidates.
    awaiting_approval
        Candidates a person must agree to first.
    changed
        Whether the campaign's state is another one than before.
    error
        Why the step could not be made (only where others were to be made all the same).
    """

    name: str
    state: str
    reason: str = ""
    changed: bool = False
    collected: list[dict[str, Any]] = field(default_factory=list)
    proposed: list[int] = field(default_factory=list)
    submitted: list[int] = field(default_factory=list)
    retried: list[int] = field(default_factory=list)
    withdrawn: list[int] = field(default_factory=list)
    awaiting_approval: list[int] = field(default_factory=list)
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.changed or self.collected or self.proposed or self.submitted
                    or self.retried or self.withdrawn)

    def describe(self) -> str:
        """Return one line."""
        done = sum(c["state"] == CandidateState.DONE for c in self.collected)
        failed = len(self.collected) - done
        parts = [f"{n} {what}" for n, what in (
            (done, "finished"), (failed, "failed"), (len(self.retried), "tried again"),
            (len(self.proposed), "proposed"), (len(self.submitted), "submitted"),
            (len(self.withdrawn), "withdrawn"),
            (len(self.awaiting_approval), "awaiting approval")) if n]
        text = f"{self.name}: {', '.join(parts) or 'nothing to do'}"
        if self.changed or self.state != CampaignState.RUNNING:
            text += f"; {self.state}" + (f" ({self.reason})" if self.reason else "")
        return text


class Step:
    """One step of one campaign.

    Parameters
    ----------
    ledger
        Of the project.
    pad
        Its open LaunchPad.
    project
        Its folder.
    name
        The campaign.
    who
        Who makes the step; written in every row.
    """

    def __init__(self, ledger: Ledger, pad: Any, project: Path, name: str, who: str) -> None:
        self.ledger, self.pad, self.project = ledger, pad, project
        self.name, self.who = name, who
        self.report = AdvanceReport(name, "")

    def run(self) -> AdvanceReport:
        """Make the step; see `Campaigns.advance`."""
        view = self.ledger.view(self.name)
        before = view.state
        if view.state is not CampaignState.DRAFT:
            view = self._collect(view)
        if view.state is CampaignState.RUNNING:
            view = self._judge(view)
        if view.state is CampaignState.RUNNING:
            left = any(c.state is CandidateState.PROPOSED for c in view.open)
            self._submit_open(view)
            view = self._propose()
            if left:  # somebody may have been killed while he submitted it
                remove_strays(self.pad, self.name)
        if view.state in ENDED:
            view = self._wind_up(view)
        self.report.state, self.report.reason = view.state.value, view.reason
        self.report.changed = view.state is not before
        self.report.awaiting_approval = [c.seq for c in view.open if view.needs_approval(c)]
        return self.report

    def key(self, seq: int) -> str:
        """Return the key a candidate's workflow is submitted with."""
        return f"{self.name}:{seq}"

    # ------------------------------------------------------------------------- collecting

    def _collect(self, view: View) -> View:
        # A failed candidate somebody has run again by hand may have a result by now.
        asked = [c for c in view.candidates.values() if c.state in {
            CandidateState.SUBMITTED, CandidateState.FAILED, CandidateState.ABANDONED}]
        known = fates(self.pad.db, [self.key(c.seq) for c in asked]) if asked else {}
        moved = False
        for candidate in asked:
            fate = known.get(self.key(candidate.seq))
            if candidate.state is CandidateState.SUBMITTED:
                moved |= self._settle_open(view, candidate, fate)
            elif fate is not None:
                moved |= self._correct_late(view, candidate, fate)
        return self.ledger.view(self.name) if moved else view

    def _settle_open(self, view: View, candidate: Candidate, fate: Fate | None) -> bool:
        if fate is None:
            # Nobody knows what it cost, but at most that.
            return self._settle(candidate, CandidateState.ABANDONED, candidate.reserved,
                                reason="its workflow is not in the database any more")
        if fate.state == "COMPLETED":
            values, found, reason = self._values(view, candidate, fate)
            state = CandidateState.DONE if values else CandidateState.ABANDONED
            return self._settle(candidate, state, fate.core_seconds, values=values, found=found,
                                reason=reason)
        if fate.state == "DEFUSED":
            return self._settle(candidate, CandidateState.ABANDONED, fate.core_seconds,
                                reason="withdrawn: its workflow was defused")
        if fate.state == "FIZZLED":
            return self._failed(view, candidate, fate)
        return False

    def _failed(self, view: View, candidate: Candidate, fate: Fate) -> bool:
        hopeless = [f for f in fate.failed if not f.may_succeed]
        reason = (hopeless or fate.failed)[0].describe()
        another = NextTry.of(candidate, fate, reason)
        if hopeless or not another.launches:
            return self._settle(candidate, CandidateState.ABANDONED, fate.core_seconds,
                                reason=reason)
        set_aside: dict[int, int] | None = candidate.set_aside
        if another.launches not in candidate.retried:
            tries = len(candidate.retried) - candidate.continued
            if view.state in ENDED or not (another.continued or tries < view.campaign.retries):
                return self._settle(candidate, CandidateState.FAILED, fate.core_seconds,
                                    reason=reason)
            unfinished = any(f.kind is FailureKind.UNFINISHED for f in fate.failed)
            if unfinished and view.beyond_consent(candidate, another.reserved):
                return self._settle(candidate, CandidateState.FAILED, fate.core_seconds,
                                    reason=f"{reason}; another try would take it to "
                                    f"{another.reserved / 3600:.3g} core-hours, above "
                                    "approval_above")
            try:
                set_aside = self.ledger.retry(self.name, candidate.seq, another, who=self.who)
            except PolicyError as error:
                return self._settle(candidate, CandidateState.FAILED, fate.core_seconds,
                                    reason=f"{reason}; no budget for another try: {error.message}")
        # Reserved first: no job may take more than the ledger says.
        if set_aside is not None and run_again(self.pad, another.launches, set_aside):
            self.report.retried.append(candidate.seq)
        return True

    def _correct_late(self, view: View, candidate: Candidate, fate: Fate) -> bool:
        if fate.state == "COMPLETED":
            values, found, _ = self._values(view, candidate, fate)
            if values is not None:
                done = self.ledger.correct(
                    self.name, candidate.seq, CandidateState.DONE, core_seconds=fate.core_seconds,
                    values=values, result=found, reason="run again by hand", key="completed",
                    who=self.who)
                if done:
                    self._note(candidate, CandidateState.DONE, values, fate.core_seconds,
                               "run again by hand")
                return done
        if fate.state in _OVER and fate.core_seconds > candidate.spent:
            return self.ledger.correct(
                self.name, candidate.seq, candidate.state, core_seconds=fate.core_seconds,
                reason=candidate.reason, key=f"cost:{fate.core_seconds}", who=self.who)
        return False

    def _values(self, view: View, candidate: Candidate, fate: Fate
                ) -> tuple[list[float] | None, str | None, str]:
        """Return values, id of the result, and why there are none."""
        if candidate.expects is None:
            return None, None, "no value: the row names no result"
        paths = [o.path for o in view.campaign.objectives]
        with reading(self.project) as store:
            found = result(store, candidate.expects, list(fate.states), paths)
        if found is None:
            return None, None, f"no value: no result of job {candidate.expects} is stored"
        try:
            return [o.read(found) for o in view.campaign.objectives], candidate.expects, ""
        except InputError as error:
            return None, candidate.expects, f"no value: {error.message}"

    def _settle(self, candidate: Candidate, state: CandidateState, core_seconds: int, *,
                values: list[float] | None = None, found: str | None = None,
                reason: str = "") -> bool:
        done = self.ledger.settle(self.name, candidate.seq, state, core_seconds=core_seconds,
                                  who=self.who, values=values, result=found, reason=reason)
        if done:
            self._note(candidate, state, values, core_seconds, reason)
        return True  # if not we, then somebody else: the view is old

    def _note(self, candidate: Candidate, state: CandidateState,
              values: list[float] | None, core_seconds: int, reason: str) -> None:
        self.report.collected.append({
            "candidate": candidate.seq, "state": state.value, "values": values,
            "core_seconds": core_seconds, "reason": reason})

    # ---------------------------------------------------------------------------- judging

    def _judge(self, view: View) -> View:
        verdict = decide(view, datetime.now(UTC))
        return view if verdict is None else self._end(view, *verdict)

    def _end(self, view: View, state: CampaignState, reason: str) -> View:
        try:
            self.ledger.change_state(self.name, state, reason=reason, who=self.who)
        except InputError:
            # Somebody was faster, with another verdict or a cancellation.
            if self.ledger.view(self.name).state not in ENDED:
                raise
        return self.ledger.view(view.campaign.name)

    def _wind_up(self, view: View) -> View:
        """Take back what has not begun; what runs may finish, unless the campaign is cancelled."""
        cancelled = view.state is CampaignState.CANCELLED
        asked = [c for c in view.candidates.values() if c.state is not CandidateState.DONE]
        known = fates(self.pad.db, [self.key(c.seq) for c in asked]) if asked else {}
        moved = False
        for candidate in asked:
            fate = known.get(self.key(candidate.seq))
            idle = fate is not None and fate.state in {"READY", "WAITING", "PAUSED"}
            # A settled one with a waiting workflow was submitted while it was being settled,
            # unless its results were in the ledger before: then a person runs it again.
            mine = candidate.state not in SETTLED or not candidate.fw_ids
            if fate is not None and mine and (idle or (cancelled and fate.state == "RUNNING")):
                if withdraw(self.pad, fate.states, stop_running=cancelled, who=self.who,
                            why=f"campaign {self.name} is {view.state}"):
                    self.report.withdrawn.append(candidate.seq)
                fate = fates(self.pad.db, [self.key(candidate.seq)]).get(self.key(candidate.seq))
            if candidate.state is CandidateState.PROPOSED:
                moved |= self._settle(candidate, CandidateState.ABANDONED, 0,
                                      reason=f"never submitted: the campaign is {view.state}")
            elif candidate.state is CandidateState.SUBMITTED and fate is not None \
                    and fate.state == "DEFUSED":
                moved |= self._settle(candidate, CandidateState.ABANDONED, fate.core_seconds,
                                      reason=f"withdrawn: the campaign is {view.state}")
        return self.ledger.view(self.name) if moved else view

    # --------------------------------------------------------------- proposing, submitting

    def _propose(self) -> View:
        for _ in range(_PATIENCE):
            view = self.ledger.view(self.name)
            now = datetime.now(UTC)
            missing = view.campaign.batch_size - len(view.open)
            if view.state is not CampaignState.RUNNING or decide(view, now) is not None \
                    or missing <= 0 or exhausted(view, now):
                return view
            found = proposals(view, missing)
            if not found:
                return view if view.open else self._end(
                    view, CampaignState.COMPLETED, "space: every candidate has been tried")
            try:
                new = [self._write_down(view, p) for p in found]
            except BehindError:
                continue
            except PolicyError as error:
                if not view.open:  # nothing will give anything back: it would be refused for ever
                    return self._end(view, CampaignState.COMPLETED, f"budget: {error.message}")
                new = []
            self._submit_open(view)
            if not any(new):
                return view
        return self.ledger.view(self.name)

    def _write_down(self, view: View, proposal: Proposal) -> int | None:
        seq = write_down(self.ledger, view, proposal.point, source=proposal.source,
                         why=proposal.why, who=self.who)
        if seq is not None:
            self.report.proposed.append(seq)
        return seq

    def _submit_open(self, view: View) -> None:
        for candidate in view.open:
            if candidate.state is not CandidateState.PROPOSED or view.needs_approval(candidate):
                continue
            if candidate.refused:
                self._settle(candidate, CandidateState.ABANDONED, 0,
                             reason=f"{FailureKind.HOPELESS}: {candidate.refused}")
            else:
                self._submit(view, candidate)

    def _submit(self, view: View, candidate: Candidate) -> None:
        campaign = view.campaign
        text = self.ledger.flow(self.name, candidate.seq)
        if text is None:
            raise InputError(f"candidate {candidate.seq} of {self.name!r} has no flow",
                             hint="was the ledger edited? orionflow campaign ledger "
                             f"verify {self.name}")
        # Only from the row, so that every try submits the same workflow.
        done = submit(load(text), project=self.project, key=self.key(candidate.seq),
                      campaign=self.name, owner=campaign.owner,
                      resources=campaign.resources.parsed(),
                      core_seconds=candidate.each or None,
                      # Agents' jobs take no more memory than the policy gave their campaign.
                      retry={"memory": 0} if candidate.each and campaign.owner.startswith("agent:")
                      else None,
                      name=f"{self.name} {candidate.seq}", launchpad=self.pad)
        self.ledger.submitted(self.name, candidate.seq, done.fw_ids, who=self.who)
        candidate.state, candidate.fw_ids = CandidateState.SUBMITTED, done.fw_ids
        if self.ledger.settled(self.name, candidate.seq):
            # The campaign ended while we were about it.
            withdraw(self.pad, done.fw_ids)
        elif done.created:
            self.report.submitted.append(candidate.seq)


def write_down(ledger: Ledger, view: View, point: Point, *, source: str, who: str,
               why: dict[str, Any] | None = None) -> int | None:
    """Build a candidate's workflow and reserve budget for it; see `Ledger.propose`.

    A point of which no workflow can be made is written down too, with the reason: it will be
    settled as failed, so that nobody proposes it again.
    """
    try:
        built = build(view.campaign, point)
    except InputError as error:
        return ledger.propose(view, point, source=source, who=who, core_seconds=1,
                              refused=error.message, why=why)
    return ledger.propose(view, point, source=source, who=who, flow=built.text,
                          expects=built.expects, why=why, jobs=built.jobs,
                          each=view.campaign.reservation_of_job(built.jobs),
                          core_seconds=view.campaign.reservation(built.jobs))
