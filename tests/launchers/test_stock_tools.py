"""Stock `lpad` and `rlaunch` on a database our launcher works on do what they do on their own.

Every sub-command of `lpad` runs twice, in a process of its own: beside our running launcher on what
that has run, and on a twin database that only stock tools have touched. What becomes of each
workflow must be the same.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
import small_jobs
from fireworks import Firework, FWorker, LaunchPad, Workflow
from plain_tasks import Plain

from orionflow.launchers.project import LAUNCHPAD_FILE, init_project, project_environment
from orionflow.launchers.services.processes import free_port

FAKES = Path(__file__).parents[1] / "fakes"
pytestmark = [pytest.mark.needs_mongod, pytest.mark.usefixtures("importable")]


OLD = "2020-01-01T00:00:00+00:00"
TODAY = datetime.now().astimezone().strftime("%Y-%m-%d")  # lpad's password against haste
# Run to their end before, by `orionflow launch` on one side and `rlaunch rapidfire` on the other.
RAN = ("done", "done-again", "failed", "failed-again", "dumped")
# Commands for each workflow, one after the other; {a} is its first firework.
CASES = {
    "done": ["get_fws -i {a} -d more", "get_fws -i {a} -d all", "get_launchdir {a}",
             "get_fws_in_wflows -wfi {a} -d less", "track_fws -i {a}", "get_wflows -i {a} -d more",
             "check_wflow -i {a}"],
    "done-again": ["rerun_fws -i {a}"],
    "failed": ["get_fws -s FIZZLED -d less -n failed.a", "get_wflows -i {a} -d all"],
    "failed-again": ["rerun_fws -i {a}", "get_fws -i {a} -d less"],
    "dumped": ["dump_wflow -i {a} -f {file}"],
    "paused": ["pause_fws -i {a}", "get_fws -i {a} -d less"],
    "resumed": ["pause_fws -i {a}", "resume_fws -i {a}"],
    "defused": ["defuse_fws -i {a}"],
    "reignited": ["defuse_fws -i {a}", "reignite_fws -i {a}"],
    "updated": ['update_fws -i {a} -u {{"seen":1}}'],
    "first": ["set_priority -i {a} 7"],
    "all-paused": ["pause_wflows -i {a}"],
    "all-defused": ["defuse_wflows -i {a}"],
    "all-reignited": ["defuse_wflows -i {a}", "reignite_wflows -i {a}"],
    "archived": ["archive_wflows -i {a}"],
    "deleted": ["delete_wflows -i {a}"],
    "appended": ["append_wflow -i {a} -f {wf}"],
    "refreshed": ["admin refresh -i {a}"],
    "locked": ["admin unlock -i {a}"],
    "lost": ['detect_lostruns --rerun -q {{"name":"lost.a"}}'],
    "reserved": ["get_qids -i {a}", "cancel_qid --qid 4711"],
    "stale": ["detect_unreserved --rerun"],
    "offline": ["recover_offline", "forget_offline -i {a}"],
    "added": ["add {wf}", "add_scripts true -n script -w script"],
    "whole": ["get_fws -s COMPLETED -d count -n done.a", "get_wflows -n done -d less",
              "report -c fws", "introspect", "admin orphaned", "admin tuneup", "admin maintain",
              "-o yaml get_fws -n done.a -d less", "version"],
}
# The only sub-commands without a case above: they ask questions, serve, or empty the database.
APART = {"init", "reset", "webgui"}
# Printed in detail, they name who ran a job and where; there our launcher says more.
UNLIKE = re.compile(r"report|introspect|track_fws|get_qids|get_launchdir|.* (more|all)$")
# `lpad`, forked from a process that has done its imports: they are nine tenths of its time.
LPAD = """
import json, os, sys, traceback
from fireworks.scripts.lpad_run import lpad

