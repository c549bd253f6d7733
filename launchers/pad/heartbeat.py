"""Signs of life: one update for one launch, or two round trips for all launches of a launcher."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orionflow.launchers.pad.documents import Doc, plain

if TYPE_CHECKING:
    from collections.abc import Collection

    from orionflow.launchers.pad.launchpad import OrionLaunchPad

_RUNNING_ENTRY = [{"e.state": "RUNNING"}]


def ping(pad: OrionLaunchPad, launch_id: int, ptime: datetime | str | None,
         checkpoint: Doc | None) -> None:
    """Update the time (and checkpoint, and tracked files) of a running launch."""
    claim = pad.claims.get(launch_id)
    if claim is None or claim.launch["trackers"]:
        trackers = pad.get_launch_by_id(launch_id)
        for tracker in trackers.trackers:
            tracker.track_file(trackers.launch_dir)
        fields: Doc = {"trackers": [t.to_dict() for t in trackers.trackers]}
    else:
        fields = {}
    when = ptime or datetime.now(UTC)
    fields["state_history.$[e].updated_on"] = plain(when)
    if checkpoint:
        fields["state_history.$[e].checkpoint"] = plain(checkpoint)
    pad.launches.update_one({"launch_id": launch_id, "state": "RUNNING"}, {"$set": fields},
                            array_filters=_RUNNING_ENTRY)


def ping_many(pad: OrionLaunchPad, launch_ids: Collection[int]) -> set[int]:
    """Update the time of running launches; return those that no longer own their firework."""
    ids = list(launch_ids)
    if not ids:
        return set()
    pad.launches.update_many(
        {"launch_id": {"$in": ids}, "state": "RUNNING"},
        {"$set": {"state_history.$[e].updated_on": datetime.now(UTC).isoformat()}},
        array_filters=_RUNNING_ENTRY)
    owned = {i for fw in pad.fireworks.find(
        {"launches": {"$in": ids}, "state": "RUNNING"}, {"launches": 1}) for i in fw["launches"]}
    return set(ids) - owned
