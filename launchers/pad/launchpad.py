"""The LaunchPad class: FireWorks' own interface, and the groups FireWorks lacks."""

from __future__ import annotations

import traceback
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self

from fireworks.core.firework import Firework, FWAction, Launch, Workflow
from fireworks.core.launchpad import LaunchPad, LockedWorkflowError, get_action_from_gridfs
from fireworks.fw_config import LAUNCHPAD_LOC
from pymongo.errors import PyMongoError

from orionflow.launchers.pad import adding, bulk, giving_back, heartbeat, indexes, repair
from orionflow.launchers.pad.claim import Claim, Claimer
from orionflow.launchers.pad.commit import LostLockError, commit
from orionflow.launchers.pad.documents import LIVE, Doc
from orionflow.launchers.pad.graph import Graph
from orionflow.launchers.pad.locks import Locks
from orionflow.launchers.pad.settle import Outcome, Settled, Settler

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from datetime import datetime

    from fireworks.core.fworker import FWorker

_FIELDS = ("host", "port", "name", "username", "password", "logdir", "strm_lvl", "user_indices",
           "wf_user_indices", "authsource", "uri_mode", "mongoclient_kwargs")
_CLAIMS_KEPT = 10_000
_UNDONE = ("RUNNING", "RESERVED", "COMPLETED")


class Claims(OrderedDict[int, Claim]):
    """Launches of this process that have not ended, by id; the oldest are forgotten first."""

    def __setitem__(self, launch_id: int, claim: Claim) -> None:
        super().__setitem__(launch_id, claim)
        while len(self) > _CLAIMS_KEPT:
            self.popitem(last=False)


