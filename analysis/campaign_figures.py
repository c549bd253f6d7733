"""Figures of a campaign: how it converged, what its model expects, what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orionflow.analysis.figures import _COLOURS, _panels, _written
from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike


def plot_convergence(losses: Sequence[float], *, first_design: int = 0,
                     names: Sequence[str] = (), values: Sequence[Sequence[float]] = (),
                     targets: Sequence[float | None] = (), path: Path | str | None = None
                     ) -> Figure:
    """Draw each result of a campaign and the best so far, in the order they came in.

    Parameters
    ----------
    losses
        What is minimised, one for each result.
    first_design
        The first so many are of the even first design; a line separates them.
    names, values, targets
        Of the objectives, each in its own panel: ``values[i]`` has one number for each result.
    path
        File to write as well.

    Raises
    ------
    InputError
        No result.
    """
    if not len(losses):
        raise InputError("no result to draw", hint="orionflow campaign advance")
    figure, panels = _panels(1 + len(names))
    number = np.arange(1, len(losses) + 1)
    panels[0].plot(number, losses, "o", color="0.6", markersize=4, label="candidate")
    panels[0].step(number, np.minimum.accumulate(losses), where="post", color=_COLOURS[0],
                   label="best so far")
    panels[0].set(xlabel="result", ylabel="loss", title="convergence")
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        panels[0].set_yscale("log")
    panels[0].legend(fontsize="small")
    for axes, name, column, target in zip(panels[1:], names, values, targets, strict=True):
        axes.plot(number, column, "o", color=_COLOURS[0], markersize=4)
        if target is not None:
            axes.axhline(target, color=_COLOURS[1], linestyle="--", linewidth=1, label="target")
            axes.legend(fontsize="small")
        axes.set(xlabel="result", ylabel=name, title=name)
    for axes in panels:
        _whole_numbers(axes)
        if 0 < first_design < len(losses):
            axes.axvline(first_design + 0.5, color="0.8", linewidth=1)
            axes.annotate("first design", (first_design + 0.5, 0.01), (-3, 0), ha="right",
                          xycoords=("data", "axes fraction"), textcoords="offset points",
                          color="0.5", fontsize="small")
    return _written(figure, path)


def plot_parity(found: ArrayLike, expected: ArrayLike, sigma: ArrayLike,
                path: Path | str | None = None) -> Figure:
    """Draw what a model expects of each result it was not shown, against the result.

    Parameters
    ----------
    found
        Losses, shape (n,).
    expected, sigma
        Prediction by a model that knew all others, and its standard deviation, shape (n,).
    path
        File to write as well.
    """
    x, y, error = (np.asarray(a, dtype=float) for a in (found, expected, sigma))
    yerror = 2 * error
    figure, panels = _panels(1)
    axes = panels[0]
    axes.errorbar(x, y, yerr=yerror, fmt="o", color=_COLOURS[0], ecolor="0.7",
                  markersize=4, linewidth=1)
    low = float(min(x.min(), (y - yerror).min()))
    high = float(max(x.max(), (y + yerror).max()))
    axes.plot([low, high], [low, high], color="0.4", linewidth=0.8)
    inside = float(np.mean(np.abs(y - x) <= yerror))
    axes.set(xlabel="result (loss)", ylabel="expected without it, ± 2 s.d.",
             title=f"model: {100 * inside:.0f} % within 2 s.d.")
    return _written(figure, path)


def plot_cost(spent: Sequence[float], budget: float, failed: Sequence[bool],
              path: Path | str | None = None) -> Figure:
    """Draw the core-hours spent so far after each settled candidate.

    Parameters
    ----------
    spent
        Core-hours of each, in the order they were settled.
    budget
        Core-hours allowed.
    failed
        Whether it has no value.
    path
        File to write as well.
    """
    figure, panels = _panels(1)
    axes, total = panels[0], np.cumsum(np.asarray(spent, dtype=float))
    number = np.arange(1, len(total) + 1)
    axes.step([0, *number], [0.0, *total], where="post", color=_COLOURS[0], label="spent")
    bad = np.asarray(failed, dtype=bool)
    if bad.any():
        axes.plot(number[bad], total[bad], "x", color=_COLOURS[1], label="failed")
    if len(total) and budget < 5 * total[-1]:
        axes.axhline(budget, color="0.4", linestyle="--", linewidth=1, label="budget")
    _whole_numbers(axes)
    axes.set(xlabel="candidate", ylabel="core-hours", title=f"cost (of {budget:g} core-hours)")
    axes.legend(fontsize="small")
    return _written(figure, path)


def plot_simulation(best: Sequence[float], random_best: Sequence[float],
                    path: Path | str | None = None) -> Figure:
    """Draw the median best loss after each evaluation, beside that of random search."""
    figure, panels = _panels(1)
    axes = panels[0]
    axes.step(np.arange(1, len(best) + 1), best, where="post", color=_COLOURS[0],
              label="campaign")
    axes.step(np.arange(1, len(random_best) + 1), random_best, where="post", color="0.6",
              label="random")
    _whole_numbers(axes)
    axes.set(xlabel="evaluations", ylabel="best loss (median)")
    axes.legend(fontsize="small")
    return _written(figure, path)


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
