"""A launcher that nothing is heard of: its jobs are held before others may take them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import small_jobs
import yaml
from elsewhere import elsewhere
from fireworks import Firework
from plain_tasks import Nap

from orionflow.launchers.deaths import Deaths
from orionflow.launchers.identity import LauncherIdentity
from orionflow.launchers.lease import Hold, Tether, clock, safe_without_database
from orionflow.launchers.project import LAUNCHPAD_FILE
from orionflow.launchers.pulse import Pulse
from orionflow.launchers.recovery import recover
from orionflow.launchers.scheduler import Scheduler
from orionflow.launchers.services.processes import ProcessIdentity, write_private
from orionflow.launchers.slurm import Fate

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MOST = 60  # s, on a machine however busy
LAUNCHER = """
import sys
from pathlib import Path
from orionflow.launchers import launcher, pulse
launcher.LEASE, pulse.BEAT, pulse._ANSWER = 2.0, 0.3, 2.0
print(launcher.Launcher(Path(sys.argv[1]), launcher.LaunchOptions()).run().describe())
"""


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def test_processes_are_held_while_the_lease_is_over(wait_until):
    parent = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE,
                              text=True)
    both = [parent.pid, int(parent.stdout.readline())]

    def become(state):
        wait_until(lambda: (all(state_of(pid) == state for pid in both),
                            [state_of(pid) for pid in both]))

    try:
        become("S")
        hold = Hold()
        hold.look([parent.pid])  # nobody has said yet how long it lasts
        assert hold.pause is None
        hold.renew(clock() + 600)
        hold.look([parent.pid])
        become("S")
        hold = Hold()
        hold.renew(clock() - 1)
        hold.look([parent.pid])
        become("T")
        hold.renew(clock() + 600)
        hold.look([parent.pid])
        become("S")
    finally:
        for pid in both:
            os.kill(pid, signal.SIGKILL)
        parent.communicate()


def test_slurms_word_or_the_own_database_on_this_host_need_no_hold(tmp_path):
    me, there = LauncherIdentity.of_this_process(), ("127.0.0.1", 27017)
    scheduler = Scheduler(tmp_path)
    assert not safe_without_database(tmp_path, there, me, scheduler)
    inside = replace(me, slurm_job_id="7")
    for fate, safe in ((Fate.ALIVE, True), (Fate.UNKNOWN, False), (Fate.OVER, False)):
        slurm = Told(None, (fate, ""))
        assert safe_without_database(tmp_path, there, inside, slurm) is safe
    file = tmp_path / ".orionflow" / "mongo" / "server.json"
    file.parent.mkdir(parents=True)
    server = ProcessIdentity.of(os.getpid()).to_dict()
    for port, boot, safe in ((27017, me.boot, True), (27018, me.boot, False),
                             (27017, "another host", False)):
        write_private(file, f'{{"port": {port}, "process": {{"pid": {server["pid"]}, '
                      f'"boot": "{boot}"}}}}')
        assert safe_without_database(tmp_path, there, me, scheduler) is safe


def test_lease_begins_before_the_first_job():
    """MongoDB may go away between the first claim and the first heartbeat."""
    until = []
    pulse = Pulse(None, 0, Tether(until.append, seconds=40.0))
    pulse.beat = lambda: None
    began = clock()
    pulse.start()
    pulse.end({})
    assert began + 40 <= until[0] <= clock() + 40


@pytest.fixture
def distant(project):
    """A launcher on another host, and what carries its messages to MongoDB."""
    file = project / LAUNCHPAD_FILE
    values = yaml.safe_load(file.read_text())
    relay = subprocess.Popen([sys.executable, BENCHMARKS / "proxy.py", values["host"],
                              str(values["port"]), "0"], stdout=subprocess.PIPE, text=True)
    port = int(relay.stdout.readline())
    started = []

    def start():
        file.write_text(yaml.safe_dump({**values, "port": port}))
        started.append(elsewhere([sys.executable, "-c", LAUNCHER, str(project)],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[0]

    def near():
        file.write_text(yaml.safe_dump(values))

    yield start, relay, near
    for process in (*started, relay):
        process.kill()
        process.communicate()


@pytest.mark.needs_mongod
@pytest.mark.usefixtures("importable")
def test_launcher_cut_off_holds_its_job_and_goes_on_or_gives_it_up(project, pad, marks, distant,
                                                                   wait_until):
    """Never do two copies compute; an outage costs nothing but its time."""
    start, relay, near = distant
    (marks / "seconds").write_text("600")
    pad.add_wf(Firework([Nap(folder=str(marks))], spec={"_category": "compute"}))
    launcher = start()
    wait_until((marks / "sleep_pid").exists, timeout=MOST)
    near()
    sleep = int((marks / "sleep_pid").read_text())
    (marks / "sleep_pid").unlink()
    deaths = Deaths(Scheduler(project), pad, lost_after=3.0)
    # It beats: silence is only what stands still under our eyes.
    assert recover(project, pad, deaths=deaths) == []
    wait_until(lambda: not recover(project, pad, deaths=deaths) and not deaths.suspects, pause=0.5)

    relay.send_signal(signal.SIGSTOP)  # no refusal, no answer, as behind a dead switch
    wait_until(lambda: (state_of(sleep) == "T", state_of(sleep)), timeout=MOST)
    relay.send_signal(signal.SIGCONT)
    wait_until(lambda: (state_of(sleep) == "S", state_of(sleep)), timeout=MOST)
    assert pad.launches.count_documents({"state": "RUNNING"}) == 1

    relay.send_signal(signal.SIGSTOP)
    wait_until(lambda: recover(project, pad, deaths=deaths), timeout=MOST, pause=0.5)
    assert state_of(sleep) == "T"
    assert pad.fireworks.find_one()["state"] == "READY"
    (marks / "seconds").write_text("0")
    code, out, err = small_jobs.run("orionflow", "launch", timeout=MOST)
    assert (code, pad.fireworks.find_one()["state"]) == (0, "COMPLETED"), out + err
    assert state_of(sleep) == "T"
    relay.send_signal(signal.SIGCONT)
    out, err = launcher.communicate(timeout=MOST)
    assert launcher.returncode == 0, err
    assert "others took this launcher for dead" in err
    assert state_of(sleep) == "gone"
    assert (marks / "ended").read_text() == "x"
    assert [x["state"] for x in pad.launches.find(sort=[("launch_id", 1)])] == [
        "FIZZLED", "COMPLETED"]
    assert recover(project, pad) == []


@pytest.fixture
def stranger(pad):
    """A launcher elsewhere, in a Slurm job; its heart beats when it is called."""
    me = LauncherIdentity.of_this_process().to_dict()
    there = LauncherIdentity(**{**me, "host": "elsewhere", "lease": 40.0, "slurm_job_id": "7",
                                "slurm_cluster": "ours"})

    def beat():
        beat.count += 1
        pad.db["orionflow_launchers"].update_one(
            {"_id": there.token}, {"$set": {"beat": str(beat.count)}}, upsert=True)

    beat.count = 0
    beat()
    return there, beat


@dataclass(frozen=True)
class Told(Scheduler):
    """A Slurm that says what it is told to say."""

    fate_of: tuple[Fate, str] = (Fate.UNKNOWN, "")
    name: str = "ours"

    def look(self, job_id, restarts=0):  # noqa: ARG002  as Scheduler's
        return self.fate_of

    def cluster(self):
        return self.name


def watched(deaths, owner, seconds=0.05):
    """Return the death of a launcher after it was watched for so long."""
    for _ in range(3):
        deaths.look_again()
        found = deaths.death(owner, datetime.now(UTC))
        time.sleep(seconds)
    return found


@pytest.mark.needs_mongod
def test_one_who_beats_in_the_last_moment_is_not_given_up(pad, stranger):
    there, beat = stranger
    deaths = Deaths(Told(), pad, lost_after=0.01)
    found = watched(deaths, there)
    assert "while MongoDB answered" in found.why
    beat()
    assert not deaths.declare(there, found)
    assert deaths.death(there, datetime.now(UTC)) is None
    found = watched(deaths, there)
    assert deaths.declare(there, found)
    others = Deaths(Told(), pad)
    assert "given up before" in others.death(there, datetime.now(UTC)).why


@pytest.mark.needs_mongod
def test_one_that_begins_anew_under_the_same_name_is_alive(pad, stranger):
    """A notebook starts a launcher after the end of another; somebody watches both."""
    there, beat = stranger
    documents, deaths = pad.db["orionflow_launchers"], Deaths(Told(), pad)
    documents.update_one({}, {"$set": {"ended": "now"}})
    assert "it ended" in deaths.death(there, datetime.now(UTC)).why
    documents.delete_one({})
    beat()
    deaths.look_again()
    assert deaths.death(there, datetime.now(UTC)) is None


@pytest.mark.needs_mongod
@pytest.mark.parametrize(("fate", "state", "cluster", "at_once", "after"), [
    (Fate.OVER, "COMPLETED", "ours", True, True),
    (Fate.OVER, "NODE_FAIL", "ours", False, True),  # its processes may live on the lost node
    (Fate.OVER, "COMPLETED", "another", False, False),  # another job of the same number
    (Fate.ALIVE, "RUNNING", "ours", False, False),
    (Fate.UNKNOWN, "", "ours", False, True),
])
def test_slurm_decides_and_silence_where_it_does_not_know(  # noqa: PLR0917  a table's columns
        pad, stranger, fate, state, cluster, at_once, after):
    there, _ = stranger
    deaths = Deaths(Told(None, (fate, state), cluster), pad, lost_after=0.01)
    assert bool(deaths.death(there, datetime.now(UTC))) is at_once
    assert bool(watched(deaths, there)) is after
