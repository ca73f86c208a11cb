"""Densities whose draws are differentiated, such as flows."""

from typing import Any

import jax

from .._types import Array, Energy, Float, Key
from ..energies import (
    AbstractEnergy,
    FlowEnergy,
    GaussianMixture,
    Mixture,
    is_conditional,
    is_within,
)


def drawn(rng_key: Key, density: AbstractEnergy, num: int) -> tuple[Array, Float[Array, " n"]]:
    """Draws of `density` and their energies."""
    if isinstance(density, FlowEnergy):
        return density.draw(rng_key, num)
    draws = density.sample(rng_key, (num,))
    return draws, jax.vmap(density)(draws)


def check_drawn(objective: str, density: Any, target: AbstractEnergy) -> None:
    """Raise unless `density` has reparameterised draws on the points of `target`."""
    if is_conditional(density) or density.log_z is None or density.sampler is None:
        raise ValueError(
            f"`{objective}` fits densities that can be drawn from, such as flows, and "
            f"{density!r} has no `log_z` or no `sampler`."
        )
    if _has_choices(density):
        raise ValueError(
            f"`{objective}` differentiates draws, and those of {density!r} choose among "
            "components, which has no derivative: use a flow, or `ForwardKL` on draws."
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
            f"The energy of `{objective}` lives on points of shape {shapes[0]}, and the "
            f"density that is fitted on points of shape {shapes[1]}."
        )


def _has_choices(energy: Energy) -> bool:
    def is_choice(node: Any) -> bool:
        is_ours = isinstance(node, Mixture | GaussianMixture)
        return is_ours or type(node).__name__ in ("VmapMixture", "MixtureSameFamily")

    return any(map(is_choice, jax.tree.leaves(energy, is_leaf=is_choice)))
