"""The Gaussian process behind the Bayesian proposer.

A Matérn-5/2 kernel with one length scale a feature, and a constant mean. The kernel is
scikit-learn's; its regressor is not used, because it maximises the likelihood alone, which with 10
points in 6 dimensions finds nonsense with certainty, and knows no mean but zero. Here the most
probable parameters under a prior are taken, of several explanations the one near which the fit
begins. No prior is right everywhere, so two are used side by side, one for hilly and one for smooth
functions, and their expected improvements averaged: a model that is wrong and certain is outvoted.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.special import erfc, erfcx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

_NOISE_MEAN, _NOISE_SIGMA = -10.0, 3.0  # of the logarithm of the noise's variance: a normal one
_BOUNDS = ((0.01, 100.0), (0.01, 50.0), (1e-6, 10.0))
_TINY = 1e-9
_FLAT = 1e-6
_IMPOSSIBLE = 1e10
_FIT_POINTS = 150
"""Parameters are fitted on at most this many points; the cost grows with the cube."""


@dataclass(frozen=True)
class Prior:
    """What is thought likely of the kernel's parameters before anything is seen.

    Attributes
    ----------
    signal
        Shape and rate of the gamma distribution of the signal's variance, standardised losses.
    length
        The same of each length scale; a log-normal distribution when None.
    begin
        Where the fit begins: signal's variance, length scales, noise's variance.
    """

    signal: tuple[float, float]
    length: tuple[float, float] | None
    begin: tuple[float, float, float]

    def penalty(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """Return minus the logarithm of the density and its gradient.

        ``theta`` holds the logarithms of signal variance, length scales and noise variance.
        """
        apart = (theta[-1] - _NOISE_MEAN) / _NOISE_SIGMA
        one, first = _gamma(theta[:1], self.signal)
        if self.length is not None:
            other, middle = _gamma(theta[1:-1], self.length)
        else:
            # Wider with the square root of the dimension: C. Hvarfner, E. O. Hellsten, L. Nardi,
            # arXiv:2402.02229 (2024). The mode is that in the length, not in its logarithm.
            away = (theta[1:-1] - np.sqrt(2.0) - 0.5 * np.log(len(theta) - 2)) / np.sqrt(3.0)
            other = 0.5 * float(away @ away) + float(theta[1:-1].sum())
            middle = away / np.sqrt(3.0) + 1
        return (one + other + 0.5 * apart**2,
                np.concatenate([first, middle, [apart / _NOISE_SIGMA]]))


def _gamma(logs: FloatArray, shape_rate: tuple[float, float]) -> tuple[float, FloatArray]:
    shape, rate = shape_rate
    sizes: FloatArray = rate * np.exp(logs)
    return float(np.sum(sizes - (shape - 1) * logs)), sizes - (shape - 1)


# B. J. Shields et al., Nature 590, 89 (2021), doi:10.1038/s41586-021-03213-y.
HILLY = Prior(signal=(5.0, 0.5), length=(1.2, 1.1), begin=(8.0, 0.2, 1e-4))
SMOOTH = Prior(signal=(1.5, 0.5), length=None, begin=(1.0, 1.2, 1e-4))
PRIORS = (HILLY, SMOOTH)


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


def fit(features: FloatArray, losses: FloatArray, seed: int, prior: Prior = HILLY) -> Surrogate:
    """Fit a Gaussian process.

    Parameters
    ----------
    features
        Shape (n, f), in [0, 1].
    losses
        Shape (n,), to be minimised.
    seed
        Of the choice of points the parameters are fitted on, where there are many.
    prior
        Of the kernel's parameters.
    """
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    mean, scale = float(np.mean(losses)), float(np.std(losses)) or 1.0
    standard = (losses - mean) / scale
    chosen = _subset(len(losses), standard, seed)
    theta = _most_probable(features[chosen], standard[chosen], prior)
    kernel = ConstantKernel(float(np.exp(theta[0]))) * Matern(np.exp(theta[1:-1]), nu=2.5)
    model = _condition(features, standard, kernel=kernel, noise=float(np.exp(theta[-1])),
                       mean=mean, scale=scale)
    # The mean that generalised least squares give, now that the kernel is known.
    ones: FloatArray = cho_solve((model.factor, True), np.ones(len(standard)))
    offset = float(ones @ standard / ones.sum())
    return replace(model, losses=standard - offset, weights=model.weights - offset * ones,
                   mean=mean + offset * scale)


def evened(losses: FloatArray) -> FloatArray:
    """Return losses, shape (n,), bent so that they spread like a normal distribution.

    The order stays. A Gaussian process thinks every function as hilly here as there; few results
    far below all others (a narrow valley), or far above them, are nothing it expects. I.-K. Yeo,
    R. A. Johnson, Biometrika 87, 954 (2000), doi:10.1093/biomet/87.4.954; for this use
    A. I. Cowen-Rivers et al., J. Artif. Intell. Res. 74, 1269 (2022), doi:10.1613/jair.1.13643.
    """
    from sklearn.preprocessing import PowerTransformer

    spread = float(np.std(losses))
    if not spread > 0:
        return losses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers too large on the way; looked at below
        bent: FloatArray = PowerTransformer().fit_transform(
            ((losses - losses.mean()) / spread)[:, None])[:, 0]
    # Nearly equal ones may become equal, and a few points may be bent beyond all measure.
    return bent if np.isfinite(bent).all() and np.std(bent) > _FLAT else losses


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
    matrix: FloatArray = kernel(features)
    while True:
        try:
            factor = np.asarray(np.linalg.cholesky(_covariance(matrix, noise)), dtype=np.float64)
            break
        except np.linalg.LinAlgError:
            noise *= 10
    weights = cho_solve((factor, True), losses)
    return Surrogate(features, losses, kernel, noise, mean, scale, factor, weights)


def _covariance(matrix: FloatArray, noise: float) -> FloatArray:
    total: FloatArray = matrix + (noise + _TINY) * np.eye(len(matrix))
    return total


def _most_probable(features: FloatArray, losses: FloatArray, prior: Prior) -> FloatArray:
    """Return the logarithms of signal variance, length scales and noise variance, shape (f + 2,).

    They maximise the likelihood, with the constant mean that goes with them, times the prior.
    """
    from scipy.optimize import minimize

    squares = (features[:, None, :] - features[None, :, :])**2
    begin, bounds = ([one, *[each] * features.shape[1], other] for one, each, other in
                     (prior.begin, _BOUNDS))
    found = minimize(lambda theta: _improbability(theta, squares, losses, prior), np.log(begin),
                     jac=True, bounds=np.log(bounds), method="L-BFGS-B", options={"maxiter": 100})
    best: FloatArray = found.x
    return best


def _improbability(theta: FloatArray, squares: FloatArray, losses: FloatArray, prior: Prior
                   ) -> tuple[float, FloatArray]:
    """Return minus the logarithm of likelihood times prior, and its gradient.

    ``squares`` are squared differences of features, shape (n, n, f). For the derivatives see
    C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, MIT Press (2006),
    equation 5.9.
    """
    inverse_squares, noise = np.exp(-2 * theta[1:-1]), float(np.exp(theta[-1]))
    distance = np.sqrt(5 * (squares @ inverse_squares))
    decay = np.exp(theta[0] - distance)
    signal = (1 + distance + distance**2 / 3) * decay
    try:
        factor = np.linalg.cholesky(_covariance(signal, noise))
    except np.linalg.LinAlgError:
        return _IMPOSSIBLE, np.zeros_like(theta)
    inverse = cho_solve((factor, True), np.eye(len(losses)))
    weights = inverse.sum(axis=0)
    left = losses - weights @ losses / weights.sum()
    solved = inverse @ left
    value = 0.5 * float(left @ solved) + float(np.log(np.diag(factor)).sum())
    slope = 0.5 * (inverse - np.outer(solved, solved))  # by each element of the covariance
    lengths = np.einsum("ij,ijk->k", slope * (5 / 3) * (1 + distance) * decay, squares)
    gradient = np.array([np.sum(slope * signal), *(lengths * inverse_squares),
                         noise * np.trace(slope)])
    more, steeper = prior.penalty(theta)
    return value + more, gradient + steeper


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
