"""The ledger of campaigns in MongoDB: rows are added, never changed.

A row's ``_id`` is ``<campaign>:<number>``, and the next row is always the last one's number plus
one. That the ``_id`` is unique is the whole lock: of any number of writers who have read the same
last row one succeeds, and the others have to read again, and so see what it has spent. There is
nothing to release, and nothing to clean up after a process that was killed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.write_concern import WriteConcern

from orionflow.agents.campaign_document import (
    ENDED,
    Campaign,
    CampaignState,
    check_transition,
)
from orionflow.agents.records import (
    SCHEMA_VERSION,
    SETTLED,
    CandidateState,
    Kind,
    View,
    budget_seconds,
    row_hash,
    view_of,
)
from orionflow.agents.records import verify as verify_rows
from orionflow.agents.strict import suggest
from orionflow.errors import InputError, PolicyError, StoreError, database_reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pymongo.collection import Collection
    from pymongo.database import Database

    from orionflow.agents.next_try import NextTry
    from orionflow.agents.space import Point

COLLECTION = "campaign_ledger"
_LARGEST = 12_000_000
_PATIENCE = 1000


class BehindError(Exception):
    """Somebody has added a row since the ledger was read: read again and decide again."""


class Ledger:
    """The campaigns of a project.

    Parameters
    ----------
    database
        The project's; see `open_launchpad(...).db`.
    """

    def __init__(self, database: Database[Any]) -> None:
        # An acknowledged row must outlive a killed mongod.
        self.rows: Collection[dict[str, Any]] = database.get_collection(
            COLLECTION, write_concern=WriteConcern(w="majority", j=True))

    def prepare(self) -> None:
        """Make the indexes; harmless at any time, and needed once before the first row."""
        self.rows.create_index([("campaign", ASCENDING), ("seq", DESCENDING)], name="order",
                               unique=True)
        self.rows.create_index([("campaign", ASCENDING), ("once", ASCENDING)], name="once",
                               unique=True, partialFilterExpression={"once": {"$type": "string"}})

    # --------------------------------------------------------------------------- reading

    def names(self) -> list[str]:
        """Return the names of all campaigns."""
        return sorted(self.rows.distinct("campaign"))

    def read(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a campaign in order."""
        yield from self.rows.find({"campaign": name}, sort=[("seq", ASCENDING)])

    def view(self, name: str) -> View:
        """Return a campaign as it stands.

        Raises
        ------
        InputError
            There is none of that name.
        """
        return view_of(self.rows_since(name))

    def rows_since(self, name: str, first: int = 0) -> list[dict[str, Any]]:
        """Return the rows of a campaign from one on, in order, without flows.

        Raises
        ------
        InputError
            There is none of that name.
        """
        # Flows are large, and only a submission needs one: see `flow`.
        rows = list(self.rows.find({"campaign": name, "seq": {"$gte": first}}, {"body.flow": 0},
                                   sort=[("seq", ASCENDING)]))
        if not rows and not first:
            raise InputError(f"there is no campaign {name!r}",
                             hint=suggest(name, self.names()) if self.names() else
                             "create one: orionflow campaign create")
        return rows

    def flow(self, name: str, candidate: int) -> str | None:
        """Return the serialised flow a candidate was proposed with, if any."""
        row = self.rows.find_one({"_id": f"{name}:{candidate}"}, {"body.flow": 1})
        flow: str | None = row["body"].get("flow") if row else None
        return flow

    def settled(self, name: str, candidate: int) -> bool:
        """Whether a candidate has been settled, without reading the whole ledger."""
        return self.rows.find_one({"campaign": name, "once": f"settled:{candidate}"},
                                  {"_id": 1}) is not None

    def verify(self, name: str) -> int:
        """Check the chain of a campaign's rows and return their number; see `records.verify`."""
        return verify_rows(self.read(name))

    # --------------------------------------------------------------------------- writing

    def create(self, campaign: Campaign, *, who: str) -> bool:
        """Add a campaign as DRAFT.

        Returns
        -------
        bool
            False when the very same one is there already.

        Raises
        ------
        InputError
            Another campaign has this name.
        """
        document = campaign.to_data()
        try:
            self._insert(campaign.name, None, Kind.CAMPAIGN, {"document": document}, who=who)
        except BehindError:
            if self.view(campaign.name).campaign != campaign:
                raise InputError(f"another campaign is called {campaign.name!r}",
                                 hint="choose another name; a campaign can't be changed once it "
                                 "is created") from None
            return False
        return True

    def change_state(self, name: str, state: CampaignState, *, reason: str, who: str) -> bool:
        """Move a campaign to another state.

        Returns
        -------
        bool
            False when it is in that state already.

        Raises
        ------
        InputError
            That state can't follow.
        """
        for _ in range(_PATIENCE):
            view = self.view(name)
            if view.state == state:
                return False
            check_transition(view.state, state)
            try:
                self._insert(name, self._last(name, view.head), Kind.STATE,
                             {"state": state.value, "reason": reason}, who=who)
            except BehindError:
                continue
            return True
        raise _crowded(name)

    def propose(self, view: View, point: Mapping[str, Any], *, source: str, who: str,
                core_seconds: int | None = None, flow: str | None = None,
                expects: str | None = None, refused: str = "", jobs: int = 1, each: int = 0,
                why: Mapping[str, Any] | None = None) -> int | None:
        """Reserve budget for a candidate and write it down.

        Parameters
        ----------
        view
            The campaign as it was when the proposal was made; brought up to date by the call, so
            that a batch can go on with it.
        point
            Checked against the search space.
        source
            Proposer, or who thought of it (``user``, ``agent``).
        core_seconds
            To reserve; the campaign's estimate unless given.
        flow
            The workflow to be submitted, serialised: every later try submits the same one.
        expects
            Id of the job in it whose result holds the values.
        refused
            Why there is no workflow: such a candidate is written down to be settled at once.
        jobs, each
            Jobs of the flow at most, and core-seconds each may take at first.
        why
            Proposer, seed and such, for the record.

        Returns
        -------
        int or None
            Number of the candidate; None when the point is there already.

        Raises
        ------
        BehindError
            The ledger has moved on since ``view``: read it again, and decide again.
        PolicyError
            It would exceed the budget.
        InputError
            The point is wrong, or the campaign is not RUNNING.
        """
        campaign = view.campaign
        if view.state is not CampaignState.RUNNING:
            raise InputError(f"campaign {campaign.name!r} is {view.state}; nothing is proposed",
                             hint="it has ended" if view.state in ENDED else
                             f"orionflow campaign resume {campaign.name}")
        checked: Point = campaign.space.check(point)
        x_hash = campaign.space.x_hash(checked)
        cost = campaign.reservation() if core_seconds is None else core_seconds
        if cost <= 0:
            raise InputError(f"core_seconds = {cost}", hint="reserve a positive number")
        last = self._last(campaign.name, view.head)
        _check_budget(campaign, last, cost)
        if last["evaluations"] >= campaign.budget.evaluations:
            raise PolicyError(
                f"campaign {campaign.name!r} has its {campaign.budget.evaluations} evaluations",
                rule="evaluations", asked=last["evaluations"] + 1,
                allowed=campaign.budget.evaluations, hint="start another campaign")
        body = {"point": checked, "x_hash": x_hash, "source": source, "flow": flow,
                "expects": expects, "refused": refused, "why": dict(why or {}),
                "data_upto": view.head, "jobs": jobs, "each": each}
        try:
            row = self._insert(campaign.name, last, Kind.CANDIDATE, body, who=who, cost=cost,
                               evaluations=1, once=f"x:{x_hash}")
        except _OnceError:
            return None
        fresh = view_of([_head_row(campaign), row])
        view.candidates.update(fresh.candidates)
        view.head = row["seq"]
        return int(row["seq"])

    def submitted(self, name: str, candidate: int, fw_ids: Sequence[int], *, who: str) -> None:
        """Note that a candidate's workflow is stored; again and again if need be."""
        for _ in range(_PATIENCE):
            view = self.view(name)
            known = _candidate(view, candidate)
            if known.state is not CandidateState.PROPOSED:
                return
            body = {"candidate": candidate, "fw_ids": sorted(fw_ids)}
            try:
                self._insert(name, self._last(name, view.head), Kind.SUBMITTED, body, who=who,
                             once=f"submitted:{candidate}")
            except (BehindError, _OnceError):
                continue
            return
        raise _crowded(name)

    def approve(self, name: str, candidate: int, *, who: str) -> bool:
        """Note that a person agreed to a candidate's cost; False when somebody did before.

        Raises
        ------
        InputError
            There is no such candidate, or it waits for nobody's consent.
        """
        for _ in range(_PATIENCE):
            view = self.view(name)
            known = _candidate(view, candidate)
            if known.approved:
                return False
            if not view.needs_approval(known):
                raise InputError(f"candidate {candidate} of {name!r} is {known.state} and needs no "
                                 "approval", hint=f"orionflow campaign show {name}")
            try:
                self._insert(name, self._last(name, view.head), Kind.APPROVED,
                             {"candidate": candidate}, who=who, once=f"approved:{candidate}")
            except BehindError:
                continue
            except _OnceError:
                return False
            return True
        raise _crowded(name)

    def retry(self, name: str, candidate: int, another: NextTry, *, who: str
              ) -> dict[int, int] | None:
        """Reserve budget for another try of a candidate and write it down.

        Parameters
        ----------
        another
            The launches that failed (the same ones are given another try once), and what must be
            reserved.

        Returns
        -------
        dict or None
            What jobs may take from now on (firework: core-seconds), as written by whoever was
            first; None when the candidate has been settled.

        Raises
        ------
        PolicyError
            It would exceed the budget.
        """
        for _ in range(_PATIENCE):
            view = self.view(name)
            known = _candidate(view, candidate)
            if known.state in SETTLED:
                return None
            if another.launches in known.retried:
                return dict(known.set_aside)
            cost = max(another.reserved - known.reserved, 0)
            try:
                last = self._last(name, view.head)
                _check_budget(view.campaign, last, cost)
                self._insert(name, last, Kind.RETRIED, another.to_row(candidate), who=who,
                             cost=cost, once=f"retried:{candidate}:{len(known.retried)}")
            except (BehindError, _OnceError):
                continue
            return {**known.set_aside, **another.set_aside}
        raise _crowded(name)

    def settle(self, name: str, candidate: int, state: CandidateState, *, core_seconds: int,
               who: str, values: Sequence[float] | None = None, result: str | None = None,
               reason: str = "") -> bool:
        """Note how a candidate ended, and replace what was reserved by what it cost.

        Parameters
        ----------
        state
            DONE with values, FAILED or ABANDONED without.
        core_seconds
            What it really cost. It may be more than was reserved: what is spent is spent.
        values
            Of the objectives, from the candidate's own completed result.
        result
            Id of that result.

        Returns
        -------
        bool
            False when it was settled before.
        """
        body = _settlement(candidate, state, core_seconds, values, result, reason)
        return self._settle(name, candidate, Kind.SETTLED, body, f"settled:{candidate}", who)

    def correct(self, name: str, candidate: int, state: CandidateState, *, core_seconds: int,
                who: str, key: str, values: Sequence[float] | None = None,
                result: str | None = None, reason: str = "") -> bool:
        """Correct what was settled (the accounting came later); the old row stays.

        Parameters
        ----------
        key
            Name of this correction: the same one is made once.
        """
        body = _settlement(candidate, state, core_seconds, values, result, reason)
        return self._settle(name, candidate, Kind.CORRECTED, body,
                            f"corrected:{candidate}:{key}", who)

    def _settle(self, name: str, number: int, kind: Kind,  # noqa: PLR0917  both callers are above
                body: dict[str, Any], once: str, who: str) -> bool:
        for _ in range(_PATIENCE):
            view = self.view(name)
            known = _candidate(view, number)
            if body["values"] is not None \
                    and len(body["values"]) != len(view.campaign.objectives):
                raise InputError(f"{len(body['values'])} values for "
                                 f"{len(view.campaign.objectives)} objectives",
                                 hint="give one value for each objective")
            settled = known.state in SETTLED
            if settled and kind is Kind.SETTLED:
                return False
            if not settled and kind is Kind.CORRECTED:
                raise InputError(f"candidate {number} of {name!r} is {known.state}; there is "
                                 "nothing to correct", hint="settle it first")
            before = known.spent if settled else known.reserved
            try:
                self._insert(name, self._last(name, view.head), kind, body, who=who, once=once,
                             cost=body["core_seconds"] - before)
            except BehindError:
                continue
            except _OnceError:
                return False
            return True
        raise _crowded(name)

    # ----------------------------------------------------------------------------- rows

    def _last(self, name: str, head: int) -> dict[str, Any]:
        """Return the last row if it is the one the caller knows."""
        row = self.rows.find_one({"campaign": name}, sort=[("seq", DESCENDING)])
        if row is None or row["seq"] != head:
            raise BehindError(name)
        return row

    def _insert(self, name: str, last: dict[str, Any] | None, kind: Kind, body: dict[str, Any],
                *, who: str, cost: int = 0, evaluations: int = 0,
                once: str | None = None) -> dict[str, Any]:
        seq = 0 if last is None else last["seq"] + 1
        row: dict[str, Any] = {
            "_id": f"{name}:{seq}", "campaign": name, "seq": seq, "kind": kind.value,
            "schema_version": SCHEMA_VERSION, "body": body, "who": who,
            "at": datetime.now(UTC).isoformat(), "cost": cost,
            "cum": cost + (last["cum"] if last else 0),
            "evaluations": evaluations + (last["evaluations"] if last else 0),
            "once": once, "prev": last["hash"] if last else "",
        }
        if len(json.dumps(body)) > _LARGEST:
            raise InputError(f"a row of campaign {name!r} would be larger than a document of "
                             "MongoDB may be", hint="make the flow smaller")
        row["hash"] = row_hash(row)
        try:
            self.rows.insert_one(row)
        except DuplicateKeyError as error:
            # The server names the index it checks first. Only `once` for certain means that the
            # thing itself is there; that it is must be seen in the ledger.
            if once is not None and self.rows.find_one({"campaign": name, "once": once},
                                                       {"_id": 1}) is not None:
                raise _OnceError(once) from error
            raise BehindError(name) from error
        except PyMongoError as error:
            raise StoreError(f"the ledger of {name!r} could not be written: "
                             f"{database_reason(error)}",
                             hint="repeat the command: what was written is recognised",
                             transient=True) from error
        return row


