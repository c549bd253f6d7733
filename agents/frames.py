"""Campaigns, candidates and ledger rows as DataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from orionflow.agents.stopping import improvements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orionflow.agents.records import View
    from orionflow.agents.space import Point
    from orionflow.agents.status import Best, CampaignStatus

_FIRST = ("candidate", "state", "source")
_LAST = ("loss", "better", "reserved_core_hours", "spent_core_hours", "tries", "proposed_at",
         "settled_at", "reason", "result", "fw_ids")


def candidates_frame(view: View) -> pd.DataFrame:
    """Return the candidates of a campaign, one row each, in the order of their proposal.

    Returns
    -------
    pandas.DataFrame
        Number, state and source; the point, a mixture in one column a part (``alloy.Cu``); the
        objectives under their paths; ``loss`` (what is minimised), ``better`` (than all results
        before), cost in core-hours, times, the reason of a failure, and the id (uuid) of the
        result.
    """
    campaign = view.campaign
    done = view.done()
    better = dict(zip((c.seq for c in done),
                      improvements(campaign, [c.values or [] for c in done]), strict=True))
    rows = []
    for c in view.candidates.values():
        values: list[Any] = list(c.values) if c.values is not None else [None] * len(
            campaign.objectives)
        rows.append({
            "candidate": c.seq, "state": c.state.value, "source": c.source, **flat(c.point),
            **dict(zip((o.path for o in campaign.objectives), values, strict=True)),
            "loss": None if c.values is None else campaign.loss(c.values),
            "better": better.get(c.seq, False),
            "reserved_core_hours": 0.0 if c.settled_at else c.reserved / 3600,
            "spent_core_hours": c.spent / 3600, "tries": 1 + len(c.retried),
            "proposed_at": c.proposed_at, "settled_at": c.settled_at or None,
            "reason": c.reason, "result": c.result, "fw_ids": c.fw_ids})
    names = [n for v in campaign.space.variables
             for n in ([f"{v.name}.{p}" for p in v.parts] if v.type == "mixture" else [v.name])]
    table = pd.DataFrame(rows, columns=[*_FIRST, *names, *(o.path for o in campaign.objectives),
                                        *_LAST])
    for column in ("proposed_at", "settled_at"):
        table[column] = pd.to_datetime(table[column], format="ISO8601", utc=True)
    return table


def rows_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a ledger's rows as they were written: number, kind, who, when, cost, what."""
    return pd.DataFrame([{
        "row": r["seq"], "kind": r["kind"], "at": r["at"], "who": r["who"],
        "core_seconds": r["cost"], "taken": r["cum"], "what": _what(r["kind"], r["body"])}
        for r in rows], columns=["row", "kind", "at", "who", "core_seconds", "taken", "what"])


def statuses_frame(found: Iterable[CampaignStatus]) -> pd.DataFrame:
    """Return campaigns, one row each."""
    return pd.DataFrame([{
        "campaign": s.name, "state": s.state, "evaluations": s.evaluations, "done": s.done,
        "failed": s.failed, "open": s.open, "spent": round(s.spent, 4), "of": s.core_hours,
        "best": words(s.best.values) if s.best else "", "reason": s.reason} for s in found],
        columns=["campaign", "state", "evaluations", "done", "failed", "open", "spent", "of",
                 "best", "reason"])


def flat(point: Mapping[str, Any] | Point) -> dict[str, Any]:
    """Return a point with one entry for each part of a mixture: ``alloy.Cu``."""
    found: dict[str, Any] = {}
    for name, value in point.items():
        if isinstance(value, dict):
            found |= {f"{name}.{part}": amount for part, amount in value.items()}
        else:
            found[name] = value
    return found


def words(values: Mapping[str, Any]) -> str:
    """Return a point or values in one line: ``alloy.Cu 15, pressure 100000``."""
    return ", ".join(f"{k} {v:.6g}" if isinstance(v, (int, float)) else f"{k} {v}"
                     for k, v in flat(values).items())


def with_sigma(best: Best) -> str:
    """Return values with their uncertainty: ``density 9.198 ± 0.003``, ``± -`` if unknown."""
    found = []
    for path, value in best.values.items():
        sigma = best.sigma.get(path)
        found.append(f"{path} {value:.6g} ± " + ("-" if sigma is None else f"{sigma:.2g}"))
    return ", ".join(found)


def _what(kind: str, body: Mapping[str, Any]) -> str:
    if kind == "campaign":
        return str(body["document"].get("description", ""))
    if kind == "state":
        return f"{body['state']} {body['reason']}".strip()
    if kind == "candidate":
        return f"{body['source']}: {words(body['point'])}"
    text = f"candidate {body['candidate']}"
    if kind == "submitted":
        ids = ", ".join(map(str, body["fw_ids"]))
        return f"{text}: fireworks {ids}"
    if kind in {"settled", "corrected"}:
        values = "" if body["values"] is None else " " + ", ".join(
            f"{v:.6g}" for v in body["values"])
        return f"{text}: {body['state']}{values} {body['reason']}".rstrip()
    return f"{text}: {body.get('reason', '')}".rstrip(": ")
