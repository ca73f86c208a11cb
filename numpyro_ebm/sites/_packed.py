"""A NumPyro distribution whose fields are one pytree."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution

from .._types import PyTree
from ..energies import AbstractEnergy
from ._batch import is_data


class PackedDistribution(Distribution):
    """Keeps a pytree as NumPyro's fields: arrays, and what can be hashed.

    The last leaf has the batch shape, which `scan` and `vmap` lengthen.
    """

    _arrays: list[Any]
    _static: tuple[Any, ...]

    def promoted(self) -> "PackedDistribution":
        """The site with the batch shape that `scan` or `vmap` put in front of all arrays."""
        new = copy.copy(self)
        *_, zeros = self._arrays
        new._batch_shape = jnp.shape(zeros)  # pyright: ignore[reportArgumentType]
        return new

    def __copy__(self) -> "PackedDistribution":
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __getstate__(self) -> dict[str, Any]:
        # Equinox modules can be pickled, their JAX tree structure cannot.
        energy, support = self._unpack(self._arrays)
        tree = (energy, support, self._arrays[-1])
        return {**vars(self), "_arrays": tree, "_static": len(self.batch_shape)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pack(state["_arrays"], state["_static"])

    def _pack(self, tree: PyTree, batch_ndim: int) -> None:
        leaves, treedef = jax.tree.flatten(tree)
        # Non-arrays (an activation, say) go where NumPyro hashes and compares them.
        self._arrays = [leaf if is_data(leaf) else None for leaf in leaves]
        static = tuple(None if is_data(leaf) else leaf for leaf in leaves)
        ndims = tuple(jnp.ndim(x) - batch_ndim if is_data(x) else 0 for x in leaves)
        self._static = (static, treedef, ndims)

    def _unpack(self, arrays: PyTree) -> tuple[AbstractEnergy, Any]:
        static, treedef, _ = self._static
        pairs = zip(arrays, static, strict=True)
        return treedef.unflatten([s if a is None else a for a, s in pairs])[:2]
