"""jobflow-remote beside us: in a virtual environment of its own, on the same MongoDB.

It is no dependency of ours; the environment is made when a folder for it is named (--remote).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import yaml
from rig import HERE, Cost

if TYPE_CHECKING:
    from pathlib import Path

    from rig import Rig

_POLL = 1  # s; its own choice is 30, which costs a chain 50 s a job
_PATIENCE = 900.0


class Remote:
    """One project of jobflow-remote.

    Parameters
    ----------
    rig
        Whose MongoDB it uses.
    venv
        Its virtual environment; made where there is none.
    batch
        Jobs run one after another in batches (its many jobs in one allocation), not each as a
        job of its own.
    """

    def __init__(self, rig: Rig, venv: Path, *, batch: bool, cores: int = 1) -> None:
        self.rig = rig
        self.venv = venv.absolute()
        _make(self.venv)
        self.name = f"remote{'_batch' if batch else ''}_{time.time_ns()}"
        self.folder = rig.folder / self.name
        for name in ("projects", "work", "handle", "base"):
            (self.folder / name).mkdir(parents=True)
        self.access = rig.mongod.access(self.name)
        self._configure(batch=batch, cores=cores)
        self._jf("admin", "reset", "--yes")

    def submit(self, shape: str, size: int) -> None:
        """Submit work that `rig_jobs.flows` knows by name."""
        script = ("import sys\nfrom rig_jobs import flows\n"
                  "from jobflow_remote import submit_flow\n"
                  "for flow in flows(sys.argv[1], int(sys.argv[2])):\n"
                  "    submit_flow(flow, worker='worker')\n")
        self._run([str(self.venv / "bin" / "python"), "-c", script, shape, str(size)])

    def work(self, jobs: int) -> Cost:
        """Have the runner run until so many jobs are COMPLETED."""
        trips, begin = self.rig.trips(), time.perf_counter()
        with (self.folder / "runner.out").open("ab") as out:
            runner = subprocess.Popen([str(self.venv / "bin" / "jf"), "runner", "run"],
                                      env=self._environment(), cwd=self.folder, stdout=out,
                                      stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            with self.rig.mongod.client() as client:
                found = client[self.name]["jobs"]
                while found.count_documents({"state": "COMPLETED"}) < jobs:
                    bad = found.find_one({"state": {"$in": ["FAILED", "REMOTE_ERROR"]}})
                    if bad or runner.poll() is not None or time.perf_counter() - begin > _PATIENCE:
                        raise RuntimeError(f"jobflow-remote: {bad or 'did not end'}, see "
                                           f"{self.folder}/runner.out")
                    time.sleep(0.1)
            wall = time.perf_counter() - begin
        finally:
            runner.send_signal(signal.SIGTERM)
            try:
                runner.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(runner.pid, signal.SIGKILL)
                runner.wait()
        return Cost(wall, float("nan"), self.rig.trips() - trips)

    def _configure(self, *, batch: bool, cores: int) -> None:
        store = {"type": "MongoStore", "host": self.access.host, "port": self.access.port,
                 "database": self.name, "username": self.access.username,
                 "password": self.access.password, "auth_source": self.access.auth_source}
        worker: dict[str, Any] = {
            "type": "local", "scheduler_type": "shell", "work_dir": str(self.folder / "work"),
            "max_jobs": cores,
            "pre_run": f"source {self.venv}/bin/activate; export PYTHONPATH={HERE}",
        }
        if batch:
            worker["batch"] = {"jobs_handle_dir": str(self.folder / "handle"),
                               "work_dir": str(self.folder / "work"), "parallel_jobs": cores}
        polled = ("checkout", "check_run_status", "advance_status", "update_batch")
        delays = {f"delay_{name}": _POLL for name in polled}
        (self.folder / "projects" / f"{self.name}.yaml").write_text(yaml.safe_dump({
            "name": self.name, "base_dir": str(self.folder / "base"), "log_level": "warn",
            "runner": delays, "workers": {"worker": worker},
            "queue": {"store": {**store, "collection_name": "jobs"}},
            "exec_config": {},
            "jobstore": {"docs_store": {**store, "collection_name": "outputs"}},
        }))

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JOBFLOW_", "ORIONFLOW_"))}
        return {**kept, "JFREMOTE_PROJECTS_FOLDER": str(self.folder / "projects"),
                "JFREMOTE_PROJECT": self.name, "PYTHONPATH": str(HERE)}

    def _jf(self, *words: str) -> None:
        self._run([str(self.venv / "bin" / "jf"), *words])

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, env=self._environment(), cwd=self.folder, check=False,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise RuntimeError(f"{command[:3]}: {done.stdout[-1500:]}{done.stderr[-1500:]}")


def _make(venv: Path) -> None:
    if (venv / "bin" / "jf").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", "jobflow-remote"], check=True)
