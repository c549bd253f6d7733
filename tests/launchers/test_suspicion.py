"""How long a failed job waits for the verdict on its node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from orionflow.launchers import node_health
from orionflow.launchers.jobs import ClaimedJob, Result


def test_failed_job_waits_a_minute_for_a_verdict_on_its_node(monkeypatch):
    """What else runs there may take hours, and tells nothing before it ends."""
    clock = [100.0]
    monkeypatch.setattr(node_health.time, "monotonic", lambda: clock[0])
    suspicion = node_health.Suspicion()
    results = [Result(cast("ClaimedJob", SimpleNamespace(fw_id=n)), "FIZZLED") for n in range(5)]
    assert not suspicion.stale
    assert not suspicion.add(results[0])
    clock[0] += 59.0
    assert not suspicion.add(results[1])
    assert not suspicion.stale
    clock[0] += 2.0
    assert suspicion.stale
    assert suspicion.clear(success=False) == results[:2]
    assert not suspicion.stale
    # They still count against the node.
    assert [suspicion.add(r) for r in results[2:]] == [False, False, True]
