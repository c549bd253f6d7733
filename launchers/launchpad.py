"""FireWorks' LaunchPad made safe against being killed: same collections, same documents.

A process may die between any two writes. What it leaves must not disturb stock tools, and
`recovery` must be able to finish or undo it. Hence the order of the writes here:

- fireworks of a new workflow come first, as WAITING, which nobody claims; the workflow document
  makes them real; then the roots become READY;
- a finished job that adds fireworks does the same inside its workflow, and becomes COMPLETED last;
- a claim and a workflow's lock carry the identity of who holds them.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from fireworks.core.launchpad import LaunchPad, LockedWorkflowError
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError, PyMongoError

from orionflow.errors import ConfigError, InputError, StoreError, database_reason
from orionflow.launchers.identity import ENV_KEY, LauncherIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fireworks.core.firework import Firework, Workflow

LAUNCHPAD_FILE = "my_launchpad.yaml"
# Fields of ours beside FireWorks' own, in `fireworks` and `workflows`. FireWorks replaces whole
# documents, so each of them is gone once its moment has passed.
CLAIM = "claim"
SUBMITTING = "submitting"
_LOCK_PATIENCE = 300.0
Count = Literal["lost", "continued", "stopped"]
# A month of computing in allocations of half a day, with three reruns.
_CONTINUED_FACTOR = 20


class ProjectLaunchPad(LaunchPad):
    """A LaunchPad whose half-done writes can be told and finished."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.identity = LauncherIdentity.of_this_process()

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        """Return the LaunchPad of ``my_launchpad.yaml`` (FireWorks' own names its base class)."""
        fields = ("host", "port", "name", "username", "password", "logdir", "strm_lvl",
                  "user_indices", "wf_user_indices", "authsource", "uri_mode",
                  "mongoclient_kwargs")
        return cls(**{name: d[name] for name in fields if d.get(name) is not None})

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
        names = self.fireworks.index_information()
        if "fw_id_1" not in names:
            self.tuneup()
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
        first = self.get_new_fw_id(quantity=len(wf))
        ordered = sorted(wf.id_fw, reverse=True)  # negative ids: built first is nearest to zero
        old_new = {old: first + n for n, old in enumerate(ordered)}
        for fw in wf:
            fw.fw_id = old_new[fw.fw_id]
        wf._reassign_ids(old_new)  # noqa: SLF001  the base class does the same
        fws = [fw.to_db_dict() for fw in wf]
        self.fireworks.insert_many(fws)
        roots = list(wf.root_fw_ids)
        for root in roots:
            wf.fw_states[root] = "READY"
        try:
            self.workflows.insert_one({**wf.to_db_dict(), SUBMITTING: True})
        except DuplicateKeyError:
            # Somebody else was first. Ours were never claimable.
            ids = sorted(old_new.values())
            self.fireworks.delete_many({"fw_id": {"$in": ids}})
            theirs = self._submitted(wf.metadata)
            if theirs is None:
                raise
            return theirs, False
        self._finish_submission(roots, fws)
        return sorted(old_new.values()), True

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
        self._finish_submission([i for i in doc["nodes"] if i not in children], [])

    def _finish_submission(self, roots: list[int], fws: list[dict[str, Any]]) -> None:
        if fws:
            # Should this process have slept so long that recovery took them for orphans.
            ids = [fw["fw_id"] for fw in fws]
            there = {fw["fw_id"] for fw in self.fireworks.find(
                {"fw_id": {"$in": ids}}, {"fw_id": 1})}
            if missing := [fw for fw in fws if fw["fw_id"] not in there]:
                self.fireworks.insert_many(missing)
        self.fireworks.update_many(
            {"fw_id": {"$in": roots}, "state": "WAITING"},
            {"$set": {"state": "READY", "updated_on": datetime.now(UTC)}})
        self.workflows.update_one({"nodes": roots[0]}, {"$unset": {SUBMITTING: ""}})

    # ----------------------------------------------------------------- claiming a job

    def _get_a_fw_to_run(self, query: dict[str, Any] | None = None, fw_id: int | None = None,
                         checkout: bool = True) -> Firework | None:  # noqa: FBT001, FBT002  as the base class
        """Claim the next READY firework, leaving word of who did."""
        if not checkout:
            return super()._get_a_fw_to_run(query, fw_id=fw_id, checkout=False)
        wanted = ({"fw_id": fw_id, "state": {"$in": ["READY", "RESERVED"]}} if fw_id
                  else {**(query or {}), "state": "READY"})
        while True:
            now = datetime.now(UTC)
            claimed = self.fireworks.find_one_and_update(
                wanted,
                {"$set": {"state": "RESERVED", "updated_on": now,
                          CLAIM: {**self.identity.to_dict(), "at": now.isoformat()}}},
                projection={"fw_id": 1},
                sort=[("spec._priority", DESCENDING), ("created_on", ASCENDING)],
            )
            if claimed is None:
                return None
            # Reads it whole, FIZZLES one that can't be decoded, and looks for duplicates.
            fw = super()._get_a_fw_to_run(fw_id=claimed["fw_id"])
            if fw is not None or fw_id:
                return fw

    def release_claims(self, identity: LauncherIdentity) -> list[int]:
        """Make READY again what a launcher claimed without getting to a launch.

        The launcher must be dead, or be this process between two jobs.
        """
        mine = {f"{CLAIM}.{k}": v for k, v in identity.to_dict().items()}
        released = []
        for fw in self.fireworks.find({"state": "RESERVED", **mine}, {"fw_id": 1, "launches": 1}):
            reset = {"$set": {"state": "READY", "updated_on": datetime.now(UTC), "launches": []},
                     "$push": {"archived_launches": {"$each": fw["launches"]}},
                     "$unset": {CLAIM: ""}}
            if self.fireworks.find_one_and_update(
                    {"fw_id": fw["fw_id"], "state": "RESERVED", **mine}, reset) is None:
                continue  # another recovery was faster
            self.tell_workflow(fw["fw_id"], "READY")
            # Its launch may have been written before the firework learned of it; others that
            # now run this firework have another name.
            theirs = [{"launch_id": {"$in": fw["launches"]}, "state": "RESERVED"},
                      {"fw_id": fw["fw_id"], "state": "RUNNING",
                       f"fworker.env.{ENV_KEY}": identity.to_dict()}]
            self.launches.update_many({"$or": theirs}, {"$set": {
                "state": "FIZZLED", "action": _message("claimed, but never started")}})
            released.append(fw["fw_id"])
        return released

    # ----------------------------------------------------------------- putting a job back

    def put_back(self, fw_id: int, launch_id: int, reason: str, *,
                 spec: dict[str, Any] | None = None) -> bool:
        """Make a firework READY again whose launch came to nothing.

        Parameters
        ----------
        fw_id, launch_id
            The firework and the launch that is given up.
        reason
            Why, for people; stored in the launch.
        spec
            Entries set in the firework's spec, such as ``_launch_dir``.

        Returns
        -------
        bool
            False when that launch is no longer the firework's current one: nothing is changed.
        """
        with self.locked(fw_id):
            now = datetime.now(UTC)
            current = {"fw_id": fw_id, "state": {"$in": ["RUNNING", "RESERVED"]},
                       "launches": launch_id}
            doc = self.fireworks.find_one(current, {"launches": 1})
            if doc is None:
                return False
            self.launches.update_one(
                {"launch_id": launch_id},
                {"$set": {"state": "FIZZLED", "action": _message(reason, put_back=True),
                          "time_end": now.isoformat()},
                 "$push": {"state_history": {"state": "FIZZLED", "created_on": now.isoformat()}}})
            self.fireworks.update_one(current, {
                "$set": {"state": "READY", "updated_on": now, "launches": [],
                         **{f"spec.{k}": v for k, v in (spec or {}).items()}},
                "$push": {"archived_launches": {"$each": doc["launches"]}},
                "$unset": {CLAIM: ""}})
            self.tell_workflow(fw_id, "READY")
        return True

    def tell_workflow(self, fw_id: int, state: str) -> None:
        """Write a firework's state into its workflow, whose children all still wait for it.

        Nothing is decoded, unlike in FireWorks: whoever recovers may lack the job's modules.
        """
        node = {"nodes": fw_id}
        wf = self.workflows.find_one(node, {"fw_states": 1, "state": 1})
        if wf is None:
            return
        told: dict[str, Any] = {f"fw_states.{fw_id}": state, "updated_on": datetime.now(UTC)}
        states = {**wf["fw_states"], str(fw_id): state}.values()
        if wf["state"] in {"RUNNING", "RESERVED", "READY"}:
            told["state"] = ("RUNNING" if {"RUNNING", "COMPLETED"} & set(states)
                             else "RESERVED" if "RESERVED" in states else "READY")
        self.workflows.update_one(node, {"$set": told})

    def put_back_in_folder(self, fw_id: int, launch_id: int, folder: str, reason: str, *,
                           counts: Count, most: int) -> bool:
        """Make a firework READY again, to go on in its old folder, unless it did too often.

        Parameters
        ----------
        folder
            Where it ran.
        counts
            What this is: ``lost`` (nothing was gained; at most ``most`` times), ``continued``
            (it got further and stopped by its clock; twenty times as often), or ``stopped`` from
            outside (as often as people like).
        most
            Limit for ``lost``.
        """
        doc = self.fireworks.find_one(
            {"fw_id": fw_id}, {"spec._reruns": 1, "spec._continued": 1, "spec._launch_dir": 1})
        if doc is None:
            return False
        # A kill between claim and chdir leaves the new, empty folder in the launch.
        spec: dict[str, Any] = {"_launch_dir": doc["spec"].get("_launch_dir") or folder}
        for kind, name, limit in (("lost", "_reruns", most), ("continued", "_continued",
                                                              _CONTINUED_FACTOR * most)):
            if counts == kind:
                spec[name] = int(doc["spec"].get(name) or 0) + 1
                if spec[name] > limit:
                    return False
        return self.put_back(fw_id, launch_id, reason, spec=spec)

    # ----------------------------------------------------------------- locks and updates

    @contextmanager
    def locked(self, fw_id: int) -> Iterator[None]:
        """Hold the lock of a firework's workflow, with our name on it.

        Raises
        ------
        LockedWorkflowError
            Another process holds it for more than five minutes.
        """
        me = self.identity.to_dict()
        lock = {"$set": {"locked": me}}
        # Also one we took before the connection broke.
        free = {"nodes": fw_id, "$or": [{"locked": {"$exists": False}}, {"locked": me}]}
        end, pause = time.monotonic() + _LOCK_PATIENCE, 0.02
        while self.workflows.find_one_and_update(free, lock, projection={"_id": 1}) is None:
            if time.monotonic() > end:
                raise LockedWorkflowError(f"Could not get workflow - LOCKED: {fw_id}")
            if self.workflows.find_one({"nodes": fw_id}, {"_id": 1}) is None:
                raise ValueError(f"Could not find workflow in database: {fw_id}")
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
        try:
            yield
        finally:
            self.workflows.update_one({"nodes": fw_id}, {"$unset": {"locked": ""}})

    def _refresh_wf(self, fw_id: int) -> None:
        """Bring a workflow's states up to date after a change of one firework."""
        try:
            with self.locked(fw_id):
                wf = self.get_wf_by_fw_id_lzyfw(fw_id)
                self._update_wf(wf, wf.refresh(fw_id))
        except LockedWorkflowError:
            self.m_logger.warning("workflow of firework %d is locked; can't refresh", fw_id)

    def _update_wf(self, wf: Workflow, updated_ids: Any) -> None:
        """Store a workflow and its changed fireworks, in an order that survives being killed."""
        changed = [wf.id_fw[i] for i in updated_ids]
        new = sorted((fw for fw in changed if fw.fw_id < 0), key=lambda fw: -fw.fw_id)
        old_new: dict[int, int] = {}
        if new:
            first = self.get_new_fw_id(quantity=len(new))
            for number, fw in enumerate(new):
                old_new[fw.fw_id] = first + number
                fw.fw_id = first + number
            wf._reassign_ids(old_new)  # noqa: SLF001  the base class does the same
        new_ids = set(old_new.values())
        # Finished ones last: until then the same update can be made again from the start.
        last = [fw for fw in changed if fw.state in {"COMPLETED", "FIZZLED"}
                and fw.fw_id not in new_ids]
        early = [fw for fw in changed if fw not in last]
        ready = []
        for fw in early:
            doc = fw.to_db_dict()
            if new and doc["state"] == "READY":
                doc["state"] = "WAITING"  # not before the workflow document knows them
                ready.append(fw.fw_id)
            self.fireworks.replace_one({"fw_id": fw.fw_id}, doc, upsert=True)
        node = next(i for i in wf.id_fw if i not in new_ids)
        self.workflows.replace_one(
            {"nodes": node}, {**wf.to_db_dict(), "locked": self.identity.to_dict()})
        if ready:
            self.fireworks.update_many({"fw_id": {"$in": ready}, "state": "WAITING"},
                                       {"$set": {"state": "READY"}})
        for fw in last:
            self.fireworks.replace_one({"fw_id": fw.fw_id}, fw.to_db_dict(), upsert=True)


def open_launchpad(project: Path, *, timeout: float = 10.0,
                   kind: type[ProjectLaunchPad] = ProjectLaunchPad) -> Any:
    """Return the project's LaunchPad, reachable.

    Parameters
    ----------
    project
        Folder with ``my_launchpad.yaml``.
    timeout
        Longest time a single database operation looks for the server, s.
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


def _message(text: str, *, put_back: bool = False) -> dict[str, Any]:
    """Return a stored FWAction that only says something."""
    said = {"_message": text, **({"_put_back": True} if put_back else {})}
    return {"stored_data": said, "exit": True, "update_spec": {}, "mod_spec": [],
            "additions": [], "detours": [], "defuse_children": False, "defuse_workflow": False}
