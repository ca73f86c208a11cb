"""Unadjusted Langevin dynamics."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from numpyro.infer.initialization import init_to_uniform

from .._checks import check_probability
from .._types import Array, DenseMass, Energy, Key, Metric, Point, Scalar, Shape
from ..chains import (
    TUNED_ERROR,
    AbstractMove,
    Adaptation,
    Report,
    learns_metric,
    report,
    tuning_of_error,
)
from ._hmc import travelling
from ._numpyro import AbstractKernel


class LangevinState(NamedTuple):
    """The state of a chain, with BlackJAX's names."""

    position: Point
    logdensity: Scalar
    logdensity_grad: Point


class LangevinInfo(NamedTuple):
    """The acceptance that MALA would give the step, and whether the step was taken."""

    acceptance_rate: Scalar
    is_divergent: Array


class LangevinMove(AbstractMove):
    r"""$x' = x + \eta M^{-1} s(x) + \sqrt{2\eta}\,M^{-1/2}\epsilon$, unless it diverges.

    BlackJAX's `overdamped_langevin` is this without a metric. Here many chains draw their noise
    as one flat array, which on a CPU takes a fifth of the time of one short row per chain.
    """

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None
    target_accept_prob: float | Scalar = 0.99

    @property
    def is_exact(self) -> bool:
        return False

    def init(self, rng_key: Key, position: Point, energy: Energy) -> LangevinState:
        value, gradient = jax.value_and_grad(energy)(position)
        return LangevinState(position, -value, jax.tree.map(jnp.negative, gradient))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        flat, unravel = ravel_pytree(state.position)
        return self._step(unravel(jr.normal(rng_key, flat.shape)), state, energy)

    def chain_axis(self, states: LangevinState) -> int:
        # Sums over rows of few coordinates are slow: then chains are the last axis.
        num_chains = states.logdensity.size
        size = sum(x.size for x in jax.tree.leaves(states.position))
        return -1 if num_chains > 1 and size <= _SHORT * num_chains else 0

    def step_all(self, rng_keys: Key, states: Any, energy: Energy) -> tuple[Any, Any]:
        axis = self.chain_axis(states)
        noise = normal_like(rng_keys[0], states.position)
        return jax.vmap(lambda z, x: self._step(z, x, energy), axis, axis)(noise, states)

    def report(self, info: LangevinInfo) -> Report:
        error = (1 - info.acceptance_rate) / (1 - self.target_accept_prob)
        tuning = tuning_of_error(error)
        return report(info.acceptance_rate, info.is_divergent, tuning=tuning)

    def _step(
        self, noise: Point, state: LangevinState, energy: Energy
    ) -> tuple[LangevinState, LangevinInfo]:
        step = jnp.sqrt(2 * self.step_size)

        def kick(momentum: Point, gradient: Point) -> Point:
            force = self._in_metric(gradient, transposed=True)
            return jax.tree.map(lambda p, g: p + 0.5 * step * g, momentum, force)

        momentum = kick(noise, state.logdensity_grad)
        drift = self._in_metric(momentum)
        position = jax.tree.map(lambda x, p: x + step * p, state.position, drift)
        new = self.init(jr.key(0), position, energy)
        # The leapfrog's energy error is MALA's log acceptance ratio.
        end = kick(momentum, new.logdensity_grad)
        kinetic = jax.tree.map(lambda a, b: 0.5 * ((a - b) * (a + b)).sum(), noise, end)
        log_ratio = new.logdensity - state.logdensity + sum(jax.tree.leaves(kinetic))
        # If it is this large, or NaN, the chain would run away and not come back: stay.
        is_divergent = ~((log_ratio > -_DIVERGED) & (log_ratio < jnp.inf))
        new = jax.tree.map(lambda y, x: jnp.where(is_divergent, x, y), new, state)
        accept_prob = jnp.where(is_divergent, 0, jnp.exp(jnp.minimum(0, log_ratio)))
        return new, LangevinInfo(accept_prob, is_divergent)

    def _in_metric(self, x: Point, transposed: bool = False) -> Point:
        """$M^{-1/2} x$, or its transpose times $x$."""
        if self.inverse_mass_matrix is None:
            return x
        metric = self.metric(x)
        flat, unravel = ravel_pytree(x)
        if metric.ndim == 1:
            return unravel(jnp.sqrt(metric) * flat)
        root = jnp.linalg.cholesky(metric)
        return unravel((root.T if transposed else root) @ flat)


