"""Plans and receipts in MongoDB: a write is first planned, then committed by its id, once.

A plan holds all that its commit will do, and the hash of that; a person who approves it approves
this hash. A receipt stands under the agent's own key, so that a repeated commit finds it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict
from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError
from pymongo.write_concern import WriteConcern

from orionflow.errors import InputError, PolicyError, StoreError

if TYPE_CHECKING:
    from pymongo.database import Database

PLANS = "agent_plans"
RECEIPTS = "agent_receipts"
LIFE = timedelta(minutes=30)
LIFE_WAITING = timedelta(hours=24)
"""Of a plan that needs a person."""
_FORGOTTEN = timedelta(days=7)
_MOST_OPEN = 100
_LARGEST = 8_000_000
# A commit that was begun and not ended by then was killed, and may be taken over.
_TAKEN_OVER = timedelta(seconds=60)

Kind = Literal["workflow", "candidates", "campaign", "control"]


class Approval(BaseModel):
    """A person's consent to one plan as it is."""

    model_config = ConfigDict(extra="ignore")

    by: str
    at: datetime
    hash: str


class Plan(BaseModel):
    """What a commit will do.

    Attributes
    ----------
    request
        As asked, checked.
    effect
        In words, for people and agents.
    core_seconds, fireworks
        Cost: what it may take at most.
    payload
        What is carried out: a serialised workflow, a campaign document.
    hash
        Of all above.
    content
        Of kind and request alone: the same request planned again has the same.
    key
        Under which it was committed.
    """

    model_config = ConfigDict(extra="ignore")

    id: str
    agent: str
    kind: Kind
    request: dict[str, Any]
    effect: str
    core_seconds: int
    fireworks: int
    campaign: str | None = None
    payload: str = ""
    hash: str = ""
    content: str = ""
    created: datetime
    expires: datetime
    needs_approval: bool = False
    approval: Approval | None = None
    refused_by: str | None = None
    key: str | None = None

    def sums(self) -> tuple[str, str]:
        """Return hash and content hash of what it says."""
        content = _sha256({"kind": self.kind, "request": self.request, "agent": self.agent})
        whole = _sha256({"content": content, "effect": self.effect, "campaign": self.campaign,
                         "core_seconds": self.core_seconds, "fireworks": self.fireworks,
                         "payload": self.payload})
        return whole, content

    @property
    def approved(self) -> bool:
        """Whether a person has agreed to exactly this."""
        return self.approval is not None and self.approval.hash == self.hash

    def check(self, key: str) -> None:
        """Raise unless it may be committed under this key now; limits are checked elsewhere."""
        if self.sums() != (self.hash, self.content):
            raise StoreError(f"{self.id} is not as it was made",
                             hint="somebody edited it; plan again")
        if self.refused_by is not None:
            raise PolicyError(f"{self.id} was refused by {self.refused_by}", rule="approval",
                              asked=self.id, allowed="", hint="plan something else")
        if self.key not in {None, key}:
            raise InputError(f"{self.id} has been committed under another key",
                             hint="a plan is carried out once; plan again")
        if self.key is None and self.expires < datetime.now(UTC):
            raise InputError(f"{self.id} has expired", hint="plan again")


