"""What trains: inexact arrays not wrapped in `Frozen`, or in Paramax's `NonTrainable`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


class Frozen(eqx.Module):
    """A subtree that no estimator changes; its arrays stay arguments of compiled code."""

    tree: Any


def freeze(tree: PyTree) -> Frozen:
    """Mark `tree`, an energy or any part of one, as not trainable.

    Freeze part of a network with `eqx.tree_at`:

    ```python
    energy = eqx.tree_at(lambda e: e.layers[0], energy, replace_fn=ebm.freeze)
    ```
    """
    return tree if isinstance(tree, Frozen) else Frozen(tree)


def unfreeze(tree: PyTree) -> PyTree:
    """Return `tree` with every [`freeze`][numpyro_ebm.freeze] undone."""

    def strip(node: Any) -> Any:
        return unfreeze(node.tree) if _is_frozen(node) else node

    return jax.tree.map(strip, tree, is_leaf=_is_frozen)


def partition_trainable(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Split `tree` into the trainable part and the rest; `eqx.combine` rejoins them."""
    return eqx.partition(tree, _is_trainable, is_leaf=_is_fixed)


def strongly_typed(tree: PyTree) -> PyTree:
    """`tree` with the types that a step returns; weak ones would compile the step twice."""
    params, rest = partition_trainable(tree)
    return eqx.combine(jax.tree.map(lambda x: jnp.asarray(x, x.dtype), params), rest)


def constant(tree: PyTree) -> PyTree:
    """`tree` without a gradient through any of its arrays."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


def ascending(tree: PyTree) -> PyTree:
    """`tree` with its gradient negated: what minimises a loss maximises it in `tree`."""
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    # Exactly x, with slope -1.
    turned = jax.tree.map(lambda x: 2 * jax.lax.stop_gradient(x) - x, arrays)
    return eqx.combine(turned, rest)


def _is_frozen(node: Any) -> bool:
    return isinstance(node, Frozen)


def _is_fixed(node: Any) -> bool:
    return _is_frozen(node) or (
        type(node).__name__ == "NonTrainable" and type(node).__module__.startswith("paramax")
    )


def _is_trainable(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and np.issubdtype(leaf.dtype, np.inexact)
