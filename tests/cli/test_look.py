"""`orionflow show` and `results` as a user types them, on a campaign that ran."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orionflow.analysis.tables import RESULT_COLUMNS, jobs
from orionflow.launchers.project import DatabaseAccess, init_project, project_environment

ORIONFLOW = Path(sys.executable).with_name("orionflow")
RAN = [pytest.mark.needs_mongod, pytest.mark.needs_code("pw.x", "lmp")]


def orionflow(project: Path, *words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [ORIONFLOW, *map(str, words)], cwd=project, capture_output=True, text=True, timeout=120,
        env={**os.environ, **project_environment(project)}, check=False)


@pytest.fixture
def ran(finished_campaign: Path) -> Path:
    return finished_campaign


class TestShow:
    pytestmark = RAN

    def test_without_words_it_lists_the_campaigns(self, ran: Path) -> None:
        done = orionflow(ran, "show")
        assert done.returncode == 0
        assert done.stdout.splitlines()[1].split()[0] == "small"

    def test_campaign_shows_jobs_results_and_errors(self, ran: Path) -> None:
        text = orionflow(ran, "show", "--campaign", "small").stdout
        assert "1 FIZZLED" in text
        assert "5.431 (1)" in text
        assert "doi:10.1103/PhysRevB.31.5262" in text
        assert "-> orionflow show -i" in text

    def test_campaign_as_json_holds_jobs_and_results(self, ran: Path) -> None:
        text = orionflow(ran, "show", "--campaign", "small", "-o", "json").stdout
        data = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert {j["state"] for j in data["jobs"]} == {"COMPLETED", "FIZZLED"}
        assert [r["code"] for r in data["results"]] == ["lmp", "pw.x"]

    def test_job_as_yaml_is_the_whole_story(self, ran: Path) -> None:
        (row,) = jobs(state="FIZZLED", project=ran).to_dict("records")
        data = yaml.safe_load(orionflow(ran, "show", "-i", row["fw_id"], "-o", "yaml").stdout)
        assert data["fw_id"] == row["fw_id"]
        assert data["folder"] == row["folder"]
        assert "lpad rerun_fws" in data["next"]

    def test_folder_needs_no_project(self, ran: Path, tmp_path: Path) -> None:
        (row,) = jobs(state="FIZZLED", project=ran).to_dict("records")
        done = subprocess.run([ORIONFLOW, "show", row["folder"]], cwd=tmp_path, text=True,
                              capture_output=True, timeout=60, check=False)
        assert done.returncode == 0
        assert "nonsense" in done.stdout.replace("\n", "")

    def test_unknown_campaign_and_job_end_with_one(self, ran: Path) -> None:
        for words in (("--campaign", "smal"), ("-i", "4711")):
            done = orionflow(ran, "show", *words)
            assert done.returncode == 1
            assert done.stdout == ""
            assert done.stderr.startswith("error: ")

    def test_two_subjects_at_once_are_a_usage_error(self, ran: Path) -> None:
        assert orionflow(ran, "show", "-i", "1", "--campaign", "small").returncode == 2


class TestResults:
    pytestmark = RAN

    def test_csv_has_every_column_and_row(self, ran: Path) -> None:
        rows = list(csv.DictReader(io.StringIO(
            orionflow(ran, "results", "--campaign", "small", "-o", "csv").stdout)))
        assert list(rows[0]) == list(RESULT_COLUMNS)
        assert len(rows) == 7

    def test_json_is_a_list_of_rows(self, ran: Path) -> None:
        rows = json.loads(orionflow(ran, "results", "--code", "pw.x", "-o", "json").stdout)
        assert [r["corrections"] for r in rows] == [1]

    def test_nothing_found_prints_nothing_on_stdout(self, ran: Path) -> None:
        done = orionflow(ran, "results", "--formula", "Cu")
        assert (done.returncode, done.stdout) == (0, "")
        assert "no results yet" in done.stderr


@pytest.mark.parametrize("words", [["show"], ["results"], ["doctor"]])
def test_outside_a_project_the_way_out_is_named(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run([ORIONFLOW, *words], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 1
    assert "orionflow init" in done.stderr


def test_database_that_is_down_is_said_without_a_traceback(tmp_path: Path) -> None:
    init_project(tmp_path, machine="local", database=DatabaseAccess("127.0.0.1", 1))
    done = orionflow(tmp_path, "show")
    assert done.returncode == 1
    assert "orionflow db start" in done.stderr
    assert "Traceback" not in done.stderr
