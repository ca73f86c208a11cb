"""A network on top of a proper density."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from numpyro.distributions.constraints import Constraint

from .._checks import check_positive
from .._trainable import Frozen, freeze, unfreeze
from .._types import EnergyLike, Point, Scalar, Shape
from ._base import AbstractEnergy, AbstractView, as_energy, energy_named
from ._bridges import DistributionEnergy
from ._formula import show_sum


class Tilted(AbstractEnergy):
    r"""$E(x) - \log q(x)$: the reference density $q$, tilted by $e^{-E}$.

    A bounded or linear network alone cannot be normalised; a proper density tilted by a bounded
    network always can. The reference does not train.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes, typically a network.
    - `reference`: a NumPyro distribution, or an energy that knows its `log_z`.
    """

    energy: AbstractEnergy
    reference: Frozen | AbstractEnergy

    def __init__(self, energy: EnergyLike, reference: Any) -> None:
        self.energy = as_energy(energy)
        self.reference = freeze(_check_reference(reference, self.energy.event_shape))

    @property
    def event_shape(self) -> Shape | None:
        return unfreeze(self.reference).event_shape

    @property
    def support(self) -> Constraint | None:
        return unfreeze(self.reference).support

    def __call__(self, x: Point) -> Scalar:
        reference = unfreeze(self.reference)
        return self.energy(x) + (reference(x) + reference.log_z)

    def _formula(self) -> str:
        return show_sum(repr(self.energy), _show_log(unfreeze(self.reference)))


class Bounded(AbstractView):
    r"""$b\tanh(E(x)/b)$: close to $E$ where that is small, and always between $-b$ and $b$.

    `Tilted(Bounded(network, 30.0), reference)` is a proper density, whatever the network.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes, typically a network.
    - `bound`: $b$, in nats.
    """

    energy: AbstractEnergy
    bound: float = eqx.field(static=True)

    def __init__(self, energy: EnergyLike, bound: float) -> None:
        check_positive("bound", bound)
        self.energy, self.bound = as_energy(energy), float(bound)

    def __call__(self, x: Point) -> Scalar:
        return self.bound * jnp.tanh(self.energy(x) / self.bound)

    def _formula(self) -> str:
        return f"Bounded({self.energy!r}, {self.bound:.4g})"


def _check_reference(reference: Any, event_shape: Shape | None) -> AbstractEnergy:
    """`reference` as an energy; raises unless it is normalised and has points of that shape."""
    base = energy_named("reference", unfreeze(reference))
    if base.log_z is None:
        raise ValueError(
            "`reference` must be normalised: a NumPyro distribution, or an energy with a "
            f"`log_z`; got {type(base).__name__}."
        )
    if event_shape not in (None, base.event_shape):
        raise ValueError(
            f"`reference` lives on points of shape {base.event_shape}, but `energy` on points "
            f"of shape {event_shape}."
        )
    return base


def _show_log(reference: AbstractEnergy) -> str:
    known = isinstance(reference, DistributionEnergy)
    return repr(reference) if known else f"-log {reference!r}"
