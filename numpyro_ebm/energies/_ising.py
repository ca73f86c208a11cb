"""Spins on a lattice."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import logsumexp

from .._checks import as_shape, finite
from .._types import Array, Float, Key, Sampler, Scalar, Shape
from ._base import AbstractEnergy
from ._lattices import ring_log_z, torus_log_z
from ._states import bits, is_enumerable


class IsingModel(AbstractEnergy):
    r"""$-K\sum_{\langle ij\rangle} s_i s_j - \sum_i h_i s_i$, with $s_i = \pm 1$ on a lattice.

    `log_z` is Kaufman's exact solution on a two-dimensional torus without a field
    [[Kaufman 1949](https://doi.org/10.1103/PhysRev.76.1232)], the transfer matrix's on a ring
    in a uniform one, and otherwise an enumeration of up to 20 spins; for larger lattices it is
    unknown. A negative coupling frustrates a torus with an odd side, and Kaufman's terms
    cancel: a transfer matrix is used instead, up to a shorter side of 9. Beyond that the value
    is checked, and raises an error if too few digits are left. Moments and exact draws use
    enumeration.

    **Arguments**

    - `shape`: the shape of the lattice, one- or two-dimensional, and of one point.
    - `coupling`: $K$, the inverse temperature times the interaction.
    - `field`: $h$, one for all spins or of the shape of the lattice, or `None` for none.
    - `periodic`: whether opposite edges are neighbours.
    """

    levels: ClassVar[tuple[float, ...] | None] = (-1.0, 1.0)

    shape: Shape = eqx.field(static=True)
    coupling: Scalar = eqx.field(converter=finite("coupling"))
    field: Float[Array, "*any"] | None = eqx.field(converter=finite("field"), default=None)
    periodic: bool = eqx.field(static=True, default=True, kw_only=True)

    def __check_init__(self) -> None:
        shape = as_shape("shape", self.shape)
        if len(shape) not in (1, 2) or min(shape) < 1:
            raise ValueError(
                f"`shape` must be that of a one- or two-dimensional lattice, got {self.shape}."
            )
        if self.field is not None and self.field.shape not in ((), shape):
            raise ValueError(
                f"`field` must be one number or of shape {shape}, got shape {self.field.shape}."
            )

    @property
    def event_shape(self) -> Shape:
        return self.shape

    @property
    def log_z(self) -> Scalar | None:
        field = jnp.zeros(()) if self.field is None else self.field
        is_ring = self.periodic and sum(size > 1 for size in self.shape) < 2
        if is_ring and field.ndim == 0:
            # Along a side of one, each spin is its own neighbour, at both ends of a bond.
            own = self.num_spins * (len(self.shape) - 1) * self.coupling
            return ring_log_z(self.num_spins, self.coupling, field) + own
        if self.periodic and self.field is None:
            return torus_log_z(self.shape, self.coupling)
        if not is_enumerable(self.num_spins):
            return None
        return logsumexp(-jax.vmap(self)(self.states()))

    @property
    def num_spins(self) -> int:
        return math.prod(self.shape)

    @property
    def mean(self) -> Float[Array, "*shape"] | None:
        if not is_enumerable(self.num_spins):
            return None
        states = self.states()
        return jnp.tensordot(jax.nn.softmax(-jax.vmap(self)(states)), states, axes=1)

    @property
    def variance(self) -> Float[Array, "*shape"] | None:
        return None if self.mean is None else 1 - self.mean**2

    @property
    def sampler(self) -> Sampler | None:
        return self._draw if is_enumerable(self.num_spins) else None

    def states(self) -> Float[Array, "n *shape"]:
        """All $2^n$ configurations."""
        return (2 * bits(self.num_spins) - 1).reshape(-1, *self.shape)

    def gibbs_sweep(self, rng_key: Key, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Draw each spin given its neighbours, one sublattice without neighbours at a time."""
        colors = self._colors()
        for color, key in enumerate(jr.split(rng_key, colors.max() + 1)):
            up = jr.bernoulli(key, jax.nn.sigmoid(2 * self._field_at(x)))
            x = jnp.where(colors == color, jnp.where(up, 1.0, -1.0).astype(x.dtype), x)
        return x

    def __call__(self, x: Float[Array, "*shape"]) -> Scalar:
        energy = jnp.zeros(())
        for axis in range(len(self.shape)):
            bonds = x * jnp.roll(x, -1, axis)
            if not self.periodic:
                bonds = jax.lax.slice_in_dim(bonds, 0, self.shape[axis] - 1, axis=axis)
            energy -= self.coupling * jnp.sum(bonds)
        if self.field is None:
            return energy
        if self.field.ndim:
            return energy - jnp.sum(self.field * x)
        return energy - self.field * jnp.sum(x)

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        states = self.states()
        return states[jr.categorical(rng_key, -jax.vmap(self)(states), shape=sample_shape)]

    def _field_at(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The field on each spin, from its neighbours and from outside."""
        field = jnp.zeros_like(x) if self.field is None else jnp.zeros_like(x) + self.field
        for axis, size in enumerate(self.shape):
            if size == 1:
                continue  # Its own neighbour, a constant.
            ahead, behind = jnp.roll(x, -1, axis), jnp.roll(x, 1, axis)
            if not self.periodic:
                place = jnp.arange(size).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
                ahead = jnp.where(place < size - 1, ahead, 0)
                behind = jnp.where(place > 0, behind, 0)
            field += self.coupling * (ahead + behind)
        return field

    def _colors(self) -> np.ndarray:
        """Colours of the spins, as numbers; no two neighbours share one."""
        odd = self.periodic and any(n % 2 for n in self.shape if n > 1)
        lines = [np.arange(n) % 2 for n in self.shape]
        for line in lines if odd else ():
            line[-1] = 2 if len(line) % 2 and len(line) > 1 else line[-1]
        return np.asarray(sum(np.ix_(*lines))) % (3 if odd else 2)
