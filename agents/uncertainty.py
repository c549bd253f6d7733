"""How well the best values of a campaign are known: what a model of all its results makes of them.

A Gaussian process is fitted to the results of each objective, and its standard deviation at the
best candidate's point is told: near zero where results lie on a smooth surface, as those of a
relaxation do, and the larger the more they scatter, as averages of short dynamics do. (No point is
evaluated twice in a campaign, so there is no spread of repetitions that could be told instead.)

A fit takes longer than who only looks should wait. `advance` makes it and notes it beside the
ledger; a note says of which results it speaks, and is not believed of others.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from orionflow.agents.proposing import one_thread

if TYPE_CHECKING:
    from pymongo.database import Database

    from orionflow.agents.records import View

COLLECTION = "campaign_models"
FEW = 6
"""With fewer results a model says nothing."""
MEANING = "± 1 standard deviation of the model at that point"


def best_sigma(view: View) -> list[float] | None:
    """Return the standard deviation of the model at the best candidate's point.

    Returns
    -------
    list or None
        One number for each objective, in its unit; None with fewer than six results, or without
        scikit-learn.
    """
    done, best = view.done(), view.best()
    if best is None or len(done) < FEW:
        return None
    try:
        from orionflow.agents.proposers import surrogate
        from orionflow.agents.proposers.bayesian import tamed
    except ImportError:
        return None
    campaign = view.campaign
    features = campaign.space.features(campaign.space.encode([c.point for c in done]))
    here = features[[c.seq for c in done].index(best.seq)][None, :]
    found = []
    with one_thread():
        for objective, column in zip(campaign.objectives, zip(*(c.values or [] for c in done),
                                                              strict=True), strict=True):
            values = (np.array(column) if objective.goal == "match" else
                      tamed(np.array([objective.loss(v) for v in column])))
            try:
                model = surrogate.fit(features, values, campaign.proposer.seed)
            except ImportError:
                return None
            found.append(float(model.predict(here)[1][0]) * model.scale)
    return found


def noted(database: Database[Any], view: View) -> list[float] | None:
    """Return what was noted of these very results, None when nothing was."""
    if len(view.done()) < FEW:
        return None
    found = database[COLLECTION].find_one({"_id": view.campaign.name})
    if found is None or found["of"] != _state(view):
        return None
    sigma: list[float] | None = found["sigma"]
    return sigma


def note(database: Database[Any], view: View) -> None:
    """Fit the model and note what it says, unless that has been done for these results."""
    if len(view.done()) < FEW:
        return
    known = database[COLLECTION].find_one({"_id": view.campaign.name}, {"of": 1})
    state = _state(view)
    if known is None or known["of"] != state:
        sigma = best_sigma(view)
        if sigma is not None:
            database[COLLECTION].replace_one({"_id": view.campaign.name},
                                             {"of": state, "sigma": sigma}, upsert=True)


def _state(view: View) -> str:
    """Return a hash of all results, in their order."""
    text = json.dumps([[c.x_hash, c.values] for c in view.done()], allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
