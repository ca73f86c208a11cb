"""Weighted draws, as nested sampling makes them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import logsumexp

from .._checks import check_count, check_key
from .._types import Array, Float, Key, PyTree, Scalar
from ..energies import LogZ


class WeightedDraws(eqx.Module):
    r"""Points with weights that sum to one, and the $\log Z$ of the energy behind them.

    - **values**: `(draw, *event)`.
    - **log_weights**: `(draw,)`, normalised.
    - **log_z**: of the energy, with its error.
    - **seconds**: how long it took, compilation included.
    """

    values: PyTree
    log_weights: Float[Array, " draw"]
    log_z: LogZ
    seconds: float = float("nan")

    @property
    def ess(self) -> Scalar:
        """Effective sample size: the number of equal weights with the same information."""
        return jnp.exp(-logsumexp(2 * self.log_weights))

    @property
    def mean(self) -> PyTree:
        return jax.tree.map(self._average, self.values)

    @property
    def variance(self) -> PyTree:
        def variance(x: Array, mean: Array) -> Array:
            return self._average((x - mean) ** 2)

        return jax.tree.map(variance, self.values, self.mean)

    def resample(self, rng_key: Key, num_samples: int) -> PyTree:
        """Draws with equal weights, `(num_samples, *event)`, in random order.

        By systematic resampling. More of them than `ess` repeat points.
        """
        check_key(rng_key)
        check_count("num_samples", num_samples)
        offset_key, order_key = jr.split(rng_key)
        chosen = self.systematic(jr.uniform(offset_key), num_samples)
        order = jr.permutation(order_key, num_samples)
        return jax.tree.map(lambda x: x[order], chosen)

    def systematic(self, offset: Scalar | float, num_samples: int) -> PyTree:
        """Points at equal steps of the cumulative weight, from `offset` of a step on."""
        places = (jnp.arange(num_samples) + offset) / num_samples
        cumulative = jnp.cumsum(jnp.exp(self.log_weights))
        which = jnp.searchsorted(cumulative / cumulative[-1], places)
        return jax.tree.map(lambda x: x[which], self.values)

    def __repr__(self) -> str:
        size = len(self.log_weights)
        return f"{size} weighted draws, ESS {float(self.ess):.0f}; {self.log_z!r}"

    def _average(self, x: Array) -> Array:
        return jnp.tensordot(jnp.exp(self.log_weights), x, 1)
