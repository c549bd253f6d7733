"""The launcher's loop: what runs now, what starts next, what must stop."""

from __future__ import annotations

import math
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo.errors import ConnectionFailure, PyMongoError

from orionflow.errors import database_reason
from orionflow.launchers.bulletin import document_of, vital_of
from orionflow.launchers.intake import Intake
from orionflow.launchers.jobs import ClaimedJob, Result, Stop, failed_action
from orionflow.launchers.node_health import Suspicion, find_problems
from orionflow.launchers.packing import Running
from orionflow.launchers.pulse import Pulse
from orionflow.launchers.retry import RetryPolicy
from orionflow.launchers.rocket import read_spool
from orionflow.launchers.runtimes import RunTimes
from orionflow.launchers.settling import LOCK_PATIENCE, Desk, Verdict, store_checkpoint
from orionflow.launchers.spending import grant
from orionflow.launchers.stopping import drive_stops
from orionflow.launchers.surroundings import run_order
from orionflow.launchers.unheld import put_back_unheld
from orionflow.launchers.verdicts import silent_end, spooled_end, told_end
from orionflow.launchers.workers import Died, Ended, Event, Freed, Told
from orionflow.log import get_logger

if TYPE_CHECKING:
    from orionflow.launchers.cores import CoreLease
    from orionflow.launchers.launcher import Launcher, Signals
    from orionflow.launchers.retry import FailureInfo
    from orionflow.launchers.workers import WorkerPool

log = get_logger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
# Short jobs are claimed ahead of their turn: for so long, s, and no more than so many.
_AHEAD_SECONDS, _AHEAD_MOST = 0.3, 32
_OUTAGE_PAUSE, _MOST_REFUSALS = 2.0, 5
# What others were quicker to claim leaves the rest: we look again so often, after so long, s.
_MOST_MISSES, _MISS_PAUSE = 50, 0.02
# So often we look for claims of ours that we know nothing of, s.
_UNHELD_EVERY = 30.0
# A launcher that is told to end waits for locks of others so long, s.
_LOCKED_AT_END = 15.0