class Plans:
    """Plans and receipts of a project.

    Parameters
    ----------
    database
        The project's.
    """

    def __init__(self, database: Database[Any]) -> None:
        concern = WriteConcern(w="majority", j=True)
        self._plans = database.get_collection(PLANS, write_concern=concern)
        self._receipts = database.get_collection(RECEIPTS, write_concern=concern)

    def prepare(self) -> None:
        """Make the indexes; harmless at any time."""
        self._plans.create_index([("agent", ASCENDING), ("key", ASCENDING)])
        # Unused plans are forgotten; what was committed stays.
        self._plans.create_index("forget", expireAfterSeconds=0)

    # ------------------------------------------------------------------------------ plans

    def add(self, *, agent: str, kind: Kind, request: dict[str, Any], effect: str,
            core_seconds: int, fireworks: int, campaign: str | None, payload: str,
            needs_approval: bool) -> Plan:
        """Store a plan.

        Raises
        ------
        PolicyError
            This agent has too many plans waiting.
        InputError
            It is too large for the database.
        """
        now = datetime.now(UTC)
        if len(payload) > _LARGEST:
            raise InputError("the workflow is too large to be planned", hint="use a smaller cell")
        waiting = self._plans.count_documents(
            {"agent": agent, "key": None, "expires": {"$gt": now}}, limit=_MOST_OPEN)
        if waiting >= _MOST_OPEN:
            raise PolicyError(f"{waiting} plans are waiting", rule="open_plans",
                              asked=waiting + 1, allowed=_MOST_OPEN,
                              hint="commit some, or wait until they expire")
        plan = Plan(
            id=f"plan-{secrets.token_hex(8)}", agent=agent, kind=kind, request=request,
            effect=effect, core_seconds=core_seconds, fireworks=fireworks, campaign=campaign,
            payload=payload, created=now, needs_approval=needs_approval,
            expires=now + (LIFE_WAITING if needs_approval else LIFE))
        plan.hash, plan.content = plan.sums()
        self._plans.insert_one({"_id": plan.id, **plan.model_dump(),
                                "forget": plan.expires + _FORGOTTEN})
        return plan

    def get(self, plan_id: str, agent: str | None = None) -> Plan:
        """Return a plan; with ``agent`` only one of its own.

        Raises
        ------
        InputError
            There is none.
        """
        found = self._plans.find_one({"_id": plan_id})
        if found is None or agent not in {None, found["agent"]}:
            raise InputError(f"there is no plan {plan_id!r}",
                             hint="plans are made by the plan_ tools, and expire")
        return _plan(found)

    def waiting(self) -> list[Plan]:
        """Return plans that wait for a person, oldest first."""
        return [_plan(d) for d in self._plans.find(
            {"needs_approval": True, "approval": None, "refused_by": None, "key": None,
             "expires": {"$gt": datetime.now(UTC)}}, sort=[("created", ASCENDING)])]

    def approve(self, plan_id: str, by: str) -> Plan:
        """Note a person's consent to a plan as it is now.

        Raises
        ------
        InputError
            There is no such plan, it needs no approval, has expired or been used.
        """
        plan = self._judged(plan_id)
        done = self._plans.update_one(
            {"_id": plan_id, "hash": plan.hash, "key": None, "refused_by": None},
            {"$set": {"approval": {"by": by, "at": datetime.now(UTC), "hash": plan.hash}}})
        return self._found(plan_id, bool(done.matched_count))

    def refuse(self, plan_id: str, by: str) -> Plan:
        """Note that a person does not agree; see `approve`."""
        self._judged(plan_id)
        done = self._plans.update_one({"_id": plan_id, "key": None},
                                      {"$set": {"refused_by": by, "approval": None}})
        return self._found(plan_id, bool(done.matched_count))

    def _found(self, plan_id: str, judged: bool) -> Plan:  # noqa: FBT001  one caller each way
        """Return the plan, or say what came before the judgement."""
        plan = self.get(plan_id)
        if judged:
            return plan
        if plan.key is None:
            raise InputError(f"{plan_id} was refused by {plan.refused_by} at this moment",
                             hint="the agent may plan it again")
        raise _committed(plan)

    def _judged(self, plan_id: str) -> Plan:
        plan = self.get(plan_id)
        if plan.key is not None:
            raise _committed(plan)
        plan.check("")
        if not plan.needs_approval:
            raise InputError(f"{plan_id} needs no approval", hint="orionflow agent approvals "
                             "lists those that do")
        return plan

    def require_approval(self, plan_id: str) -> None:
        """Let a plan wait for a person, because the policy has become stricter."""
        self._plans.update_one({"_id": plan_id}, {"$set": {
            "needs_approval": True, "expires": datetime.now(UTC) + LIFE_WAITING}})

    def use(self, plan: Plan, key: str) -> None:
        """Mark a plan as committed under a key.

        Raises
        ------
        PolicyError
            A person has refused it.
        InputError
            It was committed under another key.
        """
        done = self._plans.update_one(
            {"_id": plan.id, "key": {"$in": [None, key]}, "refused_by": None},
            {"$set": {"key": key}, "$unset": {"forget": ""}})
        if not done.matched_count:
            self.get(plan.id).check(key)
            raise InputError(f"{plan.id} has been committed under another key",
                             hint="a plan is carried out once; plan again")

    def free(self, plan: Plan, key: str) -> None:
        """Undo `use`: the commit was refused, and nothing has been done."""
        self._plans.update_one({"_id": plan.id, "key": key}, {
            "$set": {"key": None, "forget": plan.expires + _FORGOTTEN}})

    # --------------------------------------------------------------------------- receipts

    def begin(self, plan: Plan, key: str, runner: str) -> dict[str, Any] | None:
        """Take a key for a commit.

        Returns
        -------
        dict or None
            The receipt, when it has been carried out before; None: carry it out.

        Raises
        ------
        InputError
            The key belongs to another request.
        StoreError
            Somebody is carrying it out at this moment.
        """
        now = datetime.now(UTC)
        name = f"{plan.agent}:{key}"
        try:
            self._receipts.insert_one({
                "_id": name, "agent": plan.agent, "key": key, "content": plan.content,
                "plan": plan.id, "runner": runner, "since": now, "receipt": None})
        except DuplicateKeyError:
            found = self._receipts.find_one({"_id": name})
            if found is None:  # given up in this moment
                return self.begin(plan, key, runner)
            if found["content"] != plan.content:
                raise InputError(f"key {key!r} belongs to another request ({found['plan']})",
                                 hint="choose a new key for each request") from None
            if found["receipt"] is not None:
                receipt: dict[str, Any] = json.loads(found["receipt"])
                return receipt
            taken = found["plan"] == plan.id and self._receipts.update_one(
                {"_id": name, "runner": found["runner"], "receipt": None,
                 "since": {"$lt": now - _TAKEN_OVER}},
                {"$set": {"runner": runner, "since": now}}).modified_count
            if not taken:
                raise StoreError(f"{found['plan']} is being committed under this key",
                                 hint=f"commit {found['plan']} with the same key again in a "
                                 "minute", transient=True) from None
        return None

    def finish(self, plan: Plan, key: str, receipt: dict[str, Any]) -> None:
        """Store the receipt of a commit."""
        self._receipts.update_one(
            {"_id": f"{plan.agent}:{key}"},
            {"$set": {"agent": plan.agent, "key": key, "content": plan.content, "plan": plan.id,
                      "at": datetime.now(UTC), "receipt": json.dumps(receipt)}}, upsert=True)

    def give_up(self, plan: Plan, key: str, runner: str) -> None:
        """Forget a commit that was refused: a failure is no receipt."""
        self._receipts.delete_one({"_id": f"{plan.agent}:{key}", "runner": runner,
                                   "receipt": None})


def _committed(plan: Plan) -> InputError:
    return InputError(
        f"{plan.id} has been committed before this answer: {plan.effect}",
        hint="end what it began: orionflow cancel, orionflow campaign cancel; orionflow agent stop "
        "ends all writing of agents")


def _plan(found: dict[str, Any]) -> Plan:
    def utc(value: Any) -> Any:
        if isinstance(value, datetime) and value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return {k: utc(v) for k, v in value.items()} if isinstance(value, dict) else value

    return Plan.model_validate({k: utc(v) for k, v in found.items() if k != "request"}
                               | {"request": found["request"]})


def _sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
