"""Points whose coordinates take a few values: all of them, random ones, and neighbours."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import as_floats
from .._types import Array, Bool, Float, Key, Shape

#: 2^20 states of 20 units take 80 MB.
MAX_STATES = 2**20


def is_enumerable(num_coordinates: int, num_levels: int = 2) -> bool:
    return num_levels**num_coordinates <= MAX_STATES


def all_states(levels: Sequence[float], shape: Shape) -> Float[Array, "n *event"]:
    """All points of a shape whose coordinates take some values."""
    size, num = math.prod(shape), len(levels)
    digits = np.arange(num**size)[:, None] // num ** np.arange(size) % num
    return as_floats(np.asarray(levels)[digits].reshape(-1, *shape))


def bits(size: int) -> Float[Array, "n {size}"]:
    """All words of `size` bits."""
    return all_states((0.0, 1.0), (size,))


def draw_levels(
    rng_key: Key, levels: Sequence[float], probs: Float[Array, "... k"], shape: Shape
) -> Float[Array, "*shape"]:
    """One level per coordinate; `probs` are the probabilities of the levels, in their order."""
    # The probability of the second level or above, of the third or above, ...
    above = jnp.cumsum(probs[..., :0:-1], -1)[..., ::-1]
    above = jnp.broadcast_to(above, (*shape, len(levels) - 1))
    index = jnp.sum(jr.uniform(rng_key, shape, above.dtype)[..., None] < above, -1)
    return as_floats(jnp.asarray(levels)[index])


def has_level(levels: Sequence[float], x: Array) -> Bool[Array, "... k"]:
    """Whether each coordinate has each of the levels."""
    return x[..., None] == _along_last(levels, x)


def other_levels(levels: Sequence[float], x: Array) -> Array:
    """The levels that each coordinate does not have, in their order, along a last axis."""
    if len(levels) == 2:
        return (sum(levels) - x)[..., None]
    own = jnp.argmin(jnp.abs(x[..., None] - _along_last(levels, x)), -1)
    index = jnp.expand_dims(jnp.arange(len(levels) - 1), tuple(range(x.ndim)))
    return jnp.asarray(levels, x.dtype)[index + (index >= own[..., None])]


def _along_last(levels: Sequence[float], x: Array) -> Array:
    return jnp.expand_dims(jnp.asarray(levels, x.dtype), tuple(range(x.ndim)))
