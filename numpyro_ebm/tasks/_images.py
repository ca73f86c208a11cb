"""What the verbs take: points along the first axis, and where their chains start."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._checks import as_array, as_data
from .._types import Array, Bool, EnergyLike, Float, Key, Shape
from ..energies import (
    AbstractEnergy,
    as_energy,
    check_energy,
    check_points,
    discrete_levels,
    elementwise,
    find_reference,
    is_discrete,
)


def energy_of(energy: EnergyLike, points: Any, name: str = "x") -> AbstractEnergy:
    """`energy`, after a check that it takes the points along the first axis of `points`."""
    energy = as_energy(energy)
    shape = np.shape(points)
    if energy.event_shape is not None and shape == energy.event_shape:
        raise ValueError(
            f"`{name}` must hold points along its first axis, got one of shape {shape}: pass "
            f"`{name}[None]`."
        )
    check_energy(energy, shape[1:])
    return energy


def as_points(energy: AbstractEnergy, points: Any, name: str = "x") -> Float[Array, "n *event"]:
    """Points that are finite and lie on the support of `energy`."""
    points = as_data(points, name)
    check_points(energy, points, name)
    return points


def as_mask(mask: Any, shape: Shape, name: str = "mask") -> Bool[np.ndarray, "n *event"]:
    """Which coordinates are known, of every point."""
    if isinstance(mask, Tracer):
        raise TypeError(f"`{name}` must not be traced, it decides a shape.")
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(
            f"`{name}` must be boolean, `True` where a coordinate is known, got dtype "
            f"{mask.dtype}."
        )
    if mask.shape not in (shape, shape[1:]):
        raise ValueError(
            f"`{name}` must have the shape of one point, {shape[1:]}, or of all, {shape}, got "
            f"{mask.shape}."
        )
    return np.broadcast_to(mask, shape)


def filled(energy: AbstractEnergy, points: Any, mask: Any) -> Array:
    """`points` with a value of the support, whatever it is, where they are not known."""
    points = as_array(points, "x")
    levels = discrete_levels(energy)
    if levels is not None:
        other = np.full(points.shape, levels[0])
    elif is_discrete(energy):
        other = np.zeros(points.shape)
    else:
        zeros = jnp.zeros(points.shape)
        other = np.asarray(elementwise(energy.support).feasible_like(zeros))
    return as_points(energy, np.where(mask, np.asarray(points), other))


def starts_of(
    rng_key: Key, energy: AbstractEnergy, num_chains: int, shape: Shape
) -> Float[Array, "chain n *event"] | None:
    """Draws of the reference of `energy`; `None` if it has none."""
    reference = find_reference(energy)
    if reference is None:
        return None
    return reference.sample(rng_key, (num_chains, shape[0]))


def energies_of(energy: AbstractEnergy, points: Float[Array, "n *event"]) -> Float[Array, " n"]:
    """The energy of each point, in blocks that fit in memory."""
    return jax.lax.map(energy, points, batch_size=_BLOCK)


#: Points per block.
_BLOCK = 1024
