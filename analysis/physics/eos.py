"""Equation of state: energy against volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import Polynomial

from orionflow.errors import InputError
from orionflow.units import EV_PER_ANGSTROM3_GPA

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]

MIN_POINTS = 5
"""Four parameters, and one point more to see how well they fit."""


@dataclass(frozen=True)
class EosFit:
    """Third-order Birch-Murnaghan equation of state of one cell.

    Attributes
    ----------
    e0
        Energy at the minimum, eV.
    v0
        Volume at the minimum, Å³.
    b0
        Bulk modulus at ``v0``, GPa.
    b0_prime
        Pressure derivative of the bulk modulus at ``v0``.
    rms
        Root mean square of the residuals, eV.
    """

    e0: float
    v0: float
    b0: float
    b0_prime: float
    rms: float

    def energy(self, volume: ArrayLike) -> FloatArray:
        """Return the energy of the fitted curve, eV, at volumes in Å³ (same shape)."""
        y = (self.v0 / np.asarray(volume, dtype=float)) ** (2 / 3)
        scale = 9 * self.v0 * self.b0 / EV_PER_ANGSTROM3_GPA / 16
        return np.asarray(
            self.e0 + scale * ((y - 1) ** 3 * self.b0_prime + (y - 1) ** 2 * (6 - 4 * y))
        )

    def pressure(self, volume: ArrayLike) -> FloatArray:
        """Return the pressure -dE/dV, GPa, at volumes in Å³ (same shape)."""
        x = (self.v0 / np.asarray(volume, dtype=float)) ** (1 / 3)
        return np.asarray(
            1.5 * self.b0 * (x**7 - x**5) * (1 + 0.75 * (self.b0_prime - 4) * (x**2 - 1))
        )


def birch_murnaghan(volume: ArrayLike, energy: ArrayLike) -> EosFit:
    """Fit the third-order Birch-Murnaghan equation of state.

    Parameters
    ----------
    volume
        Cell volumes, shape (n,), Å³, n >= 5, any order.
    energy
        Energies of the same cells, shape (n,), eV.

    Returns
    -------
    EosFit
        e0 (eV), v0 (Å³), b0 (GPa), b0_prime (-), rms residual (eV).

    Raises
    ------
    InputError
        Fewer than five different volumes, values that are not finite, volumes that are not
        positive, or a minimum outside the sampled volumes.

    Notes
    -----
    F. Birch, Phys. Rev. 71, 809 (1947), doi:10.1103/PhysRev.71.809. The equation is a cubic
    polynomial in V^(-2/3), so the least squares problem is linear: no starting values, no local
    minima.
    """
    v, e = _checked(volume, energy)
    scale = float(np.mean(v))
    u = (scale / v) ** (2 / 3)
    # The fit takes energies relative to the lowest: total energies are thousands of eV and
    # what matters is in the meV.
    lowest = float(np.min(e))
    curve = Polynomial.fit(u, e - lowest, 3).convert()
    u0 = _minimum(curve)
    v0 = float("nan") if u0 is None else scale / u0**1.5
    if u0 is None or not v.min() <= v0 <= v.max():
        found = "has no minimum" if u0 is None else f"has its minimum at {v0:.3f} Å³"
        raise InputError(
            f"the fitted curve {found}, outside the sampled volumes "
            f"{v.min():.3f} to {v.max():.3f} Å³",
            hint="add volumes on the other side of the minimum, or start from a structure "
            "nearer to equilibrium",
        )
    second, third = float(curve.deriv(2)(u0)), float(curve.deriv(3)(u0))
    residual = e - lowest - curve(u)
    return EosFit(
        e0=lowest + float(curve(u0)),
        v0=v0,
        # B = V d2E/dV2 with u = (scale/V)^(2/3) and dE/du = 0.
        b0=4 / 9 * second * u0**2 / v0 * EV_PER_ANGSTROM3_GPA,
        b0_prime=4 + 2 / 3 * u0 * third / second,
        rms=float(np.sqrt(np.mean(residual**2))),
    )


def _checked(volume: ArrayLike, energy: ArrayLike) -> tuple[FloatArray, FloatArray]:
    v, e = np.asarray(volume, dtype=float), np.asarray(energy, dtype=float)
    if v.ndim != 1 or v.shape != e.shape:
        raise InputError(f"volume has shape {v.shape} and energy {e.shape}",
                         hint="give one energy for each volume, both one-dimensional")
    if bad := [i for i in range(len(v)) if not (np.isfinite(v[i]) and np.isfinite(e[i]))]:
        raise InputError(f"volume or energy is not finite at index {bad[0]}",
                         hint="leave out the calculations that failed")
    if bad := [i for i in range(len(v)) if v[i] <= 0]:
        raise InputError(f"volume {v[bad[0]]} Å³ at index {bad[0]} is not positive")
    if (different := len(np.unique(v))) < MIN_POINTS:
        raise InputError(f"{different} different volumes, but the fit needs {MIN_POINTS}",
                         hint="sample more volumes around the minimum")
    return v, e


def _minimum(curve: Polynomial) -> float | None:
    """Return the positive real minimum of a cubic, or None."""
    bend = curve.deriv(2)
    roots = [complex(r) for r in curve.deriv().roots()]
    minima = [r.real for r in roots
              if abs(r.imag) < 1e-12 * abs(r) and r.real > 0 and bend(r.real) > 0]
    return minima[0] if minima else None
