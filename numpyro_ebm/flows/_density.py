"""What a flow must be: a density in unconstrained space that can be drawn from."""

from typing import Any

from .._trainable import unfreeze
from ..energies import AbstractEnergy, energy_named, is_discrete, is_real


def as_density(flow: Any) -> AbstractEnergy:
    """`flow` as an energy; raises unless it has what a proposal needs."""
    density = energy_named("flow", unfreeze(flow))
    if density.log_z is None or density.sampler is None or density.event_shape is None:
        raise ValueError(
            "`flow` must be a density that can be drawn from, such as "
            f"`ebm.flows.coupling_flow(rng_key, event_shape)`, got {density!r}."
        )
    if is_discrete(density) or not is_real(density.support):
        raise ValueError(
            f"`flow` must live in unconstrained space, and {density!r} has the support "
            f"{density.support}: transform it, `ebm.Transformed(flow, biject_to(support))`."
        )
    return density


def check_flow(flow: Any, energy: AbstractEnergy) -> None:
    """Raise unless it is a density on the points of `energy`, in unconstrained space."""
    density = as_density(flow)
    if energy.event_shape not in (None, density.event_shape):
        raise ValueError(
            f"`flow` lives on points of shape {density.event_shape}, and the energy, in "
            f"unconstrained space, on points of shape {energy.event_shape}."
        )
