"""Where an energy is low: descents from points at every distance."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import as_floats
from .._types import Array, Energy, Float, Scalar


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


def descend_from(energy: Energy, starts: Any) -> Lows:
    """Descend from the lowest point of each group."""
    return _descend(energy, as_floats(starts))


@eqx.filter_jit
def _descend(energy: Energy, starts: Float[Array, "n k *event"]) -> Lows:
    height = without_nan(energy)

    def move(x: Array, length: Scalar) -> Array:
        return x - length * unit(jax.grad(energy)(x))

    def descend(group: Array) -> tuple[Array, Scalar]:
        # If most energies overflow, the others are on the slopes of a mode.
        x = group[jnp.argmin(jax.vmap(height)(group))]
        return downhill(height, move, x, 0.3 * jnp.linalg.norm(x) + 1e-3, _NUM_STEPS)

    return Lows(*jax.vmap(descend)(starts))


def downhill(
    height: Callable[[Array], Scalar],
    move: Callable[[Array, Scalar], Array],
    start: Array,
    length: Scalar,
    num_steps: int,
) -> tuple[Array, Scalar]:
    """The end of a descent by `move(x, length)`, and its height.

    A move that leads up is not made, and the next one is half as long; after one that leads
    down, the next is longer by half.
    """

    def step(_: Array, carry: tuple) -> tuple:
        x, low, length = carry
        new = move(x, length)
        value = height(new)
        better = value < low
        x, low = jnp.where(better, new, x), jnp.where(better, value, low)
        return x, low, jnp.where(better, 1.5, 0.5) * length

    carry = start, height(start), length
    return jax.lax.fori_loop(0, num_steps, step, carry)[:2]


def without_nan(energy: Energy) -> Callable[[Array], Scalar]:
    """`energy`, infinite instead of NaN."""

    def height(x: Array) -> Scalar:
        value = energy(x)
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    return height


def unit(x: Array) -> Array:
    """`x` at length one; zero if its length is zero or not finite."""
    length = jnp.linalg.norm(x)
    return jnp.where(jnp.isfinite(1 / length), x / length, 0)


#: Starts by dimension, their range in box sizes, points per group (each start is the lowest
#: of one), and downhill steps.
NUM_STARTS, REACH, _GROUP, _NUM_STEPS = {1: 256, 2: 512, 3: 1024}, 1e3, 16, 60
