r"""Where a surrogate of $\log Z$ is fitted: over the prior, then where the posterior is."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, ndtri
from scipy.stats import qmc

from .._types import Float
from ._gradient_process import GradientProcess


class Region(NamedTuple):
    r"""$z = c + Lu$, $u$ of unit spread; in a box, $|u_i| \le \sqrt 3$ and $L$ is diagonal."""

    center: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, "d d"]
    is_box: bool = False

    @property
    def reach(self) -> float:
        """How far points belong to the region, as a norm of $u$."""
        size = len(self.center)
        return math.sqrt(3 * size) if self.is_box else math.sqrt(size) + 2

    def standardized(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return np.linalg.solve(self.scale, (z - self.center).T).T

    def contains(self, z: Float[np.ndarray, "n d"]) -> np.ndarray:
        u = self.standardized(z)
        if self.is_box:
            return np.asarray((np.abs(u) <= math.sqrt(3) + 1e-6).all(1))
        return np.asarray(np.linalg.norm(u, axis=1) <= self.reach)

    def points(self, num: int, seed: np.random.Generator) -> Float[np.ndarray, "n d"]:
        """Points that fill it evenly, wider than what it describes."""
        uniform = qmc.Sobol(len(self.center), rng=seed).random(num)
        uniform = np.clip(uniform, 1e-6, 1 - 1e-6)
        u = math.sqrt(3) * (2 * uniform - 1) if self.is_box else _WIDER * ndtri(uniform)
        return self.center + u @ self.scale.T

    def log_density(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Up to a constant."""
        if self.is_box:
            return np.where(self.contains(z), 0.0, -np.inf)
        return -0.5 * np.sum(self.standardized(z) ** 2, 1)


#: The spread of design points, relative to that of the posterior.
_WIDER = 1.4


def box_region(low: np.ndarray, high: np.ndarray) -> Region:
    return Region(0.5 * (low + high), np.diag(0.5 * (high - low) / math.sqrt(3)), True)


def region_of(z: np.ndarray, weights: np.ndarray | None = None) -> Region:
    """A normal law with the mean and the covariance of weighted draws."""
    center = np.average(z, axis=0, weights=weights)
    covariance = np.atleast_2d(np.cov(z.T, aweights=weights, bias=True))
    spread = np.sqrt(np.diag(covariance))
    # Draws may lie on a line.
    covariance = covariance + np.diag((1e-4 * spread) ** 2 + 1e-12)
    return Region(center, np.linalg.cholesky(covariance))


def are_alike(one: Region, other: Region) -> bool:
    """Whether two normal laws nearly agree."""
    apart = np.abs(one.standardized(other.center[None])).max()
    sizes = np.linalg.svd(np.linalg.solve(one.scale, other.scale), compute_uv=False)
    return bool(apart < _APART and sizes.min() > 1 / _RATIO and sizes.max() < _RATIO)


#: Laws differ by less than this, in standard deviations and in their ratio.
_APART, _RATIO = 0.5, 1.5


class Approach(NamedTuple):
    r"""Weighted draws of $p(\theta)\,p(x \mid \theta)^t$.

    - **region**: of the draws; **points**: some of them, unweighted.
    - **temperature**: $t$, one at the posterior, less where the surrogate is not yet trusted.
    """

    region: Region
    points: Float[np.ndarray, "n d"]
    temperature: float


def approach(
    log_likelihood: Callable[[np.ndarray], np.ndarray],
    process: GradientProcess,
    num_data: float,
    prior: Region,
    fitted: Region,
    last: Approach,
    seed: np.random.Generator,
) -> Approach:
    r"""Come as close to the posterior as the surrogate can be trusted, from the `last` time.

    Adaptive importance sampling from normal laws, tempered so that no step loses more than
    three quarters of its draws, until $t$ times the error of $n\log Z$ over the draws is one.

    **Arguments**

    - `log_likelihood`: $-\sum_i E_\theta(x_i)$ at many points, without the constant.
    - `fitted`: the region of the points behind `process`, which is not left.
    """
    region, temperature = last.region, last.temperature
    num_settled, z, weights = 0, last.points, None
    for _ in range(_MOST_STEPS):
        z, log_ratio, log_likelihoods, errors = _candidates(
            log_likelihood, process, num_data, prior, fitted, region, seed
        )
        before = temperature
        temperature = _coldest(log_ratio, log_likelihoods, errors, before)
        log_weights = log_ratio + temperature * log_likelihoods
        flattened = _flattened(log_weights)
        region = region_of(z, flattened)
        is_settled = temperature in (before, 1.0) and _share(log_weights) >= _ENOUGH
        weights, num_settled = _normalized(log_weights), num_settled + 1 if is_settled else 0
        if num_settled == 2:
            break
    return Approach(region, z[seed.choice(len(z), NUM_KEPT, p=weights)], temperature)


def _candidates(
    log_likelihood: Callable[[np.ndarray], np.ndarray],
    process: GradientProcess,
    num_data: float,
    prior: Region,
    fitted: Region,
    region: Region,
    seed: np.random.Generator,
) -> tuple[np.ndarray, ...]:
    """Draws from a region: their prior over their own density, likelihood, and its error."""
    u = _WIDER * seed.normal(size=(NUM_CANDIDATES, len(region.center)))
    z = region.center + u @ region.scale.T
    log_ratio = prior.log_density(z) + 0.5 * np.sum((u / _WIDER) ** 2, 1)
    # Where it was not fitted, its error is not known.
    log_ratio = np.where(fitted.contains(z), log_ratio, -np.inf)
    log_likelihoods = log_likelihood(z) - num_data * process.values(z)
    # An infinite number times a temperature of zero would be NaN.
    log_likelihoods = np.where(np.isfinite(log_likelihoods), log_likelihoods, -1e30)
    return z, log_ratio, log_likelihoods, num_data * process.errors(z, fitted.center)


#: Draws of each step of `approach`, the draws it keeps, and its steps.
NUM_CANDIDATES, NUM_KEPT, _MOST_STEPS = 1024, 256, 40
#: The least effective share of draws, that of a step that has settled, and the most error.
_LEAST, _ENOUGH, _MOST_ERROR = 0.25, 0.2, 1.0


def _coldest(
    log_ratio: np.ndarray, log_likelihoods: np.ndarray, errors: np.ndarray, least: float
) -> float:
    """The largest $t$, up to one, that keeps enough draws and trusts the surrogate."""

    def is_good(t: float) -> bool:
        log_weights = log_ratio + t * log_likelihoods
        if _share(log_weights) < _LEAST:
            return False
        return bool(t * np.sqrt(_normalized(log_weights) @ errors**2) <= _MOST_ERROR)

    low, high = least, 1.0
    for _ in range(30):
        if is_good(high):
            return high
        middle = 0.5 * (low + high)
        low, high = (middle, high) if is_good(middle) else (low, middle)
    return low


def _normalized(log_weights: np.ndarray) -> np.ndarray:
    total = np.asarray(logsumexp(log_weights))
    if not np.isfinite(total):
        raise ValueError(
            "No parameters were found with a positive prior density and a finite energy of all "
            "`data`: data may lie outside of the support of the energies."
        )
    return np.exp(log_weights - total)


def _share(log_weights: np.ndarray) -> float:
    """The effective share of weighted draws."""
    return float(1 / np.sum(_normalized(log_weights) ** 2) / len(log_weights))


def _flattened(log_weights: np.ndarray) -> np.ndarray:
    """Weights to a power, if needed, that leaves enough of them."""
    power = 1.0
    while _share(power * log_weights) < _LEAST:
        power *= 0.7
    return _normalized(power * log_weights)
