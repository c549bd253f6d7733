"""One HTML page of a campaign: what was sought, found, spent, and what failed; nothing else needed.

Figures are in the page itself, so it can be mailed.
"""

from __future__ import annotations

import base64
import html
import io
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from orionflow.agents.frames import candidates_frame, flat, with_sigma, words
from orionflow.agents.proposing import one_thread
from orionflow.agents.records import SETTLED
from orionflow.agents.status import status_of
from orionflow.agents.uncertainty import FEW, MEANING, best_sigma
from orionflow.analysis.campaign_figures import plot_convergence, plot_cost, plot_parity

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from orionflow.agents.records import View
    from orionflow.agents.status import CampaignStatus

    FloatArray = NDArray[np.float64]

_MOST = 300
_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; font-size: 0.85em; } td, th { padding: 0.2em 0.7em;
  text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } img { max-width: 100%; }
tr.best { background: #e8f4ec; }
.state { font-weight: bold; } .DONE { color: #00734d; } .FAILED, .ABANDONED { color: #b03a00; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 0.85em; }
"""


def report_html(view: View, now: datetime | None = None) -> str:
    """Return the page.

    Parameters
    ----------
    view
        From `Ledger.view`.
    now
        Date on the page; the present unless given.
    """
    now = now or datetime.now(UTC)
    status = status_of(view, now, sigma=best_sigma(view))
    body = [
        f"<h1>Campaign {_text(status.name)}</h1>",
        f"<p>{_text(status.description)}</p>" if status.description else "",
        (f"<p><span class='state'>{_text(status.state)}</span> {_text(status.reason)} &middot; "
        f"{_text(status.owner)} &middot; {now:%Y-%m-%d %H:%M} UTC</p>"),
        *_summary(status), *_figures(view), *_failures(status),
        "<h2>Candidates</h2>", _table(candidates_frame(view), view, _chosen(status)),
        "<h2>Document</h2>", f"<pre>{_text(view.campaign.to_yaml())}</pre>",
    ]
    return (f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>"
            f"{_text(status.name)}</title><style>{_STYLE}</style></head><body>\n"
            + "\n".join(part for part in body if part) + "\n</body></html>\n")


def figures(view: View) -> dict[str, Figure]:
    """Return the figures of a campaign by name, as far as there are results for them."""
    campaign, done = view.campaign, view.done()
    found: dict[str, Figure] = {}
    if done:
        values = [c.values or [] for c in done]
        found["convergence"] = plot_convergence(
            [campaign.loss(v) for v in values],
            first_design=sum(c.source.startswith("initial") for c in done),
            names=[f"{o.path} ({o.unit})" if o.unit else o.path for o in campaign.objectives],
            values=list(zip(*values, strict=True)),
            targets=[o.target for o in campaign.objectives])
    parity = left_out(view)
    if parity is not None:
        found["parity"] = plot_parity(*parity)
    settled = sorted((c for c in view.candidates.values() if c.state in SETTLED),
                     key=lambda c: c.settled_in or 0)
    if settled:
        found["cost"] = plot_cost([c.spent / 3600 for c in settled], campaign.budget.core_hours,
                                  [c.values is None for c in settled])
    return found


def left_out(view: View) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Return losses, and what the model expects of each when it knows all others.

    Returns
    -------
    tuple or None
        Losses, expectations and standard deviations, shape (n,); None with fewer than six
        results, or without scikit-learn.
    """
    done = view.done()[-_MOST:]
    if len(done) < FEW:
        return None
    try:
        from orionflow.agents.proposers import surrogate
        with one_thread():
            space = view.campaign.space
            features = space.features(space.encode([c.point for c in done]))
            losses = np.array([view.campaign.loss(c.values or []) for c in done])
            fitted = surrogate.fit(features, losses, view.campaign.proposer.seed)
    except ImportError:
        return None
    mean, sigma = surrogate.leave_one_out(fitted)
    return losses, mean * fitted.scale + fitted.mean, sigma * fitted.scale


def _summary(status: CampaignStatus) -> list[str]:
    rows = [("sought", "; ".join(status.objectives)), ("recipe", status.recipe)]
    if status.best is not None:
        rows += [("best weighted sum" if status.front else "best", words(status.best.point)),
                 ("", f"{with_sigma(status.best)} ({MEANING})"),
                 ("", f"candidate {status.best.candidate}, result {status.best.result}")]
    rows += [
        ("candidates", (f"{status.evaluations} of at most {status.evaluations_allowed}: "
         f"{status.done} with a result, {status.failed} failed, {status.open} open")),
        ("core-hours", (f"{status.spent:.4g} spent, {status.reserved:.4g} reserved, "
         f"{status.left:.4g} left of {status.core_hours:g}"))]
    if status.predicted_finish:
        rows.append(("predicted finish", status.predicted_finish))
    lines = "".join(f"<tr><th>{_text(a)}</th><td>{_text(b)}</td></tr>" for a, b in rows)
    found = [f"<table>{lines}</table>"]
    if status.front:
        items = "".join(f"<li>{_text(words(b.point))}: {_text(words(b.values))}</li>"
                        for b in status.front)
        found.append(f"<h2>Not bettered in all objectives at once</h2><ul>{items}</ul>")
    return found


def _figures(view: View) -> list[str]:
    parts = []
    for name, figure in figures(view).items():
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        data = base64.b64encode(stream.getvalue()).decode()
        parts.append(f"<img alt='{name}' src='data:image/png;base64,{data}'>")
    return parts


def _failures(status: CampaignStatus) -> list[str]:
    if not status.failures:
        return []
    rows = "".join(f"<tr><td class='n'>{f['count']}</td><td>{_text(f['reason'])}</td><td>"
                   f"{', '.join(map(str, f['candidates']))}</td></tr>" for f in status.failures)
    return [(f"<h2>What failed</h2><table><tr><th></th><th>reason</th><th>candidates</th></tr>"
            f"{rows}</table>")]


def _chosen(status: CampaignStatus) -> set[int]:
    return {b.candidate for b in status.front or ([status.best] if status.best else [])}


def _table(frame: pd.DataFrame, view: View, chosen: set[int]) -> str:
    names: Sequence[str] = [*flat_names(view), *(o.path for o in view.campaign.objectives)]
    head = "".join(f"<th>{_text(n)}</th>" for n in
                   ("", "source", *names, "loss", "core-s", "state", "reason"))
    rows = []
    for row in frame.to_dict("records"):
        cells = [_cell(row["candidate"]), _cell(row["source"]), *(_cell(row[n]) for n in names),
                 _cell(row["loss"]), _cell(round(row["spent_core_hours"] * 3600)),
                 f"<td class='{row['state']}'>{row['state']}</td>", _cell(row["reason"])]
        mark = " class='best'" if row["candidate"] in chosen else ""
        rows.append(f"<tr{mark}>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def flat_names(view: View) -> list[str]:
    """Return the names of the columns of points."""
    points = [c.point for c in view.candidates.values()]
    return list(flat(points[0])) if points else []


def _cell(value: Any) -> str:
    if isinstance(value, (int, float)):
        return f"<td class='n'>{'' if math.isnan(value) else format(value, '.6g')}</td>"
    return f"<td>{_text(value or '')}</td>"


def _text(value: object) -> str:
    return html.escape(str(value))
