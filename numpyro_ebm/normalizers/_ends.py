"""A short run from where particles ended, which has to change nothing."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from .._types import Array, Float, Key
from ..chains import Annealing
from ..energies import is_discrete


class ShortRun(NamedTuple):
    """Of a part of the particles, at the target: log ratios before and after, and acceptance.

    With a leading axis of islands, if there are any.
    """

    before: Float[Array, "... n"]
    after: Float[Array, "... n"]
    accept_prob: Float[Array, "... n"]


def run_on(
    rng_key: Key, annealing: Annealing, points: Array, step_size: Array, most_points: int
) -> ShortRun:
    """Transitions that leave the target invariant, from points that should be draws of it."""
    points = points[:: max(len(points) // most_points, 1)]
    annealing = dataclasses.replace(annealing, num_steps=_NUM_STEPS)
    start = annealing.start_at(rng_key, points)._replace(step_size=step_size)
    end = annealing.move_at(start, jnp.ones(()))
    accepted = end.chains.totals[:, 0] - start.chains.totals[:, 0]
    return ShortRun(start.log_ratio, end.log_ratio, accepted / _NUM_STEPS)


def checks_of(run: ShortRun, annealing: Annealing) -> dict[str, Array]:
    """What a short run says against the particles that it started from."""
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
    """By how many standard errors the ranks of the log ratios moved, over islands."""
    values = jnp.sort(jnp.stack([run.before, run.after]).ravel())
    before, after = (jnp.searchsorted(values, x) / len(values) for x in (run.before, run.after))
    moved = (after - before).mean(-1)
    error = moved.std(ddof=1) / jnp.sqrt(len(moved))
    return jnp.where(error > 0, jnp.abs(moved.mean()) / error, 0)


#: Transitions of a short run; the least acceptance beside the median's, which is .72 on the
#: banana and .45 on a funnel; and standard errors, of 8 islands, that chance exceeds in one run
#: of 2000.
_NUM_STEPS, _LEAST_RATIO, _MOST_DRIFT = 40, 0.6, 6.0
