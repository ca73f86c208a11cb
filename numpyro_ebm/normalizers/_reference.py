"""The start of a path: its reference, and the space in which particles move."""

import math
from typing import Any

from .._trainable import unfreeze
from ..chains import Annealing
from ..energies import (
    AbstractEnergy,
    box_of,
    discrete_levels,
    energy_named,
    is_discrete,
    reference_for,
    same_support,
    unconstrained_from,
)
from ..kernels import (
    HMC,
    AbstractKernel,
    GibbsWithGradients,
    as_sampler,
    check_exact,
    step_adaptation,
)


def check_density(name: str, value: Any) -> None:
    """Raise unless `value` can be a density, or is `None`."""
    if value is not None:
        energy_named(name, unfreeze(value))


def check_same_space(name: str, other: AbstractEnergy, energy: AbstractEnergy) -> None:
    """Raise unless both are densities with respect to the same measure."""
    same_levels = discrete_levels(other) == discrete_levels(energy)
    supports = other.support, energy.support
    boxes = all(box_of(support) is not None for support in supports)
    if not (same_levels and (is_discrete(energy) or boxes or same_support(*supports))):
        raise ValueError(
            f"`{name}`, {other!r}, on {supports[0]}, has no density on the points of the "
            f"energy, {energy!r}, on {supports[1]}: give one on points of the same kind."
        )


def annealing(
    energy: AbstractEnergy,
    kernel: AbstractKernel | None,
    reference: Any,
    num_steps: int | None = None,
) -> Annealing:
    """How particles move from a reference to `energy`, in unconstrained space."""
    reference = reference_for(reference, energy, "reference")
    reference, energy, _ = unconstrained_from(reference, energy)
    if kernel is None:
        kernel = GibbsWithGradients() if is_discrete(energy) else _short_trajectories()
    sampler = as_sampler(kernel)
    sampler.move.check(energy)
    check_exact(kernel)
    step_adaptation(kernel)
    if num_steps is None:
        num_steps = max(2, math.prod(reference.event_shape or ()) // 4 * is_discrete(energy))
    return Annealing(sampler, reference, energy, num_steps)


def _short_trajectories() -> HMC:
    # One transition of two steps mixes as well as five of one step, for fewer gradients.
    return HMC(num_steps=2, trajectory_length=None)
