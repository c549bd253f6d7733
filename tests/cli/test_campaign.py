"""`orionflow campaign` as a user types it; what the words do is tested with the agents."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from orionflow.agents.simulate import read_table
from orionflow.cli import app
from orionflow.errors import InputError, StoreError

TABLE = Path(__file__).parents[1] / "data" / "campaigns" / "cu-ni.csv"


def run(*words, fails=False):
    done = CliRunner().invoke(app, ["campaign", *map(str, words)])
    if done.exception is not None and not fails:
        raise done.exception
    return done


def data(*words):
    return json.loads(run(*words, "-o", "json").stdout)


@pytest.fixture
def template(tmp_path):
    file = tmp_path / "my campaign.yaml"
    file.write_text(run("template", "alloy").stdout)
    return file


def test_template_is_a_campaign_and_others_are_listed():
    assert run("template").stdout.startswith("alloy: ")
    assert yaml.safe_load(run("template", "alloy").stdout)["recipe"] == "lammps.minimize"
    with pytest.raises(InputError, match="no template 'aloy'"):
        run("template", "aloy")


def test_simulation_tells_acceleration_with_its_interval(template):
    text = run("simulate", template, "--table", TABLE, "--seeds", 2).stdout
    assert "2 of 2 campaigns" in text
    found = data("simulate", template, "--table", TABLE, "--seeds", 2, "--proposer", "random")
    assert found["proposer"] == "random"
    assert found["interval"][0] <= found["acceleration"] <= found["interval"][1]
    with pytest.raises(InputError, match="no known results given"):
        run("simulate", template)


@pytest.mark.needs_mongod
def test_campaign_is_made_steered_and_reported(project, template):
    assert run("list").stdout == ""
    assert "nothing is stored" in run("create", template, "--dry-run").stdout
    assert data("list") == []
    assert data("create", template)["state"] == "DRAFT"
    assert "it was there already" in run("create", template).output
    assert run("advance", "alloy").stdout == "alloy: nothing to do; DRAFT\n"
    assert data("start", "alloy", "--reason", "go")["state"] == "RUNNING"
    (report,) = data("advance", "--all")
    assert len(report["submitted"]) == 6
    assert run("advance", "--all").stdout == ""
    assert "nothing to do" in run("advance", "--all", "-v").stdout
    point = "{pressure: 30000, alloy: {Cu: 16, Ni: 16}}"
    assert json.loads(run("add", "alloy", point, "--dry-run").stdout)[0]["alloy"]["Ni"] == 16
    assert len(data("add", "alloy", point)["candidates"]) == 1
    assert data("approve", "alloy") == {"approved": [], "awaiting": []}
    shown = data("show", "alloy")
    assert shown["evaluations"] == 7
    assert {c["source"] for c in shown["candidates"]} == {"initial:sobol", "user"}
    assert yaml.safe_load(run("show", "alloy", "--document").stdout)["name"] == "alloy"
    assert data("pause", "alloy")["state"] == "PAUSED"
    assert data("resume", "alloy")["state"] == "RUNNING"
    assert "would be withdrawn" in run("cancel", "alloy", "--dry-run").stdout
    assert data("status", "alloy")["state"] == "RUNNING"
    assert data("cancel", "alloy", "-r", "enough")["open"] == 0
    assert "CANCELLED" in run("watch", "alloy").stdout
    kinds = [row["kind"] for row in data("ledger", "show", "alloy")]
    assert kinds[:2] == ["campaign", "state"]
    assert data("ledger", "verify")["alloy"] == len(kinds)
    page = Path(run("report", "alloy").stdout.strip())
    assert page == project / "figures" / "alloy.html"
    text = page.read_text()
    assert "CANCELLED" in text
    assert "src='http" not in text  # nothing is fetched
    assert text.count("data:image/png;base64") == 1  # the cost; there is no result
    for words in (["status", "aloy"], ["advance", "aloy"], ["report", "aloy"]):
        with pytest.raises(InputError, match="no campaign 'aloy'"):
            run(*words)
    assert run("advance", fails=True).exit_code == 2


@pytest.mark.needs_mongod
def test_edited_ledger_is_found_out(project, template):
    from orionflow.agents.campaign import Campaigns

    run("create", template, "--start")
    with Campaigns(project) as campaigns:
        campaigns.ledger.rows.update_one({"seq": 1}, {"$set": {"who": "nobody"}})
    with pytest.raises(StoreError, match="row 'alloy:1' is not as it was written"):
        run("ledger", "verify")


@pytest.mark.needs_mongod
def test_report_of_results_has_all_figures_and_escapes_text(project, template):
    from orionflow.agents.campaign import Campaign, Campaigns
    from orionflow.agents.records import CandidateState
    from orionflow.agents.report import report_html

    document = Campaign.from_file(template).model_copy(update={
        "description": "<script>alert(1)</script>"})
    known = read_table(TABLE, document)
    with Campaigns(project) as campaigns:
        campaigns.create(document, "me")
        campaigns.start("alloy", "me")
        for n, one in enumerate(known[5:600:60]):
            view = campaigns.view("alloy")
            seq = campaigns.ledger.propose(view, one.point, source="user", who="me")
            state = CandidateState.DONE if n else CandidateState.FAILED
            campaigns.ledger.settle("alloy", seq, state, core_seconds=60, who="me",
                                    values=one.values if n else None, reason="" if n else "<b>!")
        page = report_html(campaigns.view("alloy"))
        table = campaigns.candidates("alloy")
    assert page.count("data:image/png;base64") == 3
    assert "alt='parity'" in page
    assert "<script>" not in page
    assert "<b>!" not in page
    assert list(table["state"]) == ["FAILED"] + ["DONE"] * 9
    assert table["spent_core_hours"].sum() == pytest.approx(10 / 60)
    assert table["loss"].isna().sum() == 1
    best = table.loc[table["loss"].idxmin()]
    with TABLE.open(newline="") as stream:
        rows = {(float(r["alloy.Ni"]), float(r["pressure"])): float(r["density"])
                for r in csv.DictReader(stream)}
    assert rows[best["alloy.Ni"], best["pressure"]] == best["density"]
