import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from orionflow.analysis.figures import EosCurve, plot_deviation, plot_eos
from orionflow.analysis.physics.eos import EosFit
from orionflow.errors import InputError


def curve(label: str, formula: str, v0: float, atoms: int = 2) -> EosCurve:
    fit = EosFit(e0=-10.0 * atoms, v0=v0 * atoms, b0=98.0, b0_prime=4.2, rms=0.0)
    volume = fit.v0 * np.linspace(0.92, 1.08, 7)
    return EosCurve(label, formula, atoms, volume, fit.energy(volume), fit, reference_volume=20.02)


def test_materials_have_a_panel_each_and_curves_of_one_share_it(tmp_path: Path) -> None:
    path = tmp_path / "eos.png"
    figure = plot_eos([curve("pw.x", "Si", 20.1), curve("Si.sw", "Si", 20.02, atoms=8),
                       curve("EAM", "Cu", 11.8, atoms=1)], path)
    titles = [a.get_title() for a in figure.axes if a.get_visible()]
    assert titles == ["Si", "Cu"]
    assert imread(path).shape[0] > 300


def test_energies_are_drawn_per_atom_in_mev_above_the_minimum() -> None:
    figure = plot_eos([curve("a", "Si", 20.0, atoms=8)])
    line, points = figure.axes[0].get_lines()[:2]
    assert np.min(line.get_ydata()) == pytest.approx(0.0, abs=1e-3)
    # By hand: E - E0 = V0 B/2 (dV/V0)^2 at 8 %, about 20 * 98/160.2 / 2 * 0.0064 = 39 meV,
    # within the third-order term.
    assert points.get_ydata()[0] == pytest.approx(39, rel=0.2)
    assert points.get_xdata()[3] == pytest.approx(20.0)


def test_axes_carry_units() -> None:
    axes = plot_eos([curve("a", "Si", 20.0)]).axes[0]
    assert "Å³/atom" in axes.get_xlabel()
    assert "meV/atom" in axes.get_ylabel()


def test_same_published_volume_is_marked_once() -> None:
    axes = plot_eos([curve("a", "Si", 20.0), curve("b", "Si", 20.1)]).axes[0]
    assert [line.get_label() for line in axes.get_lines()].count("published") == 1


def test_deviations_are_in_percent_and_rows_without_reference_are_left_out() -> None:
    table = pd.DataFrame({
        "formula": ["Si", "NaCl"], "code": ["pw.x", "pw.x"], "model": ["pz", "pz"],
        "a0_angstrom": [5.5, 5.6],
        "a0_reference": [5.0, None], "b0_gpa": [95.0, 25.0], "b0_reference": [100.0, None]})
    figure = plot_deviation(table)
    lengths, moduli = (a.get_lines()[0].get_xdata() for a in figure.axes)
    assert list(lengths) == pytest.approx([10.0])
    assert list(moduli) == pytest.approx([-5.0])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["Si pw.x pz"]


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(InputError, match="no equation of state"):
        plot_eos([])
    with pytest.raises(InputError, match="no result with a published value"):
        plot_deviation(pd.DataFrame({"formula": ["x"], "code": ["lmp"], "model": [""],
                                     "a0_angstrom": [1.0], "a0_reference": [None], "b0_gpa": [1.0],
                                     "b0_reference": [None]}))


def test_drawing_needs_no_display_and_no_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from orionflow.analysis.figures import EosCurve, plot_eos\n"
        "from orionflow.analysis.physics.eos import EosFit\n"
        "fit = EosFit(-1.0, 20.0, 98.0, 4.0, 0.0)\n"
        "plot_eos([EosCurve('a', 'Si', 1, [19, 20, 21], [0, -1, 0], fit)], 'eos.pdf')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=tmp_path,
                   env={"MPLBACKEND": "TkAgg", "HOME": str(tmp_path)})
    assert (tmp_path / "eos.pdf").read_bytes().startswith(b"%PDF")
