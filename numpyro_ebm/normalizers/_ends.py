"""A short run from where particles ended; it must leave their law unchanged."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from .._types import Array, Float, Key
from ..chains import Annealing
from ..energies import is_discrete


class ShortRun(NamedTuple):
    """Some particles at the target: log ratios before and after the run, and acceptance.

    If there are islands, they are the leading axis.
    """

    before: Float[Array, "... n"]
    after: Float[Array, "... n"]
    accept_prob: Float[Array, "... n"]


def run_on(
    rng_key: Key, annealing: Annealing, points: Array, step_size: Array, most_points: int
) -> ShortRun:
    """Transitions that leave the target invariant, from points that should be draws from it."""
    points = points[:: max(len(points) // most_points, 1)]
    annealing = dataclasses.replace(annealing, num_steps=_NUM_STEPS)
    start = annealing.start_at(rng_key, points)._replace(step_size=step_size)
    end = annealing.move_at(start, jnp.ones(()))
    accepted = end.chains.totals[:, 0] - start.chains.totals[:, 0]
    return ShortRun(start.log_ratio, end.log_ratio, accepted / _NUM_STEPS)


def checks_of(run: ShortRun, annealing: Annealing) -> dict[str, Array]:
    """Checks of the particles, from a short run that started from them."""
    checks = {}
    if not is_discrete(annealing.energy):
        low, middle = jnp.nanquantile(run.accept_prob, jnp.array([0.05, 0.5]))
        checks[
            "no step size suits all of the target: one particle in twenty hardly moves where "
            "half move well, as in the neck of a funnel, and what lies beyond it is missed"
        ] = low < _LEAST_RATIO * middle
    if run.before.ndim > 1:
        checks["the particles are not draws of the target: a short run moves them on"] = (
            _drift(run) > _MOST_DRIFT
        )
    return checks


def _drift(run: ShortRun) -> Array:
    """How far the ranks of the log ratios moved, in standard errors over islands."""
    values = jnp.sort(jnp.stack([run.before, run.after]).ravel())
    before, after = (jnp.searchsorted(values, x) / len(values) for x in (run.before, run.after))
    moved = (after - before).mean(-1)
    error = moved.std(ddof=1) / jnp.sqrt(len(moved))
    return jnp.where(error > 0, jnp.abs(moved.mean()) / error, 0)


#: Transitions of a short run; the lowest acceptance relative to the median, .72 on the
#: banana and .45 on a funnel; and standard errors, of 8 islands, exceeded by chance in one run
#: in 2000.
_NUM_STEPS, _LEAST_RATIO, _MOST_DRIFT = 40, 0.6, 6.0