for line in sys.stdin:
    words, out, err = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, name in ((1, out), (2, err)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["lpad", *words]
        code = 1
        try:
            sys.exit(lpad())
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Side:
    """One of the two databases, with what runs its jobs."""

    def __init__(self, project, engine):
        self.project = project
        self.engine = engine
        self.environment = project_environment(project)
        self.pad = LaunchPad.from_file(str(project / LAUNCHPAD_FILE))
        self.pad.m_logger.disabled = True
        self.lpads = subprocess.Popen(
            [sys.executable, "-c", LPAD], cwd=project, env={**os.environ, **self.environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self):
        self.lpads.stdin.close()
        self.lpads.wait(30)
        self.lpads.stdout.close()
        self.pad.connection.close()

    def run(self, *words, timeout=120, **options):
        return small_jobs.run(*words, timeout=timeout, cwd=self.project,
                              env={**os.environ, **self.environment}, **options)

    def work(self):
        code, out, err = self.run(*self.engine)
        assert code == 0, out + err

    def id(self, name):
        return self.pad.fireworks.find_one({"name": name})["fw_id"]

    def lpad(self, line, name):
        known = {"a": self.ids.get(f"{name}.a"), "wf": self.project / "new.yaml",
                 "file": self.project / "dump.json"}
        words = [word.format(**known) for word in line.split()]
        words = ["-v"] if words == ["version"] else words
        files = [self.project / "out", self.project / "err"]
        self.lpads.stdin.write(json.dumps([words, *map(str, files)]) + "\n")
        self.lpads.stdin.flush()
        code = int(self.lpads.stdout.readline())
        return code, self.normal(files[0].read_text()), files[1].read_text()

    def play(self):
        """Give all commands, in order."""
        return {name: [self.lpad(line, name) for line in lines] for name, lines in CASES.items()}

    def normal(self, text):
        """What was printed, without what differs between any two runs."""
        names = {str(i): n for n, i in self.ids.items()}
        text = re.sub(r'("fw_id": |fw_id: |--)(\d+)', lambda m: m[1] + names.get(m[2], "?"), text)
        text = text.replace(str(self.project), "PROJECT")
        text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]*(\+00:00)?Z?", "TIME", text)
        text = re.sub(r"(launcher|block)_[-\d]+", "FOLDER", text)
        return re.sub(r"\b\d+(\.\d+)?\b", "N", text)

    def store(self):
        for name in CASES:
            spec = {"_category": "compute" if name in RAN else "held"}
            first = Firework([Plain(seconds=0, fail=name.startswith("failed"))], name=f"{name}.a",
                             spec=dict(spec))
            last = Firework([Plain(seconds=0)], name=f"{name}.b", spec=dict(spec))
            self.pad.add_wf(Workflow([first, last], {first: [last]}, name=name))
        self.ids = {fw["name"]: fw["fw_id"] for fw in self.pad.fireworks.find()}
        new = Firework([Plain(seconds=0)], name="new", spec={"_category": "held"})
        Workflow([new], name="new").to_file(str(self.project / "new.yaml"))

    def damage(self):
        """What some commands are there for."""
        pad, worker = self.pad, FWorker("w")
        pad.workflows.update_one({"nodes": self.ids["locked.a"]}, {"$set": {"locked": True}})
        _, launch = pad.checkout_fw(worker, "/nowhere", fw_id=self.ids["lost.a"])
        age = {"$set": {"state_history.0.updated_on": OLD, "state_history.0.created_on": OLD}}
        pad.launches.update_one({"launch_id": launch}, age)
        for name in ("reserved", "stale", "offline"):
            fw_id = self.ids[f"{name}.a"]
            _, launch = pad.reserve_fw(worker, "/nowhere", fw_id=fw_id)
            if name == "reserved":
                pad.set_reservation_id(launch, 4711)
            if name == "stale":
                pad.launches.update_one({"launch_id": launch}, age)
            if name == "offline":
                pad.add_offline_run(launch, fw_id, "offline")

    def fate(self, name):
        """What became of one workflow: states, priorities, launches, parents."""
        wf = self.pad.workflows.find_one({"name": name})
        if wf is None:
            return None
        fws = {fw["fw_id"]: fw for fw in self.pad.fireworks.find({"fw_id": {"$in": wf["nodes"]}})}
        told = {int(i): s for i, s in wf["fw_states"].items()}
        assert told == {i: fw["state"] for i, fw in fws.items()}, name
        return {
            "state": wf["state"], "locked": "locked" in wf,
            "links": sorted((fws[int(p)]["name"], sorted(fws[c]["name"] for c in cs))
                            for p, cs in wf["links"].items()),
            "fws": sorted((fw["name"], fw["state"], len(fw["launches"]),
                           len(fw["archived_launches"]), fw["spec"].get("_priority"),
                           fw["spec"].get("seen")) for fw in fws.values()),
        }


@pytest.fixture
def sides(project, database, mongod):
    ours = Side(project, ("orionflow", "launch"))
    twin = project.parent / "twin"
    init_project(twin, machine="local", database=mongod.access(f"{database.name}_twin"))
    stock = Side(twin, ("rlaunch", "-s", "rapidfire"))
    for side in (ours, stock):
        side.pad.reset("", require_password=False)
    yield ours, stock
    for side in (ours, stock):
        side.close()
    with mongod.client() as client:
        client.drop_database(f"{database.name}_twin")


def sub_commands():
    """As `lpad --help` names them, one name of each."""
    code, out, _ = small_jobs.run("lpad", "--help")
    assert code == 0
    listed = out.split("positional arguments:")[1].split("\noptions")[0]
    return set(re.findall(r"^    (\w+)", listed, re.MULTILINE))


def test_every_lpad_command_does_beside_our_launcher_what_it_does_alone(sides, wait_until):
    ours, stock = sides
    tried = {line.split()[0] for lines in CASES.values() for line in lines}
    assert sub_commands() <= tried | APART
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Side.store, sides))
        list(pool.map(Side.work, sides))
        for name in RAN:
            assert ours.fate(name) == stock.fate(name)
        # Work for our launcher while all the others run.
        ours.pad.bulk_add_wfs([Firework([Plain(seconds=0.2)], name="busy",
                                        spec={"_category": "compute"}) for _ in range(80)])
        for side in sides:  # reruns must not be taken before they are looked at
            side.pad.fireworks.update_many({"name": {"$ne": "busy"}},
                                           {"$set": {"spec._category": "held"}})
        launcher = small_jobs.command("orionflow", "launch", "--patience", 2, cwd=ours.project)
        wait_until(lambda: ours.pad.fireworks.find_one({"name": "busy", "state": "COMPLETED"}),
                   timeout=60)
        list(pool.map(Side.damage, sides))  # not before: our launcher mends it at its start
        mine, theirs = pool.map(Side.play, sides)
        for name, lines in CASES.items():
            for line, (code, out, err), (code2, out2, err2) in zip(
                    lines, mine[name], theirs[name], strict=True):
                assert code == code2, (line, err, err2)
                if not UNLIKE.match(line):
                    assert out == out2, line
            assert ours.fate(name) == stock.fate(name), name
        assert ours.fate("new") == stock.fate("new")
        assert ours.fate("script") == stock.fate("script")
    assert json.loads((ours.project / "dump.json").read_text())["name"] == "dumped"
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    busy = [fw["fw_id"] for fw in ours.pad.fireworks.find({"name": "busy", "state": "COMPLETED"})]
    assert len(busy) == 80, err
    assert ours.pad.launches.count_documents({"fw_id": {"$in": busy}}) == 80


