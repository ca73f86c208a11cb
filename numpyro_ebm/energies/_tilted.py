"""A network on top of a proper density."""

from typing import Any

from .._trainable import Frozen, freeze, unfreeze
from .._types import Point, Scalar, Shape
from ._base import AbstractEnergy, as_energy


class Tilted(AbstractEnergy):
    r"""$E(x) - \log q(x)$: the reference density $q$, tilted by $e^{-E}$.

    A bounded or linear network alone cannot be normalised; tilting a proper density can,
    whatever a bounded network does. The reference does not train.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes, typically a network.
    - `reference`: a NumPyro distribution, or an energy that knows its `log_z`.
    """

    energy: AbstractEnergy
    reference: Frozen | AbstractEnergy

    def __init__(self, energy: Any, reference: Any) -> None:
        base = as_energy(unfreeze(reference))
        self.energy = as_energy(energy)
        self.reference = freeze(base)
        if not hasattr(base, "log_z"):
            raise ValueError(
                "`reference` must be normalised: a NumPyro distribution, or an energy with a "
                f"`log_z`; got {type(base).__name__}."
            )
        if self.energy.event_shape not in (None, base.event_shape):
            raise ValueError(
                f"`reference` lives on points of shape {base.event_shape}, but `energy` on "
                f"points of shape {self.energy.event_shape}."
            )

    @property
    def event_shape(self) -> Shape | None:
        return unfreeze(self.reference).event_shape

    def __call__(self, x: Point) -> Scalar:
        reference = unfreeze(self.reference)
        return self.energy(x) + reference(x) + reference.log_z