class Crew:
    """All jobs of one launcher.

    Parameters
    ----------
    launcher
        Options, allocation and report.
    pool
        Its workers, ready.
    lease
        Cores of this node it may bind jobs to.
    signals
        Tells when to end.
    """

    def __init__(self, launcher: Launcher, pool: WorkerPool, lease: CoreLease,
                 signals: Signals) -> None:
        self.launcher = launcher
        self.options = launcher.options
        self.allocation = launcher.allocation
        self.report = launcher.report
        self.pad = launcher.pad
        self.pool = pool
        self.lease = lease
        self.signals = signals
        self.room = self.allocation.room(lease.ids)
        self.desk = Desk(self.pad)
        fworker = launcher.fworker()
        self.fworker: dict[str, Any] = fworker.to_dict()
        self.intake = Intake(self.pad, fworker, self.allocation, launcher.folder,
                             RunTimes(self.pad).seconds)
        self.policy = RetryPolicy.of(launcher.settings, launcher.machine)
        self.suspicion = Suspicion()
        self.running: dict[int, ClaimedJob] = {}
        self.waiting: list[ClaimedJob] = []
        self.claimed = 0
        self.stop: Stop | None = None
        self.hurried = False
        self.unfit = ""
        self._handled_signals = self._refusals = self._misses = 0
        self.state = "starting"
        self._next_look = 0.0
        self._next_unheld = time.monotonic() + _UNHELD_EVERY
        self._pause = _FIRST_PAUSE
        self._idle_since: float | None = None
        self._looked = False
        self._short = math.inf
        pool.register(signals.fd)
        self.pulse = Pulse(self.pad, signals.alarm, launcher.tether(pool.renew))

    # ------------------------------------------------------------------------ the loop

    def work(self) -> None:
        """Run jobs until there is no reason to go on."""
        problems = find_problems(self.launcher.machine, self.launcher.folder, self.pad)
        if problems and self._must_be_fit(problems):
            self._condemn("; ".join(problems))
        self._publish("running")
        self.pulse.start()
        while True:
            for event in self.pool.events(self._timeout()):
                self._take(event)
            self.signals.drain()
            self._hear()
            drive_stops(self.pool, self.running.values(), self.stop, hurried=self.hurried)
            self._start_waiting()
            self._settle()
            self._look_for_unheld()
            if self.stop is None and not self.unfit:
                self._fill()
                if not self._over():
                    self._publish("running")
                    continue
            elif self._drained():
                return
            self._publish("unhealthy" if self.unfit else "draining")
            if not self.running and not self.waiting and not self.desk.busy:
                return

    def _settle(self) -> None:
        """Write how jobs ended."""
        if self.suspicion.stale:
            for held in self.suspicion.clear(success=False):
                self.desk.add(held)
        if not self.waiting or self.desk.presses:
            for verdict in self.desk.settle():
                self._note(verdict)

    def end(self) -> None:
        """Leave the last word in the launcher's document; all workers are gone."""
        self.pulse.end({**document_of(self), "state": "unhealthy" if self.unfit else "ended",
                        "ended": _now(), "note": self.unfit or self.report.ended})

    def _timeout(self) -> float:
        if self.desk.busy and not self.desk.waits:
            return self.desk.patience if self.waiting else 0.0
        now = time.monotonic()
        waits = [1.0]
        if self.desk.busy:
            waits.append(self.desk.waits)
        if self.stop is None and not self.unfit:
            if self.room.free_cores and self.may_claim():
                waits.append(self._next_look - now)
            if self.allocation.deadline is not None:
                waits.append(self.allocation.deadline - time.time())
        return max(0.0, min(waits))

    # ------------------------------------------------------------------------ starting jobs

    def _fill(self) -> None:
        """Claim and start what fits."""
        now = time.monotonic()
        room = self.may_claim()
        if not room or now < self._next_look:
            return
        if self._is_away():  # a claim would only hold up the loop until it is given up
            self._next_look, self._idle_since, self._looked = now + 1.0, None, False
            return
        free = self.room.free_cores
        held = len(self.waiting)
        ahead = min(self._ahead(), held + room - free)
        if not free and (ahead <= held or held > ahead // 2):
            return
        ahead -= held
        try:
            with self.pad.locks.hurried(LOCK_PATIENCE):
                jobs = self._claim(min(room, free), max(0, ahead))
        except PyMongoError as error:
            # Or it refuses: while an index is made anew, say; but not for ever.
            self._refusals += not isinstance(error, ConnectionFailure)
            if self._refusals > _MOST_REFUSALS:
                raise
            log.warning("no claim: %s", database_reason(error)[:200])
            self._next_look = now + _OUTAGE_PAUSE
            self._idle_since, self._looked = None, False
            return
        self._refusals, self._looked = 0, True
        if jobs:
            self._idle_since, self._pause, self._next_look = None, _FIRST_PAUSE, 0.0
            self._misses = 0
        elif self.intake.missed and self._misses < _MOST_MISSES:
            self._misses += 1
            self._next_look, self._looked = now + _MISS_PAUSE, False
            return
        elif self.options.fw_id is None:
            self._next_look = now + self._pause
            self._pause = min(1.5 * self._pause, _LONGEST_PAUSE)
        self._receive(jobs)

    def _claim(self, limit: int, ahead: int) -> list[ClaimedJob]:
        if self.options.fw_id is not None:
            one = self.intake.take_one(self.options.fw_id, self.room)
            self.claimed = self.options.max_jobs or 1
            return [one] if one else []
        jobs = self.intake.take(self.room, self._occupied(), limit=limit, ahead=ahead)
        self.claimed += len(jobs)
        return jobs

    def _receive(self, jobs: list[ClaimedJob]) -> None:
        """Start what was claimed, or keep it for its turn."""
        for job in jobs:
            if job.problem:
                self._conclude(Result(job, "FIZZLED", job.problem, failed_action(job.problem)))
            elif job.placement is not None:
                self._start(job, job.placement)
            else:
                self.waiting.append(job)

    def _is_away(self) -> bool:
        return self.desk.away_since is not None or self.pulse.silent

    def may_claim(self) -> int:
        """Return how many jobs more may be claimed."""
        most = 1000
        if self.options.max_jobs is not None:
            most = self.options.max_jobs - self.claimed
        elif self.options.fw_id is not None:
            most = 1 - self.claimed
        if self.options.parallel is not None:
            most = min(most, self.options.parallel - len(self.running) - len(self.waiting))
        return max(0, most)

    def _ahead(self) -> int:
        """Return how many jobs to hold ready: short ones would leave cores idle between claims."""
        if self._short > _AHEAD_SECONDS or self.options.parallel is not None or (
                self.options.fw_id is not None):
            return 0
        return min(_AHEAD_MOST, int(self.allocation.cores * _AHEAD_SECONDS / max(
            self._short, 0.005)))

    def _occupied(self) -> list[Running]:
        now, clock = time.time(), time.monotonic()
        return [Running(max(now + job.need.seconds - (clock - job.started), now), job.placement)
                for job in self.running.values() if job.placement is not None]

    def _start_waiting(self) -> None:
        longest = self.allocation.time_for_a_job(time.time())
        for job in list(self.waiting):
            late = longest is not None and job.need.seconds > longest
            if self.stop is not None or self.unfit or job.stop is not None or late:
                self.waiting.remove(job)
                self._settle_unstarted(job)
            elif self.room.free_cores and (
                    placement := self.room.place(job.need)) is not None:
                self.waiting.remove(job)
                self._start(job, placement)

    def _start(self, job: ClaimedJob, placement: Any) -> None:
        if (instead := grant(self.pad, job)) is not None:
            self._conclude(instead)
            return
        self.room.take(placement)
        order = run_order(self.launcher, job, placement, self.fworker, bound=bool(self.lease.ids))
        job.begin(placement, self.pool.run(job.launch_id, order))
        self.running[job.launch_id] = job
        log.info("firework %d (%s) started", job.fw_id, job.name)

    # ------------------------------------------------------------------------ what happened

    def _take(self, event: Event) -> None:
        job = self.running.get(event.launch_id)
        if job is None:
            return
        if isinstance(event, Told):
            self._told(job, event.message)
        elif isinstance(event, Ended):
            if not job.ended:
                job.ended, job.ended_at = True, time.monotonic()
                job.folder = event.message["folder"]
                job.spooled = bool(event.message.get("spooled"))
                self._judge(job, event.message)
        elif isinstance(event, Freed):
            self._free(job)
        elif isinstance(event, Died):
            if not job.ended:
                job.ended = True
                self._judge_death(job, event.code)
            self._free(job)

    def _free(self, job: ClaimedJob) -> None:
        del self.running[job.launch_id]
        if job.placement is not None:
            self.room.give(job.placement)
        self._next_look = 0.0

    def _told(self, job: ClaimedJob, message: dict[str, Any]) -> None:
        try:
            if message["kind"] == "moved":
                job.folder = message["folder"]
                self.pad.change_launch_dir(job.launch_id, job.folder)
            else:
                job.checkpoint = message["checkpoint"]
                # The first says nothing but that it began: written if the job fails.
                if job.checkpoint.get("_task_n"):
                    store_checkpoint(self.pad, job)
        except PyMongoError as error:
            log.warning("launch %d: %s not stored: %s", job.launch_id, message["kind"],
                        database_reason(error)[:200])

    def _judge(self, job: ClaimedJob, message: dict[str, Any]) -> None:
        """Decide what becomes of a job that ended with a word of its own."""
        if message["state"] == "COMPLETED" and not job.is_lost:
            self._short = min(self._short, 1.0) * 0.7 + 0.3 * (time.monotonic() - job.started)
        self._weigh(*told_end(job, message, self.policy, self.intake.host))

    def _judge_death(self, job: ClaimedJob, code: int | None) -> None:
        """Decide what becomes of a job whose process ended without a word."""
        spool = read_spool(Path(job.folder), job.launch_id, self.pad.name)
        if spool is not None:
            job.spooled = True
            self._weigh(*spooled_end(job, spool, self.policy, self.intake.host))
            return
        self._weigh(*silent_end(job, code, self.policy, self.intake.host))

    def _weigh(self, result: Result, info: FailureInfo | None) -> None:
        """Hand over a result, or hold it where its failure speaks against the node."""
        if info is None or not info.blames_node or result.job.stop is not None:
            self._conclude(result)
            return
        log.warning("firework %d failed: %s", result.job.fw_id, info.reason)
        if self.suspicion.add(result):
            self._condemn(f"{len(self.suspicion.held)} jobs failed one after another, "
                          f"last: {info.reason}")
            return
        problems = find_problems(self.launcher.machine, self.launcher.folder, self.pad)
        if problems:
            self._condemn("; ".join(problems))

    def _conclude(self, result: Result) -> None:
        """Hand over a result; a good one clears the node of suspicion."""
        if result.state == "COMPLETED":
            for held in self.suspicion.clear(success=True):
                self.desk.add(held)
        self.desk.add(result)

    def _condemn(self, why: str) -> None:
        self.unfit = self.unfit or why
        self.report.ended = f"this node can't run jobs: {why}"
        log.error("this node can't run jobs: %s", why)
        for result in self.suspicion.condemn():
            self.desk.add(result)

    def _must_be_fit(self, problems: list[str]) -> bool:
        """Whether to stop for these: on a machine without queue there is no other node."""
        if self.allocation.slurm_job_id is not None:
            return True
        for problem in problems:
            log.warning("%s", problem)
        return any("written" in p or "full" in p for p in problems)

    def _settle_unstarted(self, job: ClaimedJob) -> None:
        if job.stop is not None and job.stop.kind == "cancel":
            self.desk.add(Result(job, "CANCELLED", job.stop.reason))
        else:
            self.desk.add(Result(job, "READY", "claimed, but not started"))

    def _note(self, verdict: Verdict) -> None:
        """Count and say how a job ended; its children may be READY now."""
        job = verdict.job
        self._next_look = 0.0
        if job.worker is None and not job.problem:
            self.claimed -= 1
            return
        self.report.states[verdict.state] += 1
        self.report.fw_ids.append(job.fw_id)
        if verdict.trace:
            log.warning("firework %d:\n%s", job.fw_id, verdict.trace.rstrip())
        state = "put back" if verdict.state == "READY" else verdict.state
        seconds = time.monotonic() - job.started if job.started else 0.0
        log.info("firework %d %s after %.1f s%s", job.fw_id, state, seconds,
                 f": {verdict.reason}" if verdict.reason else "")

    # ------------------------------------------------------------------------ stopping

    def _hear(self) -> None:
        """Look at signals, the clock and the pulse's news."""
        came = self.signals.came
        while self._handled_signals < len(came):
            number = came[self._handled_signals]
            self._handled_signals += 1
            if self.stop is not None:
                self.hurried = True
            elif number == signal.SIGUSR1:
                self._begin_stop(Stop("time", "time is over"))
            else:
                end = self.allocation.deadline
                over = end is not None and time.time() >= end - 1
                self._begin_stop(Stop("time", "time is over") if over else Stop(
                    "signal", f"stopped by {signal.Signals(number).name}"))
        end = self.allocation.deadline
        if self.stop is None and end is not None and time.time() >= end:
            self._begin_stop(Stop("time", "time is over"))
        if self.pulse.given_up and self.stop is None:
            self._begin_stop(Stop("signal", self.pulse.given_up))
        while not self.pulse.news.empty():
            launch_id, stop = self.pulse.news.get()
            job = self.running.get(launch_id) or next(
                (j for j in self.waiting if j.launch_id == launch_id), None)
            if job is not None and not job.ended and (
                    job.stop is None or job.stop.kind in {"time", "signal"}):
                log.warning("firework %d is stopped: %s", job.fw_id, stop.reason)
                job.stop = stop

    def _begin_stop(self, stop: Stop) -> None:
        self.stop = stop
        self.report.ended = self.report.ended or stop.reason
        log.info("%s: %d job(s) are asked to stop", stop.reason, len(self.running))

    def _drained(self) -> bool:
        """Whether all is settled that can be settled."""
        if self.running or self.waiting:
            return False
        for held in self.suspicion.clear(success=False):
            self.desk.add(held)
        if self.desk.busy and self.stop is not None:
            for verdict in self.desk.settle(last=True):
                self._note(verdict)
            if self.desk.away_since is not None:
                self.report.ended = "MongoDB did not come back; `orionflow recover` settles"
                return True
            if self.desk.locked_for > _LOCKED_AT_END:
                self.report.ended = ("workflows stayed locked by somebody else; `orionflow "
                                     "recover` settles")
                return True
        return not self.desk.busy

    def _over(self) -> bool:
        """Whether there is no reason to go on."""
        if self.running or self.waiting or self.desk.busy:
            self._idle_since = None
            return False
        if self.suspicion.held:
            # Nothing else is left that could clear the node: it looked healthy, so it counts.
            for held in self.suspicion.clear(success=False):
                self.desk.add(held)
            return False
        if self.options.fw_id is not None:
            why = f"firework {self.options.fw_id} alone" if self.claimed else ""
        elif not self.may_claim():
            why = f"{self.options.max_jobs} job(s) asked for"
        else:
            why = self._nothing_left()
        self.report.ended = why
        return bool(why)

    def _nothing_left(self) -> str:
        """Return why waiting for work has no sense any more; empty while it has."""
        now = time.monotonic()
        if self._next_look <= now or not self._looked:
            return ""
        self._idle_since = self._idle_since or now
        if now - self._idle_since < self.options.patience:
            return ""
        try:
            ready = self.intake.ready_left()
        except PyMongoError:
            self._next_look = now + _OUTAGE_PAUSE
            return ""
        return (f"no job left that fits; {ready} READY job(s) do not fit here"
                if ready else "no READY job left")

    # ------------------------------------------------------------------------ what the database has

    def _publish(self, state: str) -> None:
        """Tell the pulse what there is."""
        self.state = state
        self.pulse.vital = vital_of(self)

    def _look_for_unheld(self) -> None:
        """Put back what runs in our name though we know nothing of it."""
        now = time.monotonic()
        if now < self._next_unheld or self._is_away():
            return
        self._next_unheld = now + _UNHELD_EVERY
        results = (*self.desk.pending, *self.suspicion.held)
        held = {*self.running, *(j.launch_id for j in self.waiting), *self.desk.refused,
                *(r.job.launch_id for r in results)}
        try:
            with self.pad.locks.hurried(LOCK_PATIENCE):
                if put_back_unheld(self.pad, held):
                    self._next_look = 0.0
        except PyMongoError as error:
            log.warning("no look for claims gone astray: %s", database_reason(error)[:200])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
