"""Whether a target has necks, whose ends a flow lacks without its weights showing it."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Key
from ..energies import AbstractEnergy
from ..normalizers import annealing, checks_of, run_on


@eqx.filter_jit
def neck_checks(rng_key: Key, energy: AbstractEnergy, density: Any) -> dict[str, Array]:
    """The checks of a short run on `energy` from draws of `density`, its step size tuned."""
    start_key, run_key = jr.split(rng_key)
    moves = annealing(energy, None, density)
    start = moves.start(start_key, _NUM_POINTS)

    def tune(_: Any, particles: Any) -> Any:
        return moves.move_at(particles, jnp.ones(()))

    step_size = jax.lax.fori_loop(0, _NUM_TUNING, tune, start).step_size
    fixed = dataclasses.replace(moves, num_steps=1)
    return checks_of(run_on(run_key, fixed, start.chains.z, step_size, _NUM_POINTS), fixed)


#: Points that run, and rounds in which their step size is tuned.
_NUM_POINTS, _NUM_TUNING = 512, 30
