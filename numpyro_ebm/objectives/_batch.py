"""`Batch`: points, and the conditions of a conditional energy."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import as_array, as_data
from .._types import Array, ArrayLike, Energy, Float, PyTree


class Batch(eqx.Module):
    """What a loss sees: one point per row and, for a conditional energy, its condition.

    - **points**: of shape `(n, *event_shape)`.
    - **conditions**: an array or a pytree of arrays with as many rows; `None` if the energy is
      not a [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy].
    """

    points: Array
    conditions: PyTree | None = None

    def __len__(self) -> int:
        return len(self.points)

    def map(
        self,
        fn: Callable[..., Any],
        energy: Any,
        *rows: Array,
        batch_size: int | None = None,
    ) -> Any:
        """`fn(energy, x, *row)` at each point, with the energy at that point's condition.

        All at once, or `batch_size` points at a time.
        """

        def at(x: Array, condition: Any, *row: Array) -> Any:
            return fn(_given(energy, condition), x, *row)

        arrays = self.points, self.conditions, *rows
        if batch_size is None:
            return jax.vmap(at)(*arrays)
        return jax.lax.map(lambda row: at(*row), arrays, batch_size=batch_size)

    def energies(self, energy: Energy) -> Float[Array, " n"]:
        """The energy of each point, at its condition."""
        return self.map(lambda energy, x: energy(x), energy)

    def energy_at(self, energy: Energy, i: int) -> Any:
        """`energy` at the condition of row `i`."""
        return _given(energy, jax.tree.map(lambda x: x[i], self.conditions))

    def with_points(self, points: Array) -> "Batch":
        """Other points at the same conditions, which are repeated if there are more points."""
        count = len(points) // len(self)

        def repeat(x: Array) -> Array:
            return jnp.tile(x, (count,) + (1,) * (x.ndim - 1))

        return Batch(points, jax.tree.map(repeat, self.conditions))


#: What `as_batch` accepts.
Data: TypeAlias = Batch | ArrayLike | tuple[ArrayLike, PyTree]


def as_batch(data: Data) -> Batch:
    """`data` as a batch: an array of points, a pair `(y, x)`, or already a batch."""
    if isinstance(data, Batch):
        return data
    if not isinstance(data, tuple):
        return Batch(as_array(data, "data"))
    if len(data) != 2:
        raise ValueError(
            "`data` must be an array, or a pair `(y, x)` for a conditional energy, got a tuple "
            f"of {len(data)}."
        )
    points, conditions = jax.tree.map(lambda x: as_array(x, "data"), data)
    return Batch(points, conditions)


def as_float_batch(data: Any) -> Batch:
    """`data` as a batch of floats, with the same number of rows in all its parts."""
    batch = as_batch(data)
    batch = Batch(as_data(batch.points), jax.tree.map(as_data, batch.conditions))
    sizes = sorted({len(x) for x in jax.tree.leaves(batch)})
    if len(sizes) > 1:
        raise ValueError(f"The parts of `data` must have the same number of rows, got {sizes}.")
    return batch


def _given(energy: Any, condition: Any) -> Any:
    return energy if condition is None else energy.given(condition)
