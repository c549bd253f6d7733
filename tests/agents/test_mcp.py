"""The SDK's own client against our server: over stdio and HTTP, with a job that LAMMPS runs."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from orionflow.agents.backend import Backend

pytestmark = [pytest.mark.needs_mongod, pytest.mark.needs_code("lmp")]
ORIONFLOW = str(Path(sys.executable).with_name("orionflow"))
POLICY = """
recipes: {lammps.static: {parameters: {force_field: {choices: [Cu_mishin]}}}}
job: {walltime: 600}
core_hours_per_day: 2.0
open_fireworks: 5
approval_above: 1.0
"""
PLAN = {"recipe": "lammps.static", "resources": {"walltime": 600}, "campaign": "copper",
        "structure": {"type": "prototype", "formula": "Cu", "prototype": "fcc", "a": 3.615},
        "parameters": [{"name": "force_field", "value": "Cu_mishin"}]}


@pytest.fixture
def served(project):
    (project / "agent_policy.yaml").write_text(POLICY)
    return project


async def ask(client, tool, arguments=None):
    """Return whether a call went well, and its answer or the words it was refused with."""
    result = await client.call_tool(tool, arguments or {})
    text = result.content[0].text
    return (False, text) if result.is_error else (True, json.loads(text))


async def story(client, key):
    """Digest, plan, commit, watch, result: as an agent goes about it."""
    ok, found = await ask(client, "list_campaigns")
    assert ok, found
    ok, plan = await ask(client, "plan_workflow", PLAN)
    assert ok, plan
    ok, said = await ask(client, "commit", {"plan_id": plan["plan_id"], "key": key,
                                            "dryrun": True})
    assert not ok
    assert "dryrun: unknown name" in said
    ok, receipt = await ask(client, "commit", {"plan_id": plan["plan_id"], "key": key})
    assert ok, receipt
    ok, again = await ask(client, "commit", {"plan_id": plan["plan_id"], "key": key})
    assert again == receipt
    (fw_id,) = receipt["fw_ids"]
    ok, before = await ask(client, "job_status", {"fw_id": fw_id})
    assert before["states"] == {"READY": 1}
    run = await anyio.run_process([ORIONFLOW, "launch"], check=False)
    assert run.returncode == 0, run.stderr
    ok, watched = await ask(client, "job_status", {"fw_id": fw_id})
    assert (watched["ended"], watched["states"]) == (True, {"COMPLETED": 1})
    result = watched["rows"][0]["result"]
    ok, digest = await ask(client, "campaign_digest", {"campaign": "copper"})
    assert ok, digest
    assert digest["results"] >= 1
    ok, rows = await ask(client, "list_results", {"campaign": "copper"})
    row = next(r for r in rows["rows"] if r["result"] == result)
    # Mishin's potential: -3.54 eV at 3.615 Å, Phys. Rev. B 63, 224106 (2001).
    assert row["energy_per_atom_ev"] == pytest.approx(-3.54, abs=0.01)
    ok, origin = await ask(client, "provenance", {"result": result})
    assert origin["workflow"]["submit_key"] == f"{origin['workflow']['owner']}:{key}"
    return [t.name for t in (await client.list_tools()).tools]


def test_client_over_stdio_reads_plans_commits_watches_and_gets_the_result(served):
    async def talk():
        server = StdioServerParameters(
            command=ORIONFLOW, args=["agent", "serve", "--agent", "visitor"], cwd=served,
            env={k: v for k, v in os.environ.items() if k != "ORIONFLOW_PROJECT"})
        async with Client(server) as client:
            return await story(client, "stdio-run-1")

    assert "commit" in anyio.run(talk)
    with Backend(served) as backend:
        calls = [r for r in backend.audit.rows() if r["kind"] == "call"]
        assert {(r["agent"], r["via"]) for r in calls} == {("visitor", "stdio")}
        assert [r["tool"] for r in calls].count("commit") == 3
        backend.audit.verify()


@contextlib.contextmanager
def http_server(project):
    with subprocess.Popen([ORIONFLOW, "agent", "serve", "--http", "--port", "0"], cwd=project,
                          stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("serving http://127.0.0.1:"), line
            yield line.split()[1]
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def connected(url, token):
    headers = {"Authorization": f"Bearer {token}"}
    async with (httpx2.AsyncClient(headers=headers, timeout=60) as http,
                Client(streamable_http_client(url, http_client=http)) as client):
        yield client


def test_client_over_http_needs_a_token_and_its_scopes(served):
    with Backend(served) as backend:
        token, made = backend.tokens.create("bot", ["read", "propose"], days=1, by="ada")
        reader, _ = backend.tokens.create("eyes", ["read"], days=1, by="ada")
        stored = json.dumps(backend.database.agent_tokens.find_one({"_id": made.id}), default=str)
        assert token.rpartition("_")[2] not in stored

        async def talk(url):
            async with connected(url, token) as client:
                names = await story(client, "http-run-1")
                assert "plan_workflow" in names
                assert "plan_control" not in names
            async with connected(url, reader) as client:
                ok, said = await ask(client, "plan_workflow", PLAN)
                assert (ok, "scope propose" in said) == (False, True)
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
            async with httpx2.AsyncClient(timeout=30) as http:
                async def status(**headers):
                    reply = await http.post(url, json=body, headers={
                        "Accept": "application/json, text/event-stream", **headers})
                    return reply.status_code

                right = {"Authorization": f"Bearer {reader}"}
                assert await status() == 401
                assert await status(Authorization=f"Bearer {token[:-1]}") == 401
                assert await status(**right, Host="evil.example") == 421
                assert await status(**right, Origin="http://evil.example") == 403
                assert await status(**right) not in {401, 403, 421}
                backend.tokens.revoke(reader.split("_")[1])
                assert await status(**right) == 401

        with http_server(served) as url:
            anyio.run(talk, url)
        agents = {(r["agent"], r["via"], r["user"]) for r in backend.audit.rows()
                  if r["kind"] == "call"}
        assert ("bot", "http", f"token {made.id}") in agents
        assert token.rpartition("_")[2] not in json.dumps(backend.audit.rows())
