"""Where an energy is low: descents from points at every distance."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import as_floats
from .._types import Array, Float, Scalar


class Lows(NamedTuple):
    """End points of descents, and their energies; NaN is replaced by infinity."""

    points: Float[Array, "n *event"]
    energies: Float[Array, " n"]

    def is_deep(self, depth: float) -> Array:
        """Whether an end point lies less than `depth` above the lowest."""
        return jnp.isfinite(self.energies) & (self.energies <= self.energies.min() + depth)


def starts_around(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Groups of points around zero and around a box, `(group, point, *event)`.

    Directions are random; distances range from a thousandth to a thousand times the box size
    and are nearly equal within a group.
    """
    dim = low.size
    num = NUM_STARTS[dim] * _GROUP // 2
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(2, num, dim))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    if dim == 1:
        directions = np.broadcast_to((-1.0) ** np.arange(num)[:, None], (2, num, 1))
    centers = np.stack([np.zeros(dim), 0.5 * (low + high).ravel()])
    size = 0.5 * (high - low).max()
    radii = size * np.geomspace(1 / REACH, REACH, num)
    points = centers[:, None] + radii[:, None] * directions
    return points.reshape(-1, _GROUP, *low.shape)


def descend_from(energy: Any, starts: Any) -> Lows:
    """Descend from the lowest point of each group."""
    return _descend(energy, as_floats(starts))


@eqx.filter_jit
def _descend(energy: Any, starts: Float[Array, "n k *event"]) -> Lows:
    def height(x: Array) -> Scalar:
        value = energy(x)
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        x, low, length = carry
        slope = jax.grad(energy)(x)
        size = jnp.linalg.norm(slope)
        new = x - length * jnp.where(jnp.isfinite(1 / size), slope / size, 0)
        value = height(new)
        better = value < low
        x, low = jnp.where(better, new, x), jnp.where(better, value, low)
        return (x, low, jnp.where(better, 1.5, 0.5) * length), None

    def descend(group: Array) -> tuple[Array, Scalar]:
        # If most energies overflow, the others are on the slopes of a mode.
        heights = jax.vmap(height)(group)
        x, low = group[jnp.argmin(heights)], heights.min()
        start = x, low, 0.3 * jnp.linalg.norm(x) + 1e-3
        (x, low, _), _ = jax.lax.scan(step, start, length=_NUM_STEPS)
        return x, low

    return Lows(*jax.vmap(descend)(starts))


#: Starts by dimension, their range in box sizes, points per group (each start is the lowest
#: of one), and downhill steps.
NUM_STARTS, REACH, _GROUP, _NUM_STEPS = {1: 256, 2: 512, 3: 1024}, 1e3, 16, 60
