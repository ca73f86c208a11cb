"""What training invalidates: the constants of an energy."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._trainable import Frozen, freeze, partition_trainable, unfreeze
from ._conditional import NormalizedConditional
from ._normalized import Mixture, Normalized


def forget_constants(energy: Any) -> Any:
    """`energy` before it trains: without the constants that training will invalidate."""
    return jax.tree.map(_forget, energy, is_leaf=_has_constant)


def _has_constant(node: Any) -> bool:
    return isinstance(node, Normalized | NormalizedConditional | Mixture | Frozen)


def _forget(node: Any) -> Any:
    if isinstance(node, Normalized):
        return _without_constant(node, node.energy)
    if isinstance(node, NormalizedConditional):
        return _without_constant(node, node.conditional)
    if isinstance(node, Mixture):
        return _forget_in_mixture(node)
    return node


def _forget_in_mixture(mixture: Mixture) -> Mixture:
    """Experts without constants, which move into the weights: the same energy."""
    energies = tuple(map(forget_constants, mixture.energies))
    pairs = zip(mixture.energies, energies, strict=True)
    lost = [0.0 if new.log_z is not None else old.log_z or 0.0 for old, new in pairs]
    log_weights = unfreeze(mixture.log_weights) - jnp.stack(list(map(jnp.asarray, lost)))
    return eqx.tree_at(
        lambda m: (m.energies, m.log_weights), mixture, (energies, freeze(log_weights))
    )


def _without_constant(node: Any, energy: Any) -> Any:
    trains = jax.tree.leaves(partition_trainable(energy)[0])
    return forget_constants(energy) if trains else node
