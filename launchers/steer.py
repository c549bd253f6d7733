"""Cancelling, pausing and resuming jobs from any host: what waits, what is reserved, what runs."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orionflow.errors import InputError, LaunchError, PolicyError
from orionflow.launchers import hold
from orionflow.launchers.cancel import CANCEL_FIELD, CANCELLED_KEY, CancelRequest, ask, settle
from orionflow.launchers.deaths import Deaths, processes_of
from orionflow.launchers.identity import LauncherIdentity
from orionflow.launchers.pad.documents import LIVE, Doc, as_time
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.services.processes import end_processes
from orionflow.launchers.stock_processes import children_in
from orionflow.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from orionflow.launchers.pad import OrionLaunchPad

#: A launcher answers within this time, s.
PATIENCE = 30.0
_PAUSE = 0.5
_UNSAFE = ("$where", "$function", "$accumulator")
_JOB = {"_id": 0, "fw_id": 1, "name": 1, "state": 1, "launches": 1}


@dataclass
class JobOutcome:
    """What became of one job.

    Attributes
    ----------
    before, after
        Its state.
    what
        ``held`` (nobody had taken it), ``unreserved`` (its Slurm job was cancelled), ``stopped``,
        ``finished`` (it ended before it could be stopped), ``asked`` (not stopped yet).
    detail
        One line for people: where it ran, or what to do.
    """

    fw_id: int
    name: str
    before: str
    after: str
    what: str
    detail: str = ""


@dataclass
class SteerReport:
    """What became of all jobs.

    Attributes
    ----------
    held, woken
        Ids of the jobs that only had to be marked.
    jobs
        Those that somebody had taken, one by one.
    over
        How many of those chosen had ended before, by state.
    running
        How many run and were left alone (`pause` without ``now``).
    dependents
        How many others wait for jobs that will not run now.
    """

    held: list[int] = field(default_factory=list)
    woken: list[int] = field(default_factory=list)
    jobs: list[JobOutcome] = field(default_factory=list)
    over: dict[str, int] = field(default_factory=dict)
    running: int = 0
    dependents: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is left that still has to stop."""
        return all(job.what != "asked" for job in self.jobs)


def select(pad: OrionLaunchPad, *, fw_ids: Sequence[int] = (), workflows: Sequence[int] = (),
           campaign: str | None = None, query: Doc | None = None) -> list[Doc]:
    """Return the fireworks that are meant: the union of all that is given.

    Parameters
    ----------
    pad
        The LaunchPad.
    fw_ids
        Single fireworks.
    workflows
        Whole workflows, each by the id of any of its fireworks.
    campaign
        All fireworks of a campaign.
    query
        MongoDB query on fireworks.

    Returns
    -------
    list of dict
        fw_id, name, state and launches of each.

    Raises
    ------
    InputError
        Nothing is given, an id is unknown, or nothing matches.
    PolicyError
        The query would run code in the database.
    """
    clauses: list[Doc] = []
    if fw_ids:
        clauses.append({"fw_id": {"$in": list(fw_ids)}})
    for fw_id in workflows:
        doc = pad.workflows.find_one({"nodes": fw_id}, {"nodes": 1})
        if doc is None:
            raise InputError(f"no workflow with firework {fw_id}", hint="`lpad get_wflows`")
        clauses.append({"fw_id": {"$in": doc["nodes"]}})
    if campaign is not None:
        clauses.append({"spec.campaign": campaign})
    if query is not None:
        _check_query(query)
        clauses.append(query)
    if not clauses:
        raise InputError("no job is named", hint="give ids, a workflow, a campaign or a query")
    found = list(pad.fireworks.find({"$or": clauses} if len(clauses) > 1 else clauses[0], _JOB,
                                    sort=[("fw_id", 1)]))
    if missing := set(fw_ids) - {fw["fw_id"] for fw in found}:
        raise InputError(f"no firework {', '.join(map(str, sorted(missing)))}",
                         hint="`orionflow show` lists the campaigns, `lpad get_fws` the jobs")
    if not found:
        what = f"campaign {campaign!r}" if campaign is not None and query is None else "this query"
        raise InputError(f"no job of {what}", hint="`orionflow show` lists the campaigns")
    return found


def request_of(project: Path, why: str, *, restartable: bool = False,
               pause: bool = False) -> CancelRequest:
    """Return a request in the name of the project's owner on this host."""
    who = f"{load_settings(project).owner}@{socket.gethostname()}"
    return CancelRequest.now(who, why.strip(), restartable=restartable, pause=pause)