class _OnceError(Exception):
    """What may be said once has been said."""


def _candidate(view: View, number: int) -> Any:
    if number not in view.candidates:
        raise InputError(f"campaign {view.campaign.name!r} has no candidate {number}",
                         hint=f"candidates: {', '.join(map(str, view.candidates)) or 'none'}")
    return view.candidates[number]


def _settlement(candidate: int, state: CandidateState, core_seconds: int,  # noqa: PLR0917  fields of one row, in order
                values: Sequence[float] | None, result: str | None, reason: str
                ) -> dict[str, Any]:
    if state not in SETTLED:
        raise InputError(f"{state} settles nothing", hint="DONE, FAILED or ABANDONED")
    if (state is CandidateState.DONE) != (values is not None):
        raise InputError(f"a candidate that is {state} has "
                         f"{'no' if values is not None else 'its'} values",
                         hint="values belong to DONE, and to nothing else")
    if core_seconds < 0:
        raise InputError(f"core_seconds = {core_seconds}", hint="zero or more")
    return {"candidate": candidate, "state": state.value, "core_seconds": int(core_seconds),
            "values": None if values is None else [float(v) for v in values],
            "result": result, "reason": reason}


def _check_budget(campaign: Campaign, last: Mapping[str, Any], cost: int) -> None:
    cap = budget_seconds(campaign)
    if last["cum"] + cost > cap:
        raise PolicyError(
            f"campaign {campaign.name!r}: {cost} core-seconds more than "
            f"{last['cum']} exceed {cap}", rule="core_hours", asked=cost,
            allowed=max(cap - last["cum"], 0), hint="wait for open candidates to cost less than "
            "reserved, or start another campaign")


def _head_row(campaign: Campaign) -> dict[str, Any]:
    return {"kind": Kind.CAMPAIGN, "seq": 0, "body": {"document": campaign.to_data()}}


def _crowded(name: str) -> StoreError:
    return StoreError(f"campaign {name!r}: others write faster than this process can",
                      hint="try again", transient=True)
