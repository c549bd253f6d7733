"""What a job returned, without importing what it is made of.

FireWorks decodes the fireworks an action adds into objects, and with them the jobs' own modules,
only to store them again. The launcher passes them on as they are.
"""

from __future__ import annotations

from typing import Any

from fireworks.core.firework import Firework, FWAction, Workflow
from fireworks.utilities.fw_serializers import reconstitute_dates


class _RawTask(dict[str, Any]):
    """A Firetask as stored."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as stored."""
        return dict(self)


def read_action(data: dict[str, Any] | None) -> FWAction | None:
    """Return the action of ``FWAction.to_dict()``, its contents as they were stored.

    Parameters
    ----------
    data
        Plain values; None for no action.

    Raises
    ------
    KeyError, TypeError, ValueError
        They are no action: made by a job's own code.
    """
    if data is None:
        return None
    try:
        return _action(data)
    except AttributeError as error:
        raise ValueError(f"no action: {error}") from error


def _action(data: dict[str, Any]) -> FWAction:
    return FWAction(
        data["stored_data"], data["exit"], data["update_spec"], data["mod_spec"],
        [_workflow(w) for w in data["additions"]], [_workflow(w) for w in data["detours"]],
        [{**a, "workflow": _workflow(a["workflow"])} for a in data.get("append_wfs") or []],
        data["defuse_children"], data.get("defuse_workflow", False), data.get("propagate", False))


def _workflow(data: dict[str, Any]) -> Workflow:
    if "fws" not in data:
        return Workflow.from_firework(_firework(data))
    return Workflow([_firework(fw) for fw in data["fws"]],
                    Workflow.Links.from_dict(data["links"]), data.get("name"), data["metadata"],
                    reconstitute_dates(data.get("created_on")),
                    reconstitute_dates(data.get("updated_on")))


def _firework(data: dict[str, Any]) -> Firework:
    spec = data["spec"]
    return Firework([_RawTask(t) for t in spec["_tasks"]], spec, data.get("name"),
                    state=data.get("state", "WAITING"),
                    created_on=reconstitute_dates(data.get("created_on")),
                    updated_on=reconstitute_dates(data.get("updated_on")),
                    fw_id=data.get("fw_id", -1))
