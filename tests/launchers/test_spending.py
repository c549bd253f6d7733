"""What launches cost, and that jobs end when what was set aside for them is used up."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from orionflow.launchers.identity import ENV_KEY
from orionflow.launchers.jobs import ClaimedJob
from orionflow.launchers.packing import Need
from orionflow.launchers.pulse import BEAT
from orionflow.launchers.retry import FailureInfo, RetryPolicy, decide
from orionflow.launchers.spending import core_seconds_of, grant, launch_seconds
from orionflow.launchers.stopping import drive_stops

START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = {"resources": {"ranks": 2, "threads": 2}}


def launch(beat, found, message="", **stored):
    """Return a launch whose last heartbeat and end are so many seconds after its start."""
    begun = {"state": "RUNNING", "created_on": START.isoformat()}
    if beat is not None:
        begun["updated_on"] = (START + timedelta(seconds=beat)).isoformat()
    return {"state": "FIZZLED", "runtime_secs": found, "state_history": [
        begun, {"state": "FIZZLED", "created_on": (START + timedelta(seconds=found)).isoformat()}],
        "action": {"stored_data": {"_message": message, **stored}}}


@pytest.mark.parametrize("one", [
    launch(100, 7200, "lost: its launcher is dead (Slurm)"),
    launch(100, 7200, "its launcher is dead (Slurm); " + decide(
        FailureInfo.launcher_lost("gone"), {}, RetryPolicy()).reason),
    launch(100, 7200, "lost 4 times, last because its launcher is dead"),
    launch(100, 7200, _cancelled={"who": "ada"})])
def test_a_lost_launch_is_charged_until_its_next_heartbeat_at_most(one):
    assert launch_seconds(one) == 100 + BEAT


def test_a_launch_with_a_word_of_its_own_is_charged_to_its_end():
    # MongoDB was away meanwhile; the job ran.
    assert launch_seconds(launch(100, 900, "runtime error")) == 900
    assert launch_seconds({**launch(100, 900, "lost"), "state": "COMPLETED"}) == 900
    # Found at once, and never heard of.
    assert launch_seconds(launch(None, 2, "lost: x")) == 2
    assert launch_seconds(launch(None, 99, "lost: x")) == BEAT


def test_each_launch_is_charged_for_the_cores_it_had_and_no_longer_than_it_may_last():
    one = launch(100, 900, "runtime error")
    assert core_seconds_of(one, SPEC) == 4 * 900
    # After a lack of memory the job asks for fewer ranks.
    assert core_seconds_of({**one, "granted": {"cores": 8, "seconds": 1000.0}}, SPEC) == 8 * 900
    # Its launcher ended it in time, and could say so only when MongoDB was back.
    assert core_seconds_of({**one, "granted": {"cores": 8, "seconds": 600.0}}, SPEC) == 8 * 600


def test_a_launch_whose_launcher_died_before_the_start_costs_nothing():
    one = launch(2, 900, "lost: gone")
    ours = {**one, "fworker": {"env": {ENV_KEY: {"host": "n1"}}}}
    assert core_seconds_of(ours, {**SPEC, "core_seconds": 60}) == 0
    # Stock rlaunch notes nothing, and starts all the same.
    assert core_seconds_of(one, {**SPEC, "core_seconds": 60}) == 4 * (2 + BEAT)


class Launches:
    """Stands for a collection: earlier launches, and what is written into the new one."""

    def __init__(self, *earlier):
        self.launches, self.earlier, self.written = self, earlier, {}

    def find(self, _query, _fields):
        return self.earlier

    def update_one(self, query, update):
        assert query == {"launch_id": 7}
        self.written |= update["$set"]["granted"]


def claimed(core_seconds):
    spec = {**SPEC, "core_seconds": core_seconds}
    return ClaimedJob(1, 7, "job", "/x", {"spec": spec},
                      {"time_start": datetime.now(UTC).isoformat()}, Need(1, seconds=1000.0))


def test_a_job_may_take_what_its_earlier_launches_have_left():
    job, pad = claimed(4000), Launches(launch(0, 300, "again"))
    assert grant(pad, job) is None
    assert pad.written == {"cores": 4, "seconds": 700.0}
    assert job.ends - time.monotonic() == pytest.approx(700, abs=5)
    assert job.time_left == pytest.approx(640, abs=5)  # codes end a minute before
    unlimited = ClaimedJob(1, 7, "job", "/x", {"spec": SPEC}, {}, Need(1))
    assert grant(pad, unlimited) is None
    assert unlimited.time_left > 1e9


def test_a_job_with_too_little_left_to_get_further_is_over():
    job, pad = claimed(4000), Launches(launch(0, 800, "again"))
    told = grant(pad, job)
    assert told.state == "FIZZLED"
    assert "1.11 core-hours set aside for it are used up" in told.reason
    assert told.action["stored_data"]["_exception"]["_details"]["used_up"] is True
    assert pad.written["seconds"] == 0  # it has not run, and costs nothing


def test_a_try_that_was_given_more_begins_however_much_the_earlier_ones_took():
    tries = [{**launch(0, 100, "again"), "launch_id": n, "granted": {"cores": 4, "seconds": 100.0}}
             for n in range(1, 6)]
    assert grant(pad := Launches(*tries), claimed(4 * 600)) is None
    assert pad.written == {"cores": 4, "seconds": 100.0}
    # Lost on the way, it goes on; a rest is measured by this try, and not by all of them.
    for ran, left in ((20, 80.0), (90, 0.0)):
        lost = {**tries[0], **launch(0, ran, "again"), "launch_id": 6}
        told = grant(pad := Launches(*tries, lost), claimed(4 * 600))
        assert (told is None) is (left > 0)
        assert pad.written["seconds"] == left


class Pool:
    """Notes what is asked of workers."""

    def __init__(self):
        self.asked, self.killed = [], []

    def stop(self, worker, *_signal):
        self.asked.append(worker.pid)

    def kill(self, worker):
        worker.killed = True
        self.killed.append(worker.pid)


class Worker:
    def __init__(self, pid):
        self.pid, self.killed = pid, False


def test_what_uses_up_its_share_is_asked_and_is_dead_before_its_end():
    jobs, now = [], time.monotonic()
    for pid, left in ((1, 100.0), (2, 9.0), (3, 1.0)):
        job = claimed(4000)
        job.worker, job.ends, job.notice = Worker(pid), now + left, 10.0
        jobs.append(job)
    pool = Pool()
    drive_stops(pool, jobs, None, hurried=False)
    assert pool.asked == [2, 3]
    assert pool.killed == [3]
    assert {j.stop.kind for j in jobs[1:]} == {"time"}
