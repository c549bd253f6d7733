"""The project's LaunchPad: OrionLaunchPad with a name, and submissions by key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError, PyMongoError

from orionflow.errors import ConfigError, InputError, StoreError, database_reason
from orionflow.launchers.identity import LauncherIdentity
from orionflow.launchers.pad import OrionLaunchPad, adding, indexes

if TYPE_CHECKING:
    from pathlib import Path

    from fireworks.core.firework import Workflow

LAUNCHPAD_FILE = "my_launchpad.yaml"
# In a workflow whose roots are not READY yet; gone once its submission is complete.
SUBMITTING = "submitting"


class ProjectLaunchPad(OrionLaunchPad):
    """A LaunchPad that knows who it is and takes a submission only once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.identity = LauncherIdentity.of_this_process()
        # So that `recovery` can tell that a lock's owner is dead before its lease is over.
        self.locks.owner = self.identity.to_dict()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def prepare(self) -> None:
        """Make counters and indexes where they are missing; harmless at any time."""
        last = self.fireworks.find_one({}, {"fw_id": 1}, sort=[("fw_id", DESCENDING)])
        launch = self.launches.find_one({}, {"launch_id": 1}, sort=[("launch_id", DESCENDING)])
        if self.fw_id_assigner.find_one() is None:
            self.fw_id_assigner.update_one({"_id": -1}, {"$setOnInsert": {
                "next_fw_id": last["fw_id"] + 1 if last else 1,
                "next_launch_id": launch["launch_id"] + 1 if launch else 1,
            }}, upsert=True)
        if "fw_id_1" not in self.fireworks.index_information():
            self.tuneup()
        else:  # a database that stock `lpad` made
            indexes.create_indexes(self)
        self.workflows.create_index(
            [("metadata.submit_key", ASCENDING)], unique=True, name="submit_key",
            partialFilterExpression={"metadata.submit_key": {"$type": "string"}},
        )
        self.workflows.create_index(SUBMITTING, sparse=True)

    # ----------------------------------------------------------------- adding a workflow

    def add_once(self, wf: Workflow) -> tuple[list[int], bool]:
        """Add a workflow, at most one for each ``metadata.submit_key``.

        Parameters
        ----------
        wf
            New workflow; its metadata hold ``submit_hash`` and, for a key, ``submit_key``.

        Returns
        -------
        tuple
            Ids of the workflow's fireworks, ascending, and whether this call made it.

        Raises
        ------
        InputError
            The key belongs to a workflow from another request.
        """
        if (old := self._submitted(wf.metadata)) is not None:
            return old, False
        (ids,) = adding.number(self, [wf], built_first=True)
        new = sorted(ids.values())
        docs = adding.insert_fireworks(self, [wf])
        try:
            self.workflows.insert_one({**wf.to_db_dict(), SUBMITTING: True})
        except DuplicateKeyError:
            # Somebody else was first. Ours were never claimable.
            self.fireworks.delete_many({"fw_id": {"$in": new}})
            theirs = self._submitted(wf.metadata)
            if theirs is None:
                raise
            return theirs, False
        # Should this process have slept so long that recovery took them for orphans.
        there = set(self.get_fw_ids({"fw_id": {"$in": new}}))
        if missing := [doc for doc in docs if doc["fw_id"] not in there]:
            self.fireworks.insert_many(missing)
        self._finish_submission(list(wf.root_fw_ids))
        return new, True

    def _submitted(self, metadata: dict[str, Any]) -> list[int] | None:
        """Return the fireworks of the workflow with this key, completing a half-made one."""
        key = metadata.get("submit_key")
        if key is None:
            return None
        doc = self.workflows.find_one({"metadata.submit_key": key})
        if doc is None:
            return None
        if doc["metadata"].get("submit_hash") != metadata.get("submit_hash"):
            raise InputError(
                f"key {key!r} belongs to another request (workflow of firework "
                f"{min(doc['nodes'])}, {doc['name']!r})",
                hint="choose another --key, or repeat exactly the request the key was given for",
            )
        if SUBMITTING in doc:
            self.finish_submission(doc)
        return sorted(doc["nodes"])

    def finish_submission(self, doc: dict[str, Any]) -> None:
        """Make the roots of a half-made workflow READY."""
        children = {int(i) for i in doc["parent_links"]}
        self._finish_submission([i for i in doc["nodes"] if i not in children])

    def _finish_submission(self, roots: list[int]) -> None:
        adding.set_free(self, roots)
        self.workflows.update_one({"nodes": roots[0]}, {"$unset": {SUBMITTING: ""}})


def open_launchpad(project: Path, *, timeout: float = 10.0, answer: float | None = None,
                   kind: type[ProjectLaunchPad] = ProjectLaunchPad) -> Any:
    """Return the project's LaunchPad, reachable.

    Parameters
    ----------
    project
        Folder with ``my_launchpad.yaml``.
    timeout
        Longest time a single database operation looks for the server, s.
    answer
        Longest time one waits for its answer, s; FireWorks' five minutes unless given.
    kind
        The class wanted.

    Raises
    ------
    ConfigError
        There is no ``my_launchpad.yaml``, or it is not one.
    StoreError
        MongoDB does not answer or refuses the user.
    """
    path = project / LAUNCHPAD_FILE
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"no {LAUNCHPAD_FILE} in {project}",
                          hint="start a MongoDB with `orionflow db start`, or describe yours "
                          "there (see `lpad init`)") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `name: value` lines")
    options = {"serverSelectionTimeoutMS": int(timeout * 1000), "journal": True,
               **({} if answer is None else {"socketTimeoutMS": int(answer * 1000)}),
               **(values.get("mongoclient_kwargs") or {})}
    pad = kind.from_dict({"strm_lvl": "WARNING", **values, "mongoclient_kwargs": options})
    try:
        pad.prepare()
    except PyMongoError as error:
        raise StoreError(
            f"MongoDB at {values.get('host')}:{values.get('port')} does not serve us: "
            f"{database_reason(error)}",
            hint="`orionflow db status`, then `orionflow db start`", transient=True) from error
    return pad
