"""The Gaussian process behind the Bayesian proposer.

Model: scikit-learn's GaussianProcessRegressor with a Matérn-5/2 kernel and one length scale a
feature. Its own fit maximises the likelihood alone, which with 10 points in 6 dimensions finds
nonsense with certainty; here the most probable parameters under a prior are taken. No prior is
right everywhere, so two are used side by side, one for smooth and one for rough functions, and
their expected improvements averaged: a model that is wrong and certain is outvoted.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.special import erfc, erfcx

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

_NOISE_MEAN, _NOISE_SIGMA = -10.0, 3.0


@dataclass(frozen=True)
class Prior:
    """What is thought likely of signal variance and length scales before anything is seen.

    Attributes
    ----------
    signal
        Median of the signal variance, standardised losses; its logarithm is normal.
    signal_sigma
        Standard deviation of that logarithm.
    shape, rate
        Of the gamma distribution of length scales; a log-normal one when None.
    """

    signal: float
    signal_sigma: float
    shape: float | None = None
    rate: float = 0.0

    def penalty(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """Return minus the logarithm of the density and its gradient.

        ``theta`` holds the logarithms of signal variance, length scales and noise variance.
        """
        gradient = np.zeros_like(theta)
        apart = (theta[0] - np.log(self.signal)) / self.signal_sigma
        noise = (theta[-1] - _NOISE_MEAN) / _NOISE_SIGMA
        value = 0.5 * apart**2 + 0.5 * noise**2
        gradient[0], gradient[-1] = apart / self.signal_sigma, noise / _NOISE_SIGMA
        logs = theta[1:-1]
        if self.shape is not None:
            value += float(np.sum(self.rate * np.exp(logs) - (self.shape - 1) * logs))
            gradient[1:-1] = self.rate * np.exp(logs) - (self.shape - 1)
        else:
            # Wider with the square root of the dimension: C. Hvarfner, E. O. Hellsten, L. Nardi,
            # arXiv:2402.02229 (2024). The mode is that in the length, not in its logarithm.
            sigma = np.sqrt(3.0)
            apart_l = (logs - np.sqrt(2.0) - 0.5 * np.log(len(logs))) / sigma
            value += 0.5 * float(apart_l @ apart_l) + float(logs.sum())
            gradient[1:-1] = apart_l / sigma + 1
        return float(value), gradient


SMOOTH = Prior(signal=1.0, signal_sigma=1.0)
ROUGH = Prior(signal=6.0, signal_sigma=0.5, shape=1.2, rate=1.1)
PRIORS = (SMOOTH, ROUGH)
_FIT_POINTS = 150
"""Parameters are fitted on at most this many points; the cost grows with the cube."""


@dataclass(frozen=True)
class Surrogate:
    """A fitted Gaussian process, conditioned on points and on believed points.

    Attributes
    ----------
    features
        Shape (n, f), in [0, 1].
    losses
        Shape (n,), standardised.
    kernel
        scikit-learn kernel without noise.
    noise
        Variance of the noise, standardised.
    mean, scale
        Of the losses as given.
    """

    features: FloatArray
    losses: FloatArray
    kernel: Any
    noise: float
    mean: float
    scale: float
    factor: FloatArray
    weights: FloatArray

    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation (of the function, without noise), each shape (m,)."""
        cross: FloatArray = self.kernel(features, self.features)
        mean = cross @ self.weights
        half = solve_triangular(self.factor, cross.T, lower=True, check_finite=False)
        variance = self.kernel.diag(features) - np.sum(half**2, axis=0)
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def believe(self, features: FloatArray) -> Surrogate:
        """Condition on points whose result is not known yet, as if it were what is expected.

        "Kriging believer", D. Ginsbourger, R. Le Riche, L. Carraro (2010),
        doi:10.1007/978-3-642-10701-6_6.
        """
        if not len(features):
            return self
        expected, _ = self.predict(features)
        return _condition(np.vstack([self.features, features]),
                          np.concatenate([self.losses, expected]), kernel=self.kernel,
                          noise=self.noise, mean=self.mean, scale=self.scale)


