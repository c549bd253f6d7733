"""Agents: `orionflow agent ...`, and the trail they leave: `orionflow audit ...`."""

from __future__ import annotations

import getpass
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orionflow.cli.output import OutputFormat, console, dump
from orionflow.errors import ConfigError, InputError

if TYPE_CHECKING:
    from orionflow.agents.api import Caller

Output = Annotated[OutputFormat | None, typer.Option(
    "--output", "-o", help="Print data instead of text.")]
Agent = Annotated[str, typer.Option("--agent", "-a", help="Name of the agent.")]
Scopes = Annotated[list[str] | None, typer.Option(
    "--scope", "-s", help="read, propose or control; repeatable; all unless given.")]
_ALL = ("read", "propose", "control")

agent = typer.Typer(no_args_is_help=True, help="What programs and language models may do here.")
token = typer.Typer(no_args_is_help=True, help="Tokens for clients that come over HTTP.")
audit = typer.Typer(no_args_is_help=True, help="What agents have asked and done.")
agent.add_typer(token, name="token")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(agent, name="agent")
    app.add_typer(audit, name="audit")


@agent.command("init")
def init_policy(
    *, force: Annotated[bool, typer.Option("--force", help="Replace an existing one.")] = False,
) -> None:
    """Write an `agent_policy.yaml` to start from; without one, agents may only read."""
    from orionflow.agents.policy import EXAMPLE, POLICY_FILE, load_policy
    from orionflow.workflows.compile import project_of

    project = project_of()
    path = project / POLICY_FILE
    if path.exists() and not force:
        raise ConfigError(f"{path} exists", hint="edit it; --force replaces it")
    path.write_text(EXAMPLE)
    path.chmod(0o644)
    load_policy(project)
    print(f"wrote {path}: read it, and change what does not suit you")


@agent.command("serve")
def serve(
    *,
    http: Annotated[bool, typer.Option(
        "--http", help="Over HTTP on this machine alone, for clients with a token; else stdio.",
    )] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 8765,
    agent: Agent = "agent",
    scope: Scopes = None,
) -> None:
    """Serve the tools of this project to an MCP client.

    Over stdio the client starts this command itself: whoever may start it is trusted, under the
    name given with --agent. Over HTTP a token says who calls, and what for.
    """
    try:
        from orionflow.agents import mcp
    except ImportError as error:
        raise ConfigError(f"the MCP SDK is not installed ({error.name})",
                          hint="pip install 'orionflow[agents]'") from error
    from orionflow.agents.backend import Backend

    with Backend() as backend:
        if http:
            mcp.serve_http(backend, port, lambda url: print(f"serving {url}", flush=True))
        else:
            mcp.serve_stdio(backend, _caller(agent, scope, "stdio"))


@agent.command("tools")
def list_tools(
    name: Annotated[str | None, typer.Argument(help="Show the schema of this one.")] = None,
    *, output: Output = None,
) -> None:
    """List the tools, or show the arguments of one."""
    from rich.table import Table

    from orionflow.agents.tools import get_tool, tools

    if name is not None:
        dump(get_tool(name).schema(), output or OutputFormat.JSON)
        return
    if output is not None:
        dump([{"name": t.name, "scope": t.scope, "description": t.description,
               "schema": t.schema()} for t in tools()], output)
        return
    table = Table("tool", "scope", "what it does", box=None)
    for tool in tools():
        table.add_row(tool.name, tool.scope, tool.summary)
    console().print(table)


@agent.command("call")
def call(
    tool: Annotated[str, typer.Argument(help="Name; see `orionflow agent tools`.")],
    arguments: Annotated[str, typer.Argument(
        metavar="JSON", help="Arguments as a JSON object; - reads them from stdin.")] = "{}",
    *, agent: Agent = "cli", scope: Scopes = None, output: Output = None,
) -> None:
    """Call a tool as an agent would: the same checks, budget and audit trail."""
    from orionflow.agents.api import AgentApi
    from orionflow.agents.backend import Backend

    text = sys.stdin.read() if arguments == "-" else arguments
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"the arguments are not JSON: {error}",
                         hint="""for example '{"campaign": "alloy"}'""") from error
    caller = _caller(agent, scope, "cli")
    with Backend() as backend:
        dump(AgentApi(backend).call(caller, tool, data), output or OutputFormat.JSON)


@agent.command("stop")
def stop(
    why: Annotated[str, typer.Argument(help="Why; agents are told.")] = "stopped by a person",
) -> None:
    """Refuse every write of every agent from now on, in all servers; reading goes on."""
    from orionflow.agents.backend import Backend

    who = getpass.getuser()
    with Backend() as backend:
        running = backend.accounts.stop(who, why)
        backend.audit.note(user=who, what="stop", text=why)
    print("agents are stopped; `orionflow agent resume` lets them go on")
    if running:
        print(f"{running} commit(s) had begun before, and are being finished", file=sys.stderr)


@agent.command("resume")
def resume() -> None:
    """Let agents write again."""
    from orionflow.agents.backend import Backend

    who = getpass.getuser()
    with Backend() as backend:
        # Written down first: whoever can't be named lets nobody go on.
        backend.audit.note(user=who, what="resume", text="")
        stopped = backend.accounts.resume()
    print("agents may write again" if stopped else "agents were not stopped")


@agent.command("approvals")
def approvals(*, output: Output = None) -> None:
    """List the plans that wait for a person."""
    from orionflow.agents.backend import Backend

    with Backend() as backend:
        waiting = backend.plans.waiting()
    if output is not None:
        dump([p.model_dump(mode="json", exclude={"payload"}) for p in waiting], output)
        return
    for plan in waiting:
        print(f"{plan.id}  {plan.agent}  {plan.core_seconds / 3600:.3g} core-hours  "
              f"until {plan.expires:%Y-%m-%d %H:%M} UTC\n    {plan.effect}")
    if not waiting:
        print("no plan waits for approval")


