"""Fitting a flow to draws of an energy and to the energy itself, at once."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import fori_loop, stop_gradient

from .._trainable import constant
from .._types import Array, Float, Key, Scalar
from ..energies import AbstractEnergy
from ..objectives import AbstractObjective, Batch, weighted_mean


class TwoSidedKL(AbstractObjective):
    r"""$-\frac\lambda n\sum_i\log q(y_i) - \sum_i\bar w_i^\gamma\log w_i$, with $y_i\sim p$.

    The first part, $KL(p\,\|\,q)$, alone learns by heart what the draws of $p$ happen to be.
    The second sees the energy at new draws of $q$, of weights $w_i$, in each step, but not the
    modes that $q$ lost. Its gradient flows through the draws only, so it vanishes with
    $\nabla\log w$ where $q = p$: that of $KL(q\,\|\,p)$ at $\gamma = 0$, and of
    $KL(p\,\|\,q)$ at $\gamma = 1$ [Tucker et al. 2019]. $\gamma$ is as large as an effective
    sample size of half the draws allows, and the more these can be trusted, the less the first
    part counts: $\lambda = 1 - 0.9\gamma$.
    """

    energy: AbstractEnergy

    def init(self, rng_key: Key, energy: Any, data: Batch) -> tuple[Any, None]:
        return energy, None

    def loss(
        self,
        rng_key: Key,
        trainable: Any,
        state: None,
        batch: Batch,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[None, dict[str, Array]]]:
        draws = trainable.sample(rng_key, (len(batch),))
        log_weights, slopes = jax.vmap(jax.value_and_grad(self._log_weight(trainable)))(
            stop_gradient(draws)
        )
        power, share = _tempered(log_weights)
        # Slopes in place of the energy: one that is not finite would make all of them NaN.
        slopes = jax.vmap(jnp.multiply)(share, jnp.where(jnp.isfinite(slopes), slopes, 0))
        moved = jnp.sum(slopes * (draws - stop_gradient(draws)))
        on_draws = jnp.sum(jnp.where(share > 0, share * log_weights, 0)) + moved
        on_data = weighted_mean(batch.energies(trainable), weights) + trainable.log_z
        trust = _MOST_TRUST * power
        return (1 - trust) * on_data - on_draws, (state, {})

    def _log_weight(self, density: Any) -> Any:
        density = constant(density)
        return lambda x: density(x) + density.log_z - self.energy(x)

    def finalize(self, trainable: Any, state: None) -> Any:
        return trainable


def _tempered(log_weights: Float[Array, " n"]) -> tuple[Scalar, Float[Array, " n"]]:
    r"""$\gamma$, and $\bar w^\gamma$, of sum one; zero where the weight is not finite."""
    is_finite = jnp.isfinite(log_weights)
    log_weights = jnp.where(is_finite, log_weights, -jnp.inf)

    def shares(power: Scalar) -> Array:
        tempered = jnp.where(is_finite, power * log_weights, -jnp.inf)
        return jnp.where(is_finite, jax.nn.softmax(tempered), 0)

    def halve(_: Any, ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = ends
        middle = (low + high) / 2
        is_even = _ess(shares(middle)) >= _LEAST_ESS * is_finite.sum()
        return jnp.where(is_even, middle, low), jnp.where(is_even, high, middle)

    power, _ = fori_loop(0, _HALVINGS, halve, (jnp.zeros(()), jnp.ones(())))
    return power, shares(power)


def _ess(shares: Float[Array, " n"]) -> Scalar:
    return 1 / jnp.sum(shares**2)


#: The share of the draws that must count, steps of the bisection, and the most trust in draws.
_LEAST_ESS, _HALVINGS, _MOST_TRUST = 0.5, 10, 0.9
