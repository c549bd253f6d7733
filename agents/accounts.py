"""What agents have asked for, and the switch that stops them: one document, changed in one step.

Every change replaces the document only if nobody has changed it since it was read. A limit that
was checked on what was read therefore holds, however many servers commit at once, and after
`stop` has returned nothing new begins anywhere.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.write_concern import WriteConcern

from orionflow.errors import PolicyError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pymongo.database import Database

    from orionflow.agents.policy import AgentPolicy

COLLECTION = "agent_accounts"
_ID = "project"
_PATIENCE = 1_000
_KEPT = timedelta(days=2)
# A commit that has not ended by then was killed; what it stored counts by itself.
_IN_FLIGHT = timedelta(minutes=15)


class Entry(BaseModel):
    """One commit.

    Attributes
    ----------
    day
        UTC day it counts for.
    core_seconds, fireworks
        Asked for; once it has ended, what it has really cost.
    campaign
        Whose budget it takes from, if any.
    running
        Its effect is not known to be complete.
    plan
        What was committed.
    before
        Core-seconds that the jobs it runs again had taken before.
    settled
        Its real cost is known.
    """

    model_config = ConfigDict(extra="ignore")

    agent: str
    key: str
    day: str
    core_seconds: int
    fireworks: int
    campaign: str | None = None
    running: bool = True
    plan: str = ""
    before: float = 0.0
    settled: bool = False
    at: datetime


class Stop(BaseModel):
    """Who stopped the agents, when and why."""

    model_config = ConfigDict(extra="ignore")

    who: str
    why: str
    at: datetime


class Account(BaseModel):
    """The document."""

    model_config = ConfigDict(extra="ignore")

    version: int = 0
    entries: list[Entry] = Field(default_factory=list)
    stop: Stop | None = None

    def find(self, agent: str, key: str) -> Entry | None:
        """Return the entry of a commit."""
        return next((e for e in self.entries if (e.agent, e.key) == (agent, key)), None)

    def unsettled(self, day: str) -> list[Entry]:
        """Return the commits of a day that are complete, and whose real cost is not known."""
        return [e for e in self.entries if e.day == day and e.plan and e.core_seconds
                and not e.running and not e.settled]

    def asked(self, day: str, agent: str | None = None) -> int:
        """Return the core-seconds asked for on a day, by one agent or all.

        Of what has ended, those that it took.
        """
        return sum(e.core_seconds for e in self.entries
                   if e.day == day and agent in {None, e.agent})

    def in_flight(self, agent: str | None, campaign: str | None = None) -> list[Entry]:
        """Return commits of one agent or all whose effect may not be visible yet."""
        since = datetime.now(UTC) - _IN_FLIGHT
        return [e for e in self.entries if e.running and agent in {None, e.agent}
                and e.at > since and campaign in {None, e.campaign}]


class Accounts:
    """The account of a project's agents.

    Parameters
    ----------
    database
        The project's.
    """

    def __init__(self, database: Database[Any]) -> None:
        self._documents = database.get_collection(
            COLLECTION, write_concern=WriteConcern(w="majority", j=True))

    def read(self) -> Account:
        """Return the account as it stands.

        Raises
        ------
        StoreError
            MongoDB does not answer.
        """
        try:
            found = self._documents.find_one({"_id": _ID})
        except PyMongoError as error:
            raise _unavailable(error) from error
        return Account.model_validate(found or {}) if found else Account()

    def reserve(self, entry: Entry, policy: AgentPolicy,
                check: Callable[[Account], None]) -> None:
        """Set aside what a commit costs; again and again for the same key is once.

        Parameters
        ----------
        entry
            The commit.
        policy
            Whose limits hold.
        check
            Further limits; called with the account as it is, raises what it refuses.

        Raises
        ------
        PolicyError
            A limit would be passed, or the agents are stopped. Nothing has changed.
        StoreError
            MongoDB does not answer.
        """
        def change(account: Account) -> bool:
            refuse_when_stopped(account)
            old = account.find(entry.agent, entry.key)
            if old is not None:
                account.entries.remove(old)
            check_day(account, entry, policy)
            check(account)
            account.entries.append(entry)
            return True

        self._change(change)

    def settle(self, agent: str, key: str, *, keep: bool) -> None:
        """Note that a commit has ended; ``keep=False`` gives back what it had set aside."""
        def change(account: Account) -> bool:
            entry = account.find(agent, key)
            if entry is None or (keep and not entry.running):
                return False
            entry.running = False
            if not keep:
                account.entries.remove(entry)
            return True

        self._change(change)

    def correct(self, costs: Mapping[tuple[str, str], int]) -> Account:
        """Replace what commits had set aside by what they cost, each once; return the account.

        Parameters
        ----------
        costs
            Core-seconds by agent and key.
        """
        found = Account()

        def change(account: Account) -> bool:
            nonlocal found
            found, changed = account, False
            for (agent, key), cost in costs.items():
                entry = account.find(agent, key)
                if entry is not None and not (entry.settled or entry.running):
                    entry.core_seconds, entry.settled, changed = cost, True, True
            return changed

        self._change(change)
        return found

    def stop(self, who: str, why: str) -> int:
        """Refuse every write from now on, in every server; return the commits still under way."""
        running: list[Entry] = []

        def change(account: Account) -> bool:
            since = datetime.now(UTC) - _IN_FLIGHT
            running[:] = [e for e in account.entries if e.running and e.at > since]
            account.stop = Stop(who=who, why=why, at=datetime.now(UTC))
            return True

        self._change(change)
        return len(running)

    def resume(self) -> bool:
        """Let agents write again; False when they were not stopped."""
        stopped = False

        def change(account: Account) -> bool:
            nonlocal stopped
            stopped = account.stop is not None
            account.stop = None
            return stopped

        self._change(change)
        return stopped

    def _change(self, change: Callable[[Account], bool]) -> None:
        for attempt in range(_PATIENCE):
            account = self.read()
            before = account.version
            if not change(account):
                return
            old = datetime.now(UTC) - _KEPT
            account.entries = [e for e in account.entries if e.at > old]
            account.version = before + 1
            document = {"_id": _ID, **account.model_dump(mode="json")}
            try:
                if before == 0:
                    self._documents.insert_one(document)
                    return
                done = self._documents.replace_one({"_id": _ID, "version": before}, document)
                if done.modified_count:
                    return
            except DuplicateKeyError:
                pass
            except PyMongoError as error:
                raise _unavailable(error) from error
            time.sleep(random.uniform(0, 0.002 * min(attempt + 1, 10)))  # noqa: S311  spreads writers
        raise StoreError("too many agents commit at once", hint="try again", transient=True)


def refuse_when_stopped(account: Account) -> None:
    """Raise PolicyError when a person has stopped the agents."""
    if account.stop is not None:
        raise PolicyError(f"agents were stopped by {account.stop.who}: {account.stop.why}",
                          rule="stop", asked="write", allowed="read",
                          hint="a person lets them go on: orionflow agent resume")


def today() -> str:
    """Return the UTC day."""
    return datetime.now(UTC).date().isoformat()


def check_day(account: Account, entry: Entry, policy: AgentPolicy) -> None:
    """Raise PolicyError when a commit would pass what may be asked for on its day."""
    limits: list[tuple[str, float, str | None]] = [
        ("core_hours_per_day", policy.core_hours_per_day, entry.agent)]
    if policy.core_hours_per_day_all is not None:
        limits.append(("core_hours_per_day_all", policy.core_hours_per_day_all, None))
    for rule, hours, agent in limits:
        asked = account.asked(entry.day, agent)
        if entry.core_seconds and asked + entry.core_seconds > hours * 3600:
            left = max(hours - asked / 3600, 0.0)
            raise PolicyError(
                f"{entry.core_seconds / 3600:.3g} core-hours are more than the {left:.3g} left of "
                f"today's {hours:g}", rule=rule, asked=entry.core_seconds / 3600, allowed=left,
                hint="ask for less, or tomorrow (UTC)")


def _unavailable(error: PyMongoError) -> StoreError:
    return StoreError(f"the account of the agents can't be reached: {error}",
                      hint="start MongoDB: orionflow db start", transient=True)
