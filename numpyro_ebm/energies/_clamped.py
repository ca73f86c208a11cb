"""An energy of some coordinates, with the others fixed."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions.constraints import Constraint

from .._checks import as_numbers
from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, ArrayLike, EnergyLike, Float, Int, Scalar, Shape
from ._base import AbstractEnergy, as_energy
from ._formula import show_term
from ._transforms import restricted


class Clamped(AbstractEnergy):
    r"""$E(x_\text{free}, x_\text{clamped})$ of the free coordinates; see `clamp`.

    Its point is the vector of the free coordinates, in their order in `x`.
    """

    energy: AbstractEnergy
    values: Frozen | Float[Array, "*event"]
    free_index: Int[Array, " n"]

    @property
    def event_shape(self) -> Shape:
        return self.free_index.shape

    @property
    def support(self) -> Constraint | None:
        shape = unfreeze(self.values).shape
        return restricted(self.energy.support, self.free_index, shape)

    def complete(self, free: Float[Array, " n"]) -> Float[Array, "*event"]:
        """The full point, with `free` filled in."""
        values = unfreeze(self.values)
        return values.ravel().at[self.free_index].set(free).reshape(values.shape)

    def free(self, x: Float[Array, "*event"]) -> Float[Array, " n"]:
        """The free coordinates of a full point."""
        return jnp.ravel(x)[self.free_index]

    def __call__(self, x: Float[Array, " n"]) -> Scalar:
        return self.energy(self.complete(x))

    def _formula(self) -> str:
        total = math.prod(unfreeze(self.values).shape)
        return f"{show_term(repr(self.energy))}[{self.event_shape[0]} of {total} free]"


def clamp(energy: EnergyLike, mask: ArrayLike, values: ArrayLike) -> Clamped:
    r"""The energy of the free coordinates, given the clamped ones.

    ```python
    rest = ebm.clamp(energy, mask=~jnp.isnan(x), values=x)  # the missing ones
    ```

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes.
    - `mask`: `True` if a coordinate is clamped; has the shape of one point, not traced.
    - `values`: the values of the clamped coordinates; ignored, NaN or not, for free ones.

    **Raises** `ValueError` if shapes don't fit, a clamped value is NaN, nothing is free, or the
    support ties coordinates to each other, as the simplex does.
    """
    energy = as_energy(energy)
    if isinstance(mask, Tracer):
        raise TypeError(
            "`mask` must not be traced, it decides a shape; `values` may be. Close over the "
            "mask, or pass it to `jax.jit` as a static argument."
        )
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"`mask` must be boolean, got dtype {mask.dtype}.")
    if energy.event_shape not in (None, mask.shape):
        raise ValueError(
            f"`mask` must have the shape of one point, {energy.event_shape}, got {mask.shape}."
        )
    if mask.all():
        raise ValueError("`mask` clamps every coordinate: there is no energy left.")
    values = as_numbers("values", values)
    if values.shape not in ((), mask.shape):
        raise ValueError(
            f"`values` must have the shape of one point, {mask.shape}, got {values.shape}."
        )
    values = jnp.broadcast_to(values, mask.shape)
    values = jnp.where(mask, values, 0)
    if not isinstance(values, Tracer) and not np.isfinite(values).all():
        raise ValueError("`values` must be finite where `mask` clamps them.")
    clamped = Clamped(energy, freeze(values), jnp.asarray(np.flatnonzero(~mask)))
    if clamped.support is None:
        raise ValueError(
            f"The support of this energy, {energy.support}, ties coordinates to each other: "
            "what it leaves to the free ones is not known. Clamp an energy of unconstrained "
            "points, `ebm.Transformed(energy, biject_to(support))`."
        )
    return clamped
