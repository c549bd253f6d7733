"""Indexes for what workers ask; stock FireWorks has none on ``_fworker``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymongo import ASCENDING, DESCENDING

if TYPE_CHECKING:
    from orionflow.launchers.pad.launchpad import OrionLaunchPad

#: A worker's query names the state, usually categories, and two values of ``_fworker``; it sorts by
#: priority. Both keep a worker with nothing to do from looking at every READY firework.
FIREWORKS = {
    "orion_category": [("state", ASCENDING), ("spec._category", ASCENDING),
                       ("spec._fworker", ASCENDING), ("spec._priority", DESCENDING),
                       ("created_on", ASCENDING)],
    "orion_worker": [("state", ASCENDING), ("spec._fworker", ASCENDING),
                     ("spec._priority", DESCENDING), ("created_on", ASCENDING)],
}


def create_indexes(pad: OrionLaunchPad) -> None:
    """Create what is missing of our indexes."""
    for name, keys in FIREWORKS.items():
        pad.fireworks.create_index(keys, name=name)
