"""The batches of a run: rows of arrays, or an iterator."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.sharding import Sharding

from .._checks import as_numbers, check_count
from .._types import Array, PyTree
from ..objectives import Batch, as_batch, as_float_batch
from ._state import EstimatorState

#: Batches of an iterator stacked for one call.
_MAX_STACKED = 32


class Rows(eqx.Module):
    """Batches of the rows of arrays, in a new order each epoch."""

    data: PyTree
    weights: Array | None
    batch_size: int | None = eqx.field(static=True)
    sharding: Sharding | None = eqx.field(static=True, default=None)

    def order(self, state: EstimatorState) -> Array | None:
        """The order of the data in the current epoch."""
        if self.batch_size is None:
            return None
        epoch = state.step // self._num_batches(self.batch_size)
        # One sort of random words; `jr.permutation` makes two, and sorting is slow on CPU.
        return jnp.argsort(jr.bits(state.fold_in(2 * epoch + 1), (num_rows(self.data),)))

    def next_order(self, state: EstimatorState, order: Array | None) -> Array | None:
        """The order for this step; `order` is that of the previous step."""
        if order is None or self.batch_size is None:
            return None
        return jax.lax.cond(self._is_new(state), lambda: self.order(state), lambda: order)

    def first_order(self, state: EstimatorState) -> Array | None:
        """What `next_order` needs at the first step of a run; nothing at that of an epoch."""
        if self.batch_size is None:
            return None
        unsorted = jnp.zeros(num_rows(self.data), int)
        return jax.lax.cond(self._is_new(state), lambda: unsorted, lambda: self.order(state))

    def batch(self, state: EstimatorState, order: Array | None) -> tuple[PyTree, Array | None]:
        rows = self.data, self.weights
        if order is None or self.batch_size is None:
            return rows
        start = state.step % self._num_batches(self.batch_size) * self.batch_size
        chosen = jax.lax.dynamic_slice_in_dim(order, start, self.batch_size)
        batch = jax.tree.map(lambda x: x[chosen], rows)
        if self.sharding is None:
            return batch
        return jax.lax.with_sharding_constraint(batch, self.sharding)

    def _is_new(self, state: EstimatorState) -> Array:
        return state.step % self._num_batches(self.batch_size or 1) == 0

    def _num_batches(self, batch_size: int) -> int:
        return num_rows(self.data) // batch_size


class Stack(eqx.Module):
    """Batches of an iterator, stacked, from step `first` on."""

    batches: PyTree
    first: Array

    def order(self, state: EstimatorState) -> None:
        return None

    def next_order(self, state: EstimatorState, order: None) -> None:
        return None

    def first_order(self, state: EstimatorState) -> None:
        return None

    def batch(self, state: EstimatorState, order: Any) -> tuple[PyTree, None]:
        i = state.step - self.first
        return jax.tree.map(lambda x: x[i], self.batches), None


class Batches:
    """The batches of an iterator, in groups of the same shape."""

    def __init__(self, data: Iterator[PyTree]) -> None:
        self._rest = map(as_float_batch, data)
        self._next = next(self._rest, None)

    @property
    def next(self) -> PyTree:
        """The next batch; `None` at the end."""
        return self._next

    def skip(self, count: int) -> None:
        for _ in range(count):
            self._next = next(self._rest, None)

    def take(self, count: int) -> list[PyTree]:
        """The next `count` batches; fewer if one differs in size from the first."""
        taken, shapes = [], _shapes(self._next)
        while self._next is not None and len(taken) < count and _shapes(self._next) == shapes:
            taken.append(self._next)
            self.skip(1)
        return taken


def _shapes(batch: PyTree) -> list[tuple[int, ...]]:
    return [x.shape for x in jax.tree.leaves(batch)]


def next_source(
    batches: Rows | Batches, state: EstimatorState, length: int
) -> tuple[Rows | Stack, int]:
    """The batches of the next `length` steps and their number: an iterator may have fewer."""
    if isinstance(batches, Rows):
        return batches, length
    taken = batches.take(min(length, _MAX_STACKED))
    if not taken:
        return Stack(None, state.step), 0
    # Always the same number, so one compilation serves them all.
    filled = taken + [taken[-1]] * (_MAX_STACKED - len(taken))
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *filled)
    return Stack(stacked, state.step), len(taken)


def hold_out(
    batches: Rows | Batches, fraction: float, state: EstimatorState
) -> tuple[Rows, Rows]:
    """Rows to train on, and rows for early stopping: the same if a run is continued."""
    if not isinstance(batches, Rows):
        raise ValueError("`early_stopping` needs `data` as an array, not as an iterator.")
    size = num_rows(batches.data)
    num_held = max(1, round(fraction * size))
    if num_held >= size:
        raise ValueError(f"`early_stopping` would hold out all of the {size} points of `data`.")
    order = jr.permutation(state.fold_in(_SPLIT), size)

    def rows(chosen: Array, batch_size: int | None) -> Rows:
        data, weights = jax.tree.map(lambda x: x[chosen], (batches.data, batches.weights))
        if weights is not None:
            weights = weights / weights.mean()
        return Rows(data, weights, batch_size, batches.sharding)

    batch_size = as_batch_size(batches.batch_size, size - num_held)
    return rows(order[num_held:], batch_size), rows(order[:num_held], None)


#: Folded into the key of a run for the split; no step or epoch number is as large.
_SPLIT = 2**32 - 1


def as_weighted(data: Any, weights: Any) -> tuple[Batch, Array | None]:
    """`data` as a batch of floats, and `weights` scaled to average one."""
    if weights is None:
        return as_float_batch(data), None
    data = as_batch(data)
    size = np.shape(data.points)[:1]
    weights = as_numbers("weights", weights)
    if weights.shape != size:
        raise ValueError(
            f"`weights` must have shape {size}, one weight per row of `data`, got "
            f"{weights.shape}."
        )
    if isinstance(weights, Tracer):
        data = _fill_unweighted(jnp, data, weights > 0)
        return as_float_batch(data), weights / weights.mean()
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError("`weights` must be finite, not negative, and not all zero.")
    counts = np.asarray(weights) > 0
    if not counts.all():
        data = _fill_unweighted(np, data, counts)
    return as_float_batch(data), weights / weights.mean()


def _fill_unweighted(numpy: Any, data: Any, counts: Any) -> Any:
    # Zero times NaN is NaN: rows of weight zero become copies of rows that count.
    rows = numpy.where(counts, numpy.arange(len(counts)), numpy.argmax(counts))
    return jax.tree.map(lambda x: numpy.asarray(x)[rows], data)


def as_batch_size(batch_size: int | None, size: int) -> int | None:
    if batch_size is None:
        return None
    check_count("batch_size", batch_size)
    if batch_size > size:
        raise ValueError(
            f"`batch_size` must lie between 1 and the {size} points of `data`, got "
            f"{batch_size}. Leave it out to use all of them in every step."
        )
    return batch_size


def num_rows(data: PyTree) -> int:
    return len(jax.tree.leaves(data)[0])
