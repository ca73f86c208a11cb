"""Densities that are drawn from to be fitted, such as flows."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Energy, Float, Key
from ..energies import (
    AbstractEnergy,
    FlowEnergy,
    GaussianMixture,
    Mixture,
    is_conditional,
    is_within,
)
from ._batch import Batch


def drawn(rng_key: Key, density: AbstractEnergy, num: int) -> tuple[Array, Float[Array, " n"]]:
    """Draws of `density` and their energies."""
    if isinstance(density, FlowEnergy):
        return density.draw(rng_key, num)
    draws = density.sample(rng_key, (num,))
    return draws, jax.vmap(density)(draws)


def check_pair(objective: Any, density: Any, target: AbstractEnergy) -> None:
    """Raise unless `density` can be drawn from, on the points of `target`."""
    name = type(objective).__name__
    if is_conditional(density) or density.log_z is None or density.sampler is None:
        raise ValueError(
            f"`{name}` fits densities that can be drawn from, such as flows, and "
            f"{density!r} has no `log_z` or no `sampler`."
        )
    if not is_within(density.support, target.support):
        raise ValueError(
            f"{density!r} draws points of {density.support}, and the target lives on "
            f"{target.support}: fit it in unconstrained space, "
            "`ebm.Transformed(target, biject_to(target.support))`."
        )
    shapes = target.event_shape, density.event_shape
    if None not in shapes and shapes[0] != shapes[1]:
        raise ValueError(
            f"The energy of `{name}` lives on points of shape {shapes[0]}, and the density "
            f"that is fitted on points of shape {shapes[1]}."
        )


def check_drawn(objective: Any, density: Any, target: AbstractEnergy) -> None:
    """The same, for draws that are differentiated."""
    check_pair(objective, density, target)
    if not is_reparametrised(density):
        raise ValueError(
            f"`{type(objective).__name__}` differentiates draws, and those of {density!r} "
            "choose among components, which has no derivative: use a flow, or "
            "`AlphaDivergence`, or `ForwardKL` on draws."
        )


def is_reparametrised(density: Energy) -> bool:
    """Whether draws of `density` are differentiable: those of a mixture choose components."""

    def is_choice(node: Any) -> bool:
        is_ours = isinstance(node, Mixture | GaussianMixture)
        return is_ours or type(node).__name__ in ("VmapMixture", "MixtureSameFamily")

    return not any(map(is_choice, jax.tree.leaves(density, is_leaf=is_choice)))


def no_data(energy: Any) -> Batch:
    """What stands for data where an energy is all there is to learn from."""
    if is_conditional(energy) or energy.sampler is None:
        return Batch(jnp.zeros((1, *(energy.event_shape or ()))))
    # On its support, which data must be.
    return Batch(energy.sample(jr.key(0), (1,)))
