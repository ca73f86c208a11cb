r"""Gradients of $\log Z$ from the draws of all design points together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Float
from ._design import Region
from ._gradient_process import GradientProcess, fit_process, independent
from ._reweighting import Reweighting, reweighting
from ._slopes import Chains, Slopes, most_bend


class Gradients(NamedTuple):
    """Of log Z, at unconstrained points, with the covariance of all their errors."""

    points: Float[np.ndarray, "n d"]
    values: Float[np.ndarray, "n d"]
    noise: Float[np.ndarray, "m m"]

    def process(self, region: Region) -> GradientProcess:
        return fit_process(*self, region.center, region.scale)


def fit(chains: Chains, slopes: Slopes, region: Region) -> GradientProcess:
    """The process over a region, by the draws of all points if the energies are linear."""
    return gradients_near(chains, slopes, region).process(region)


def gradients_near(chains: Chains, slopes: Slopes, region: Region) -> Gradients:
    r"""Gradients at the points of `slopes`, and at others that the draws of all of them reach.

    Linear energies share their draws, see `Reweighting`; others do not, and each point has its
    own gradient only.
    """
    own = Gradients(slopes.points, slopes.gradients, independent(slopes.noise))
    if chains.natural is None or not np.max(slopes.bend) <= most_bend():
        return own
    statistics = _affordable(slopes.statistics)
    first = own.process(region).values(slopes.points)
    pool = reweighting(_phi(chains, slopes.points), statistics, first)
    if pool is None:
        return own
    more = region.points(_MORE, np.random.default_rng(0))
    return _pooled(chains, pool, slopes.points, more)


#: Points, beyond those with chains, whose gradients are reweighted.
_MORE = 32


def _pooled(
    chains: Chains, pool: Reweighting, points: np.ndarray, more: np.ndarray
) -> Gradients:
    every = np.concatenate([points, more])
    means = pool.means(_phi(chains, every))
    num_draws = pool.statistics.shape[1] * pool.statistics.shape[2]
    keep = means.ess >= _LEAST * num_draws
    keep[: len(points)] = True
    count, size = len(every), every.shape[1]
    jacobian = np.asarray(jax.vmap(jax.jacfwd(chains.phi))(jnp.asarray(every, float)), float)
    values = -np.einsum("tpd,tp->td", jacobian, means.values)
    covariance = means.covariance.reshape(count, -1, count, jacobian.shape[1])
    noise = np.einsum("tpd,tpsq,sqe->tdse", jacobian, covariance, jacobian, optimize=True)
    noise = noise[keep][:, :, keep].reshape(np.sum(keep) * size, -1)
    # Chains are few, and a correlation of their means is uncertain.
    noise += _SHRINKAGE * np.diag(np.diag(noise))
    return Gradients(every[keep], values[keep], noise)


#: Of the draws of one point, the least that a reweighted mean stands on; and what is added to
#: the variances.
_LEAST, _SHRINKAGE = 0.5, 0.1


def _phi(chains: Chains, z: np.ndarray) -> np.ndarray:
    return np.asarray(jax.vmap(chains.phi)(jnp.asarray(z, float)), float)


def _affordable(statistics: Float[np.ndarray, "k c m p"]) -> np.ndarray:
    """Every draw, or every second, third, ..., so that weights at all points fit in memory."""
    points, chains, draws, _ = statistics.shape
    stride = max(1, -(-(points**2 * chains * draws) // _MOST_TERMS))
    return statistics[:, :, :: min(stride, draws)]


_MOST_TERMS = 2**23
