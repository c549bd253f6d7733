"""What a server keeps of ledgers: the same as reading all of it, however the ledger came about."""

import pytest
from pymongo import MongoClient

from orionflow.agents.campaign_document import Campaign, CampaignState
from orionflow.agents.ledger import Ledger
from orionflow.agents.next_try import NextTry
from orionflow.agents.records import CandidateState
from orionflow.agents.views import Views
from orionflow.errors import InputError

DOCUMENT = """
name: alloy
owner: ada
objectives: [{path: output.energy_per_atom}]
space: {variables: [{type: continuous, name: x, low: 0, high: 1}]}
recipe: lammps.static
mapping: {structure: Si diamond 5.43, variables: {strain: x}}
budget: {core_hours: 10, core_hours_each: 0.5, evaluations: 1000}
"""


@pytest.mark.needs_mongod
def test_kept_view_is_what_the_ledger_says_after_every_row(database):
    with MongoClient(database.host, database.port, username=database.username,
                     password=database.password,
                     authSource=database.auth_source or database.name) as client:
        ledger = Ledger(client[database.name])
        ledger.prepare()
        views = Views(ledger)
        with pytest.raises(InputError, match="there is no campaign 'alloy'"):
            views.get("alloy")
        seen = []

        def same(*, now=True):
            if not now:
                return
            assert views.get("alloy") == ledger.view("alloy")
            seen.append((views.get("alloy"), ledger.view("alloy")))

        # The second time it is another ledger of the same name, seen when it is as long.
        for value, each in ((1.0, True), (2.0, False)):
            ledger.create(Campaign.from_yaml(DOCUMENT), who="ada")
            same(now=each)
            ledger.change_state("alloy", CampaignState.RUNNING, reason="", who="ada")
            same(now=each)
            first = ledger.propose(ledger.view("alloy"), {"x": 0.1}, source="user", who="ada")
            second = ledger.propose(ledger.view("alloy"), {"x": value / 4}, source="user",
                                    who="ada")
            ledger.submitted("alloy", first, [1], who="ada")
            same(now=each)
            ledger.retry("alloy", first, NextTry([1], 2000, {1: 300}), who="ada")
            same(now=each)
            for done in (first, second):
                ledger.settle("alloy", done, CandidateState.DONE, core_seconds=5, who="ada",
                              values=[value], result="x")
                same(now=each)
            same()
            # What was handed out before has not changed under its reader.
            assert all(one == other for one, other in seen)
            ledger.rows.delete_many({})


def test_view_is_given_though_another_thread_has_thrown_away_what_was_known():
    row = {"kind": "campaign", "seq": 0, "hash": "a",
           "body": {"document": Campaign.from_yaml(DOCUMENT).to_data()}}

    class Crowded:
        def rows_since(self, _name, first=None):
            if first is not None:
                views._known.clear()
            return [row]

    views = Views(Crowded())
    assert views.get("alloy") == views.get("alloy")
