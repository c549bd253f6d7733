"""Figures of results; drawn without a display, returned, and written where asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from orionflow.analysis.physics.eos import EosFit

# Okabe and Ito's colours, told apart with any colour vision; a marker each for black and white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_SIZE = 3.4


@dataclass(frozen=True)
class EosCurve:
    """Points of one equation of state and what was fitted to them.

    Attributes
    ----------
    label
        Name in the legend.
    formula
        Reduced formula; curves of one material share a panel.
    atoms
        Atoms in the cell.
    volume, energy
        Points, shape (n,), of the cell: Å³ and eV.
    fit
        Fit of the same cell.
    reference_volume
        Published volume of an atom, Å³, or None.
    """

    label: str
    formula: str
    atoms: int
    volume: ArrayLike
    energy: ArrayLike
    fit: EosFit
    reference_volume: float | None = None


def plot_eos(curves: Sequence[EosCurve], path: Path | str | None = None) -> Figure:
    """Draw equations of state: points and fitted curve, one panel for each material.

    Parameters
    ----------
    curves
        What to draw; see ``orionflow.analysis.tables.eos_curves``.
    path
        File to write as well; its ending tells the format (PNG, PDF, SVG).

    Returns
    -------
    matplotlib.figure.Figure
        Energy above the minimum (meV per atom) against volume (Å³ per atom). A dashed line marks
        the published volume.

    Raises
    ------
    InputError
        No curve.
    """
    if not curves:
        raise InputError("no equation of state to draw",
                         hint="the campaign holds no finished `eos` recipe: orionflow show")
    materials = list(dict.fromkeys(c.formula for c in curves))
    figure, panels = _panels(len(materials))
    for formula, axes in zip(materials, panels, strict=True):
        same = [c for c in curves if c.formula == formula]
        for number, curve in enumerate(same):
            _draw_eos(axes, curve, _COLOURS[number % 6], _MARKERS[number % 6])
        _mark_references(axes, [c.reference_volume for c in same])
        axes.set(title=formula, xlabel="volume (Å³/atom)", ylabel="E - E$_0$ (meV/atom)")
        highest = axes.get_ylim()[1]
        axes.set_ylim(-0.04 * highest, (1.05 + 0.1 * len(same)) * highest)  # room for the legend
        axes.legend(fontsize="small", loc="upper center", edgecolor="none", framealpha=0.9)
    return _written(figure, path)


def plot_deviation(table: pd.DataFrame, path: Path | str | None = None) -> Figure:
    """Draw how far lattice constants and bulk moduli are from their published values.

    Parameters
    ----------
    table
        ``orionflow.analysis.tables.campaign_table``; rows without a published value are left out.
    path
        File to write as well.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels, deviation in percent.

    Raises
    ------
    InputError
        No row has a published value beside it.
    """
    pairs = (("a0_angstrom", "a0_reference", "lattice constant"),
             ("b0_gpa", "b0_reference", "bulk modulus"))
    rows = table[table[[reference for _, reference, _ in pairs]].notna().any(axis=1)]
    if rows.empty:
        raise InputError("no result with a published value beside it",
                         hint="published values are in orionflow.analysis.literature")
    names = [" ".join(filter(None, map(str, row))) for row in
             rows[["formula", "code", "model"]].itertuples(index=False)]
    figure, panels = _panels(len(pairs), height=1.2 + 0.42 * len(rows))
    for axes, (own, reference, what), colour in zip(panels, pairs, _COLOURS, strict=False):
        deviation = 100 * (rows[own] / rows[reference] - 1).astype(float)
        height = np.arange(len(rows))[::-1]
        axes.hlines(height, 0, deviation, color=colour, linewidth=2)
        axes.plot(deviation, height, "o", color=colour)
        for x, y in zip(deviation, height, strict=True):
            if math.isfinite(x):
                axes.annotate(f"{x:+.2f} %", (x, y), xytext=(0, 6), textcoords="offset points",
                              ha="center", fontsize="small")
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set_yticks(height, names)
        axes.set(xlabel="computed - published (%)", title=what, ylim=(-0.6, len(rows) - 0.4))
        axes.margins(x=0.25)
    panels[1].set_yticklabels([])
    return _written(figure, path)


def _draw_eos(axes: Axes, curve: EosCurve, colour: str, marker: str) -> None:
    volume, energy = np.asarray(curve.volume, float), np.asarray(curve.energy, float)
    fine = np.linspace(volume.min(), volume.max(), 200)
    label = f"{curve.label}: {curve.fit.v0 / curve.atoms:.3f} Å³, {curve.fit.b0:.1f} GPa"
    axes.plot(fine / curve.atoms, 1000 * (curve.fit.energy(fine) - curve.fit.e0) / curve.atoms,
              color=colour, linewidth=1.3)
    axes.plot(volume / curve.atoms, 1000 * (energy - curve.fit.e0) / curve.atoms, marker,
              color=colour, markersize=5, label=label)


def _mark_references(axes: Axes, volumes: Sequence[float | None]) -> None:
    drawn: list[float] = []
    for volume in volumes:
        if volume is None or any(abs(volume - other) < 1e-3 * volume for other in drawn):
            continue
        axes.axvline(volume, color="0.5", linestyle="--", linewidth=1,
                     label=None if drawn else "published")
        drawn.append(volume)


def _panels(count: int, height: float | None = None) -> tuple[Figure, list[Any]]:
    """Make a figure without pyplot, which keeps every figure and may want a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(1.35 * _SIZE * columns, height or _SIZE * rows),
                    layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in panels[count:]:
        unused.set_visible(False)
    return figure, panels[:count]


def _written(figure: Figure, path: Path | str | None) -> Figure:
    if path is not None:
        figure.savefig(path)
    return figure
