"""The start of a path: its reference, and the space in which particles move."""

import math
from typing import Any

from .._trainable import unfreeze
from ..chains import Annealing
from ..energies import (
    AbstractEnergy,
    as_energy,
    box_of,
    check_reference,
    discrete_levels,
    energy_named,
    find_reference,
    flattened,
    is_discrete,
    models_in,
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


def reference_for(reference: Any, energy: AbstractEnergy, name: str) -> AbstractEnergy:
    """`reference`, or that of `energy`; raises unless it has a sampler and covers `energy`."""
    given = None if reference is None else flattened(as_energy(unfreeze(reference)))
    found = find_reference(energy) if given is None else given
    if found is None and models_in(energy):
        problems = [model.trace.problem for model in models_in(energy)]
        why = next(filter(None, problems), "the prior is not one of all sites of this sum")
        raise ValueError(
            f"`{name}` is needed, because {why}: a density of all unconstrained sites, such as "
            f"a `dist.MultivariateNormal` on points of shape {energy.event_shape}; "
            "`ebm.BridgeSampling()` needs none."
        )
    if found is None:
        raise ValueError(
            f"`{name}` is needed, because {energy!r} has no reference of its own: a NumPyro "
            "distribution somewhat wider than the target, such as a Gaussian fitted to data, "
            f"`{name}=dist.MultivariateNormal(data.mean(0), covariance_matrix=1.5 * np.cov("
            "data.T))`. An `ebm.Tilted` energy brings one along."
        )
    check_reference(name, found, energy)
    return found


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
