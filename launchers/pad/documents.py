"""FireWorks' documents without FireWorks' objects: states, times, launches, as stored.

Decoding a spec into objects costs most of a short job and imports whatever the job needs; the
bookkeeping here needs neither.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fireworks.core.firework import Firework
from fireworks.utilities.fw_serializers import recursive_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from fireworks.core.firework import FWAction

Doc = dict[str, Any]

RANKS: dict[str, int] = Firework.STATE_RANKS
#: A launch or firework on its way.
LIVE = ("RUNNING", "RESERVED")
#: States a refresh leaves alone.
HELD = frozenset({"DEFUSED", "PAUSED", "ARCHIVED"})
#: In the stored data of a launch that was given up: its firework is to run again, with these
#: entries of its spec.
PUT_BACK = "_put_back"
FINISHED = ("COMPLETED", "FIZZLED")
#: Workflows above this many fireworks are not written at every claim.
BIG = 500
#: What lies half done for less than this may be somebody at work, s.
GRACE = 15.0
#: Documents asked for in one query.
CHUNK = 10_000


def chunks(ids: Sequence[Any], size: int = CHUNK) -> Iterable[list[Any]]:
    """Return the ids in lists that fit into one query."""
    return (list(ids[i:i + size]) for i in range(0, len(ids), size))


def now_text() -> str:
    """Return the time as FireWorks stores it: ISO 8601 text, UTC."""
    return datetime.now(UTC).isoformat()


def now() -> datetime:
    """Return the time, UTC: workflows have dates where fireworks and launches have text."""
    return datetime.now(UTC)


def as_time(value: object) -> datetime | None:
    """Return the time of a stored value: text, or a date that PyMongo returned without a zone."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def plain(value: object) -> Any:
    """Return a deep copy as it will be stored (FireWorks' serialisation)."""
    return recursive_dict(value)


def representative(launches: Iterable[Doc]) -> Doc | None:
    """Return the launch that decides a firework's state: the furthest, and the latest completed."""
    best: Doc | None = None
    completed: list[Doc] = []
    for launch in launches:
        if RANKS[launch["state"]] > (RANKS["ARCHIVED"] if best is None else RANKS[best["state"]]):
            best = launch
        if launch["state"] == "COMPLETED":
            completed.append(launch)
    if completed:
        return max(completed, key=lambda d: as_time(d.get("time_end"))
                   or datetime.min.replace(tzinfo=UTC))
    return best


def workflow_state(links: Mapping[int, Collection[int]],  # noqa: PLR0911  one for each rule
                   states: Mapping[int, str],
                   allows_fizzled: Callable[[set[int]], set[int]]) -> str:
    """Return the state of a workflow, by FireWorks' rules, in linear time.

    Parameters
    ----------
    links
        Children of every firework.
    states
        State of every firework.
    allows_fizzled
        Of the given fireworks, those with ``_allow_fizzled_parents``.
    """
    present = set(states.values())
    if all(states[i] == "COMPLETED" for i, kids in links.items() if not kids):
        return "COMPLETED"
    if present == {"ARCHIVED"}:
        return "ARCHIVED"
    for state in ("DEFUSED", "PAUSED"):
        if state in present:
            return state
    if "FIZZLED" in present:
        fizzled = [i for i, s in states.items() if s == "FIZZLED"]
        if not all(links[i] for i in fizzled):
            return "FIZZLED"
        kids = {k for i in fizzled for k in links[i]}
        return "RUNNING" if allows_fizzled(kids) == kids else "FIZZLED"
    if present & {"COMPLETED", "RUNNING"}:
        return "RUNNING"
    return "RESERVED" if "RESERVED" in present else "READY"


def finish_launch(launch: Doc, state: str, action: Doc | None, *,
                  checkpoint: object = None) -> tuple[Doc, Doc]:
    """Return the ``$set`` and the ``$push`` that end a launch now.

    Parameters
    ----------
    launch
        The stored launch; ``time_start`` and ``state_history`` are used.
    state
        COMPLETED or FIZZLED.
    action
        Stored form of its FWAction, or None to leave what is there.
    checkpoint
        Carried over to a FIZZLED launch, from which it can be recovered.
    """
    now = datetime.now(UTC)
    start = as_time(launch.get("time_start"))
    fields: Doc = {
        "state": state, "time_end": now.isoformat(),
        "runtime_secs": (now - start).total_seconds() if start else None,
    }
    if action is not None:
        fields["action"] = action
    entry: Doc = {"state": state, "created_on": now.isoformat()}
    if state != "COMPLETED" and checkpoint:
        entry["checkpoint"] = checkpoint
    return fields, {"state_history": entry}


def given_up(launch: Doc) -> bool:
    """Return whether a launch has ended without a result, so that its firework is to run again."""
    stored = (launch.get("action") or {}).get("stored_data")
    return launch["state"] == "FIZZLED" and isinstance(stored, dict) and PUT_BACK in stored


def changes_graph(action: FWAction | None) -> bool:
    """Return whether an action adds fireworks."""
    return action is not None and bool(action.additions or action.detours or action.append_wfs)


def touches_children(action: FWAction | None) -> bool:
    """Return whether an action changes other fireworks than its own, apart from their turn."""
    return action is not None and bool(
        action.update_spec or action.mod_spec or action.defuse_children or action.defuse_workflow)


def set_path(spec: Doc, path: str, value: object) -> None:
    """Set an entry of nested dicts, named with dots as MongoDB does."""
    *outer, last = path.split(".")
    for name in outer:
        spec = spec.setdefault(name, {})
    spec[last] = value


def message_action(text: str, **stored: object) -> Doc:
    """Return a stored FWAction that only says something."""
    return {"stored_data": {"_message": text, **stored}, "exit": True, "update_spec": {},
            "mod_spec": [], "additions": [], "detours": [], "append_wfs": [],
            "defuse_children": False, "defuse_workflow": False, "propagate": False}