@agent.command("approve")
def approve(
    plan_id: Annotated[str, typer.Argument(metavar="PLAN", help="See `approvals`.")],
    *,
    refuse: Annotated[bool, typer.Option("--refuse", help="Do not agree.")] = False,
) -> None:
    """Agree to one plan exactly as it is, once; the agent then commits it."""
    from orionflow.agents.backend import Backend

    who = getpass.getuser()
    with Backend() as backend:
        plan = backend.plans.get(plan_id)
        word = "refuse" if refuse else "approve"
        print(f"{plan.agent}: {plan.effect}\n{plan.core_seconds / 3600:.3g} core-hours, plan "
              f"{plan.hash[:16]}")
        if sys.stdin.isatty():
            typer.confirm(f"{word}?", abort=True)
        backend.audit.note(user=who, what=word, text=f"{plan_id} {plan.hash}")
        (backend.plans.refuse if refuse else backend.plans.approve)(plan_id, who)
    print(f"{'refused' if refuse else 'approved'} by {who}")


@token.command("create")
def token_create(
    agent: Annotated[str, typer.Argument(help="Name of the agent.")],
    *,
    scope: Annotated[list[str] | None, typer.Option(
        "--scope", "-s", help="read, propose or control; repeatable; read unless given.")] = None,
    days: Annotated[float, typer.Option("--days", help="Until it expires.")] = 30.0,
) -> None:
    """Make a token; it is shown this once."""
    from orionflow.agents.api import check_agent
    from orionflow.agents.backend import Backend

    who = getpass.getuser()
    with Backend() as backend:
        text, made = backend.tokens.create(check_agent(agent), scope or ["read"], days=days, by=who)
        backend.audit.note(user=who, what="token create",
                           text=f"{made.id} for {agent}: {', '.join(made.scopes)}")
    print(text)
    print(f"token {made.id} of {agent} ({', '.join(made.scopes)}) until "
          f"{made.expires:%Y-%m-%d %H:%M} UTC; it is stored nowhere, keep it", file=sys.stderr)


@token.command("list")
def token_list(*, output: Output = None) -> None:
    """List tokens, without their text."""
    from dataclasses import asdict

    from rich.table import Table

    from orionflow.agents.backend import Backend

    with Backend() as backend:
        found = backend.tokens.all()
    if output is not None:
        dump([{**asdict(t), "state": t.state} for t in found], output)
        return
    table = Table("token", "agent", "scopes", "state", "expires (UTC)", "made by", box=None)
    for one in found:
        table.add_row(one.id, one.agent, ", ".join(one.scopes), one.state,
                      f"{one.expires:%Y-%m-%d %H:%M}", one.by)
    console().print(table)


@token.command("revoke")
def token_revoke(token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id.")]) -> None:
    """Make a token invalid at once."""
    from orionflow.agents.backend import Backend

    who = getpass.getuser()
    with Backend() as backend:
        found = backend.tokens.revoke(token_id)
        backend.audit.note(user=who, what="token revoke", text=token_id)
    print(f"token {found.id} of {found.agent} is {found.state}")


@audit.command("verify")
def verify(
    *,
    head: Annotated[str | None, typer.Option(
        "--head", metavar="ROW:HASH", help="A row remembered from before must still be there.",
    )] = None,
    output: Output = None,
) -> None:
    """Check that no row was changed, removed or put in.

    Only the end can be cut off unseen: note the last row and its hash elsewhere, and give them
    with --head the next time.
    """
    from orionflow.agents.backend import Backend

    with Backend() as backend:
        last, sha256 = backend.audit.verify(_head(head))
    if output is not None:
        dump({"rows": last + 1, "last": last, "hash": sha256}, output)
    else:
        print(f"{last + 1} row(s), unbroken; head {last}:{sha256[:16]}" if sha256
              else "the audit trail is empty")


@audit.command("show")
def show(
    *,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="So many rows.")] = 20,
    agent: Annotated[str | None, typer.Option("--agent", "-a", help="Calls of this one.")] = None,
    output: Output = None,
) -> None:
    """Show the newest rows, oldest first."""
    from orionflow.agents.backend import Backend

    with Backend() as backend:
        rows = backend.audit.rows(last=last, agent=agent)
    if output is not None:
        dump([{k: v for k, v in row.items() if k != "prev"} for row in rows], output)
        return
    for row in rows:
        print(f"{row['_id']:6d}  {row['at'][:19]}  {_line(row)}")


def _line(row: dict[str, Any]) -> str:
    from orionflow.agents.answers import clean_text

    if row["kind"] == "call":
        return clean_text(f"{row['agent']} ({row['via']}, {row['user']}) {row['tool']} "
                          f"{row['arguments']}", 200)
    if row["kind"] == "outcome":
        word = "ok" if row["ok"] else f"refused [{row['rule']}]" if row["rule"] else "refused"
        return clean_text(f"  -> {row['of']} {word}: {row['text']}", 200)
    return clean_text(f"{row['user']}: {row['what']} {row['text']}", 200)


def _head(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    number, _, sha256 = text.partition(":")
    if not number.isdecimal() or len(sha256) < 8:  # noqa: PLR2004  fewer say little
        raise InputError(f"--head {text!r} is not ROW:HASH",
                         hint="as `orionflow audit verify` prints it")
    return int(number), sha256


def _caller(name: str, scope: list[str] | None, via: str) -> Caller:
    from orionflow.agents.api import Caller
    from orionflow.agents.tokens import check_scopes

    return Caller(name, check_scopes(scope or _ALL), via, getpass.getuser())
