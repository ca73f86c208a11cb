"""Unadjusted Langevin dynamics."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from numpyro.infer.initialization import init_to_uniform

from .._checks import check_probability
from .._types import Array, Energy, Float, Key, Point, Scalar, Shape
from ._adaptation import Adaptation
from ._kernel import AbstractKernel
from ._move import TUNED_ERROR, AbstractMove, Report, report, tuning_of_error


class LangevinState(NamedTuple):
    """Where a chain stands, with BlackJAX's names."""

    position: Point
    logdensity: Scalar
    logdensity_grad: Point


class LangevinInfo(NamedTuple):
    """The acceptance that MALA would give to the step, and whether it was taken at all."""

    acceptance_rate: Scalar
    is_finite: Array


class LangevinMove(AbstractMove):
    r"""$x' = x + \eta M^{-1} s(x) + \sqrt{2\eta}\,M^{-1/2}\epsilon$, where $E$ is finite.

    BlackJAX's `overdamped_langevin` is this without a metric. Here many chains draw their noise
    as one flat array, which on a CPU takes a fifth of the time of one short row a chain.
    """

    step_size: float | Scalar
    inverse_mass_matrix: Array | None = None
    target_accept_prob: float | Scalar = 0.99

    def init(self, rng_key: Key, position: Point, energy: Energy) -> LangevinState:
        value, gradient = jax.value_and_grad(energy)(position)
        return LangevinState(position, -value, jax.tree.map(jnp.negative, gradient))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        noise = jr.normal(rng_key, ravel_pytree(state.position)[0].shape)
        return self._step(noise, state, energy)

    def step_all(self, rng_keys: Key, states: Any, energy: Energy) -> tuple[Any, Any]:
        flat = jax.eval_shape(jax.vmap(lambda x: ravel_pytree(x)[0]), states.position)
        noise = flat_normal(rng_keys[0], flat.shape)
        return jax.vmap(lambda z, state: self._step(z, state, energy))(noise, states)

    def report(self, info: LangevinInfo) -> Report:
        error = (1 - info.acceptance_rate) / (1 - self.target_accept_prob)
        tuning = tuning_of_error(error)
        return report(info.acceptance_rate, ~info.is_finite, tuning=tuning)

    def _step(
        self, noise: Float[Array, " d"], state: LangevinState, energy: Energy
    ) -> tuple[LangevinState, LangevinInfo]:
        x, unravel = ravel_pytree(state.position)
        step = jnp.sqrt(2 * self.step_size)
        momentum = noise + 0.5 * step * self._whiten(state.logdensity_grad)
        new = self.init(noise, unravel(x + step * self._color(momentum)), energy)
        # The leapfrog's energy error is MALA's log acceptance ratio.
        end = momentum + 0.5 * step * self._whiten(new.logdensity_grad)
        log_ratio = new.logdensity - state.logdensity + 0.5 * (noise - end) @ (noise + end)
        # From where the energy is infinite or NaN there is no way back: stay.
        is_finite = jnp.isfinite(log_ratio)
        new = jax.tree.map(lambda y, x: jnp.where(is_finite, y, x), new, state)
        accept_prob = jnp.where(is_finite, jnp.exp(jnp.minimum(0, log_ratio)), 0)
        return new, LangevinInfo(accept_prob, is_finite)

    def _whiten(self, gradient: Point) -> Float[Array, " d"]:
        flat = ravel_pytree(gradient)[0]
        metric = self.inverse_mass_matrix
        if metric is None:
            return flat
        metric = jnp.asarray(metric)
        return (
            jnp.sqrt(metric) * flat
            if metric.ndim == 1
            else jnp.linalg.cholesky(metric).T @ flat
        )

    def _color(self, flat: Float[Array, " d"]) -> Float[Array, " d"]:
        metric = self.inverse_mass_matrix
        if metric is None:
            return flat
        metric = jnp.asarray(metric)
        return (
            jnp.sqrt(metric) * flat if metric.ndim == 1 else jnp.linalg.cholesky(metric) @ flat
        )


def flat_normal(rng_key: Key, shape: Shape) -> Array:
    """Normal draws of `shape`, at the speed of a flat array in the cache."""
    size = math.prod(shape)
    num_blocks = 16 if size >= _CACHE else 1
    rows = -(-size // num_blocks)

    def block(key: Key) -> Array:
        return jr.normal(key, (rows,))

    if num_blocks == 1:
        noise = block(rng_key)
    else:
        noise = jax.lax.map(block, jr.split(rng_key, num_blocks)).reshape(-1)[:size]
    # Without the barrier XLA draws in rows of the last axis, however short.
    return jax.lax.optimization_barrier(noise).reshape(shape)


#: Numbers that, with the words they are made from, no longer stay in a core's cache.
_CACHE = 2**18


class UnadjustedLangevin(AbstractKernel):
    r"""Langevin steps without a correction: $x' = x + \eta\,s(x) + \sqrt{2\eta}\,\epsilon$.

    **Biased**, to first order in $\eta$: on a Gaussian of precision $A$ the chain draws from
    the covariance $A^{-1}(1 - \eta A/2)^{-1}$, and in a steep energy it runs away. At the
    step where MALA would accept 0.574, $E[x^2]$ is 20 % too large on a Gaussian in 64
    dimensions and 145 % on some networks; at 0.99 it is 1 to 5 %. Use
    [`MALA`][numpyro_ebm.MALA] at the same cost unless a paper asks for this. Shown by
    `tests/kernels/test_langevin.py` against its own stationary and finite-step laws.

    There is no acceptance; `accept_prob` is that which MALA would have, and the distance of its
    mean from one is a measure of the bias.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: an energy, what [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: BlackJAX's $\eta$; where adaptation starts.
    - `inverse_mass_matrix`: $M^{-1}$, diagonal or whole, over the flattened position.
    - `adapt_step_size`: adapt $\eta$ in warm-up, until MALA would accept
      `target_accept_prob`.
    - `adapt_mass_matrix`: learn $M^{-1}$ in warm-up.
    - `dense_mass`: learn the whole matrix, not only its diagonal.
    - `target_accept_prob`: close to one for a small bias.
    - `init_strategy`: where chains of a model start.
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 0.01,
        inverse_mass_matrix: Array | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = False,
        dense_mass: bool = False,
        target_accept_prob: float = 0.99,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        check_probability("target_accept_prob", target_accept_prob)
        move = LangevinMove(step_size, inverse_mass_matrix, target_accept_prob)
        adaptation = Adaptation(adapt_step_size, adapt_mass_matrix, dense_mass, TUNED_ERROR)
        super().__init__(model, potential_fn, move, adaptation, init_strategy)
