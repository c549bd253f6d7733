"""The launcher's side of its workers, without workers."""

from __future__ import annotations

import socket

import pytest

from orionflow.launchers.workers import Died, WorkerPool
from orionflow.launchers.zygote import Zygote

pytestmark = pytest.mark.timeout(60)


def test_job_given_out_after_the_zygote_died_is_reported_dead(monkeypatch):
    """Its death is noticed later, by `events`; until then nothing may wait for it."""
    pool = WorkerPool({"project": "."}, {})
    pool._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pool._poll.register(pool._control)
    pool._zygote = type("Dead", (), {"wait": lambda *_: -9})()
    monkeypatch.setattr(pool, "start", lambda: setattr(pool, "_control", None))
    theirs.close()
    pool.run(7, {"kind": "run"})
    found = []
    while not found:
        found = pool.events(1.0)
    assert found == [Died(7, None)]
    assert not pool.workers


def test_job_for_which_no_process_can_be_forked_is_reported_dead(monkeypatch):
    """The zygote and the workers it has go on."""
    pool = WorkerPool({"project": "."}, {})
    pool._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pool._poll.register(pool._control)
    zygote = Zygote(theirs)

    def fail():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("orionflow.launchers.zygote.os.fork", fail)
    pool.run(7, {"kind": "run"})
    assert zygote._serve((-1, -1))
    found = []
    while not found:
        found = pool.events(1.0)
    assert found == [Died(7, None)]
    assert not pool.workers
    pool._control.close()
    theirs.close()