def test_stock_rlaunch_and_our_launcher_share_a_workflow(sides):
    ours, _ = sides
    jobs = [Firework([Plain(seconds=0.1)], spec={"_category": "compute"})
            for _ in range(42)]
    ours.pad.add_wf(Workflow(jobs, {jobs[0]: jobs[1:-1], **{j: [jobs[-1]] for j in jobs[1:-1]}}))
    running = [small_jobs.command(*words, cwd=ours.project)
               for words in (("orionflow", "launch", "--patience", 8),
                             ("rlaunch", "-s", "rapidfire", "--nlaunches", "infinite",
                              "--sleep", "1", "--timeout", "20"))]
    end = time.monotonic() + 120
    while ours.pad.fireworks.count_documents({"state": "COMPLETED"}) < 42:
        assert time.monotonic() < end, [fw["state"] for fw in ours.pad.fireworks.find()]
        time.sleep(0.2)
    for process in running:
        process.terminate()
        process.communicate(timeout=60)
    assert ours.pad.launches.count_documents({"state": "COMPLETED"}) == 42
    assert ours.pad.launches.count_documents({}) == 42
    wf = ours.pad.workflows.find_one()
    assert (wf["state"], "locked" in wf) == ("COMPLETED", False)
    who = {"orionflow" in (la["fworker"].get("env") or {}) for la in ours.pad.launches.find()}
    assert who == {True, False}  # each has run some


def test_a_database_emptied_by_lpad_is_worked_on_again(sides, tmp_path):
    ours, _ = sides
    ours.pad.add_wf(Firework([Plain(seconds=0)], spec={"_category": "compute"}))
    ours.work()
    code, _, err = ours.run("lpad", "reset", "--password", TODAY)
    assert code == 0, err
    assert ours.pad.fireworks.count_documents({}) == 0
    code, _, err = ours.run("lpad", "add_scripts", "true")
    assert code == 0, err
    ours.pad.fireworks.update_one({}, {"$set": {"spec._category": "compute"}})
    ours.work()
    assert [fw["state"] for fw in ours.pad.fireworks.find()] == ["COMPLETED"]
    config = tmp_path / "asked.yaml"
    process = small_jobs.command("lpad", "init", "--config-file", str(config),
                                 stdin=subprocess.PIPE, cwd=ours.project)
    process.communicate("\n" * 20, timeout=60)
    assert process.returncode == 0
    assert "host: localhost" in config.read_text()


def test_web_page_of_stock_fireworks_shows_our_workflows(sides, wait_until):
    ours, _ = sides
    ours.pad.add_wf(Firework([Plain(seconds=0)], name="seen on the page",
                             spec={"_category": "compute"}))
    ours.work()
    port = free_port()
    process = small_jobs.command("lpad", "webgui", "-s", "--port", port, cwd=ours.project,
                                 start_new_session=True)

    def page(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    try:
        assert "seen on the page" in wait_until(lambda: page("fw/1/details"), timeout=60)
        assert "seen on the page" in page("wf")
    finally:
        process.terminate()
        process.communicate(timeout=30)


