from __future__ import annotations

import pytest

pytestmark = pytest.mark.needs_mongod


def test_fixture_launchpad_works(launchpad, job_store):
    assert launchpad.get_fw_ids() == []
    job_store.update({"uuid": "u", "index": 1, "output": {"x": 1}})
    assert job_store.query_one({"uuid": "u"})["output"] == {"x": 1}
