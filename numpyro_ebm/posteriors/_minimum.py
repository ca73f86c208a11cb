"""Newton's method, damped, for losses of a few hundred parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import while_loop

from .._types import Array, Float, Scalar


class _Search(NamedTuple):
    """Where the search is, how cautious it is, and whether the last step gained anything."""

    z: Float[Array, " p"]
    value: Scalar
    damping: Scalar
    gain: Scalar
    count: Array


def minimize(
    loss: Callable[[Array], Scalar], start: Float[Array, " p"], num_steps: int = 200
) -> Float[Array, " p"]:
    """A local minimum of `loss` near `start`.

    Steps of Newton on the absolute curvature, so saddle points repel it; a step that does not
    lower the loss is repeated with more damping. Values that are not finite count as infinite.
    """

    def value_at(z: Array) -> Scalar:
        value = loss(z)
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    def step(search: _Search) -> _Search:
        slope, curvature = jax.grad(loss)(search.z), jax.hessian(loss)(search.z)
        spectrum, axes = jnp.linalg.eigh(curvature)
        size = jnp.abs(spectrum)
        damped = size + search.damping * size.max() + jnp.finfo(size.dtype).tiny
        z = search.z - axes @ ((axes.T @ slope) / damped)
        value = value_at(z)
        better = value < search.value
        return _Search(
            jnp.where(better, z, search.z),
            jnp.where(better, value, search.value),
            jnp.where(better, search.damping / 10, 4 * search.damping + 1e-6),
            jnp.where(better, search.value - value, search.gain),
            search.count + 1,
        )

    def goes_on(search: _Search) -> Array:
        return (search.count < num_steps) & (search.damping < 1e6) & (search.gain > 0)

    damping, gain = (jnp.asarray(x, start.dtype) for x in (1e-3, jnp.inf))
    first = _Search(start, value_at(start), damping, gain, jnp.zeros((), int))
    return while_loop(goes_on, step, first).z
