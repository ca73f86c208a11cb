"""Temperatures and step sizes, chosen by a pilot so that later runs are unbiased."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Float, Int, Key, Scalar
from ..chains import (
    MAX_LEVELS,
    NO_ADAPTATION,
    Annealing,
    Descent,
    begin,
    descend,
    next_descent,
)


class Schedule(NamedTuple):
    r"""Rising betas, the first of which is zero, and the step size at each.

    Padded to a fixed length; only `num_levels` of them, above the first, count.
    """

    betas: Float[Array, " k"]
    step_sizes: Float[Array, " k"]
    num_levels: Int[Array, ""]


def pilot(
    rng_key: Key,
    annealing: Annealing,
    advance: Callable[[Array, Scalar], Scalar],
    num_particles: int = 128,
) -> Schedule:
    """The schedule chosen by one population of adaptive sequential Monte Carlo.

    A population that chooses its own steps is biased: by a tenth of a nat with 128 particles in
    64 dimensions. Populations that follow its schedule are not.
    """
    start_key, run_key = jr.split(rng_key)

    def record(kept: tuple[Array, Array], old: Descent, new: Descent) -> tuple[Array, Array]:
        betas, step_sizes = kept
        return (
            betas.at[new.num_levels].set(new.beta),
            step_sizes.at[old.num_levels].set(old.particles.step_size),
        )

    empty = jnp.zeros(MAX_LEVELS + 1), jnp.ones(MAX_LEVELS + 1)
    start = begin(start_key, annealing, num_particles)
    end, kept = descend(run_key, annealing, start, advance, record, empty)
    step_sizes = kept[1].at[end.num_levels].set(end.particles.step_size)
    return Schedule(kept[0], step_sizes, end.num_levels)


def respaced(schedule: Schedule, num_levels: int) -> Schedule:
    """As many temperatures as requested, spaced like the pilot's."""
    place = jnp.linspace(0, 1, num_levels + 1) * schedule.num_levels
    at = jnp.arange(len(schedule.betas))
    log_steps = jnp.interp(place, at, jnp.log(schedule.step_sizes))
    betas = jnp.interp(place, at, schedule.betas)
    return Schedule(betas, jnp.exp(log_steps), jnp.asarray(num_levels))


#: For a pilot that did not reach the target.
NOT_REACHED = (
    f"the target was not reached, in {MAX_LEVELS} steps or because the energy is infinite at "
    "all draws of the reference: the reference misses it"
)


def without_adaptation(annealing: Annealing) -> Annealing:
    return eqx.tree_at(lambda a: a.sampler.adaptation, annealing, NO_ADAPTATION)


def follow(
    rng_key: Key,
    annealing: Annealing,
    schedule: Schedule,
    start: Descent,
    visit: Callable[[Any, Descent, Descent], Any] = lambda kept, old, new: kept,
    kept: Any = None,
) -> tuple[Descent, Any]:
    """Sequential Monte Carlo along a schedule; see `descend`."""

    def level(i: Array, carry: tuple[Descent, Any]) -> tuple[Descent, Any]:
        old, kept = carry
        step_size = schedule.step_sizes[i + 1]
        old = old._replace(particles=old.particles._replace(step_size=step_size))
        new = next_descent(rng_key, annealing, old, schedule.betas[i + 1])
        return new, visit(kept, old, new)

    return jax.lax.fori_loop(0, schedule.num_levels, level, (start, kept))
