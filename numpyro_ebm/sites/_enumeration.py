"""Axes of a model's arrays: those of plates, and of enumerated sites to their left."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from numpyro import primitives

from .._types import Array, Shape


class Enumerated(NamedTuple):
    """The axis along which NumPyro lays out the values of a discrete site.

    - **name**: of the site.
    - **dim**: its batch axis, counted from the right.
    - **size**: the number of its values.
    - **is_traced**: whether they are traced, and so everything that depends on them.
    """

    name: str
    dim: int
    size: int
    is_traced: bool


def plate_shape() -> Shape:
    """The shape of the enclosing plates."""
    # Under enumeration, `numpyro.plate` returns objects of another class.
    plates = [each for each in primitives._PYRO_STACK if hasattr(each, "subsample_size")]
    sizes = {each.dim: each.subsample_size for each in plates}
    return tuple(sizes.get(dim, 1) for dim in range(min(sizes, default=0), 0))


def enumerated_axes() -> list[Enumerated]:
    """The axes of the sites enumerated so far."""
    return [axis for site in traced_sites() for axis in _axes(site)]


def traced_sites() -> list[dict[str, Any]]:
    """The sites recorded so far in a model that NumPyro enumerates."""
    # Already imported if a model is enumerated; its log-density runs in such a trace.
    contrib = sys.modules.get("numpyro.contrib.funsor")
    if contrib is None:
        return []
    traces = [each for each in primitives._PYRO_STACK if isinstance(each, contrib.trace)]
    sites = [site for each in traces for site in each.trace.values()]
    return [site for site in sites if site["type"] == "sample"]


def enumerated_names(shape: Shape, axes: list[Enumerated]) -> set[str]:
    """The enumerated sites along whose axes a batch shape extends."""
    return {a.name for a in axes if -a.dim <= len(shape) and shape[a.dim] == a.size > 1}


def enumerated_splits(array: Array, plates: Shape, axes: list[Enumerated]) -> list[int]:
    """How many leading axes of `array` may be those of enumerated sites and plates.

    Empty for an array that depends on no enumerated site. By NumPyro's convention, a batch
    shape extends along the axes of such sites, then along those of the plates.
    """
    axes = [axis for axis in axes if isinstance(array, Tracer) or not axis.is_traced]
    counts = range(1, array.ndim + 1)
    return [n for n in counts if _is_enumerated(array.shape[:n], plates, axes)]


def enumerated_constants(
    fn: Callable[..., Any], points: Sequence[Any], plates: Shape, axes: list[Enumerated]
) -> list[Shape]:
    """The shapes of closed-over arrays of `fn` that may depend on an enumerated site."""
    try:
        constants = jax.make_jaxpr(lambda *x: fn(*x))(*points).consts  # noqa: PLW0108
    except (TypeError, ValueError):  # The check of the energy explains it.
        return []
    return enumerated_shapes(constants, plates, axes)


def enumerated_shapes(tree: Any, plates: Shape, axes: list[Enumerated]) -> list[Shape]:
    """The shapes of the arrays that may depend on an enumerated site."""
    # NumPy arrays are excluded: if JAX traces the model, they cannot depend on its sites.
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return [a.shape for a in arrays if enumerated_splits(a, plates, axes)]


def _axes(site: dict[str, Any]) -> list[Enumerated]:
    fn, value, dims = site["fn"], site["value"], site["infer"]["name_to_dim"]
    shape = jnp.broadcast_shapes(fn.batch_shape, value.shape[: value.ndim - fn.event_dim])
    # In a `scan`, the state of the previous step is enumerated, too.
    names = [name for name in dims if name == site["name"] or name.startswith("_PREV_")]
    is_traced = isinstance(value, Tracer)
    return [Enumerated(name, dims[name], shape[dims[name]], is_traced) for name in names]


def _is_enumerated(shape: Shape, plates: Shape, axes: list[Enumerated]) -> bool:
    own = {(axis.dim, axis.size) for axis in axes}
    around = set(enumerate(plates, -len(plates)))
    long = {(dim, size) for dim, size in enumerate(shape, -len(shape)) if size != 1}
    return long <= own | around and not long.isdisjoint(own)
