from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from orionflow.errors import ConfigError, InputError, LaunchError
from orionflow.launchers.project import init_project
from orionflow.launchers.services import programs
from orionflow.launchers.services import slurm as module
from orionflow.launchers.services.processes import ProcessIdentity, find_processes
from orionflow.launchers.services.slurm import PrivateSlurm, slurm_environment
from orionflow.launchers.services.slurm_config import plan_layout

ORIONFLOW = str(Path(sys.executable).with_name("orionflow"))
needs_history = pytest.mark.needs_code("slurmdbd", "mariadbd")


@pytest.fixture
def own(tmp_path):
    """A Slurm of the test's own: it may be killed."""
    server = PrivateSlurm.of(tmp_path / "pro ject's")
    yield server
    server.stop()


def run(server, program, *arguments, **kwargs):
    """Run a wrapper command and return what it prints."""
    done = subprocess.run([server.folder / "bin" / program, *arguments], capture_output=True,
                          text=True, check=False, timeout=60, **kwargs)
    assert done.returncode == 0, done
    return done.stdout


def submit(server, script, *options, cwd):
    out = run(server, "sbatch", "--parsable", "-o", "out.txt", *options, "--wrap", script, cwd=cwd)
    return out.strip()


def state(server, job):
    return run(server, "squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()


def ended(server, job):
    seen = state(server, job)
    return seen in {"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"}, seen


def all_with(*marks):
    """Return the command lines of living processes that hold one of these marks."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and ProcessIdentity.of(int(folder.name)):
            try:
                words = [(folder / name).read_bytes() for name in ("cmdline", "environ")]
            except OSError:
                continue
            if any(mark.encode() in word for word in words for mark in marks):
                found.append(words[0].replace(b"\0", b" ").decode())
    return found


# -- without services ------------------------------------------------------------------------


def test_missing_slurm_names_the_apt_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(programs, "_SBIN", "/nonexistent")
    with pytest.raises(ConfigError, match="munged is not installed") as caught:
        PrivateSlurm(tmp_path).start()
    assert "apt-get install slurm-wlm munge" in caught.value.hint


def test_project_without_slurm_sets_no_variables(tmp_path):
    assert slurm_environment(tmp_path) == {}
    status = PrivateSlurm.of(tmp_path).status()
    assert (status.running, status.problems) == (False, ["never started"])


@pytest.mark.parametrize(("numbers", "name"), [
    ({"nodes": 0}, "nodes = 0"), ({"nodes": 65}, "nodes = 65"), ({"cpus": 0}, "CPUs per node = 0"),
])
def test_impossible_numbers_are_refused(tmp_path, numbers, name):
    with pytest.raises(InputError, match=name):
        plan_layout(tmp_path, None, **numbers)


def test_runtime_folder_somebody_else_prepared_is_not_used(tmp_path):
    first = Path(plan_layout(tmp_path, None).runtime)
    try:
        assert first.stat().st_mode & 0o777 == 0o700
        first.chmod(0o777)  # a folder of this name that others may write to
        second = Path(plan_layout(tmp_path, None).runtime)
        assert second != first
        assert second.stat().st_mode & 0o777 == 0o700
        second.rmdir()
        first.rmdir()
        first.symlink_to(tmp_path)
        third = Path(plan_layout(tmp_path, None).runtime)
        assert third != first
        third.rmdir()
    finally:
        first.unlink() if first.is_symlink() else first.rmdir()


# -- jobs, on the session's Slurm ------------------------------------------------------------


@pytest.mark.needs_slurm
@pytest.mark.needs_mongod
def test_stock_qlaunch_submits_and_counts(slurm_project, slurm, launchpad):
    from fireworks import Firework, ScriptTask, Workflow

    launchpad.add_wf(Workflow([Firework(ScriptTask.from_str("true"),
                                        spec={"_category": "compute"})]))
    path = slurm_project / "my_qadapter.yaml"
    adapter = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**adapter, "rocket_launch": "sleep 60"}))

    def qlaunch():
        done = subprocess.run([Path(sys.executable).with_name("qlaunch"), "rapidfire",
                               "-m", "3", "--nlaunches", "1"],
                              text=True, capture_output=True, check=True, timeout=120)
        return done.stdout + done.stderr

    assert "Job submission was successful" in qlaunch()
    assert "number of jobs currently in the queue is: 1" in qlaunch()
    names = run(slurm, "squeue", "-h", "-o", "%j").split()
    assert names == [adapter["job_name"]] * 2


@pytest.mark.needs_slurm
def test_job_finds_its_slurm_even_without_the_submitters_environment(slurm, tmp_path, wait_until):
    job = submit(slurm, "squeue -h -j $SLURM_JOB_ID -o '%A %N'", "--export=NONE", cwd=tmp_path)
    assert wait_until(lambda: ended(slurm, job)) == "COMPLETED"
    assert (tmp_path / "out.txt").read_text().split()[0] == job


@pytest.mark.needs_slurm
def test_srun_spreads_over_virtual_nodes(slurm, tmp_path, wait_until):
    job = submit(slurm, "srun sh -c 'echo $SLURMD_NODENAME'", "-N3", "-n6", cwd=tmp_path)
    assert wait_until(lambda: ended(slurm, job)) == "COMPLETED"
    names = (tmp_path / "out.txt").read_text().split()
    assert len(names) == 6
    assert len(set(names)) == 3


@pytest.mark.needs_slurm
@pytest.mark.needs_code("mpirun", "lmp")
@pytest.mark.parametrize("start", ["srun --mpi=pmix -n 2", "mpirun --bind-to none -np 2"])
def test_mpi_ranks_form_one_world_on_one_node(slurm, tmp_path, wait_until, start):
    (tmp_path / "in.lammps").write_text("units lj\n")
    root = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;"
    job = submit(slurm, f"{root} {start} lmp -in in.lammps -log none", "-n2", cwd=tmp_path)
    wait_until(lambda: ended(slurm, job), timeout=60)
    output = (tmp_path / "out.txt").read_text()
    assert state(slurm, job) == "COMPLETED", output
    # Two worlds of one rank each would greet twice.
    assert output.count("LAMMPS (") == 1, output


@pytest.mark.needs_slurm
def test_job_that_no_node_can_hold_is_refused(slurm, tmp_path):
    done = subprocess.run([slurm.folder / "bin" / "sbatch", "--mem=900G", "--wrap", "true"],
                          capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert "Memory specification can not be satisfied" in done.stderr


@pytest.mark.needs_slurm
@needs_history
def test_sacct_tells_how_a_job_ended(slurm, tmp_path, wait_until):
    job = submit(slurm, "exit 3", cwd=tmp_path)

    def told():
        seen = run(slurm, "sacct", "-n", "-X", "-P", "-j", job, "-o", "State,ExitCode").strip()
        return seen == "FAILED|3:0", seen

    wait_until(told)


# -- killed and stopped, on a Slurm of the test's own ----------------------------------------


@pytest.mark.needs_slurm
def test_stop_leaves_no_process_and_no_folder(own, tmp_path, wait_until):
    layout = own.start(nodes=2)
    mark = f"864{os.getpid()}"
    stubborn = f"trap '' TERM; sleep {mark} & srun sleep {mark} & while true; do sleep 1; done"
    job = submit(own, stubborn, "-N2", "-n2", cwd=tmp_path)
    wait_until(lambda: (len(find_processes(mark)) >= 3, find_processes(mark)))
    assert state(own, job) == "RUNNING"
    assert len(all_with(mark, layout.runtime)) >= 7  # four daemons, two steps, what they run
    assert own.stop() is True
    # Every daemon and job has the folder in its arguments or its environment.
    assert all_with(mark, layout.runtime) == []
    assert not Path(layout.runtime).exists()
    assert own.stop() is False


@pytest.mark.needs_slurm
@pytest.mark.parametrize("victim", ["slurmd", "slurmctld", "munged"])
def test_killed_daemon_is_reported_and_repaired(own, tmp_path, wait_until, victim):
    layout = own.start(nodes=2)
    job = submit(own, "sleep 300", cwd=tmp_path)
    wait_until(lambda: (state(own, job) == "RUNNING", state(own, job)))
    # slurmctld writes its state every few seconds; what it has not written, kill -9 takes.
    saved, now = own.folder / "slurmctld" / "job_state", time.time()
    run(own, "scontrol", "update", f"jobid={job}", "comment=kept")
    wait_until(lambda: saved.exists() and saved.stat().st_mtime > now)
    processes = own._daemons(layout)[victim]
    processes[0].signal(signal.SIGKILL)
    wait_until(lambda: not processes[0].alive())
    status = own.status()
    assert not status.running
    assert any(victim in problem and "does not run" in problem for problem in status.problems)
    own.start()
    assert own.status().running
    # The job has not noticed, and new ones run.
    assert state(own, job) == "RUNNING"
    other = submit(own, "true", cwd=tmp_path)
    assert wait_until(lambda: ended(own, other)) == "COMPLETED"


@pytest.mark.needs_slurm
@needs_history
def test_killed_history_is_reported_and_repaired_and_remembers(own, tmp_path, wait_until):
    layout = own.start(nodes=1, accounting=True)
    job = submit(own, "exit 3", cwd=tmp_path)

    def told():
        seen = run(own, "sacct", "-n", "-X", "-P", "-j", job, "-o", "State").strip()
        return seen == "FAILED", seen

    wait_until(told)
    for name in ("mariadbd", "slurmdbd"):
        (process,) = own._daemons(layout)[name]
        process.signal(signal.SIGKILL)
        wait_until(lambda p=process: not p.alive())
    assert {"mariadbd does not run", "slurmdbd does not run"} <= set(own.status().problems)
    own.start()
    assert own.status().running
    wait_until(told)
    own.stop()
    assert all_with(layout.runtime) == []


@pytest.mark.needs_slurm
def test_waiting_job_survives_stop_and_start(own, tmp_path, wait_until):
    own.start(nodes=1)
    job = submit(own, "echo hello", "--hold", cwd=tmp_path)
    own.stop()
    assert own.status().problems == ["stopped"]
    own.start()
    assert state(own, job) == "PENDING"
    run(own, "scontrol", "release", job)
    assert wait_until(lambda: ended(own, job)) == "COMPLETED"


@pytest.mark.needs_slurm
def test_other_numbers_are_refused_while_it_runs_and_taken_after_a_stop(own):
    own.start(nodes=1)
    with pytest.raises(LaunchError, match="runs already, with nodes = 1") as caught:
        own.start(nodes=2)
    assert "slurm stop" in caught.value.hint
    own.stop()
    own.start(nodes=2, cpus=3)
    assert own.status().nodes == {"n1": "idle", "n2": "idle"}
    assert own.status().cpus == 3


@pytest.mark.needs_slurm
def test_two_starts_at_once_make_one_slurm(tmp_path):
    project = tmp_path / "p"
    init_project(project)
    own = PrivateSlurm.of(project)
    both = [subprocess.Popen([ORIONFLOW, "slurm", "start", "--nodes", "2"], cwd=project, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    try:
        outputs = [(p.communicate(timeout=120), p.returncode) for p in both]
        assert [code for _, code in outputs] == [0, 0], outputs
        daemons = own._daemons(own.layout())
        assert {name: len(them) for name, them in daemons.items() if name != "slurmscriptd"} == {
            "munged": 1, "slurmctld": 1, "slurmd": 2}
        assert subprocess.run([ORIONFLOW, "slurm", "status"], cwd=project, capture_output=True,
                              check=False).returncode == 0
    finally:
        subprocess.run([ORIONFLOW, "slurm", "stop"], cwd=project, check=True, capture_output=True)
    assert own._daemons(own.layout()) == {}
    assert subprocess.run([ORIONFLOW, "slurm", "status"], cwd=project, capture_output=True,
                          check=False).returncode == 1


@pytest.mark.needs_slurm
def test_start_that_fails_leaves_no_daemon_behind(own, tmp_path, monkeypatch):
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    broken = fakes / "slurmd"  # as on a machine without cgroups, where the real one ends at once
    broken.write_text("#!/bin/sh\necho 'slurmd initialization failed' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fakes}:{os.environ['PATH']}")
    with pytest.raises(LaunchError, match="slurmd"):
        own.start(nodes=1)
    assert own._daemons(own.layout()) == {}


@pytest.mark.needs_slurm
def test_large_logs_begin_anew_under_running_daemons(own, tmp_path, monkeypatch, wait_until):
    own.start(nodes=1)
    monkeypatch.setattr(programs, "LOG_BYTES", 100)
    log = own.folder / "slurmctld.log"
    before = log.read_text()
    own.start()
    monkeypatch.undo()
    assert log.with_name("slurmctld.log.1").read_text().startswith(before)
    assert before not in log.read_text()
    job = submit(own, "true", cwd=tmp_path)
    wait_until(lambda: ended(own, job))
    # It goes on at the start of the file, without a hole of zero bytes.
    wait_until(lambda: (f"JobId={job}" in log.read_text(), log.read_text()))
    assert "\0" not in log.read_text()


@pytest.mark.needs_slurm
def test_long_project_path_works(tmp_path, wait_until):
    deep = tmp_path.joinpath(*["a 'very' long \"name\" of a folder" for _ in range(5)])
    own = PrivateSlurm.of(deep)
    try:
        own.start(nodes=1)
        job = submit(own, "srun echo hello", cwd=deep)
        assert wait_until(lambda: ended(own, job)) == "COMPLETED"
        assert (deep / "out.txt").read_text() == "hello\n"
    finally:
        own.stop()


@pytest.mark.needs_slurm
def test_broken_configuration_tells_slurmctlds_own_words(own, monkeypatch):
    monkeypatch.setattr(module, "slurm_conf", lambda _: "ClusterName=x\nNoSuchKey=1\n")
    with pytest.raises(LaunchError, match="slurmctld does not start: "):
        own.start(nodes=1)


@pytest.mark.needs_slurm
def test_commands_of_a_stopped_slurm_say_how_to_start_it(own):
    own.start(nodes=1)
    own.stop()
    done = subprocess.run([own.folder / "bin" / "squeue"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 1
    assert "orionflow slurm start" in done.stderr


@pytest.mark.needs_slurm
def test_another_account_cannot_submit(slurm):
    assert Path(slurm.layout().runtime).stat().st_mode & 0o077 == 0
    assert slurm.folder.stat().st_mode & 0o077 == 0
    assert (slurm.folder / "munge.key").stat().st_mode & 0o077 == 0
    if os.geteuid() == 0:  # only root can try as another account
        _submit_as_nobody(slurm)


def _submit_as_nobody(slurm):
    with tempfile.TemporaryDirectory() as base:  # it even knows the configuration
        Path(base).chmod(0o755)
        conf = shutil.copy(slurm.folder / "slurm.conf", base)
        Path(conf).chmod(0o644)
        done = subprocess.run(["sbatch", "--wrap", "id"], user=65534, group=65534, cwd="/",
                              extra_groups=[], env={**os.environ, "SLURM_CONF": conf},
                              capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode != 0
        assert "authenti" in done.stderr.lower() or "munge" in done.stderr.lower(), done


AS_NOBODY = """
import os, pwd, sys, subprocess, time
from pathlib import Path
import encodings.idna, yaml, logging, multiprocessing
from orionflow.launchers.services.slurm import PrivateSlurm
from orionflow.launchers.services import accounting
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534); os.environ["HOME"] = "/nonexistent"
for name in ("USER", "LOGNAME"): os.environ.pop(name, None)
project = Path(sys.argv[1]); os.chdir(project)
s = PrivateSlurm.of(project)
s.start(nodes=2, accounting=True)
try:
    assert s.status().running, s.status()
    bin = s.folder / "bin"
    job = subprocess.run([bin / "sbatch", "--parsable", "-N2", "-n2", "-o", "out.txt", "--wrap",
                          "srun id -u"], text=True, stdout=-1, check=True).stdout.strip()
    ask = [bin / "sacct", "-n", "-X", "-P", "-j", job, "-o", "State,User"]
    end = time.time() + 30
    done = "COMPLETED|" + pwd.getpwuid(os.getuid()).pw_name
    while (seen := subprocess.run(ask, text=True, stdout=-1).stdout.strip()) != done:
        assert time.time() < end, seen
        time.sleep(0.2)
finally:
    s.stop()
assert not s._daemons(s.layout())
print(*Path("out.txt").read_text().split())
"""


@pytest.mark.needs_slurm
@needs_history
def test_ordinary_account_runs_it_all():
    with tempfile.TemporaryDirectory() as base:
        account = 65534 if os.geteuid() == 0 else os.geteuid()
        os.chown(base, account, -1)
        done = subprocess.run([sys.executable, "-c", AS_NOBODY, base], capture_output=True,
                              text=True, check=False)
        assert done.stdout.split() == [str(account)] * 2, done.stderr
