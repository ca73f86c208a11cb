"""Draws of an energy, to which a flow is fitted."""

from typing import Any

from .._checks import as_data
from .._types import Array, ArrayLike, Key
from ..energies import AbstractEnergy, reference_for
from ..kernels import HMC, TemperedSMC
from ..sampling import sample


def drawn(
    rng_key: Key, energy: AbstractEnergy, reference: Any, num_draws: int, progress_bar: bool
) -> Array:
    """Exact draws if the energy has a `sampler`, else those of tempered populations."""
    if energy.sampler is not None:
        return energy.sample(rng_key, (num_draws,))
    found = reference_for(reference, energy, "reference")
    smc = TemperedSMC(HMC(num_steps=2, trajectory_length=None), found)
    draws = sample(
        rng_key,
        energy,
        smc,
        num_chains=_POPULATIONS,
        num_samples=-(-num_draws // _POPULATIONS),
        progress_bar=progress_bar,
    )
    if not bool(draws.finite.all()):
        raise ValueError(
            "The draws of the energy are not finite, so no flow can be fitted to them: give a "
            "`reference` closer to the target, or `draws`."
        )
    # Rows of all populations are held out.
    return draws.values.swapaxes(0, 1).reshape(-1, *draws.values.shape[2:])


#: Populations that the draws come from.
_POPULATIONS = 4


def as_given(draws: ArrayLike, energy: AbstractEnergy) -> Array:
    """`draws` as points of `energy`."""
    points = as_data(draws, "draws")
    if energy.event_shape not in (None, points.shape[1:]) or len(points) < FEWEST:
        raise ValueError(
            f"`draws` must be {FEWEST} points or more of shape {energy.event_shape}, one per "
            f"row, got shape {points.shape}."
        )
    return points


#: Fewer draws fit no flow.
FEWEST = 40
