import subprocess
import sys

import numpy as np
import pytest
from pymatgen.analysis.eos import EOS

from orionflow.analysis.physics.eos import EosFit, birch_murnaghan
from orionflow.errors import InputError

GPA = 160.2176634  # eV/Å³, from e = 1.602176634e-19 C


def lennard_jones_fcc(volume: np.ndarray) -> np.ndarray:
    """Energy of one atom of the infinite fcc Lennard-Jones crystal, epsilon = sigma = 1.

    Lattice sums A6 = 14.45392, A12 = 12.13188: Kittel, Introduction to Solid State Physics,
    chapter 3. Its minimum and curvature have closed forms, and it is not a Birch-Murnaghan curve.
    """
    r = (np.sqrt(2) * volume) ** (1 / 3)
    return 2 * (12.13188 * r**-12 - 14.45392 * r**-6)


def direct_birch(v: np.ndarray, e0: float, v0: float, b0: float, b1: float) -> np.ndarray:
    """The equation as printed by Birch, by the Eulerian strain f; energies in eV, b0 in eV/Å³."""
    f = ((v0 / v) ** (2 / 3) - 1) / 2
    return e0 + 4.5 * b0 * v0 * (f**2 + (b1 - 4) * f**3)


def test_curve_made_from_known_parameters_is_recovered() -> None:
    v = np.linspace(36.0, 44.0, 9)
    fit = birch_murnaghan(v, direct_birch(v, -215.7, 40.05, 97.8 / GPA, 4.24))
    assert fit.e0 == pytest.approx(-215.7, abs=1e-9)
    assert fit.v0 == pytest.approx(40.05, rel=1e-9)
    assert fit.b0 == pytest.approx(97.8, rel=1e-7)
    assert fit.b0_prime == pytest.approx(4.24, rel=1e-6)
    assert fit.rms < 1e-9


def test_lennard_jones_crystal_gives_its_analytic_minimum_and_bulk_modulus() -> None:
    a6, a12 = 14.45392, 12.13188
    r0 = (2 * a12 / a6) ** (1 / 6)
    v0 = r0**3 / np.sqrt(2)
    # V d2E/dV2 at the minimum with r ~ V^(1/3): (r^2 E'') / (9 V); E = 2(a12 r^-12 - a6 r^-6).
    b0 = 2 * (12 * 13 * a12 * r0**-12 - 6 * 7 * a6 * r0**-6) / (9 * v0)
    v = v0 * np.linspace(0.98, 1.02, 7)
    fit = birch_murnaghan(v, lennard_jones_fcc(v))
    assert fit.v0 == pytest.approx(v0, rel=1e-5)
    assert fit.e0 == pytest.approx(-a6**2 / (2 * a12), rel=1e-6)
    assert fit.b0 == pytest.approx(b0 * GPA, rel=1e-3)
    # An m-n potential has B' = (m + n + 6) / 3 = 8; the fit truncates the expansion.
    assert fit.b0_prime == pytest.approx(8.0, rel=0.03)


def test_noisy_data_agree_with_pymatgen() -> None:
    rng = np.random.default_rng(7)
    v = np.linspace(14.5, 18.5, 11)
    e = direct_birch(v, -56.8, 16.45, 77.0 / GPA, 4.6) + rng.normal(0, 2e-4, v.size)
    fit = birch_murnaghan(v, e)
    other = EOS("birch_murnaghan").fit(v, e)
    assert fit.v0 == pytest.approx(other.v0, rel=1e-6)
    assert fit.b0 == pytest.approx(other.b0_GPa, rel=1e-4)
    assert fit.b0_prime == pytest.approx(other.b1, rel=1e-3)
    assert fit.rms == pytest.approx(np.sqrt(np.mean((e - other.func(v)) ** 2)), rel=1e-3)


def test_order_of_the_points_does_not_matter() -> None:
    v = np.linspace(36.0, 44.0, 7)
    e = lennard_jones_fcc(v / 40.0)
    shuffled = np.array([3, 0, 6, 2, 5, 1, 4])
    assert birch_murnaghan(v[shuffled], e[shuffled]).v0 == pytest.approx(
        birch_murnaghan(v, e).v0, rel=1e-12)


def test_large_total_energies_do_not_spoil_the_fit() -> None:
    v = np.linspace(36.0, 44.0, 7)
    fit = birch_murnaghan(v, direct_birch(v, -250_000.0, 40.0, 98 / GPA, 4.2))
    assert fit.b0 == pytest.approx(98.0, rel=1e-3)


def test_curve_and_pressure_belong_to_each_other() -> None:
    fit = EosFit(e0=-1.0, v0=40.0, b0=98.0, b0_prime=4.2, rms=0.0)
    v, h = np.array([37.0, 40.0, 43.0]), 1e-3
    slope = (fit.energy(v + h) - fit.energy(v - h)) / (2 * h)
    assert fit.pressure(v) == pytest.approx(-slope * GPA, abs=1e-5)
    assert fit.energy(v) == pytest.approx(direct_birch(v, -1.0, 40.0, 98 / GPA, 4.2), abs=1e-9)


@pytest.mark.parametrize(("volume", "energy", "named"), [
    ([1, 2, 3, 4], [1, 0, 0, 1], "4 different volumes"),
    ([1, 2, 3, 4, 4], [1, 0, 0, 1, 1], "4 different volumes"),
    ([1, 2, 3, 4, 5], [1, 0, np.nan, 0, 1], "not finite at index 2"),
    ([1, 2, 3, np.inf, 5], [1, 0, 0, 0, 1], "not finite at index 3"),
    ([-1, 2, 3, 4, 5], [1, 0, 0, 0, 1], "not positive"),
    ([1, 2, 3, 4, 5], [1, 0, 0, 0], "shape"),
])
def test_unusable_points_are_refused_by_name(volume: list, energy: list, named: str) -> None:
    with pytest.raises(InputError, match=named):
        birch_murnaghan(volume, energy)


def test_minimum_outside_the_sampled_volumes_is_refused() -> None:
    v = np.linspace(41.0, 46.0, 7)
    with pytest.raises(InputError, match=r"minimum at 40\.0.*outside the sampled volumes"):
        birch_murnaghan(v, direct_birch(v, 0.0, 40.0, 98 / GPA, 4.2))


def test_curve_without_minimum_is_refused() -> None:
    v = np.linspace(36.0, 44.0, 7)
    with pytest.raises(InputError, match="outside the sampled volumes"):
        birch_murnaghan(v, -direct_birch(v, 0.0, 40.0, 98 / GPA, 4.2))


def test_importing_the_physics_is_cheap() -> None:
    code = ("import sys, orionflow.analysis.physics.eos\n"
            "heavy = {'scipy', 'pandas', 'matplotlib', 'pymatgen', 'jobflow'} & set(sys.modules)\n"
            "assert not heavy, heavy")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
