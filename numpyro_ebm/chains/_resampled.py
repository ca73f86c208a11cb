"""Starts with separate modes in their proportions, in few dimensions."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Energy, Float, Key, Shape
from ..energies import is_discrete, is_given


def can_resample(energy: Energy, shape: Shape) -> bool:
    """Whether it is a conditional energy at one condition, of a few real numbers."""
    is_real = is_given(energy) and not is_discrete(energy)
    return is_real and math.prod(shape) in _PROPOSALS


@eqx.filter_jit
def resampled_starts(
    rng_key: Key, energy: Energy, shape: Shape, num: int
) -> Float[Array, "n *event"]:
    r"""`num` of many Cauchy draws $u$ of scale 3, chosen by $e^{-E(u)}/q(u)$ [Rubin 1988]."""
    scale_key, draw_key, choose_key = jr.split(rng_key, 3)
    dim = math.prod(shape)
    size = _PROPOSALS[dim]
    z = jr.normal(draw_key, (size, dim), jnp.result_type(float))
    draws = _SCALE * z / jnp.abs(jr.normal(scale_key, (size, 1), z.dtype))
    log_q = -0.5 * (1 + dim) * jnp.log1p(jnp.sum((draws / _SCALE) ** 2, 1))
    draws = draws.reshape(size, *shape)
    log_weights = -jax.lax.map(energy, draws, batch_size=_BLOCK) - log_q
    log_weights = jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)
    return draws[jr.categorical(choose_key, log_weights, shape=(num,))]


#: Draws by dimension; in more dimensions too few would count.
_PROPOSALS = {1: 2**13, 2: 2**15, 3: 2**17}
#: Their scale, and draws per block.
_SCALE, _BLOCK = 3.0, 2**13
