"""Writing what a graph wants changed, in an order that survives being killed anywhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orionflow.launchers.pad.locks import held

if TYPE_CHECKING:
    from pymongo import UpdateOne

    from orionflow.launchers.pad.graph import Graph
    from orionflow.launchers.pad.launchpad import OrionLaunchPad


# A lock older than this is asked for before anything is written, s.
_FRESH = 5.0


class LostLockError(ValueError):
    """The lock was broken by another: this process was not heard of for too long."""


def commit(graph: Graph, *, unlock: bool = True) -> None:
    """Write the changes of one graph, in an order that survives being killed anywhere.

    Raises
    ------
    LostLockError
        The lock was lost meanwhile (this process slept for a minute).
    """
    pad = graph.pad
    grows = graph.grows
    if grows:
        graph.insert_new()
    _ask_for_lock([graph])
    early, late = graph.firework_updates()
    if grows:
        if early:
            pad.fireworks.bulk_write(early)
        _write_workflows(pad, [graph.workflow_update(unlock=False)])
        if late:
            pad.fireworks.bulk_write(late)
        if unlock:
            pad.locks.release(graph.doc)
        return
    if early or late:
        pad.fireworks.bulk_write(early + late)
    _write_workflows(pad, [graph.workflow_update(unlock=unlock)])


def commit_together(pad: OrionLaunchPad, graphs: list[Graph]) -> None:
    """Write and unlock several graphs, in as few round trips as for one."""
    for graph in [g for g in graphs if g.grows]:
        commit(graph)
    plain_ones = [g for g in graphs if not g.grows]
    _ask_for_lock(plain_ones)
    updates = [u for g in plain_ones for group in g.firework_updates() for u in group]
    if updates:
        pad.fireworks.bulk_write(updates, ordered=False)
    if plain_ones:
        _write_workflows(pad, [g.workflow_update(unlock=True) for g in plain_ones])


def _ask_for_lock(graphs: list[Graph]) -> None:
    """Make sure that locks taken some time ago still hold."""
    for graph in graphs:
        monotonic, wall = graph.begun
        if max(time.monotonic() - monotonic, time.time() - wall) > _FRESH and (
                graph.pad.workflows.find_one(held(graph.doc), {"_id": 1}) is None):
            raise LostLockError("the lock of a workflow was lost")


def _write_workflows(pad: OrionLaunchPad, updates: list[UpdateOne]) -> None:
    done = pad.workflows.bulk_write(updates, ordered=False).matched_count
    if done < len(updates):
        raise LostLockError(f"{len(updates) - done} of {len(updates)} workflow locks were lost")
