"""Normalisers by enumerating all states."""

import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._types import Array, EnergyLike, Float, Key, Scalar, Shape
from ..energies import AbstractEnergy, LogZ, as_energy, discrete_levels
from ._base import AbstractExactMethod, log_sum, rounding, with_common_checks


class Enumeration(AbstractExactMethod):
    r"""$\log\sum_x e^{-E(x)}$ over all states of up to 20 two-valued coordinates.

    Exact, and differentiable. Shown by `tests/normalizers/test_exact.py` against the closed
    forms of Ising models and Boltzmann machines.

    **Arguments**

    - `event_shape`: the shape of one point, if the energy does not know it.
    """

    event_shape: Shape | None = eqx.field(static=True, default=None)

    #: The most coordinates whose states are listed.
    most: ClassVar[int] = 20

    def log_z(self, energy: AbstractEnergy) -> Scalar:
        states = self.states(energy)
        return log_sum(energy, states, jnp.zeros(len(states)))

    def estimate(self, rng_key: Key, energy: AbstractEnergy) -> LogZ:
        value, noise = _evaluate(self, energy)
        log_z = LogZ(value, noise, value, value, upper_is_exact=True, method="Enumeration")
        return with_common_checks(log_z, noise)

    def states(self, energy: EnergyLike) -> Float[Array, "n *event"]:
        """All states of `energy`, one per row."""
        levels, shape = discrete_levels(energy), self.event_shape
        if shape is None:
            shape = as_energy(energy).event_shape
        if levels is None or shape is None:
            raise ValueError(
                "`Enumeration` needs an energy of two-valued coordinates that knows its event "
                f"shape (or `event_shape=`), got {energy!r}."
            )
        size = math.prod(shape)
        if size > self.most:
            raise ValueError(
                f"`Enumeration` is for up to {self.most} coordinates, got {size}: 2^{size} "
                "states are too many to list."
            )
        bits = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
        states = np.asarray(levels)[bits].reshape(-1, *shape)
        return jnp.asarray(states, jnp.result_type(float))


@eqx.filter_jit
def _evaluate(method: Enumeration, energy: AbstractEnergy) -> tuple[Scalar, Scalar]:
    value = method.log_z(energy)
    return value, rounding(value)
