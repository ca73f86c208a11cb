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
) -> tuple[Array, Scalar]:
    """Where chains end, and their mean acceptance; no gradient goes through them."""
    starts = jax.lax.stop_gradient(starts)
    if conditions is None:
        ends, chains = run_chains(rng_key, move, energy, starts, num_steps)
        return ends, chains.accept_prob.mean()

    def one(rng_key: Key, y: Array, x: Any) -> tuple[Array, Scalar]:
        ends, chains = run_chains(rng_key, move, energy.given(x), y[None], num_steps)
        return ends[0], chains.accept_prob[0]

    keys = jr.split(rng_key, num_points(starts))
    ends, accept_prob = jax.vmap(one)(keys, starts, conditions)
    return ends, accept_prob.mean()


def next_step_size(kernel: AbstractKernel, step_size: Scalar, accept_prob: Scalar) -> Scalar:
    """One step of Robbins and Monro, of a size that lets it follow the energy."""
    adaptation = kernel.adaptation
    if not (isinstance(adaptation, Adaptation) and adaptation.adapt_step_size):
        return step_size
    target = getattr(kernel.move, "target_accept_prob", adaptation.target_accept_prob)
    return step_size * jnp.exp(_GAIN * (accept_prob - target))


#: How fast the step size follows.
_GAIN = 0.05
