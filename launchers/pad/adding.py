"""Adding workflows so that who dies on the way leaves nothing that could run half.

Fireworks come first, as WAITING, which nobody claims; then the workflow documents, complete; then
the roots become READY.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from fireworks.core.firework import Firework, Workflow

from orionflow.launchers.pad.documents import Doc, chunks, now_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orionflow.launchers.pad.launchpad import OrionLaunchPad


def add_workflows(pad: OrionLaunchPad, wfs: Iterable[Workflow | Firework]) -> list[dict[int, int]]:
    """Add workflows, each whole or not at all.

    Returns
    -------
    list of dict
        New firework id of each old one, a dict for each workflow.
    """
    flows = [Workflow.from_firework(wf) if isinstance(wf, Firework) else wf for wf in wfs]
    if not flows:
        return []
    maps = number(pad, flows)
    insert_fireworks(pad, flows)
    pad.workflows.insert_many([wf.to_db_dict() for wf in flows])
    set_free(pad, [root for wf in flows for root in wf.root_fw_ids])
    return maps


def number(pad: OrionLaunchPad, flows: list[Workflow], *,
           built_first: bool = False) -> list[dict[int, int]]:
    """Give new fireworks their ids, and their roots the state READY in the workflow.

    Parameters
    ----------
    pad, flows
        LaunchPad and new workflows.
    built_first
        The firework that was built first gets the lowest id; otherwise the one with the lowest
        old id, as FireWorks has it.
    """
    next_id = pad.get_new_fw_id(quantity=sum(len(wf) for wf in flows))
    maps: list[dict[int, int]] = []
    for wf in flows:
        ids = {old: next_id + n
               for n, old in enumerate(sorted(wf.id_fw, reverse=built_first))}
        next_id += len(ids)
        for fw in wf:
            fw.fw_id = ids[fw.fw_id]
        wf._reassign_ids(ids)  # noqa: SLF001  the base class does the same
        maps.append(ids)
        for root in wf.root_fw_ids:
            wf.id_fw[root].state = "READY"
            wf.fw_states[root] = "READY"
    return maps


def insert_fireworks(pad: OrionLaunchPad, flows: Iterable[Workflow]) -> list[Doc]:
    """Insert fireworks so that nobody can claim them yet; return their documents."""
    docs = [fw.to_db_dict() for fw in chain.from_iterable(flows)]
    for doc in docs:
        if doc["state"] == "READY":
            doc["state"] = "WAITING"
    pad.fireworks.insert_many(docs)
    return docs


def set_free(pad: OrionLaunchPad, roots: list[int]) -> None:
    """Make the roots of stored workflows READY."""
    for part in chunks(roots):
        pad.fireworks.update_many({"fw_id": {"$in": part}, "state": "WAITING"},
                                  {"$set": {"state": "READY", "updated_on": now_text()}})