def cancel(project: Path, pad: OrionLaunchPad, jobs: Sequence[Doc], *, why: str = "",
           restartable: bool = False, patience: float = PATIENCE,
           step: Callable[[int], object] | None = None,
           tell: Callable[[str], object] | None = None) -> SteerReport:
    """Cancel jobs: what waits is DEFUSED, what runs is stopped, each neighbour goes on.

    Parameters
    ----------
    project
        Project folder, for its Slurm and its owner.
    pad
        Its open LaunchPad.
    jobs
        What `select` returned.
    why
        Reason, for people; stored with who and when.
    restartable
        What runs becomes READY again and goes on in its folder; what waits stays in the queue.
    patience
        How long to wait for running jobs to stop, s.
    step
        Called with the number of waiting jobs dealt with since its last call.
    tell
        Called with a line on what is still awaited, about twice a second.

    Returns
    -------
    SteerReport
        What became of them.
    """
    request = request_of(project, why, restartable=restartable)
    return _Steering(project, pad, request, patience, tell).take(
        jobs, free=not restartable, live=LIVE, step=step)


def pause(project: Path, pad: OrionLaunchPad, jobs: Sequence[Doc], *, why: str = "",
          now: bool = False, patience: float = PATIENCE,
          step: Callable[[int], object] | None = None,
          tell: Callable[[str], object] | None = None) -> SteerReport:
    """Take jobs out of the queue until they are resumed; what runs finishes, unless ``now``.

    Parameters
    ----------
    now
        Running jobs are stopped; resumed, they go on in their folder.

    See Also
    --------
    cancel : the other parameters.
    """
    request = request_of(project, why, pause=True)
    return _Steering(project, pad, request, patience, tell).take(
        jobs, free=True, live=LIVE if now else ("RESERVED",), step=step)


def resume(pad: OrionLaunchPad, jobs: Sequence[Doc], *, cancelled: bool = False,
           step: Callable[[int], object] | None = None) -> SteerReport:
    """Put paused jobs back into the queue; ``cancelled``: cancelled ones as well."""
    report = SteerReport()
    for state in ("PAUSED", "DEFUSED")[:1 + cancelled]:
        ids = [fw["fw_id"] for fw in jobs if fw["state"] == state]
        report.woken += hold.wake(pad, ids, old=state, step=step)
    return report


