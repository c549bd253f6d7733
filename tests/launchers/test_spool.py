"""A result that lay in a folder settles into the same document as one that was told at once."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.errors import InvalidDocument
from fireworks import FWAction
from hypothesis import given, settings
from hypothesis import strategies as st

from orionflow.launchers.jobs import ClaimedJob
from orionflow.launchers.packing import Need
from orionflow.launchers.raw_action import read_action
from orionflow.launchers.retry import RetryPolicy
from orionflow.launchers.rocket import SPOOL_FILE, read_spool, write_spool
from orionflow.launchers.verdicts import spooled_end
from orionflow.launchers.wire import Channel, pair

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2**63, 2**63 - 1) | st.floats() | st.text()
    | st.binary() | st.integers(-2**63, 2**63 - 1).map(Int64)
    | st.binary(min_size=12, max_size=12).map(ObjectId)
    | st.datetimes() | st.uuids().map(Binary.from_uuid)
    | st.decimals(allow_nan=False, places=3, min_value=-10**9, max_value=10**9).map(Decimal128)
    | st.sampled_from([MinKey(), MaxKey(), Regex("^a"), Code("x"), Timestamp(1, 2),
                       Binary(b"\0", 128), "\ud800", "2026-01-31T12:00:00"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4)
    # What a format for people would take for something else.
    | st.fixed_dictionaries({"$oid": inner}) | st.fixed_dictionaries({"$date": inner}),
    max_leaves=12)


def told(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as the launcher receives it."""
    ours, theirs = map(Channel, pair())
    try:
        ours.send(message)
        received = theirs.receive()
    finally:
        ours.close()
        theirs.close()
    assert received is not None
    return received


@settings(deadline=None, max_examples=60)
@given(value=VALUES)
def test_spooled_result_is_the_one_that_was_told(value: object) -> None:
    action = {**FWAction().to_dict(), "stored_data": {"value": value}}
    failure = {"kind": "node", "reason": "gone", "progressed": False}
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_spool(folder, action, launch_id=3, fw_id=1, state="COMPLETED", database="d",
                    failure=failure)
        assert read_spool(folder, 4, "d") is None
        assert read_spool(folder, 3, "another") is None
        found = read_spool(folder, 3, "d")
    assert found is not None
    assert bson.encode(found["action"]) == bson.encode(told({"action": action})["action"])
    assert (found["state"], found["failure"]) == ("COMPLETED", failure)


@pytest.mark.parametrize(("value", "error"), [
    ({1: "a number for a name"}, InvalidDocument), ({"a": {2, 3}}, InvalidDocument),
    (2**70, OverflowError)])
def test_what_mongodb_never_takes_is_refused_by_both(value: object, error: type[Exception],
                                                     tmp_path: Path) -> None:
    action = {**FWAction().to_dict(), "stored_data": {"value": value}}
    with pytest.raises(error):
        write_spool(tmp_path, action, launch_id=3, fw_id=1, state="COMPLETED", database="d")
    with pytest.raises(error):
        told({"action": action})
    assert not (tmp_path / SPOOL_FILE).exists()


def test_results_of_earlier_versions_are_found_and_damaged_ones_are_none(tmp_path: Path) -> None:
    old = {"launch_id": 3, "fw_id": 1, "state": "COMPLETED", "database": "d", "action": None}
    (tmp_path / "orionflow_settle.json").write_text(json.dumps(old))
    assert read_spool(tmp_path, 3, "d") == old
    for damaged in (b"", b"\x05\0\0", b"\xff" * 40, json.dumps(old).encode()):
        (tmp_path / SPOOL_FILE).write_bytes(damaged)
        assert read_spool(tmp_path, 3, "d") == old


@pytest.mark.parametrize(("kind", "state"), [("infrastructure", "READY"), ("user", "FIZZLED")])
def test_a_failure_that_lay_in_the_folder_is_decided_as_if_told(kind: str, state: str,
                                                                tmp_path: Path) -> None:
    job = ClaimedJob(1, 3, "relax", str(tmp_path), {"spec": {}}, {}, Need(1))
    write_spool(tmp_path, FWAction().to_dict(), launch_id=3, fw_id=1, state="FIZZLED",
                database="d", failure={"kind": kind, "reason": "killed"})
    found = read_spool(tmp_path, 3, "d")
    assert found is not None
    result, info = spooled_end(job, found, RetryPolicy(), "here")
    assert result.state == state
    assert info is not None
    assert info.kind == kind


@pytest.mark.parametrize("data", [
    [], 7, "x", {}, {**FWAction().to_dict(), "additions": [5]},
    {**FWAction().to_dict(), "detours": [{"fws": [{"spec": 3}], "links": {}, "metadata": {}}]},
    {**FWAction().to_dict(), "additions": [{"fws": [], "links": [3], "metadata": {}}]}])
def test_what_is_no_action_is_refused_with_few_errors(data: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_action(data)