def normal_like(rng_key: Key, positions: Point) -> Point:
    """Normal draws like `positions`, all from one flat array."""
    leaves, treedef = jax.tree.flatten(positions)
    ends = list(itertools.accumulate(x.size for x in leaves))
    flat = flat_normal(rng_key, (ends[-1],))
    noise = [
        flat[end - x.size : end].reshape(x.shape) for end, x in zip(ends, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, noise)


def flat_normal(rng_key: Key, shape: Shape) -> Array:
    """Normal draws of `shape`, as fast as a flat array that fits in the cache."""
    size = math.prod(shape)
    num_blocks = 16 if size >= _CACHE else 1
    rows = -(-size // num_blocks)

    def block(key: Key) -> Array:
        return jr.normal(key, (rows,))

    if num_blocks == 1:
        noise = block(rng_key)
    else:
        noise = jax.lax.map(block, jr.split(rng_key, num_blocks)).reshape(-1)[:size]
    # Without the barrier XLA draws in rows of the last axis, however short they are.
    return jax.lax.optimization_barrier(noise).reshape(shape)


#: NumPyro's and BlackJAX's threshold for an energy error.
_DIVERGED = 1000
#: Number of coordinates in a row that is too short for a fast sum.
_SHORT = 32
#: How many numbers, with the random words behind them, overflow a core's cache.
_CACHE = 2**18


class UnadjustedLangevin(AbstractKernel):
    r"""Langevin steps without a correction: $x' = x + \eta\,s(x) + \sqrt{2\eta}\,\epsilon$.

    **Biased**, to first order in $\eta$: on a Gaussian of precision $A$ the chain has the
    covariance $A^{-1}(1 - \eta A/2)^{-1}$. At the step where MALA would accept 0.574, $E[x^2]$
    is 20 % too large on a Gaussian in 64 dimensions and 145 % on some networks; at 0.99 it is
    1 to 5 %. If a step would run away, its energy off by more than 1000, the chain stays and
    reports a divergence. Use [`MALA`][numpyro_ebm.MALA] at the same cost unless a paper asks
    for this. Shown by `tests/kernels/test_langevin.py` against its own stationary and
    finite-step laws.

    Nothing is accepted or rejected; `accept_prob` is the probability that MALA would have. How
    far its mean is from one measures the bias.

    The first 60 % of the warm-up runs Hamiltonian trajectories of up to 64 steps, which travel
    to the target and learn the metric; the rest adapts the kernel's own step.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: anything [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: BlackJAX's $\eta$; where adaptation starts.
    - `inverse_mass_matrix`: $M^{-1}$, diagonal or dense, over the flattened position, or by
      blocks of sites, `{("x", "y"): matrix}`.
    - `adapt_step_size`: adapt $\eta$ in warm-up, until MALA would accept
      `target_accept_prob`.
    - `adapt_mass_matrix`: learn $M^{-1}$ in warm-up, by Stan's windows; by default if the step
      adapts, or if `dense_mass`.
    - `dense_mass`: learn the dense matrix, not only its diagonal, or dense blocks of sites,
      `[("x", "y")]`.
    - `target_accept_prob`: close to one for a small bias.
    - `init_strategy`: where the chains of a model start.
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 0.01,
        inverse_mass_matrix: Metric | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool | None = None,
        dense_mass: DenseMass = False,
        target_accept_prob: float = 0.99,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        check_probability("target_accept_prob", target_accept_prob)
        move = LangevinMove(step_size, inverse_mass_matrix, target_accept_prob)
        adaptation = Adaptation(
            adapt_step_size,
            learns_metric(adapt_mass_matrix, adapt_step_size, dense_mass),
            dense_mass,
            TUNED_ERROR,
            travel=travelling(inverse_mass_matrix, adapt_step_size, 2),
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)
