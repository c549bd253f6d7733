import os
import re
import time
from pathlib import Path

import pytest
import yaml
from jobflow import Job

from orionflow.analysis.store import load_store, project_folder, queue, reading
from orionflow.errors import ConfigError, StoreError


def add(a: float, b: float) -> float:
    return a + b


def change(path: Path, edit: object) -> None:
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content))


@pytest.mark.needs_mongod
def test_store_holds_what_a_real_job_wrote(project: Path) -> None:
    job = Job(add, function_args=(1, 2))
    with reading(project) as store:
        job.run(store=store)
    with reading() as store:
        assert store.get_output(job.uuid) == 3


@pytest.mark.needs_mongod
def test_large_data_go_to_the_additional_store(project: Path) -> None:
    with reading(project) as store:
        store.update({"uuid": "a", "index": 1, "output": {"big": [1.0, 2.0]}},
                     key=["uuid", "index"], save={"data": ["big"]})
    with reading(project) as store:
        assert "blob_uuid" in store.query_one({"uuid": "a"})["output"]["big"]
        assert store.query_one({"uuid": "a"}, load=True)["output"]["big"] == [1.0, 2.0]


@pytest.mark.needs_mongod
def test_project_file_wins_over_jobflows_own_settings(
        project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The trap: a JOBFLOW_CONFIG_FILE that names no file gives jobflow a store in memory.
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "nowhere.yaml"))
    database = yaml.safe_load((project / "jobflow.yaml").read_text())
    with reading(project) as store:
        assert store.docs_store.database == database["JOB_STORE"]["docs_store"]["database"]


@pytest.mark.needs_mongod
def test_store_in_memory_is_refused(project: Path) -> None:
    change(project / "jobflow.yaml",
           lambda c: c["JOB_STORE"].update(docs_store={"type": "MemoryStore"}))
    with pytest.raises(StoreError, match="MemoryStore, not to MongoDB"), reading(project):
        pass


@pytest.mark.needs_mongod
def test_serialised_store_is_read_too(project: Path) -> None:
    as_dict = load_store(project / "jobflow.yaml").as_dict()
    (project / "jobflow.yaml").write_text(yaml.safe_dump({"JOB_STORE": as_dict}))
    with reading(project) as store:
        assert store.query_one({"uuid": "none"}) is None


@pytest.mark.needs_mongod
def test_wrong_password_is_named_and_never_printed(project: Path) -> None:
    secret = yaml.safe_load((project / "my_launchpad.yaml").read_text())["password"]
    change(project / "my_launchpad.yaml", lambda c: c.update({"password": "not this one"}))
    with pytest.raises(StoreError, match="Authentication failed") as caught, queue(project):
        pass
    assert "password in my_launchpad.yaml is wrong" in str(caught.value)
    assert secret not in str(caught.value)
    assert "not this one" not in str(caught.value)


@pytest.mark.needs_mongod
@pytest.mark.parametrize(("file", "use"), [("jobflow.yaml", reading),
                                           ("my_launchpad.yaml", queue)])
def test_database_that_is_not_there_is_said_within_seconds(
        project: Path, file: str, use: object) -> None:
    def nobody(content: dict) -> None:
        for part in (content, content.get("JOB_STORE", {}).get("docs_store", {})):
            part["port"] = 1

    change(project / file, nobody)
    begin = time.monotonic()
    with pytest.raises(StoreError, match=r"can't be reached.*refused") as caught, use(project):
        pass
    assert "orionflow db start" in caught.value.hint
    assert time.monotonic() - begin < 15


@pytest.mark.needs_mongod
@pytest.mark.parametrize(("text", "named"), [
    (None, "can't read .*jobflow.yaml: No such file"),
    ("a: [", "not YAML"),
    ("- 1", "must hold"),
    ("JOB_STORE: here.yaml", "no JOB_STORE with a docs_store"),
    ("JOB_STORE: {docs_store: {type: NoSuchStore}}", "JOB_STORE is not a store"),
])
def test_unusable_jobflow_file_is_refused_by_name(project: Path, text: str | None,
                                                  named: str) -> None:
    path = project / "jobflow.yaml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(StoreError, match=named), reading(project):
        pass


@pytest.mark.needs_mongod
def test_launchpad_reads_and_prints_nothing(project: Path, capfd: pytest.CaptureFixture) -> None:
    with queue(project) as launchpad:
        assert launchpad.get_fw_ids() == []
    assert capfd.readouterr() == ("", "")


def test_no_project_is_said_with_the_way_out(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(os.fspath(tmp_path))) as caught:
        project_folder()
    assert "orionflow init" in caught.value.hint
    with pytest.raises(ConfigError, match=r"holds no orionflow\.yaml"):
        project_folder(tmp_path)
