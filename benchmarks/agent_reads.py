"""How long the agents' read tools take beside campaigns of 500 and 1,000 candidates.

    python benchmarks/agent_reads.py [--candidates 500 1000] [--rounds 20]

A project of its own on a MongoDB of its own: a campaign with so many candidates (flows, fireworks,
launches and results of the size real ones have), five small ones beside it. `first` is the first
call of a process, which has everything to read; `best` and `worst` are of the calls after it, each
of which finds a new row in the ledger.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import print_json, show

from orionflow.agents.api import AgentApi, Caller
from orionflow.agents.backend import Backend
from orionflow.agents.campaign_document import Campaign, CampaignState
from orionflow.agents.candidates import build, load
from orionflow.agents.policy import EXAMPLE
from orionflow.agents.proposers import get_proposer
from orionflow.agents.records import CandidateState
from orionflow.agents.space import hash_point
from orionflow.agents.tools import tools
from orionflow.launchers.project import init_project
from orionflow.launchers.services.mongod import Mongod
from orionflow.workflows.compile import compile_flow

if TYPE_CHECKING:
    from orionflow.agents.space import Point

BOT = Caller("bot", ("read",), "stdio", "ada")
DOCUMENT = """
name: {name}
owner: agent:bot
objectives: [{{path: output.energy_per_atom}}]
space:
  variables:
  - {{type: mixture, name: alloy, parts: {{Cu: [0, 32], Ni: [0, 32]}}, total: 32, step: 1}}
  - {{type: continuous, name: pressure, low: 0, high: 200000}}
recipe: lammps.minimize
mapping:
  structure: "{{alloy}} fcc 3.57 random 7"
  parameters: {{force_field: CuNi, relax_cell: true, couple: iso}}
  variables: {{pressure: pressure}}
