"""Parameters of a family of energies as one unconstrained vector."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from .._checks import as_finite, as_floats
from .._types import Array, Float, PyTree


class Parameters:
    r"""The map between $\theta$, a pytree of arrays, and an unconstrained vector $z$.

    **Arguments**

    - `example`: one $\theta$, of which only structure and shapes count.
    - `support`: a NumPyro constraint on it, or a dict of them by name; what is not named is
      real.
    """

    def __init__(self, example: PyTree, support: Any = None) -> None:
        leaves = jax.tree_util.tree_leaves_with_path(example)
        self.treedef = jax.tree.structure(example)
        self.names = tuple(
            jax.tree_util.keystr(p, simple=True, separator=".") for p, _ in leaves
        )
        self.shapes = tuple(jnp.shape(x) for _, x in leaves)
        _check_support(support, self.names, example)
        self.transforms = tuple(biject_to(_support_of(support, path)) for path, _ in leaves)
        pairs = zip(self.transforms, self.shapes, strict=True)
        self.free_shapes = tuple(transform.inverse_shape(shape) for transform, shape in pairs)

    @property
    def size(self) -> int:
        """The number of unconstrained coordinates."""
        return sum(map(math.prod, self.free_shapes))

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each unconstrained coordinate."""
        found = []
        for name, shape in zip(self.names, self.free_shapes, strict=True):
            indices = [f"[{', '.join(map(str, i))}]" if i else "" for i in np.ndindex(shape)]
            found += [(name or "theta") + index for index in indices]
        return tuple(found)

    def flatten(self, theta: PyTree) -> Float[Array, " d"]:
        """The unconstrained vector of one `theta`."""
        self._check(theta, ())
        leaves = zip(self.transforms, jax.tree.leaves(theta), strict=True)
        return jnp.concatenate([jnp.ravel(t.inv(as_floats(x))) for t, x in leaves])

    def unflatten(self, z: Float[Array, " d"]) -> PyTree:
        """One `theta` at an unconstrained vector."""
        leaves, end = [], 0
        for transform, shape in zip(self.transforms, self.free_shapes, strict=True):
            start, end = end, end + math.prod(shape)
            leaves.append(transform(z[start:end].reshape(shape)))
        return jax.tree.unflatten(self.treedef, leaves)

    def flatten_all(self, draws: PyTree, name: str) -> np.ndarray:
        """The unconstrained vectors of many draws, one per row, in double precision."""
        arrays = jax.tree.map(lambda x: as_finite(name, x), draws)
        sizes = {x.shape[:1] for x in jax.tree.leaves(arrays)}
        self._check(arrays, next(iter(sizes)) if len(sizes) == 1 else None)
        z = np.asarray(jax.vmap(self.flatten)(arrays), float)
        if not np.isfinite(z).all():
            raise ValueError(f"`{name}` has a value at the boundary of its `support`.")
        return z

    def _check(self, theta: PyTree, lead: tuple[int, ...] | None) -> None:
        found = tuple(jnp.shape(x) for x in jax.tree.leaves(theta))
        expected = tuple((lead or ()) + shape for shape in self.shapes)
        if jax.tree.structure(theta) != self.treedef or lead is None or found != expected:
            shapes = dict(zip(self.names, self.shapes, strict=True))
            raise ValueError(
                "`theta` must be like that of the family, with shapes "
                f"{shapes if any(self.names) else self.shapes[0]}"
                f"{'' if lead == () else ' after one leading axis of draws'}, got "
                f"{jax.tree.map(jnp.shape, theta)}."
            )


def _support_of(support: Any, path: tuple[Any, ...]) -> Any:
    if isinstance(support, Mapping):
        return support.get(path[0].key, constraints.real) if path else constraints.real
    return constraints.real if support is None else support


def _check_support(support: Any, names: tuple[str, ...], example: Any) -> None:
    if support is None or isinstance(support, constraints.Constraint):
        return
    if not isinstance(support, Mapping) or not isinstance(example, Mapping):
        raise TypeError(
            "`support` must be a NumPyro constraint, or, for a dict of parameters, a dict of "
            f"them by name, got {support!r:.80}."
        )
    unknown = set(support) - set(example)
    if unknown:
        raise ValueError(
            f"`support` names `{min(unknown)}`, which is not among the parameters {names}."
        )
