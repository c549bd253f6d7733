"""What a refresh looks at in each firework; not its spec, which may be large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fireworks.core.firework import Firework

    from orionflow.launchers.pad.documents import Doc
    from orionflow.launchers.pad.graph_data import GraphData
    from orionflow.launchers.pad.launchpad import OrionLaunchPad

_VIEW = {
    "_id": 0, "fw_id": 1, "state": 1, "launches": 1, "settled": 1,
    "allows": "$spec._allow_fizzled_parents",
    "told": {"$ne": [{"$type": "$spec._fizzled_parents"}, "missing"]},
}


@dataclass
class View:
    """What a refresh looks at in one firework."""

    fw_id: int
    stored_state: str | None
    state: str
    launches: list[int]
    allows_fizzled: bool
    told_of_fizzled: bool
    settled: list[int]
    new: Firework | None = None
    spec: Doc | None = None
    rerun: bool = False


def load_views(pad: OrionLaunchPad, graphs: Iterable[GraphData], ids: Iterable[int]) -> None:
    """Load fireworks for several graphs in one query."""
    owners = {i: g for g in graphs for i in g.links}
    wanted = [i for i in dict.fromkeys(ids) if i in owners and i not in owners[i].views and i >= 0]
    for doc in pad.fireworks.find({"fw_id": {"$in": wanted}}, _VIEW) if wanted else ():
        owners[doc["fw_id"]].views[doc["fw_id"]] = View(
            doc["fw_id"], doc["state"], doc["state"], doc["launches"], bool(doc.get("allows")),
            doc["told"], doc.get("settled", []))
