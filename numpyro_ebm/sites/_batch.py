"""Batches of energies: one energy per element, all of them in one pytree."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Point, PyTree, Shape
from ..energies import AbstractEnergy


def vmap_times(fn: Callable[..., Any], times: int, out_axes: int = 0) -> Callable[..., Any]:
    for _ in range(times):
        fn = jax.vmap(fn, out_axes=out_axes)
    return fn


def map_batch(
    fn: Callable[[PyTree, Point], Any],
    arrays: PyTree,
    batch_shape: Shape,
    points: PyTree,
    shape: Shape,
) -> Any:
    """`fn(arrays, x)` over `points` of leading `shape`, to which `batch_shape` broadcasts."""
    depth = len(shape) - len(batch_shape)
    ones = tuple(i for i, n in enumerate(batch_shape) if n != shape[depth + i])
    arrays = jax.tree.map(lambda a: jnp.squeeze(a, ones), arrays)
    for i in reversed(range(len(batch_shape))):
        fn = jax.vmap(fn, (None if i in ones else 0, 0))
    for _ in range(depth):
        fn = jax.vmap(fn, (None, 0))
    return fn(arrays, points)


def check_batch(energy: AbstractEnergy, batch_shape: Shape) -> AbstractEnergy:
    """One of a batch of energies, with shapes instead of arrays."""
    if not batch_shape:
        return energy
    for path, leaf in jax.tree_util.tree_leaves_with_path(energy):
        if is_data(leaf) and leaf.shape[: len(batch_shape)] != batch_shape:
            raise ValueError(
                f"`batch_shape` is {batch_shape}, but `{jax.tree_util.keystr(path)}` of the "
                f"energy has shape {leaf.shape}: every array must begin with it. Make all of "
                "the energy under `eqx.filter_vmap`."
            )
    return strip(energy, batch_shape)


def strip(tree: PyTree, batch_shape: Shape) -> PyTree:
    def one(leaf: Any) -> Any:
        if not is_data(leaf):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape[len(batch_shape) :], jnp.result_type(leaf))

    return jax.tree.map(one, tree)


def is_data(leaf: Any) -> bool:
    # Including tracers, NumPy arrays, and the placeholders of JAX's transformations.
    return eqx.is_array_like(leaf) and not isinstance(leaf, bool | int | float | complex)
