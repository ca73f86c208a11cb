"""`AbstractExactMethod`: a normaliser without Monte-Carlo error."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from .._types import Array, Energy, Float, Scalar


class AbstractExactMethod(eqx.Module):
    r"""$\log Z$ as a deterministic function of the energy's parameters."""

    @abc.abstractmethod
    def log_z(self, energy: Energy) -> Scalar:
        r"""$\log\int e^{-E(x)}\,dx$, differentiable in the parameters of `energy`."""


def log_sum(
    energy: Energy, nodes: Float[Array, "n *event"], log_weights: Float[Array, " n"]
) -> Scalar:
    r"""$\log\sum_i w_i e^{-E(x_i)}$, in blocks, whose inner values a gradient computes anew."""
    num_blocks = -(-len(nodes) // _BLOCK)
    size = -(-len(nodes) // num_blocks)
    missing = num_blocks * size - len(nodes)
    # A block is filled up with nodes that weigh nothing.
    nodes = jnp.concatenate([nodes, jnp.repeat(nodes[:1], missing, 0)])
    log_weights = jnp.concatenate([log_weights, jnp.full(missing, -jnp.inf)])

    @jax.checkpoint
    def block(part: tuple[Array, Array]) -> Scalar:
        points, log_weights = part
        return logsumexp(log_weights - jax.vmap(energy)(points))

    if num_blocks == 1:
        return block((nodes, log_weights))
    shape = (num_blocks, size)
    parts = nodes.reshape(*shape, *nodes.shape[1:]), log_weights.reshape(shape)
    return logsumexp(jax.lax.map(block, parts))


#: Nodes at once.
_BLOCK = 8192
