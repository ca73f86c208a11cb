"""Normalisers by enumeration of all states."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._types import Array, Float, Scalar, Shape
from ..energies import discrete_levels
from ._base import AbstractExactMethod, log_sum


class Enumeration(AbstractExactMethod):
    r"""$\log\sum_x e^{-E(x)}$ over all states of up to 20 two-valued coordinates.

    Exact, and differentiable. Shown by `tests/normalizers/test_exact.py` against the closed
    forms of Ising models and Boltzmann machines.

    **Arguments**

    - `event_shape`: the shape of one point, if the energy doesn't know it.
    """

    event_shape: Shape | None = eqx.field(static=True, default=None)

    def log_z(self, energy: Any) -> Scalar:
        states = self.states(energy)
        return log_sum(energy, states, jnp.zeros(len(states)))

    def states(self, energy: Any) -> Float[Array, "n *event"]:
        """All states of `energy`, one a row."""
        levels, shape = discrete_levels(energy), self.event_shape
        if shape is None:
            shape = getattr(energy, "event_shape", None)
        if levels is None or shape is None:
            raise ValueError(
                "`Enumeration` needs an energy of two-valued coordinates that knows its event "
                f"shape (or `event_shape=`), got {energy!r}."
            )
        size = math.prod(shape)
        if size > _MOST:
            raise ValueError(
                f"`Enumeration` is for up to {_MOST} coordinates, got {size}: their 2^{size} "
                "states are too many."
            )
        bits = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
        states = np.asarray(levels)[bits].reshape(-1, *shape)
        return jnp.asarray(states, jnp.result_type(float))


_MOST = 20
