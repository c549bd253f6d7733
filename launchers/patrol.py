"""A running launcher looks after the others: who dies is found though nobody calls `recover`."""

from __future__ import annotations

import random
import threading
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from pymongo.errors import PyMongoError

from orionflow.errors import OrionflowError, database_reason
from orionflow.log import get_logger

if TYPE_CHECKING:
    from pathlib import Path

log = get_logger(__name__)
COLLECTION = "orionflow_patrol"
# Between two looks at the others, s; two looks and the silence of a dead one are two minutes.
_EVERY = 15.0
# All else that may lie half done is looked at once a minute, by one of all launchers.
_ALL_EVERY = 60.0
_TIMEOUT = 10.0


class Patrol(threading.Thread):
    """Recovers, beside a running launcher, what other processes left; a context manager.

    Parameters
    ----------
    project
        Project folder.
    every
        Seconds between two looks.
    """

    def __init__(self, project: Path, *, every: float = _EVERY) -> None:
        super().__init__(name="orionflow-patrol", daemon=True)
        self.project = project
        self.every = every
        self._over = threading.Event()

    def __enter__(self) -> Self:
        """Begin."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End; a question to Slurm that is not answered yet is not waited for."""
        self._over.set()
        self.join(1.0)

    def run(self) -> None:
        """Look again and again."""
        # Launchers that start together do not look together.
        while not self._over.wait(self.every * random.uniform(0.8, 1.0)):  # noqa: S311  no secret
            try:
                self._go()
            except OrionflowError as error:
                log.debug("patrol: %s", error.message)
            except PyMongoError as error:
                log.debug("patrol: %s", database_reason(error)[:200])
            except Exception:  # one look that failed must not be the last
                log.exception("looking for lost jobs failed; it goes on")

    def _go(self) -> None:
        """Look until MongoDB goes away."""
        from orionflow.launchers.deaths import Deaths
        from orionflow.launchers.launchpad import open_launchpad
        from orionflow.launchers.recovery import recover
        from orionflow.launchers.scheduler import Scheduler

        with closing(open_launchpad(self.project, timeout=_TIMEOUT)) as pad:
            deaths = Deaths(Scheduler(self.project), pad)
            while True:
                for step in recover(self.project, pad, deaths=deaths, lost_only=not due(pad)):
                    log.info("recovered: %s", step.describe())
                if self._over.wait(self.every):
                    return


def due(pad: Any, every: float = _ALL_EVERY) -> bool:
    """Return whether it is this caller's turn to look at everything: once a minute for all."""
    marks = pad.db[COLLECTION]
    marks.update_one({"_id": "all"}, {"$setOnInsert": {"at": datetime.fromtimestamp(0, UTC)}},
                     upsert=True)
    old = {"$lt": ["$at", {"$subtract": ["$$NOW", int(every * 1000)]}]}
    return bool(marks.update_one({"_id": "all", "$expr": old},
                                 {"$currentDate": {"at": True}}).modified_count)
