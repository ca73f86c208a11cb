"""References: proper densities from which a path leads to an energy."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._checks import as_floats
from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, EnergyLike, Key, Point, Sampler, Scalar, Shape
from ._base import AbstractEnergy, AbstractView, as_energy
from ._flat import flattened
from ._levels import discrete_levels
from ._log_z import LogZ
from ._model import models_in
from ._points import check_energy
from ._states import draw_levels


class Referenced(AbstractView):
    """$E(x)$ itself, with another `reference`, which does not train."""

    energy: AbstractEnergy
    reference: Frozen | AbstractEnergy

    def __init__(self, energy: EnergyLike, reference: EnergyLike) -> None:
        self.energy = as_energy(energy)
        self.reference = freeze(as_energy(reference))

    @property
    def log_z(self) -> Scalar | None:
        return self.energy.log_z

    @property
    def partition(self) -> LogZ | None:
        return self.energy.partition

    @property
    def sampler(self) -> Sampler | None:
        return self.energy.sampler

    @property
    def mean(self) -> Array | None:
        return self.energy.mean

    @property
    def variance(self) -> Array | None:
        return self.energy.variance

    def __call__(self, x: Point) -> Scalar:
        return self.energy(x)

    def _formula(self) -> str:
        return repr(self.energy)


class UniformUnits(AbstractEnergy):
    r"""Zero for all $k^d$ states of units of $k$ levels: all are equally likely."""

    levels: Any = eqx.field(static=True)
    event_shape: Shape = eqx.field(static=True)

    @property
    def log_z(self) -> Scalar:
        return as_floats(math.prod(self.event_shape) * math.log(len(self.levels)))

    def __call__(self, x: Array) -> Scalar:
        return 0 * jnp.sum(x)

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        probs = jnp.full(len(self.levels), 1 / len(self.levels))
        return draw_levels(rng_key, self.levels, probs, (*sample_shape, *self.event_shape))


def find_reference(energy: AbstractEnergy) -> AbstractEnergy | None:
    """A proper density that is a part of `energy`, or uniform over spins; else `None`."""
    energy = unfreeze(energy)
    if energy.reference is not None:
        reference = as_energy(unfreeze(energy.reference))
        return reference if _is_reference(reference) else None
    levels, shape = discrete_levels(energy), energy.event_shape
    if levels is not None and shape is not None:
        return UniformUnits(levels=levels, event_shape=shape)
    return None


def reference_for(reference: Any, energy: AbstractEnergy, name: str) -> AbstractEnergy:
    """`reference`, or that of `energy`; raises unless it has a sampler and covers `energy`."""
    given = None if reference is None else as_energy(unfreeze(reference))
    if given is not None and energy.event_shape is not None:
        given, _ = flattened(given)
    found = find_reference(energy) if given is None else given
    if found is None and models_in(energy):
        problems = [model.no_prior for model in models_in(energy)]
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


def check_reference(name: str, reference: AbstractEnergy, energy: AbstractEnergy) -> None:
    """Raise unless the argument `name` has a sampler and a normaliser, and covers `energy`."""
    if not _is_reference(reference):
        raise ValueError(
            f"`{name}` must be normalised and have an exact sampler: a NumPyro distribution, "
            f"or an energy with `log_z` and `sampler`; got {reference!r}."
        )
    if energy.event_shape not in (None, reference.event_shape):
        raise ValueError(
            f"`{name}` lives on points of shape {reference.event_shape}, the energy on points "
            f"of shape {energy.event_shape}."
        )
    if reference.event_shape is not None:  # Otherwise its points are dicts.
        check_energy(energy, reference.event_shape)


def _is_reference(energy: AbstractEnergy) -> bool:
    return energy.log_z is not None and energy.sampler is not None