budget: {{core_hours: 1000, core_hours_each: 0.02, evaluations: 5000}}
stopping: {{failure_rate: 1.0}}
"""


def fill(backend: Backend, name: str, count: int) -> None:
    """Add a campaign with so many settled candidates, one in ten failed, and their jobs."""
    campaign = Campaign.from_yaml(DOCUMENT.format(name=name))
    ledger, pad = backend.ledger, backend.pad
    ledger.prepare()
    ledger.create(campaign, who="ada")
    ledger.change_state(name, CampaignState.RUNNING, reason="", who="ada")
    points = get_proposer("sobol")(campaign.space, [], [], count, 1)
    built = build(campaign, points[0])
    firework = compile_flow(load(built.text), campaign=name, owner=campaign.owner,
                            resources={"walltime": 60}).fws[0].to_db_dict()
    first = pad.get_new_fw_id(count)
    view = ledger.view(name)
    for n, point in enumerate(points):
        seq = ledger.propose(view, point, source="bayesian", who="ada", flow=built.text,
                             expects=f"result-{name}-{n}")
        view.head = seq
        _job(backend, firework, first + n, name, n)
        if seq is not None:
            _settle(backend, name, seq, first + n, n)
        view = _moved(backend, view, name)


def _moved(backend: Backend, view: Any, name: str) -> Any:
    """Return the view as far as `propose` needs it: reading all rows each time takes minutes."""
    last = backend.ledger.rows.find_one({"campaign": name}, {"seq": 1}, sort=[("seq", -1)])
    view.head = last["seq"] if last else 0
    return view


def _settle(backend: Backend, name: str, seq: int, fw_id: int, n: int) -> None:
    ledger = backend.ledger
    for kind, body, once, cost in (
            ("submitted", {"candidate": seq, "fw_ids": [fw_id]}, f"submitted:{seq}", 0),
            ("settled", {"candidate": seq, "core_seconds": 20, "result": f"result-{name}-{n}",
                         "state": (CandidateState.DONE if n % 10 else CandidateState.FAILED).value,
                         "values": [-3.5 + n / 1e4] if n % 10 else None,
                         "reason": "" if n % 10 else "infrastructure: the node went away"},
             f"settled:{seq}", 20 - 72)):
        last = ledger.rows.find_one({"campaign": name}, sort=[("seq", -1)])
        from orionflow.agents.records import Kind

        ledger._insert(name, last, Kind(kind), body, who="ada", cost=cost, once=once)  # noqa: SLF001  by the thousand


def _job(backend: Backend, firework: dict[str, Any], fw_id: int, name: str, n: int) -> None:
    """Store a job as it is when it has run: firework, launch, workflow, result."""
    pad, at = backend.pad, (datetime.now(UTC) - timedelta(seconds=5000 - n)).isoformat()
    done = bool(n % 10)
    fw = copy.deepcopy(firework)
    fw.update(fw_id=fw_id, name=f"{name} {n}", launches=[fw_id], archived_launches=[],
              state="COMPLETED" if done else "FIZZLED", updated_on=at, created_on=at)
    failed = {"_exception": {"_stacktrace": "Traceback\n" * 40, "_details": {
        "error": "CodeError", "message": "LAMMPS_KILLED: by a signal", "failure_id":
        "LAMMPS_KILLED", "transient": True}}}
    pad.fireworks.insert_one(fw)
    pad.launches.insert_one({"launch_id": fw_id, "fw_id": fw_id, "state": fw["state"],
                             "launch_dir": "/nowhere", "host": "node1",
                             "action": {"stored_data": {} if done else failed}})
    pad.workflows.insert_one({"nodes": [fw_id], "name": fw["name"], "state": fw["state"],
                              "links": {}, "parent_links": {}, "fw_states": {}, "created_on": at,
                              "metadata": {"campaign": name, "submit_key": f"{name}:{n}"}})
    if done:
        backend.store.docs_store.update([{
            "uuid": f"result-{name}-{n}", "index": 1, "completed_at": at,
            "metadata": {"campaign": name, "fw_id": fw_id, "owner": "agent:bot"},
            "output": {"task_label": "minimize", "formula_pretty": "CuNi", "nsites": 32,
                       "code": "lammps", "structure": fw["spec"]["_tasks"], "warnings": [],
                       "output": {"energy": -112.0, "energy_per_atom": -3.5 + n / 1e4},
                       "provenance": {"run": {"core_seconds": 20.0, "corrections": []},
                                      "files": [{"name": "log.lammps", "sha256": "0" * 64}] * 8}},
        }], key=["uuid", "index"])


def arguments(name: str, fw_id: int) -> dict[str, dict[str, Any]]:
    """Return what each tool is asked."""
    return {"campaign_digest": {"campaign": name}, "list_candidates": {"campaign": name},
            "list_results": {"campaign": name}, "list_failures": {"campaign": name},
            "list_recipes": {"recipe": "lammps.static"}, "job_status": {"fw_id": fw_id},
            "provenance": {"result": f"result-{name}-1"}}


def measure(backend: Backend, name: str, rounds: int) -> dict[str, list[float]]:
    """Return for each tool the seconds of its calls, the first one first."""
    fw_id = backend.pad.fireworks.find_one({"spec.campaign": name}, {"fw_id": 1})["fw_id"]
    asked = arguments(name, fw_id)
    found: dict[str, list[float]] = {}
    for tool in tools(("read",)):
        if tool.name == "plan_status":
            continue  # reads one document by its id
        times = []
        with Backend(backend.project) as fresh:
            _ = fresh.store  # imports for seconds, once in a server's life
            api = AgentApi(fresh)
            for n in range(rounds + 1):
                point: Point = {"alloy": {"Cu": 16.0, "Ni": 16.0},
                                "pressure": round(time.time() % 1e5, 6)}
                view = fresh.ledger.view(name)
                fresh.ledger.propose(view, point, source=f"user {n}", who="ada",
                                     expects=hash_point(point))
                begin = time.perf_counter()
                api.call(BOT, tool.name, asked.get(tool.name, {}))
                times.append(time.perf_counter() - begin)
        found[tool.name] = times
    return found


def main() -> None:
    """Print one table a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--candidates", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for count in args.candidates:
        with tempfile.TemporaryDirectory(prefix="orion-bench-") as name:
            folder = Path(name)
            server = Mongod(folder / "mongo", cache_gb=0.5)
            server.start()
            try:
                init_project(folder / "p", machine="local", database=server.access(name="reads"))
                os.chdir(folder / "p")
                (folder / "p" / "agent_policy.yaml").write_text(EXAMPLE)
                with Backend(folder / "p") as backend:
                    for other in range(5):
                        fill(backend, f"small{other}", 20)
                    fill(backend, "big", count)
                    times = measure(backend, "big", args.rounds)
            finally:
                os.chdir("/")
                server.stop()
        rows = [[tool, *(1000 * t for t in (seconds[0], min(seconds[1:]), max(seconds[1:])))]
                for tool, seconds in times.items()]
        show(f"Read tools beside {count} candidates, ms", ["tool", "first", "best", "worst"], rows)
        results[str(count)] = {r[0]: [round(x, 1) for x in r[1:]] for r in rows}
    print_json("agent_reads", {"ms": results})


if __name__ == "__main__":
    main()
