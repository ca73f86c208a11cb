"""A buffer of what chains left behind, from which new ones start."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count
from .._types import Array, Energy, Float, Key
from ._starts import (
    AbstractStart,
    Energies,
    Origin,
    Starts,
    check_fits,
    check_reinit,
    column,
    origin_of_restarted,
    start_noise,
)


class Replay(NamedTuple):
    """End points of chains, their ages in transitions, how many there were, and their noise."""

    points: Float[Array, "size *event"]
    ages: Array
    count: Array
    noise: Any


class Replayed(AbstractStart):
    """Chains start at end points of earlier ones, whichever were kept [Du and Mordatch 2019].

    Each step draws from the last `size` end points, *with* replacement, starts a few chains
    from noise, and keeps all of its end points instead of the oldest. Unlike in
    [`Persistent`][numpyro_ebm.Persistent], an end point may start several chains or none, so
    they are not independent. It is the buffer of most work on images, for reproducing that; it
    begins as a batch of noise. The defaults are those of the tutorial *Deep Energy Models*
    [Lippe 2022].

    **Arguments**

    - `size`: end points kept, at least as many as a batch.
    - `reinit`: the share of the chains of a step that start from noise.
    - `noise`: the distribution they start from; by default a Gaussian fitted to the data.
    """

    size: int = eqx.field(static=True, default=8192)
    reinit: float = 0.05
    noise: Any = None

    def __check_init__(self) -> None:
        check_count("size", self.size)
        check_reinit(self.reinit)

    def init(self, rng_key: Key, energy: Energy, data: Array) -> Replay:
        noise = start_noise(self.noise, energy, data)
        points, zero = noise.sample(rng_key, (self.size,)), jnp.zeros((), int)
        return Replay(points, jnp.zeros(self.size, int), zero, noise)

    def begin(
        self, rng_key: Key, state: Replay, points: Array, energies: Energies
    ) -> tuple[Starts, Replay]:
        size = len(points)
        check_fits(size, self.size)
        slot_key, again_key, noise_key = jr.split(rng_key, 3)
        # Before the first step, as many draws of the noise as a batch has rows.
        count = jnp.maximum(state.count, size)
        slots = jr.randint(slot_key, (size,), 0, jnp.minimum(count, self.size))
        again = jr.bernoulli(again_key, self.reinit, (size,))
        old, fresh = state.points[slots], state.noise.sample(noise_key, (size,))
        points = jnp.where(column(again, old), fresh, old)
        next_slots = (count + jnp.arange(size)) % self.size
        ages = jnp.where(again, 0, state.ages[slots])
        state = state._replace(ages=state.ages.at[next_slots].set(ages), count=count)
        return Starts(points, next_slots), state

    def end(
        self, state: Replay, starts: Starts, points: Array, is_stuck: Array, num_steps: int
    ) -> Replay:
        return state._replace(
            points=state.points.at[starts.slots].set(points),
            ages=state.ages.at[starts.slots].add(num_steps),
            count=state.count + len(points),
        )

    def metrics(self, state: Replay) -> dict[str, Array]:
        return {"age": state.ages.mean(dtype=state.points.dtype)}

    def origin(self, state: Replay, num_steps: int) -> Origin | None:
        return origin_of_restarted(state.noise, num_steps, self.reinit)