@dataclass
class _Steering:
    project: Path
    pad: OrionLaunchPad
    request: CancelRequest
    patience: float
    tell: Callable[[str], object] | None
    report: SteerReport = field(default_factory=SteerReport)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.project)
        self.deaths = Deaths(self.scheduler, self.pad)
        self._asked: set[int] = set()  # launches
        self._stopping: set[int] = set()  # their fireworks

    def take(self, jobs: Sequence[Doc], *, free: bool, live: Sequence[str],
             step: Callable[[int], object] | None) -> SteerReport:
        chosen = {fw["fw_id"]: fw for fw in jobs}
        if free:
            self.report.held = self._hold(
                [i for i, fw in chosen.items() if fw["state"] in hold.FREE], step)
        # Again: what was READY may run by now.
        held = set(self.report.held)
        pending: dict[int, Doc] = {}
        for fw in self._look(set(chosen) - held):
            if fw["state"] in live:
                pending[fw["fw_id"]] = {**fw, "before": fw["state"]}
            elif fw["state"] in LIVE:
                self.report.running += 1
            elif fw["state"] not in hold.FREE:
                self.report.over[fw["state"]] = self.report.over.get(fw["state"], 0) + 1
        self._stop(pending)
        gone = held | {job.fw_id for job in self.report.jobs if job.after == "DEFUSED"}
        self.report.dependents = self._dependents(gone, set(chosen))
        self.report.jobs.sort(key=lambda job: job.fw_id)
        return self.report

    def _hold(self, fw_ids: Collection[int], step: Callable[[int], object] | None = None
              ) -> list[int]:
        return hold.hold(self.pad, fw_ids, "PAUSED" if self.request.pause else "DEFUSED",
                         spec={CANCELLED_KEY: self.request.to_dict()}, step=step)

    def _look(self, fw_ids: Collection[int]) -> list[Doc]:
        return list(self.pad.fireworks.find({"fw_id": {"$in": list(fw_ids)}}, _JOB))

    # ------------------------------------------------------------------ what somebody has taken

    def _stop(self, pending: dict[int, Doc]) -> None:
        end = time.monotonic() + self.patience
        first = True
        while pending:
            for fw in self._look(pending):
                job = {**pending[fw["fw_id"]], **fw}
                outcome, launch = self._try(job)
                if outcome is not None:
                    self.report.jobs.append(outcome)
                    del pending[fw["fw_id"]]
                elif launch is not None:
                    pending[fw["fw_id"]]["launch"] = launch
            if not pending:
                return
            if time.monotonic() > end and not first:
                for job in pending.values():
                    self.report.jobs.append(self._verdict(job))
                return
            first = False
            if self.tell is not None:
                self.tell(f"{len(pending)} running job(s) asked to stop; waiting "
                          f"{max(0.0, end - time.monotonic()):.0f} s more")
            time.sleep(_PAUSE)

    def _try(self, job: Doc) -> tuple[JobOutcome | None, Doc | None]:
        """Do what can be done about one job; others go on whatever is wrong with it."""
        launch: Doc | None = None
        try:
            launch = self._launch(job)
            return self._one(job, launch), launch
        except LaunchError as error:
            return self._outcome(job, job["state"], "asked", f"not stopped: {error}"), launch
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            return self._outcome(
                job, job["state"], "asked", "its documents are not as FireWorks writes them "
                f"({type(error).__name__}: {error}); see `lpad get_fws -i {job['fw_id']} -d all`"
            ), launch

    def _launch(self, job: Doc) -> Doc | None:
        if job["state"] not in LIVE or not job["launches"]:
            return None
        found: Doc | None = self.pad.launches.find_one(
            {"launch_id": {"$in": job["launches"]}}, {"_id": 0, "action": 0, "trackers": 0},
            sort=[("launch_id", -1)])
        return found

    def _one(self, job: Doc, launch: Doc | None) -> JobOutcome | None:
        """Do what can be done about one job now; return what became of it, or None: wait."""
        state = job["state"]
        if state not in LIVE:
            return self._ended(job)
        if launch is None:
            return None  # between two writes of whoever claims it
        if state == "RESERVED" or launch["state"] == "RESERVED":
            return self._unreserve(job, launch)
        owner = LauncherIdentity.of_launch(launch)
        if owner is None:
            return self._stop_stock(job, launch)
        if owner.alive_here() is False:
            end_processes(processes_of(owner), patience=5.0)
            return self._settled(job, launch, "its launcher was dead")
        return self._ask(job, launch)

    def _ask(self, job: Doc, launch: Doc) -> JobOutcome | None:
        """Ask one of our launchers, once for each launch."""
        if launch["launch_id"] in self._asked:
            return None
        if self.request.becomes == "READY" and job["fw_id"] in self._stopping:
            return self._outcome(job, "RUNNING", "stopped", "it was put back and runs again "
                                 + _place(launch))
        self._asked.add(launch["launch_id"])
        self._stopping.add(job["fw_id"])
        if launch.get(CANCEL_FIELD) != self.request.to_dict():
            ask(self.pad, [launch["launch_id"]], self.request)
        return None

    def _ended(self, job: Doc) -> JobOutcome | None:
        """Return what became of a job that is in nobody's hands any more."""
        state, wanted = job["state"], self.request.becomes
        if state == wanted or (wanted == "READY" and state in {"WAITING", "RUNNING"}):
            return self._outcome(job, state, "stopped", _place(job.get("launch")))
        if state in hold.FREE:
            # Put back by its launcher for another reason, or by `recover`.
            return (self._outcome(job, wanted, "stopped", "") if self._hold([job["fw_id"]])
                    else None)
        return self._outcome(job, state, "finished", "it ended before it could be stopped")

    def _settled(self, job: Doc, launch: Doc, detail: str) -> JobOutcome | None:
        done = settle(self.pad, job["fw_id"], launch["launch_id"], self.request,
                      launch["launch_dir"])
        return self._outcome(job, self.request.becomes, "stopped", detail) if done else None

    def _unreserve(self, job: Doc, launch: Doc) -> JobOutcome | None:
        """Free what `qlaunch -r` has reserved, then cancel its Slurm job."""
        # First the firework: should the Slurm job start now, it finds nothing to run.
        if not settle(self.pad, job["fw_id"], launch["launch_id"], self.request, ""):
            return None
        slurm = _reservation(launch)
        detail = "" if slurm is None else f"Slurm job {slurm} cancelled"
        if slurm is not None:
            try:
                self.scheduler.cancel([slurm])
            except LaunchError as error:
                detail = (f"Slurm job {slurm} stays in the queue and will find nothing to run "
                          f"({error.message}); `scancel {slurm}` on the cluster")
        return self._outcome(job, self.request.becomes, "unreserved", detail)

    def _stop_stock(self, job: Doc, launch: Doc) -> JobOutcome | None:
        """Stop a job of stock `rlaunch`, which reads no word in the launch."""
        folder, host, slurm = launch["launch_dir"], launch.get("host"), _reservation(launch)
        if slurm is not None:  # alone in an allocation of its own
            try:
                self.scheduler.cancel([slurm])
            except LaunchError:
                pass
            else:
                return self._settled(job, launch, f"its own Slurm job {slurm} cancelled")
        if host == socket.gethostname():
            runner, children = children_in(folder)
            end_processes(children, patience=5.0)
            if children:
                return self._settled(job, launch, f"{len(children)} process(es) of stock rlaunch "
                                     f"ended in {folder}")
            where = (f"inside process {runner.pid} of stock rlaunch: `kill {runner.pid}` ends it, "
                     "and what else it runs" if runner is not None else f"no process in {folder}")
        else:
            where = f"under stock rlaunch on {host}, in {folder}: end it there"
        if self.request.becomes == "READY":
            return self._outcome(job, "RUNNING", "asked", f"not stopped: it runs {where}")
        # What it still reports is not counted: the launch has lost its firework.
        return self._settled(job, launch, f"its result will not count; it ran {where}")

    def _verdict(self, job: Doc) -> JobOutcome:
        """Return what is known of a job that did not stop in time, and settle it if it is dead."""
        launch = job.get("launch") or {}
        owner, sign = LauncherIdentity.of_launch(launch), _last_sign(launch)
        if owner is None:
            return self._outcome(job, job["state"], "asked", "no launch is known of it yet; try "
                                 "again")
        death = self.deaths.death(owner, sign)
        if death is not None and self.deaths.declare(owner, death) and (
                done := self._settled(job, launch, f"its launcher was dead ({death.why})")):
            return done
        silent = "" if sign is None else (
            f", last heard of {max(0.0, time.time() - sign.timestamp()):.0f} s ago")
        todo = (f"`scancel {owner.slurm_job_id}` ends its whole allocation"
                if owner.slurm_job_id else f"see process {owner.pid} on {owner.host}")
        return self._outcome(
            job, job["state"], "asked",
            f"the launcher on {owner.host}{silent} has not answered; it stops the job as soon as "
            f"it reads the request. {todo}; `orionflow recover` when the launcher is dead")

    # ------------------------------------------------------------------ telling

    def _outcome(self, job: Doc, after: str, what: str, detail: str) -> JobOutcome:
        return JobOutcome(job["fw_id"], str(job.get("name", "")), job["before"], after, what,
                          detail)

    def _dependents(self, gone: Collection[int], chosen: Collection[int]) -> int:
        """Count the WAITING children of jobs that will not run, which are not chosen themselves."""
        if not gone or len(gone) > _MANY or self.request.becomes != "DEFUSED":
            return 0
        kids: set[int] = set()
        for doc in self.pad.workflows.find({"nodes": {"$in": list(gone)}},
                                           {f"links.{i}": 1 for i in gone}):
            kids |= {k for group in doc.get("links", {}).values() for k in group}
        return int(self.pad.fireworks.count_documents(
            {"fw_id": {"$in": list(kids - set(chosen))}, "state": "WAITING"}))


_MANY = 2000


def _check_query(query: Any) -> None:
    if isinstance(query, dict):
        for name, value in query.items():
            if name in _UNSAFE:
                raise PolicyError(f"a query may not use {name}", rule="query", asked=name,
                                  allowed="operators that run no code",
                                  hint="MongoDB's query operators on fields, such as "
                                  '{"spec.resources.ranks": {"$gt": 4}}')
            _check_query(value)
    elif isinstance(query, list):
        for value in query:
            _check_query(value)


def _last_sign(launch: Doc) -> Any:
    try:
        last = launch["state_history"][-1]
        return as_time(last.get("updated_on") or last.get("created_on"))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return None  # none, or not as FireWorks writes it


def _reservation(launch: Doc) -> str | None:
    found = next((h["reservation_id"] for h in launch.get("state_history", ())
                  if h.get("reservation_id")), None)
    return None if found is None else str(found)


def _place(launch: Doc | None) -> str:
    return f"on {launch['host']}, in {launch['launch_dir']}" if launch else ""
