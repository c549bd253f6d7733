"""`orionflow agent` and `orionflow audit`: what a person does about agents."""

import json

import pytest
from typer.testing import CliRunner

from orionflow.cli import app
from orionflow.errors import ConfigError, PolicyError

pytestmark = pytest.mark.needs_mongod
PLAN = {"recipe": "lammps.static", "resources": {"walltime": 3600, "ranks": 2},
        "structure": {"type": "prototype", "formula": "Cu", "prototype": "fcc", "a": 3.6},
        "parameters": [{"name": "force_field", "value": "Cu_mishin"}]}


def run(*words):
    done = CliRunner().invoke(app, [*words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def call(tool, arguments):
    return json.loads(run("agent", "call", tool, json.dumps(arguments), "--agent", "bot"))


def test_person_writes_the_policy_approves_stops_and_reads_the_trail(project):
    with pytest.raises(PolicyError, match="may not use the recipe"):
        call("plan_workflow", PLAN)
    assert "agent_policy.yaml" in run("agent", "init")
    with pytest.raises(ConfigError, match="exists"):
        run("agent", "init")
    policy = project / "agent_policy.yaml"
    policy.write_text(policy.read_text().replace("approval_above: 2.0", "approval_above: 1.0"))
    plan = call("plan_workflow", PLAN)
    assert plan["needs_approval"]
    request = {"plan_id": plan["plan_id"], "key": "from-shell-1"}
    with pytest.raises(PolicyError, match="needs a person's approval"):
        call("commit", request)
    assert plan["plan_id"] in run("agent", "approvals")
    assert "2 core-hours" in run("agent", "approve", plan["plan_id"])
    run("agent", "stop", "lunch")
    with pytest.raises(PolicyError, match="lunch"):
        call("commit", request)
    run("agent", "resume")
    assert call("commit", request)["fw_ids"] == [1]
    assert "no plan waits" in run("agent", "approvals")
    trail = run("audit", "show", "--last", "50")
    for words in ("may not use the recipe", "approve plan-", "stop lunch", "refused [stop]"):
        assert words in trail
    head = json.loads(run("audit", "verify", "-o", "json"))
    assert "unbroken" in run("audit", "verify", "--head", f"{head['last']}:{head['hash'][:16]}")


def test_token_is_shown_once_and_revoked_by_its_id(project):
    text = run("agent", "token", "create", "bot", "--scope", "read").splitlines()[0]
    token_id = text.split("_")[1]
    listed = run("agent", "token", "list")
    assert "valid" in listed
    assert text not in listed
    assert "revoked" in run("agent", "token", "revoke", token_id)
    assert "revoked" in run("agent", "token", "list")


def test_tools_are_listed_with_their_schemas():
    found = json.loads(run("agent", "tools", "-o", "json"))
    assert {"plan_workflow", "commit", "campaign_digest"} <= {t["name"] for t in found}
    assert json.loads(run("agent", "tools", "commit"))["additionalProperties"] is False
