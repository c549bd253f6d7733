"""What the agents' service works on: one project, opened once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from orionflow.agents.accounts import Accounts
from orionflow.agents.audit import Audit
from orionflow.agents.campaign import Campaigns
from orionflow.agents.plans import Plans
from orionflow.agents.policy import AgentPolicy, load_policy, owner_of
from orionflow.agents.tokens import Tokens
from orionflow.agents.views import Views
from orionflow.analysis.store import close_store, open_store
from orionflow.launchers.launchpad import open_launchpad
from orionflow.workflows.compile import project_of

if TYPE_CHECKING:
    from pathlib import Path

    from jobflow import JobStore

OPEN_STATES = ("READY", "WAITING", "RESERVED", "RUNNING", "PAUSED")


class Backend:
    """A project with its queue, results, campaigns, and what agents leave there.

    Parameters
    ----------
    project
        Project folder; found from the current folder unless given.

    Raises
    ------
    ConfigError, StoreError
        There is no project, or its database can't be reached.
    """

    def __init__(self, project: Path | None = None) -> None:
        self.project = project_of(project)
        self.pad: Any = open_launchpad(self.project)
        self.database = self.pad.db
        self.campaigns = Campaigns(self.project, self.pad)
        self.ledger = self.campaigns.ledger
        self.views = Views(self.ledger)
        self.audit = Audit(self.database)
        self.accounts = Accounts(self.database)
        self.plans = Plans(self.database)
        self.plans.prepare()
        self.tokens = Tokens(self.database)
        self._store: JobStore | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        if self._store is not None:
            close_store(self._store)
        self.pad.connection.close()

    @property
    def store(self) -> JobStore:
        """The JobStore; opened when it is first asked for, since that imports for seconds."""
        with self._lock:
            if self._store is None:
                self._store = open_store(self.project)
            return self._store

    def policy(self) -> AgentPolicy:
        """Return the policy as it is now."""
        return load_policy(self.project)

    def open_fireworks(self, agent: str) -> int:
        """Return how many jobs of an agent have not ended."""
        count: int = self.pad.fireworks.count_documents(
            {"spec.owner": owner_of(agent), "state": {"$in": OPEN_STATES}})
        return count