def fit(features: FloatArray, losses: FloatArray, seed: int, prior: Prior = SMOOTH) -> Surrogate:
    """Fit a Gaussian process.

    Parameters
    ----------
    features
        Shape (n, f), in [0, 1].
    losses
        Shape (n,), to be minimised.
    seed
        For the restarts of the optimiser.
    prior
        Of the kernel's parameters.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    count = features.shape[1]
    mean, scale = float(np.mean(losses)), float(np.std(losses)) or 1.0
    standard = (losses - mean) / scale
    kernel = (ConstantKernel(prior.signal, (0.05, 50.0))
              * Matern(np.full(count, 0.5 * np.sqrt(count)), (0.02, 50.0), nu=2.5)
              + WhiteKernel(1e-4, (1e-7, 0.5)))
    chosen = _subset(len(losses), standard, seed)
    process = GaussianProcessRegressor(kernel, alpha=1e-9, optimizer=partial(_most_probable, prior),
                                       n_restarts_optimizer=1, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # A length scale at its bound is an answer: that feature does not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(features[chosen], standard[chosen])
    fitted = process.kernel_
    return _condition(features, standard, kernel=fitted.k1,
                      noise=float(fitted.k2.noise_level), mean=mean, scale=scale)


def log_expected_improvement(mean: FloatArray, sigma: FloatArray, best: float) -> FloatArray:
    """Return the logarithm of the expected improvement below ``best``, exact far in the tail.

    S. Ament et al., arXiv:2310.20708 (2023).
    """
    z = (best - mean) / sigma
    near = np.maximum(z, -1.0)
    direct = np.log(np.exp(-0.5 * near**2) / np.sqrt(2 * np.pi)
                    + near * 0.5 * erfc(-near / np.sqrt(2)))
    far = np.minimum(z, -1.0)
    ratio = np.sqrt(np.pi / 2) * erfcx(-far / np.sqrt(2)) * -far
    # 1 - ratio loses all digits for z < -1e4, where the series says 1 / z^2.
    tail = np.where(far < -1e3, -2 * np.log(-far),  # noqa: PLR2004  the series is exact to 1e-6 there
                    np.log(np.maximum(1 - ratio, 1e-300)))
    value: FloatArray = np.where(z > -1, direct, -0.5 * far**2 - 0.5 * np.log(2 * np.pi) + tail)
    return value + np.log(sigma)


def _condition(features: FloatArray, losses: FloatArray, *, kernel: Any, noise: float,
               mean: float, scale: float) -> Surrogate:
    matrix = kernel(features)
    jitter = max(noise, 1e-8)
    while True:
        try:
            factor = np.linalg.cholesky(matrix + jitter * np.eye(len(matrix)))
            break
        except np.linalg.LinAlgError:
            jitter *= 10
    weights = cho_solve((factor, True), losses)
    return Surrogate(features, losses, kernel, noise, mean, scale, factor, weights)


def _most_probable(prior: Prior, objective: Callable[..., tuple[float, FloatArray]],
                   start: FloatArray, bounds: FloatArray) -> tuple[FloatArray, float]:
    """Maximise likelihood times prior; scikit-learn hands over minus the log likelihood."""
    from scipy.optimize import minimize

    def penalised(theta: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = objective(theta, eval_gradient=True)
        more, slope = prior.penalty(theta)
        return value + more, gradient + slope

    found = minimize(penalised, start, jac=True, bounds=bounds, method="L-BFGS-B",
                     options={"maxiter": 60})
    return found.x, float(found.fun)


def _subset(count: int, losses: FloatArray, seed: int) -> NDArray[np.int64]:
    """Return the points parameters are fitted on: the best third, and others by chance."""
    if count <= _FIT_POINTS:
        return np.arange(count)
    order = np.argsort(losses, kind="stable")
    best = order[:_FIT_POINTS // 3]
    rest = np.random.default_rng(seed).permutation(order[_FIT_POINTS // 3:])
    return np.sort(np.concatenate([best, rest[:_FIT_POINTS - len(best)]]))


def leave_one_out(model: Surrogate) -> tuple[FloatArray, FloatArray]:
    """Return what the model would expect of each of its points if it did not know that one.

    S. Sundararajan and S. S. Keerthi, Neural Comput. 13, 1103 (2001),
    doi:10.1162/08997660151134343, with the kernel's parameters as they are.

    Returns
    -------
    tuple
        Mean and standard deviation (of a result, with noise), standardised, each shape (n,).
    """
    inverse = cho_solve((model.factor, True), np.eye(len(model.losses)))
    precision = np.diag(inverse)
    return model.losses - model.weights / precision, 1.0 / np.sqrt(precision)
