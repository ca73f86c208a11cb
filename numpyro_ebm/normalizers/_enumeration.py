"""Normalisers by enumerating all states."""

import math

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, EnergyLike, Float, Key, Scalar, Shape
from ..energies import (
    AbstractEnergy,
    LogZ,
    all_states,
    as_energy,
    discrete_levels,
    has_few_states,
)
from ._base import AbstractExactMethod, log_sum, rounding, with_common_checks


class Enumeration(AbstractExactMethod):
    r"""$\log\sum_x e^{-E(x)}$ over all states of coordinates with a few values.

    Exact, and differentiable, for up to $2^{20}$ states. Shown by
    `tests/normalizers/test_exact.py` against the closed forms of Ising and Potts models and of
    Boltzmann machines.

    **Arguments**

    - `event_shape`: the shape of one point, if the energy does not know it.
    """

    event_shape: Shape | None = eqx.field(static=True, default=None)

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
                "`Enumeration` needs an energy whose coordinates take the same few values, and "
                f"that knows its event shape (or `event_shape=`), got {energy!r}."
            )
        if not has_few_states(energy, shape):
            size = math.prod(shape)
            raise ValueError(
                "`Enumeration` lists up to 2^20 states, those of 20 coordinates with two "
                f"values; got {size} coordinates with {len(levels)} values."
            )
        return all_states(levels, shape)


@eqx.filter_jit
def _evaluate(method: Enumeration, energy: AbstractEnergy) -> tuple[Scalar, Scalar]:
    value = method.log_z(energy)
    return value, rounding(value)
