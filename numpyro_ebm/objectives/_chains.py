"""Short chains on an energy that is being learned."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from .._trainable import constant
from .._types import Array, Energy, Key, PyTree, Scalar
from ..chains import AbstractMove, run_chains


class Run(NamedTuple):
    """The result of short chains.

    - **ends**: their end points.
    - **accept_prob**: the mean acceptance per chain.
    - **diverging**: the share of all transitions that diverged.
    - **tuning**: the mean of the statistic that tunes the step size.
    """

    ends: Array
    accept_prob: Array
    diverging: Scalar
    tuning: Scalar


def run_from(
    rng_key: Key,
    move: AbstractMove,
    energy: Any,
    starts: Array,
    num_steps: int,
    conditions: PyTree | None = None,
) -> Run:
    """Chains of `num_steps` transitions from `starts`; no gradient flows through them."""
    starts = jax.lax.stop_gradient(starts)

    def run(rng_key: Key, energy: Energy, starts: Array) -> Run:
        ends, chains, tuning = run_chains(rng_key, move, energy, starts, num_steps)
        diverging = chains.num_diverging.mean(dtype=tuning.dtype) / num_steps
        return Run(ends, chains.accept_prob, diverging, tuning)

    if conditions is None:
        return run(rng_key, energy, starts)
    keys = jr.split(rng_key, len(starts))
    each = jax.vmap(lambda key, y, x: run(key, energy.given(x), y[None]))
    ends, accept_prob, diverging, tuning = each(keys, starts, conditions)
    return Run(ends[:, 0], accept_prob[:, 0], diverging.mean(), tuning.mean())


def chain_divergence(rng_key: Key, move: AbstractMove, energy: Energy, points: Array) -> Scalar:
    r"""$\mathrm{KL}(q_\theta\,\|\,p)$ up to a constant; $q_\theta$ is one transition later.

    The gradient flows through the transition only; the energy at its end point stays fixed.
    """

    def one_on(rng_key: Key, x: Array) -> Array:
        init_key, step_key = jr.split(rng_key)
        state, _ = move.step(step_key, move.init(init_key, x, energy), energy)
        return state.position

    ends = jax.vmap(one_on)(jr.split(rng_key, len(points)), jax.lax.stop_gradient(points))
    return jax.vmap(constant(energy))(ends).mean() - _entropy(ends)


def _entropy(points: Array) -> Scalar:
    """Up to a constant, from nearest-neighbour distances [Kozachenko, Leonenko 1987]."""
    flat = points.reshape(len(points), -1)
    squares = ((flat[:, None] - flat) ** 2).sum(-1)
    nearest = jnp.min(squares, 1, where=~jnp.eye(len(flat), dtype=bool), initial=jnp.inf)
    # A chain with a duplicate carries no information, and its logarithm would be infinite.
    is_alone = nearest > 0
    logs = jnp.log(jnp.where(is_alone, nearest, 1))
    return 0.5 * flat.shape[1] * logs.sum() / jnp.maximum(is_alone.sum(), 1)
