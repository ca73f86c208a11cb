"""Whether points fit an energy: their shape, and where they lie."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._types import Shape
from ._base import AbstractEnergy
from ._levels import discrete_levels, is_discrete, show_levels
from ._supports import is_real


def check_energy(energy: AbstractEnergy, event_shape: Shape) -> None:
    """Raise unless `energy` maps one point of shape `event_shape` to a scalar.

    Only shapes are evaluated: nothing is compiled or run. The energy's own arrays may be
    shapes, too.
    """
    point = jax.ShapeDtypeStruct(event_shape, jnp.result_type(float))
    known = energy.event_shape
    if known is not None and known != event_shape:
        raise ValueError(_shape_message(event_shape, known))
    try:
        # A new function each time: JAX would look up an energy by comparing its arrays.
        shapes, rest = eqx.partition(energy, lambda x: isinstance(x, jax.ShapeDtypeStruct))
        value = jax.eval_shape(lambda s, x: eqx.combine(s, rest)(x), shapes, point)
    except Exception as error:
        raise ValueError(
            f"The energy cannot be evaluated on one point of shape {event_shape}: {error} "
            "An energy takes a single point, without a batch axis; `event_shape` is the shape "
            "of that point."
        ) from error
    shape = getattr(value, "shape", None)
    if shape != ():
        raise ValueError(
            f"The energy of one point must be a scalar, got shape {shape} for a point of shape "
            f'{event_shape}. An `eqx.nn.MLP` needs `out_size="scalar"`; a function of a batch '
            "must become a function of one point."
        )


def _shape_message(got: Shape, known: Shape) -> str:
    message = f"The energy lives on points of shape {known}, got points of shape {got}."
    if len(got) > len(known) and got[len(got) - len(known) :] == known:
        message += " That looks like a batch; an energy takes one point, `jax.vmap` the rest."
    return message


def check_points(energy: AbstractEnergy, points: Any, name: str) -> None:
    """Raise unless points, stacked along the first axis, lie on the support of `energy`."""
    support: Any = energy.support
    if isinstance(points, Tracer) or support is None:
        return
    flat = jnp.asarray(points).reshape(len(points), -1)
    levels = discrete_levels(energy)
    if levels is not None:
        inside, expected = jnp.isin(flat, jnp.asarray(levels)), show_levels(energy)
    elif is_discrete(energy) and is_real(support):
        inside, expected = flat == jnp.round(flat), show_levels(energy)
    elif is_real(support):
        return
    else:
        inside = jax.vmap(lambda x: jnp.all(support(x)))(points).reshape(len(points), -1)
        expected = f"points of the support {support}"
    bad = np.flatnonzero(~np.asarray(inside.all(1)))
    if len(bad):
        raise ValueError(
            f"`{name}` must hold {expected}, where the energy lives; {len(bad)} of "
            f"{len(points)} points do not, the first at index {bad[0]}."
        )
