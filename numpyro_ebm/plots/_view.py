"""An energy of few coordinates, the box in which it is shown, and samples in it."""

import math
from collections.abc import Container, Sequence
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, EnergyLike, Float, Shape
from ..energies import (
    AbstractEnergy,
    as_energy,
    box_of,
    check_energy,
    confined,
    is_discrete,
)
from ._axes import values_of

#: `(low, high)` of each coordinate; of a single one, also without the outer tuple.
Bounds: TypeAlias = Sequence[Any] | np.ndarray


class View(NamedTuple):
    """What is shown.

    - **energy**: infinite outside its support; **log_z**: its constant, or `None`.
    - **shape**: of one of its points.
    - **box**: `(low, high)` of each coordinate.
    - **points**: flat samples, or `None`.
    """

    energy: AbstractEnergy
    log_z: Any
    shape: Shape
    box: Float[np.ndarray, "d 2"]
    points: Float[np.ndarray, "n d"] | None

    @property
    def dim(self) -> int:
        return len(self.box)

    @property
    def names(self) -> list[str]:
        """The names of the coordinates."""
        return [f"x{list(index)}" if index else "x" for index in np.ndindex(*self.shape)]

    def axis(self, i: int, num: int) -> np.ndarray:
        """Points along coordinate `i`."""
        low, high = self.box[i]
        return np.linspace(low, high, num)

    def energies(self, points: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n"]:
        """The energy at each of flat points."""
        flat = jnp.asarray(points.reshape(-1, *self.shape), jnp.result_type(float))
        return np.asarray(energies_at(self.energy, flat), float).reshape(points.shape[:-1])


@eqx.filter_jit
def energies_at(energy: AbstractEnergy, points: Array) -> Array:
    return jax.lax.map(energy, points, batch_size=4096)


def view_of(energy: EnergyLike, samples: Any, bounds: Any, dims: Container[int]) -> View:
    """Raise unless all three fit together, in a number of coordinates that is among `dims`."""
    values = None if samples is None else values_of("samples", samples)
    shape = as_energy(energy).event_shape
    if shape is None:
        shape = _guess(values, bounds)
    energy = as_energy(energy, shape)
    check_energy(energy, shape)
    dim = math.prod(shape)
    if dim not in dims or is_discrete(energy):
        raise ValueError(
            f"`energy` must be of real points of {_words(dims)}, got {energy!r} of points of "
            f"shape {shape}. Plot its values by `ebm.plots.plot_energies`."
        )
    points = None if values is None else _flat(values, shape)
    box = _box(bounds, points, energy, dim)
    return View(confined(energy), energy.log_z, shape, box, points)


def _words(dims: Container[int]) -> str:
    return "shape (2,)" if dims == (2,) else "one to six coordinates"


def _guess(values: np.ndarray | None, bounds: Any) -> Shape:
    """The shape of a point, if the energy does not know it."""
    if bounds is not None:
        return np.shape(bounds)[:-1]
    return (2,) if values is None else values.shape[-1:] if values.ndim > 1 else ()


def _flat(values: np.ndarray, shape: Shape) -> np.ndarray:
    lead = values.ndim - len(shape)
    if lead < 1 or values.shape[lead:] != shape or not values.size:
        raise ValueError(
            f"`samples` must be points of shape {shape} along their first axes, got shape "
            f"{values.shape}."
        )
    return values.reshape(-1, math.prod(shape)).astype(float)


def _box(bounds: Any, points: np.ndarray | None, energy: AbstractEnergy, dim: int) -> Any:
    if bounds is None:
        return _usual(energy, dim) if points is None else around(points)
    box = np.asarray(bounds, float)
    if box.shape not in ((dim, 2), (2,) * (dim == 1)) or not np.all(box[..., 0] < box[..., 1]):
        raise ValueError(
            f"`bounds` must be `(low, high)` for each of {dim} coordinates, got {bounds!r}."
        )
    return box.reshape(dim, 2)


def _usual(energy: AbstractEnergy, dim: int) -> Float[np.ndarray, "d 2"]:
    """Three standard deviations around the mean, within the support."""
    box = np.tile([-3.0, 3.0], (dim, 1))
    inside = None if energy.support is None else box_of(energy.support)
    if energy.mean is not None and energy.variance is not None:
        mean, variance = (np.ravel(x)[:, None] for x in (energy.mean, energy.variance))
        shifted = mean + np.sqrt(variance) * box
        box = shifted if np.isfinite(shifted).all() else box
    if inside is None:
        return box
    low, high = (np.broadcast_to(np.ravel(end), dim)[:, None] for end in inside)
    clipped = np.clip(box, low, high)
    return clipped if np.all(clipped[:, 0] < clipped[:, 1]) else box


def around(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d 2"]:
    """A box around all finite points, with a margin."""
    finite = points[np.isfinite(points).all(1)]
    if not finite.size:
        raise ValueError("`samples` are not finite anywhere: pass `bounds`, or look at them.")
    low, high = finite.min(0), finite.max(0)
    margin = 0.15 * (high - low) + 1e-6
    return np.stack([low - margin, high + margin], -1)


def figure_size(box: np.ndarray) -> tuple[float, float]:
    """The size of a figure with an unstretched plane and a colour bar of the same height."""
    width, height = np.diff(box)[:, 0]
    return 6.4, 0.6 + float(np.clip(4.9 * height / width, 1.5, 9))
