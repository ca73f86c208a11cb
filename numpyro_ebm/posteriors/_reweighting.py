r"""Draws at all design points as draws at any parameter, for energies linear in it."""

from typing import NamedTuple

import numpy as np

from .._types import Float


class Reweighting(NamedTuple):
    r"""The multistate Bennett acceptance ratio [Shirts and Chodera 2008].

    For $E_\phi(x) = \phi \cdot s(x) + h(x)$, draws from all of the $\phi_k$ are draws from a
    mixture, so $\mathbb E_\phi[s]$ at any $\phi$ is a mean of them with the weights
    $e^{-\phi \cdot s} / \sum_k N_k e^{-\phi_k \cdot s - \log Z_k}$, where $\log Z_k$ solves the
    same equation. It is exact up to the draws; nothing is interpolated.

    - **statistics**: $s$ of all draws, `(point, chain, draw, p)`.
    - **log_mixture**: of each draw, the logarithm of the sum over $k$.
    - **shares**: of each draw, the share that each point has in that sum.
    - **slopes**: by how much errors of each chain move the $\log Z_k$.
    """

    statistics: Float[np.ndarray, "k c m p"]
    log_mixture: Float[np.ndarray, " n"]
    shares: Float[np.ndarray, "n k"]
    slopes: Float[np.ndarray, "g k"]

    def means(self, phi: Float[np.ndarray, "t p"]) -> "Means":
        r"""$\mathbb E_\phi[s]$ at many $\phi$, with the covariance of all their errors."""
        flat = self.statistics.reshape(-1, phi.shape[1])
        found, influences, ess = [], [], []
        for each in phi:
            log_weights = -flat @ each - self.log_mixture
            weights = np.exp(log_weights - log_weights.max())
            weights /= weights.sum()
            mean = weights @ flat
            apart = weights[:, None] * (flat - mean)
            own = _of_chains(apart, self.statistics.shape)
            influences.append(own + self.slopes @ (self.shares.T @ apart))
            found.append(mean)
            ess.append(1 / np.sum(weights**2))
        influence = np.concatenate(influences, 1)
        chains = self.statistics.shape[1]
        covariance = chains / (chains - 1) * influence.T @ influence
        return Means(np.array(found), covariance, np.array(ess))


class Means(NamedTuple):
    """Reweighted means, and the number of equal weights behind each."""

    values: Float[np.ndarray, "t p"]
    covariance: Float[np.ndarray, "m m"]
    ess: Float[np.ndarray, " t"]


def reweighting(
    phi: Float[np.ndarray, "k p"],
    statistics: Float[np.ndarray, "k c m p"],
    log_z: Float[np.ndarray, " k"],
) -> Reweighting | None:
    r"""Solve for $\log Z_k$ at `phi`, from a first guess; `None` if that fails.

    The equations are the gradient of a convex function, so Newton steps that are halved until
    it falls converge.
    """
    flat = statistics.reshape(-1, phi.shape[1])
    each = len(flat) / len(phi)
    exponents = np.log(each) - flat @ phi.T
    log_z = log_z - log_z[0]

    def loss(log_z: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        terms = exponents - log_z
        top = terms.max(1, keepdims=True)
        shares = np.exp(terms - top)
        total = shares.sum(1, keepdims=True)
        log_mixture = (top + np.log(total))[:, 0]
        return float(log_mixture.sum() + each * log_z.sum()), log_mixture, shares / total

    value, log_mixture, shares = loss(log_z)
    for _ in range(_MOST_STEPS):
        rest = shares.sum(0) - each
        hessian = np.diag(shares.sum(0)) - shares.T @ shares
        inverse = np.linalg.pinv(hessian, rcond=1e-10, hermitian=True)
        step = inverse @ rest
        if np.abs(rest).max() < _TOLERANCE * each:
            chains = _of_chains(shares, statistics.shape)
            return Reweighting(statistics, log_mixture, shares, chains @ inverse)
        for _ in range(_MOST_STEPS):
            new = loss(log_z + step)
            if new[0] <= value:
                break
            step = 0.5 * step
        else:
            return None
        log_z, (value, log_mixture, shares) = log_z + step, new
    return None


#: Newton steps, and halvings of each; the error of a point's share of the draws.
_MOST_STEPS, _TOLERANCE = 50, 1e-6


def _of_chains(terms: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sums over the draws of each chain, less their mean over the chains of the same point."""
    sums = terms.reshape(*shape[:3], -1).sum(2)
    return (sums - sums.mean(1, keepdims=True)).reshape(shape[0] * shape[1], -1)