class OrionLaunchPad(LaunchPad):
    """A LaunchPad whose cost does not grow with the workflow, and which may be killed at any time.

    The arguments are LaunchPad's. Writes are journaled unless ``mongoclient_kwargs`` says
    otherwise: MongoDB's default forgets what it acknowledged when mongod is killed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = dict(zip(_FIELDS, args, strict=False)) | kwargs
        options = {"journal": True, **(names.get("mongoclient_kwargs") or {})}
        if options.get("w") == 0:
            del options["journal"]
        names["mongoclient_kwargs"] = options
        super().__init__(**names)
        self.claims = Claims()
        self.locks = Locks(self, lambda doc: repair.repair_workflow(self, doc))
        self._claimer = Claimer(self)
        self._settler = Settler(self)
        # Fireworks whose workflows were locked when they should have been refreshed, or their
        # states recorded.
        self.overdue: dict[int, Literal["refresh", "record"]] = {}
        # Never filled: FireWorks keeps two documents of every launch here for ever.
        self.backup_launch_data: dict[int, Doc] = {}
        self.backup_fw_data: dict[int, Doc] = {}

    @classmethod
    def from_dict(cls, d: Doc) -> Self:
        """Return the LaunchPad described by a dict (FireWorks' own names its base class)."""
        return cls(**{name: d[name] for name in _FIELDS if d.get(name) is not None})

    @classmethod
    def auto_load(cls) -> Self:
        """Return the LaunchPad that FireWorks' configuration names, or the one on localhost."""
        return cls.from_file(LAUNCHPAD_LOC) if LAUNCHPAD_LOC else cls()

    def reset(self, password: str | None, require_password: bool = True,  # noqa: FBT001, FBT002  FireWorks' own
              max_reset_wo_password: int = 25) -> None:
        """Empty the database (LaunchPad.reset)."""
        super().reset(password, require_password, max_reset_wo_password)
        self.claims.clear()
        self._claimer.ids.forget()

    def tuneup(self, bkground: bool = True) -> None:  # noqa: FBT001, FBT002  FireWorks' own
        """Create FireWorks' indexes and ours."""
        super().tuneup(bkground=bkground)
        indexes.create_indexes(self)

    # ------------------------------------------------------------------ adding

    def add_wf(self, wf: Workflow | Firework, reassign_all: bool = True) -> dict[int, int]:  # noqa: FBT001, FBT002  FireWorks' own
        """Add a workflow (LaunchPad.add_wf); it appears whole or not at all."""
        if not reassign_all:
            old_new: dict[int, int] = super().add_wf(wf, reassign_all=False)
            return old_new
        (old_new,) = adding.add_workflows(self, [wf])
        self.m_logger.info("Added a workflow. id_map: %s", old_new)
        return old_new

    def bulk_add_wfs(self, wfs: Iterable[Workflow | Firework]) -> None:
        """Add many workflows at once (LaunchPad.bulk_add_wfs)."""
        adding.add_workflows(self, wfs)

    def append_wf(self, new_wf: Workflow, fw_ids: Sequence[int], detour: Any = False,  # noqa: FBT002  FireWorks' own
                  pull_spec_mods: bool = True) -> None:  # noqa: FBT001, FBT002  FireWorks' own
        """Append a workflow below fireworks of another (LaunchPad.append_wf), under its lock."""
        detours = [detour] * len(fw_ids) if isinstance(detour, bool) else detour
        if not isinstance(detours, (list, tuple)):
            raise TypeError("detour must be bool or [bool] type")
        if len(detours) != len(fw_ids):
            raise ValueError("len(detour) must be equal len(fw_ids)")
        new = Workflow.from_firework(new_wf) if isinstance(new_wf, Firework) else new_wf
        with self._graph(fw_ids[0]) as graph:
            graph.append(new, list(fw_ids), list(detours), pull=pull_spec_mods)

    # ------------------------------------------------------------------ claiming

    def get_new_launch_id(self) -> int:
        """Return an id for a launch."""
        return self.new_launch_ids(1)

    def new_launch_ids(self, count: int) -> int:
        """Take that many launch ids from the counter and return the first."""
        if count == 1:
            return int(super().get_new_launch_id())
        doc = self.fw_id_assigner.find_one_and_update({}, {"$inc": {"next_launch_id": count}})
        if doc is None:
            raise ValueError("Could not get next launch id! If you have not yet initialized the "
                             "database, please do so by performing a database reset "
                             "(e.g., lpad reset)")
        return int(doc["next_launch_id"])

    def checkout_fw(self, fworker: FWorker, launch_dir: str,  # noqa: PLR0917  FireWorks' own
                    fw_id: int | None = None,
                    host: str | None = None, ip: str | None = None,
                    state: str = "RUNNING") -> tuple[Any, int | None]:
        """Claim the next READY firework, or this one (LaunchPad.checkout_fw)."""
        return self._claimer.checkout(fworker, launch_dir, fw_id=fw_id, host=host, ip=ip,
                                      state=state)

    def claim(self, fworker: FWorker, launch_dir: str | Callable[[Doc], str], *, limit: int = 1,
              query: Doc | None = None,
              choose: Callable[[list[Doc]], Sequence[Doc]] | None = None, candidates: int = 0,
              mark: Callable[[Doc], Doc] | None = None,
              host: str | None = None, ip: str | None = None) -> list[Claim]:
        """Claim several READY fireworks in a few round trips, without decoding them.

        Parameters
        ----------
        fworker
            Whose categories, name and query decide what matches.
        launch_dir
            Folder of the launches, or a function of the firework's document.
        limit
            At most this many are claimed; fewer when others are quicker.
        query
            Further condition on the fireworks.
        choose
            Picks from the candidates (documents, highest priority first), in order; all unless
            given.
        candidates
            How many to look at, if more than ``limit``.
        mark
            Further fields of the launches, by the firework's document.
        host, ip
            Of the machine that will run them; this one unless given.

        Returns
        -------
        list of Claim
            Launch and spec of each, in the order chosen.
        """
        return self._claimer.claim(fworker, launch_dir, limit=limit, query=query, choose=choose,
                                   candidates=candidates, mark=mark, host=host, ip=ip)

    def decode_launch(self, doc: Doc) -> Launch:
        """Return the Launch object of a stored launch."""
        action = get_action_from_gridfs(doc.get("action"), self.gridfs_fallback)
        return Launch.from_dict({**doc, "action": action})

    # ------------------------------------------------------------------ running and ending

    def ping_launch(self, launch_id: int, ptime: datetime | str | None = None,
                    checkpoint: Doc | None = None) -> None:
        """Say that a launch lives (LaunchPad.ping_launch)."""
        heartbeat.ping(self, launch_id, ptime, checkpoint)

    def ping_launches(self, launch_ids: Collection[int]) -> set[int]:
        """Say that launches live; return those that lost their firework and must stop."""
        return heartbeat.ping_many(self, launch_ids)

    def complete_launch(self, launch_id: int, action: FWAction | None = None,
                        state: str = "COMPLETED") -> Doc:
        """Store the result of a launch and let its workflow go on (LaunchPad.complete_launch).

        Raises
        ------
        LaunchRefusedError
            The launch no longer owns its firework: it was declared lost, rerun or defused.
        LockedWorkflowError
            The workflow stayed locked. The result is stored; `sweep` or a refresh counts it.
        """
        outcome = Outcome(launch_id, state, action)
        error = self._settler.settle([outcome]).errors.get(launch_id)
        if isinstance(error, (LockedWorkflowError, ValueError)) and not outcome.launch:
            raise error
        if isinstance(error, LockedWorkflowError):
            raise error
        if error is not None:
            raise RuntimeError(f"Error refreshing workflow: {error}") from error
        return {k: v for k, v in outcome.launch.items() if k != "_id"}

    def complete_launches(self, outcomes: Sequence[Outcome]) -> Settled:
        """Store the results of several launches in a few round trips.

        Errors are returned, not raised; database errors are raised, and then the same outcomes may
        be given again.
        """
        return self._settler.settle(outcomes)

    def mark_fizzled(self, launch_id: int) -> None:
        """Mark a launch FIZZLED, and its firework if it has one (LaunchPad.mark_fizzled)."""
        error = self._settler.settle([Outcome(launch_id, "FIZZLED")]).errors.get(launch_id)
        if isinstance(error, LockedWorkflowError):
            self.m_logger.info("%s", error)
        elif error is not None:
            raise error

    def put_back(self, fw_id: int, launch_id: int, reason: str, *,
                 spec: Doc | None = None, unless: str = "") -> bool:
        """Make a firework READY again whose launch came to nothing.

        Parameters
        ----------
        fw_id, launch_id
            The firework and the launch that is given up.
        reason
            Why, for people; stored in the launch.
        spec
            Entries set in the firework's spec, such as ``_launch_dir``; dots go deeper.
        unless
            Not if the launch has this field, at the moment at which it ends.

        Returns
        -------
        bool
            False when that launch is no longer the firework's current one, or has ended with a
            result: nothing is changed.

        Raises
        ------
        LockedWorkflowError
            The workflow stayed locked. The launch has ended; whoever refreshes does the rest.
        """
        return giving_back.put_back(self, fw_id, launch_id, reason, spec=spec, unless=unless)

    def give_back_unacknowledged(self) -> list[int]:
        """Put back what claims took whose answer never came; the next claim does it too."""
        return self._claimer.give_back()

    def restore_backup_data(self, launch_id: int, fw_id: int) -> None:
        """Do nothing: an action that can't be applied leaves firework and workflow untouched."""

    def sweep(self, **what: Any) -> repair.Repairs:
        """Repair what died between two writes left behind; cheap, harmless, from any process.

        The arguments are the fields of `repair.Sweep`.
        """
        return repair.sweep(self, repair.Sweep(**what))

    # ------------------------------------------------------------------ workflows

    @contextmanager
    def _graph(self, fw_id: int) -> Iterator[Graph]:
        """Hold a workflow's lock; what was changed in the graph is written at the end."""
        with self.locks.holding(fw_id) as doc:
            graph = Graph(self, doc)
            yield graph
            commit(graph)

    @contextmanager
    def locked(self, fw_id: int) -> Iterator[Doc]:
        """Hold the lock of a firework's workflow; gives the workflow's document."""
        with self.locks.holding(fw_id) as doc:
            yield doc
            self.locks.release(doc)

    def _refresh_wf(self, fw_id: int) -> None:
        """Bring a workflow's states up to date after a change of one firework."""
        try:
            with self._graph(fw_id) as graph:
                graph.refresh(fw_id)
        except (LockedWorkflowError, LostLockError):
            self.overdue[fw_id] = "refresh"
            self.m_logger.info("fw_id=%s locked. Can't refresh!", fw_id)
        except PyMongoError:
            raise
        except Exception as error:
            self.fireworks.update_one({"fw_id": fw_id}, {"$set": {"state": "FIZZLED"}})
            self.workflows.update_one({"nodes": fw_id}, {"$set": {
                "state": "FIZZLED", f"fw_states.{fw_id}": "FIZZLED"}})
            raise RuntimeError("Error refreshing workflow. The full stack trace is: "
                               f"{traceback.format_exc()}") from error

    def record_state(self, fw_id: int) -> None:
        """Copy the state of a firework into its workflow, whatever it is."""
        try:
            with self._graph(fw_id) as graph:
                graph.states[fw_id] = graph.view(fw_id).state
        except (LockedWorkflowError, LostLockError):
            self.overdue[fw_id] = "record"

    def refresh_all(self, query: Doc) -> None:
        """Refresh the fireworks found; one whose workflow can't be is FIZZLED alone."""
        for fw in list(self.fireworks.find(query, {"fw_id": 1})):
            try:
                self._refresh_wf(fw["fw_id"])
            except RuntimeError as error:
                self.m_logger.warning("fw_id=%s: %s", fw["fw_id"], error)

    def settle_overdue(self) -> None:
        """Try again to refresh workflows that were locked when it was their turn."""
        for fw_id, what in list(self.overdue.items()):
            del self.overdue[fw_id]
            try:
                if what == "refresh":
                    self.refresh_all({"fw_id": fw_id})
                else:
                    self.record_state(fw_id)
            except PyMongoError:
                self.overdue[fw_id] = what
                raise
            except ValueError as error:  # it was deleted
                self.m_logger.info("fw_id=%s: %s", fw_id, error)

    def rerun_fw(self, fw_id: int, rerun_duplicates: bool = True,  # noqa: FBT001, FBT002  FireWorks' own
                 recover_launch: Any = None, recover_mode: str | None = None) -> list[int]:
        """Archive a firework's launches so that it runs again (LaunchPad.rerun_fw)."""
        before = self.fireworks.find_one(
            {"fw_id": fw_id}, {"state": 1, "launches": 1, "dupe": {"$ne": [
                {"$type": "$spec._dupefinder"}, "missing"]}})
        if before is None:
            raise ValueError(f"FW with id: {fw_id} not found!")
        twins = []
        if rerun_duplicates and before["dupe"]:
            twins = list({fw["fw_id"] for fw in self.fireworks.find(
                {"launches": {"$in": before["launches"]}, "fw_id": {"$ne": fw_id}},
                {"fw_id": 1})})
        self._set_recovery(fw_id, before["launches"], recover_launch, recover_mode)
        reruns: list[int] = []
        if before["state"] in {"ARCHIVED", "DEFUSED"}:
            self.m_logger.info("Cannot rerun fw_id=%s: it is %s.", fw_id, before["state"])
        elif before["state"] == "WAITING" and not recover_launch:
            self.m_logger.debug("Skipping rerun fw_id=%s: it is already WAITING.", fw_id)
        else:
            with self._graph(fw_id) as graph:
                graph.rerun(fw_id)
            reruns.append(fw_id)
        for twin in twins:
            self.m_logger.info("Also rerunning duplicate fw_id: %s", twin)
            reruns += self.rerun_fw(twin, rerun_duplicates=False, recover_launch=recover_launch,
                                    recover_mode=recover_mode)
        return reruns

    def _set_recovery(self, fw_id: int, launches: list[int], recover_launch: Any,
                      recover_mode: str | None) -> None:
        if recover_launch is None:
            self.fireworks.update_one({"fw_id": fw_id}, {"$unset": {"spec._recovery": ""}})
            return
        if not launches:
            raise ValueError(f"FW with id: {fw_id} has no active launches")
        launch_id = launches[-1] if recover_launch == "last" else recover_launch
        if launch_id not in launches:
            raise ValueError(f"launch_id: {launch_id} is no launch of fw_id: {fw_id}")
        recovery = self.get_recovery(launch_id)
        if not recovery:
            raise ValueError(f"No recovery info found in launch {launch_id}")
        recovery["_mode"] = recover_mode
        fields = {"spec._recovery": recovery}
        if recover_mode == "prev_dir":
            fields["spec._launch_dir"] = recovery["_prev_dir"]
        self.fireworks.update_one({"fw_id": fw_id}, {"$set": fields})

    def defuse_wf(self, fw_id: int, defuse_all_states: bool = True) -> None:  # noqa: FBT001, FBT002  FireWorks' own
        """Defuse a whole workflow (LaunchPad.defuse_wf)."""
        self._rerun_twins(fw_id)
        if defuse_all_states:
            bulk.set_all(self, fw_id, "DEFUSED", keep=["ARCHIVED"], archive=_UNDONE)
        else:
            bulk.set_all(self, fw_id, "DEFUSED", keep=["ARCHIVED", "COMPLETED", "FIZZLED"],
                         archive=LIVE)

    def pause_wf(self, fw_id: int) -> None:
        """Pause what waits in a workflow (LaunchPad.pause_wf); what runs goes on."""
        bulk.set_all(self, fw_id, "PAUSED", archive=[], keep=[
            "COMPLETED", "FIZZLED", "DEFUSED", "ARCHIVED", "RUNNING"])

    def reignite_wf(self, fw_id: int) -> None:
        """Wake a defused workflow (LaunchPad.reignite_wf)."""
        bulk.reignite(self, fw_id, old="DEFUSED")

    def resume_wf(self, fw_id: int) -> int:
        """Wake a paused workflow; returns how many fireworks."""
        return bulk.reignite(self, fw_id, old="PAUSED")

    def archive_wf(self, fw_id: int) -> None:
        """Archive a whole workflow (LaunchPad.archive_wf)."""
        self._rerun_twins(fw_id)
        bulk.set_all(self, fw_id, "ARCHIVED", keep=[],
                     archive=["RUNNING", "RESERVED", "COMPLETED", "FIZZLED", "READY", "WAITING"])

    def _rerun_twins(self, fw_id: int) -> None:
        """Rerun fireworks elsewhere that live on launches of this workflow (duplicates)."""
        wf = self.workflows.find_one({"nodes": fw_id}, {"nodes": 1})
        if wf is None:
            raise ValueError(f"Could not find a Workflow with {fw_id=}")
        shared = [i for fw in self.fireworks.find(
            {"fw_id": {"$in": wf["nodes"]}, "spec._dupefinder": {"$exists": True}},
            {"launches": 1}) for i in fw["launches"]]
        for twin in list(self.fireworks.find(
                {"launches": {"$in": shared}, "fw_id": {"$nin": wf["nodes"]}},
                {"fw_id": 1})) if shared else ():
            self.rerun_fw(twin["fw_id"], rerun_duplicates=False)

    # ------------------------------------------------------------------ looking

    def get_wf_by_fw_id(self, fw_id: int) -> Workflow:
        """Return the workflow of a firework, all of it, in three queries."""
        doc = self.workflows.find_one({"nodes": fw_id})
        if not doc:
            raise ValueError(f"Could not find a Workflow with {fw_id=}")
        found = {fw["fw_id"]: fw for fw in self.fireworks.find({"fw_id": {"$in": doc["nodes"]}})}
        fws = [found[i] for i in doc["nodes"]]
        kinds = ("launches", "archived_launches")
        ids = [i for fw in fws for kind in kinds for i in fw[kind]]
        launches = {d["launch_id"]: d for d in self.launches.find({"launch_id": {"$in": ids}})}
        for launch in launches.values():
            launch["action"] = get_action_from_gridfs(launch.get("action"), self.gridfs_fallback)
        for fw in fws:
            for kind in kinds:
                fw[kind] = [launches[i] for i in sorted(fw[kind]) if i in launches]
        return Workflow([Firework.from_dict(fw) for fw in fws], doc["links"], doc["name"],
                        doc["metadata"], doc["created_on"], doc["updated_on"])

    def future_run_exists(self, fworker: FWorker | None = None) -> bool:
        """Return whether a firework is READY, or waits for one that runs now."""
        if self.run_exists(fworker):
            return True
        query = dict(fworker.query) if fworker else {}
        query["state"] = {"$in": list(LIVE)}
        active = self.get_fw_ids(query)
        for fw_id in active:
            doc = self.workflows.find_one({"nodes": fw_id}, {f"links.{fw_id}": 1}) or {}
            kids = doc.get("links", {}).get(str(fw_id), [])
            if kids and self.fireworks.find_one(
                    {"fw_id": {"$in": kids}, "state": "WAITING"}, {"_id": 1}):
                return True
        return False

    def list_fireworks(self, query: Doc | None = None, *,
                       sort: list[tuple[str, int]] | None = None, limit: int = 0,
                       spec: Iterable[str] = ()) -> list[Doc]:
        """Return short descriptions of fireworks, two queries for any number of them.

        Parameters
        ----------
        query
            MongoDB query on fireworks.
        sort
            Order; by id unless given.
        limit
            At most this many; 0 for all.
        spec
            Entries of the spec wanted too.

        Returns
        -------
        list of dict
            fw_id, name, state, created_on, updated_on, launches; launch_dir, host and
            runtime_secs (s) of the last launch; spec with the entries asked for.
        """
        return bulk.list_fireworks(self, query, sort=sort, limit=limit, spec=spec)

    def list_workflows(self, query: Doc | None = None, *, limit: int = 0) -> list[Doc]:
        """Return short descriptions of workflows, newest first, in one query.

        Returns
        -------
        list of dict
            fw_id (the lowest), name, state, size, states (how many in each), metadata,
            created_on, updated_on.
        """
        return bulk.list_workflows(self, query, limit=limit)
