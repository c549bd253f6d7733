"""The one door for agents, whoever opens it: MCP over stdio or HTTP, or the command line.

Each call is written down before it is judged, and its outcome after. Nothing else in `agents` that
changes something is reachable from a tool.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orionflow.agents.answers import MOST_BYTES, clean_text, size, without_folders
from orionflow.agents.commits import commit, make_plan
from orionflow.agents.requests import Commit
from orionflow.agents.tokens import check_scopes
from orionflow.agents.tools import get_tool, permitted
from orionflow.errors import InputError, OrionflowError, PolicyError, StoreError
from orionflow.log import get_logger

if TYPE_CHECKING:
    from orionflow.agents.backend import Backend
    from orionflow.agents.tools import Tool

log = get_logger(__name__)
_AGENT = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_SAID = 1_500


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes
    ----------
    agent
        Name under which work, budget and audit rows are kept.
    scopes
        Some of ``read``, ``propose``, ``control``.
    via
        ``stdio``, ``http`` or ``cli``.
    user
        Unix user, or the token's id.
    """

    agent: str
    scopes: tuple[str, ...]
    via: str
    user: str

    def __post_init__(self) -> None:
        """Refuse names that could be taken for something else."""
        check_agent(self.agent)
        check_scopes(self.scopes)


def check_agent(name: str) -> str:
    """Return the name of an agent; InputError when it can't be one."""
    if not _AGENT.fullmatch(name):
        raise InputError(f"{clean_text(name, 60)!r} is no name for an agent",
                         hint="small letters, digits, - and _; a letter first; at most 32")
    return name


class AgentApi:
    """Everything an agent can do in a project.

    Parameters
    ----------
    backend
        The project, open.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def call(self, caller: Caller, tool: str, arguments: object) -> dict[str, Any]:
        """Call a tool.

        Parameters
        ----------
        caller
            Who asks.
        tool
            Name.
        arguments
            As they came, right or wrong: plain JSON values.

        Returns
        -------
        dict
            Plain values of at most 12 kB as JSON.

        Raises
        ------
        InputError
            There is no such tool, or its arguments are wrong.
        PolicyError
            It is not allowed.
        StoreError
            MongoDB does not answer, or the audit trail can't be written: nothing has begun.
        """
        known = _known(tool)
        row = self.backend.audit.call(
            agent=caller.agent, via=caller.via, user=caller.user, tool=str(tool),
            arguments=arguments, durable=known is None or known.writes)
        began, said, ok, rule = time.monotonic(), "internal error", False, ""
        try:
            answer = self._answer(caller, str(tool), arguments)
            ok, said = True, str(answer.get("summary", ""))
        except OrionflowError as error:
            said, rule = error.message, getattr(error, "rule", "")
            raise
        finally:
            self._outcome(row, ok=ok, text=said, rule=str(rule), seconds=time.monotonic() - began)
        return answer

    def _answer(self, caller: Caller, name: str, arguments: object) -> dict[str, Any]:
        tool = get_tool(name)
        if not permitted(tool, caller.scopes):
            raise PolicyError(f"this agent may not call {name}", rule="scope", asked=tool.scope,
                              allowed=list(caller.scopes), hint=f"it needs the scope {tool.scope}")
        if not isinstance(arguments, dict):
            raise InputError(f"{name}: the arguments are no object", hint="see the tool's schema")
        try:
            request = tool.model.from_data(arguments, source=name)
        except InputError as error:  # its hint is for people who write YAML
            raise InputError(error.message, hint="see the tool's schema") from error
        except (RecursionError, ValueError) as error:
            raise InputError(f"{name}: the arguments can't be read",
                             hint="plain JSON, not so deeply nested") from error
        if isinstance(request, Commit):
            return commit(self.backend, caller.agent, caller.scopes, request.plan_id, request.key)
        if tool.kind is not None:
            return make_plan(self.backend, caller.agent, request)
        if tool.run is None:  # pragma: no cover  only commit has none
            raise TypeError(name)
        answer: dict[str, Any] = tool.run(self.backend, caller.agent, request)
        if size(answer) > MOST_BYTES:  # pragma: no cover  every reader bounds its rows
            raise StoreError(f"{name}: the answer is too long", hint="ask for less")
        return answer

    def _outcome(self, row: int, *, ok: bool, text: str, rule: str, seconds: float) -> None:
        try:
            self.backend.audit.outcome(row, ok=ok, text=text, rule=rule, seconds=seconds)
        except StoreError as error:
            # The call stands in the trail, and what it did in the database: the answer is true.
            log.warning("the outcome of call %d could not be written: %s", row, error.message)


def told(error: OrionflowError) -> str:
    """Return an error as an agent may read it: no folder, host or user of the machine."""
    if isinstance(error, (InputError, PolicyError)):
        text = error.message + (f". {error.hint}" if error.hint else "")
        return clean_text(without_folders(text), _SAID)
    if isinstance(error, StoreError) and error.transient:
        return clean_text(f"not now: {error.hint or 'try again'}", _SAID)
    return "the project is not in order; a person finds out more with: orionflow doctor"


def _known(tool: object) -> Tool | None:
    try:
        return get_tool(str(tool))
    except InputError:
        return None
