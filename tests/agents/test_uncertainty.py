"""The uncertainty told of the best value: of the size the scatter says, and only where known."""

import numpy as np
import pytest

from orionflow.agents.campaign_document import Campaign, CampaignState
from orionflow.agents.frames import with_sigma
from orionflow.agents.records import Candidate, CandidateState, View
from orionflow.agents.report import report_html
from orionflow.agents.status import status_of
from orionflow.agents.uncertainty import MEANING, best_sigma, note, noted
from orionflow.cli.campaign import status_rows

DOCUMENT = """
name: two
owner: ada
objectives: [{path: density, goal: match, target: 0.0}, {path: volume, goal: maximize}]
space: {variables: [{type: continuous, name: x, low: 0, high: 1}]}
recipe: lammps.static
mapping: {structure: Si diamond 5.43, variables: {strain: x}}
budget: {core_hours: 1, core_hours_each: 0.1, evaluations: 100}
"""
SCATTER = 0.05


def view(count=40, scatter=SCATTER):
    """Results of a parabola: the density scatters, the volume is a thousand times it and exact."""
    rng = np.random.default_rng(4)
    found = View(Campaign.from_yaml(DOCUMENT), CampaignState.RUNNING, "", 0, {})
    for n, x in enumerate(rng.random(count).tolist(), 1):
        y = (x - 0.4)**2
        found.candidates[n] = Candidate(
            n, {"x": x}, str(n), CandidateState.DONE, 360, "user", settled_in=n,
            values=[y + scatter * rng.normal(), -1000 * y])
    return found


def test_sigma_is_of_the_size_of_the_scatter_and_in_the_unit_of_the_value():
    density, volume = best_sigma(view())
    # Some ten of forty points tell of each place: less than one result alone, not nothing.
    assert SCATTER / 10 < density < SCATTER
    assert 0 < volume < 1000 * SCATTER / 100  # exact, on a surface that other points know
    assert best_sigma(view(scatter=1e-4))[0] < SCATTER / 100


def test_unknown_sigma_is_a_dash_and_a_known_one_is_told_with_its_meaning():
    assert best_sigma(view(5)) is None
    few = status_of(view(5), sigma=best_sigma(view(5)))
    assert with_sigma(few.best).endswith("± -")
    assert few.to_dict()["best"]["sigma"] == {"density": None, "volume": None}
    known = status_of(view(), sigma=[0.0123, 4.0])
    text = dict(status_rows(known))["best so far"]
    values = known.best.values
    assert text == f"density {values['density']:.6g} ± 0.012, volume {values['volume']:.6g} ± 4"
    assert ("", MEANING) in status_rows(known)
    assert MEANING in report_html(view(8))


@pytest.mark.needs_mongod
def test_what_was_noted_is_believed_of_those_results_alone(database):
    from pymongo import MongoClient

    with MongoClient(database.host, database.port, username=database.username,
                     password=database.password,
                     authSource=database.auth_source or database.name) as client:
        db = client[database.name]
        found = view(20)
        assert noted(db, found) is None
        note(db, found)
        assert noted(db, found) == pytest.approx(best_sigma(found))
        found.candidates[3].values = [0.5, 0.5]  # corrected later
        assert noted(db, found) is None
        note(db, found)
        assert noted(db, found) == pytest.approx(best_sigma(found))
