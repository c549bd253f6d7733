"""What a ledger says: rows in order, and the state of a campaign that follows from them.

No database here: everything a campaign knows is a pure function of its rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from orionflow.agents.campaign_document import Campaign, CampaignState
from orionflow.agents.proposers import Trial
from orionflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orionflow.agents.space import Point

SCHEMA_VERSION = 1


class Kind(StrEnum):
    """What a row tells."""

    CAMPAIGN = "campaign"
    STATE = "state"
    CANDIDATE = "candidate"
    APPROVED = "approved"
    SUBMITTED = "submitted"
    RETRIED = "retried"
    SETTLED = "settled"
    CORRECTED = "corrected"


class CandidateState(StrEnum):
    """Where a candidate stands.

    FAILED: something that a new try may cure (a node, the walltime). ABANDONED: never again.
    """

    PROPOSED = "PROPOSED"
    SUBMITTED = "SUBMITTED"
    DONE = "DONE"
    FAILED = "FAILED"
    ABANDONED = "ABANDONED"


SETTLED = frozenset({CandidateState.DONE, CandidateState.FAILED, CandidateState.ABANDONED})


@dataclass
class Candidate:
    """A point and what became of it.

    Attributes
    ----------
    reserved, spent
        Core-seconds: what is set aside until it is settled, and what it cost then.
    first_reserved
        What was reserved for its first try.
    values
        Of the objectives; only ever those of its own completed result.
    expects
        Id (uuid) of the job whose result holds the values.
    refused
        Why no workflow can be made of it, if so.
    approved
        Whether a person agreed to its cost.
    retried
        Launches that failed and were given another try, one list for each time.
    continued
        How many of these tries went on with a job that had got further and used up its share.
    jobs, each
        Jobs of its workflow at most, and core-seconds each of them may take at first; 0 in ledgers
        of older versions, whose jobs nobody stopped.
    set_aside
        Core-seconds of those jobs (firework: all launches together) that were given more.
    proposed_at, settled_at
        When, ISO 8601, UTC.
    settled_in
        Number of the row that settled it first; tells the order of results.
    """

    seq: int
    point: Point
    x_hash: str
    state: CandidateState
    reserved: int
    source: str
    spent: int = 0
    fw_ids: list[int] = field(default_factory=list)
    values: list[float] | None = None
    reason: str = ""
    result: str | None = None
    first_reserved: int = 0
    expects: str | None = None
    refused: str = ""
    approved: bool = False
    retried: list[list[int]] = field(default_factory=list)
    continued: int = 0
    jobs: int = 1
    each: int = 0
    set_aside: dict[int, int] = field(default_factory=dict)
    proposed_at: str = ""
    settled_at: str = ""
    settled_in: int | None = None


@dataclass
class View:
    """A campaign as its ledger tells it.

    Attributes
    ----------
    head
        Sequence number of the last row.
    spent, reserved
        Core-seconds.
    started_at, changed_at
        When it began to run, and when its last row was written; ISO 8601, UTC.
    """

    campaign: Campaign
    state: CampaignState
    reason: str
    head: int
    candidates: dict[int, Candidate]
    started_at: str = ""
    changed_at: str = ""

    @property
    def spent(self) -> int:
        """Core-seconds of settled candidates."""
        return sum(c.spent for c in self.candidates.values())

    @property
    def reserved(self) -> int:
        """Core-seconds set aside for candidates that are not settled."""
        return sum(c.reserved for c in self.candidates.values() if c.state not in SETTLED)

    @property
    def left(self) -> int:
        """Core-seconds that may still be reserved."""
        return max(budget_seconds(self.campaign) - self.spent - self.reserved, 0)

    @property
    def open(self) -> list[Candidate]:
        """Candidates that are not settled."""
        return [c for c in self.candidates.values() if c.state not in SETTLED]

    def needs_approval(self, candidate: Candidate) -> bool:
        """Whether a person must agree before this candidate is submitted."""
        above = self.campaign.approval_above
        return (above is not None and not candidate.approved
                and candidate.state is CandidateState.PROPOSED
                and candidate.reserved > above * 3600)

    def beyond_consent(self, candidate: Candidate, reserved: int) -> bool:
        """Whether so many core-seconds for a candidate need an agreement nobody has given."""
        above = self.campaign.approval_above
        return above is not None and not candidate.approved and reserved > above * 3600

    def done(self) -> list[Candidate]:
        """Return the candidates that have values, in the order in which they got them."""
        found = [c for c in self.candidates.values() if c.values is not None]
        return sorted(found, key=lambda c: c.settled_in or 0)

    def trials(self) -> list[Trial]:
        """Return what a proposer learns from: settled candidates in their order."""
        weights = self.campaign.pareto_weights(self.head)
        return [Trial(c.point, None if c.values is None else self.campaign.loss(c.values, weights))
                for c in self.candidates.values() if c.state in SETTLED]

    def best(self) -> Candidate | None:
        """Return the candidate of least loss."""
        done = [c for c in self.candidates.values() if c.values is not None]
        return min(done, key=lambda c: self.campaign.loss(c.values or []), default=None)


def budget_seconds(campaign: Campaign) -> int:
    """Return the budget in whole core-seconds: sums of whole numbers are exact."""
    # Rounded first: 3600 times 4.35 is less than 15660 by its last digit.
    return int(round(campaign.budget.core_hours * 3600, 3))


def row_hash(row: Mapping[str, Any]) -> str:
    """Return the hash of a row without its own; it holds the hash of the row before."""
    content = {k: v for k, v in row.items() if k != "hash"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def verify(rows: Iterable[Mapping[str, Any]]) -> int:
    """Check that no row was changed, removed or put in, and that the sums are right.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    StoreError
        Names the first row that is not as it was written.
    """
    previous, count, total = "", 0, 0
    for count, row in enumerate(rows, start=1):
        name = f"row {row['_id']!r}"
        if row["seq"] != count - 1:
            raise StoreError(f"{name} follows {count - 2}: rows are missing or doubled",
                             hint="restore the ledger from a backup")
        if row["prev"] != previous or row["hash"] != row_hash(row):
            raise StoreError(f"{name} is not as it was written",
                             hint="somebody edited the ledger; restore it from a backup")
        total += row["cost"]
        if row["cum"] != total:
            raise StoreError(f"{name}: cost so far is {row['cum']}, not {total}",
                             hint="restore the ledger from a backup")
        previous = row["hash"]
    return count


def view_of(rows: Iterable[Mapping[str, Any]]) -> View:
    """Return the campaign that a ledger's rows tell, which must be all and in order.

    Raises
    ------
    StoreError
        They do not begin with a campaign.
    """
    view: View | None = None
    for row in rows:
        if row["kind"] == Kind.CAMPAIGN:
            view = View(Campaign.from_data(row["body"]["document"]), CampaignState.DRAFT, "",
                        0, {})
            continue
        if view is None:
            break
        view.head = row["seq"]
        view.changed_at = row.get("at", "")
        _apply(view, row)
    if view is None:
        raise StoreError("the ledger does not begin with a campaign",
                         hint="create it: orionflow campaign create")
    return view


def extended(view: View, rows: Iterable[Mapping[str, Any]]) -> View:
    """Return a view with the rows that came after it; the one given stays as it was."""
    new = replace(view, candidates=dict(view.candidates))
    for row in rows:
        number = row["body"].get("candidate")
        if number is not None:
            old = new.candidates[number]
            new.candidates[number] = replace(old, retried=list(old.retried))
        new.head, new.changed_at = row["seq"], row.get("at", "")
        _apply(new, row)
    return new


def _apply(view: View, row: Mapping[str, Any]) -> None:
    body, kind = row["body"], row["kind"]
    if kind == Kind.STATE:
        view.state, view.reason = CampaignState(body["state"]), body["reason"]
        if view.state is CampaignState.RUNNING:
            view.started_at = view.started_at or row["at"]
        return
    if kind == Kind.CANDIDATE:
        view.candidates[row["seq"]] = Candidate(
            row["seq"], body["point"], body["x_hash"], CandidateState.PROPOSED, row["cost"],
            body["source"], first_reserved=row["cost"], expects=body.get("expects"),
            refused=body.get("refused", ""), jobs=body.get("jobs", 1), each=body.get("each", 0),
            proposed_at=row["at"])
        return
    candidate = view.candidates[body["candidate"]]
    if kind == Kind.APPROVED:
        candidate.approved = True
    elif kind == Kind.SUBMITTED:
        candidate.state = CandidateState.SUBMITTED
        candidate.fw_ids = body["fw_ids"]
    elif kind == Kind.RETRIED:
        candidate.reserved += row["cost"]
        candidate.retried.append(body["launches"])
        candidate.continued += bool(body.get("continued"))
        candidate.set_aside = candidate.set_aside | {
            int(k): v for k, v in body.get("set_aside", {}).items()}
    else:
        candidate.spent = body["core_seconds"]
        candidate.values = body["values"]
        candidate.result = body["result"]
        candidate.reason = body["reason"]
        candidate.state = CandidateState(body["state"])
        candidate.settled_at = row["at"]
        candidate.settled_in = candidate.settled_in or row["seq"]
