"""The launcher's document, as its heartbeat writes it."""

from __future__ import annotations

import os
import select

import pytest

from orionflow.launchers.pulse import COLLECTION, Pulse, Vital

pytestmark = pytest.mark.needs_mongod


def test_heartbeat_that_arrives_after_the_end_does_not_bring_a_launcher_back(pad):
    """MongoDB was away when it ended: what hung in the thread got through later."""
    read, write = os.pipe()
    pulse = Pulse(pad, write)
    pulse.vital = Vital(document=lambda: {"_id": "me", "state": "running"})
    pulse.beat()
    pulse.end({"_id": "me", "state": "ended", "ended": "now"})
    pulse.beat()
    assert pad.db[COLLECTION].find_one()["state"] == "ended"
    assert not pulse.given_up
    pulse._hear_of_death(frozenset({7}))
    assert not select.select([read], [], [], 0)[0]  # the descriptor may be another's by now
    os.close(read)
    os.close(write)
