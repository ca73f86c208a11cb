"""Short chains on an energy that is being learned."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Key, PyTree, Scalar
from ..kernels import AbstractKernel, Adaptation, run_chains
from ._base import num_points


def check_kernel(kernel: Any) -> None:
    if not isinstance(kernel, AbstractKernel):
        raise TypeError(
            f"`kernel` must be a kernel of this library, such as `ebm.MALA()`, got {kernel!r}."
        )
    if kernel.has_target:
        raise ValueError(
            "`kernel` must have neither `model` nor `potential_fn` here, where it moves on "
            f"the energy that is learned: pass `ebm.{type(kernel).__name__}()`."
        )


def with_step(move: Any, step_size: Scalar) -> Any:
    return eqx.tree_at(lambda m: m.step_size, move, step_size)


def run_from(
    rng_key: Key,
    move: Any,
    energy: Any,
    starts: Array,
    num_steps: int,
    conditions: PyTree | None = None,
) -> tuple[Array, Array]:
    """Where chains end, and the mean acceptance of each; no gradient goes through them."""
    starts = jax.lax.stop_gradient(starts)
    if conditions is None:
        ends, chains = run_chains(rng_key, move, energy, starts, num_steps)
        return ends, chains.accept_prob

    def one(rng_key: Key, y: Array, x: Any) -> tuple[Array, Scalar]:
        ends, chains = run_chains(rng_key, move, energy.given(x), y[None], num_steps)
        return ends[0], chains.accept_prob[0]

    keys = jr.split(rng_key, num_points(starts))
    return jax.vmap(one)(keys, starts, conditions)


def chain_divergence(rng_key: Key, move: Any, energy: Any, points: Array) -> Scalar:
    r"""$\mathrm{KL}(q_\theta\,\|\,p)$ up to a constant, of $q_\theta$ one transition on.

    Its gradient is that of the transition; the energy that judges where it ends stays fixed.
    """

    def one_on(rng_key: Key, x: Array) -> Array:
        init_key, step_key = jr.split(rng_key)
        state, _ = move.step(step_key, move.init(init_key, x, energy), energy)
        return state.position

    ends = jax.vmap(one_on)(jr.split(rng_key, len(points)), jax.lax.stop_gradient(points))
    arrays, static = eqx.partition(energy, eqx.is_array)
    fixed = eqx.combine(jax.lax.stop_gradient(arrays), static)
    return jax.vmap(fixed)(ends).mean() - _entropy(ends)


def _entropy(points: Array) -> Scalar:
    """Up to a constant, by the distances to nearest neighbours [Kozachenko, Leonenko 1987]."""
    flat = points.reshape(len(points), -1)
    squares = ((flat[:, None] - flat) ** 2).sum(-1)
    nearest = jnp.min(squares, 1, where=~jnp.eye(len(flat), dtype=bool), initial=jnp.inf)
    # A chain that has a twin says nothing, and its logarithm would be infinite.
    is_alone = nearest > 0
    logs = jnp.log(jnp.where(is_alone, nearest, 1))
    return 0.5 * flat.shape[1] * logs.sum() / jnp.maximum(is_alone.sum(), 1)


def next_step_size(kernel: AbstractKernel, step_size: Scalar, accept_prob: Scalar) -> Scalar:
    """One step of Robbins and Monro, of a size that lets it follow the energy."""
    adaptation = kernel.adaptation
    if not (isinstance(adaptation, Adaptation) and adaptation.adapt_step_size):
        return step_size
    target = getattr(kernel.move, "target_accept_prob", adaptation.target_accept_prob)
    return step_size * jnp.exp(_GAIN * (accept_prob - target))


#: How fast the step size follows.
_GAIN = 0.05
