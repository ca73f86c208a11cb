"""Energies of dicts of sites as energies of one vector."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Key, Point, Scalar, Shape
from ._base import AbstractEnergy, proper_part
from ._model import models_in


class Flat(AbstractEnergy):
    r"""An energy of the unconstrained sites of a model, of the vector that holds all of them.

    Its coordinates are those of the sites, in the order of the model. $Z$ is the same.

    **Arguments**

    - `energy`: such as a [`ModelEnergy`][numpyro_ebm.ModelEnergy], or a sum with one.

    **Raises** `ValueError` if the shape of a site is not known.
    """

    energy: AbstractEnergy
    #: Names and shapes of the sites.
    shapes: tuple[tuple[str, Shape], ...] = eqx.field(static=True)

    def __init__(self, energy: AbstractEnergy) -> None:
        unknown = [site.name for site in energy.sites if site.shape is None]
        if unknown:
            raise ValueError(
                f"The shape of site `{unknown[0]}` is not known: give its energy an "
                "`event_shape`."
            )
        self.energy = energy
        self.shapes = tuple((site.name, site.shape) for site in energy.sites)

    @property
    def event_shape(self) -> Shape:
        return (sum(math.prod(shape) for _, shape in self.shapes),)

    @property
    def log_z(self) -> Scalar | None:
        return self.energy.log_z

    @property
    def sampler(self) -> Any:
        return None if self.energy.sampler is None else self._draw

    @property
    def reference(self) -> Any:
        reference = proper_part(self.energy)
        return None if reference is None else Flat(reference)

    def __call__(self, x: Array) -> Scalar:
        return self.energy(self.unflatten(x))

    def unflatten(self, x: Array) -> dict[str, Array]:
        """The sites of one vector."""
        parts, end = {}, 0
        for name, shape in self.shapes:
            start, end = end, end + math.prod(shape)
            parts[name] = x[start:end].reshape(shape)
        return parts

    def flatten(self, x: Point) -> Array:
        """The vector of the sites; the inverse of `unflatten`."""
        return jnp.concatenate([jnp.ravel(x[name]) for name, _ in self.shapes])

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        draws = self.energy.sample(rng_key, (math.prod(sample_shape),))
        return jax.vmap(self.flatten)(draws).reshape(*sample_shape, -1)

    def _formula(self) -> str:
        return repr(self.energy)


def flattened(
    energy: AbstractEnergy,
) -> tuple[AbstractEnergy, Callable[[Array], dict[str, Array]] | None]:
    """`energy` on arrays, and the map from there to its points if they are dicts of sites."""
    is_model = energy.event_shape is None and bool(models_in(energy))
    if not energy.sites and not is_model:
        return energy, None
    flat = Flat(energy)
    return flat, flat.unflatten
