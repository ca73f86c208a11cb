"""Where the chains of contrastive divergence start."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count, check_finite, check_noise
from .._types import Array, Energy, Float, Key, PyTree
from ._noise import fitted_noise


class Starts(NamedTuple):
    """Where the chains of a step start.

    - **points**: one per datum of the batch.
    - **slots**: their places in the buffer, if there is one.
    """

    points: Array
    slots: Array | None = None


class Origin(NamedTuple):
    """Where chains come from.

    - **noise**: the distribution that they started from.
    - **num_steps**: how many transitions ago, on average.
    """

    noise: Any
    num_steps: int


#: The energies of points, one or more per datum of the batch, in the order of the batch.
Energies: TypeAlias = Callable[[Array], Float[Array, " n"]]


class AbstractStart(eqx.Module):
    """Where the chains of contrastive divergence start."""

    #: Whether each chain may have its own condition.
    takes_conditions: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, rng_key: Key, energy: Energy, data: Array) -> PyTree:
        """The state carried between steps."""

    @abc.abstractmethod
    def begin(
        self, rng_key: Key, state: PyTree, points: Array, energies: Energies
    ) -> tuple[Starts, PyTree]:
        """One starting point per datum of the batch; `energies` are those of any points."""

    def end(
        self, state: PyTree, starts: Starts, points: Array, is_stuck: Array, num_steps: int
    ) -> PyTree:
        """Store the end points of the chains, and which of them are stuck."""
        return state

    def metrics(self, state: PyTree) -> dict[str, Array]:
        return {}

    def origin(self, state: PyTree, num_steps: int) -> Origin | None:
        """Where chains of `num_steps` transitions come from, unless they come from data."""
        return None


class FromData(AbstractStart):
    r"""Chains start at the batch itself: CD-k [Hinton 2002].

    **Biased**: on a Gaussian mean its gradient is $1-(1-\eta)^k$ times the likelihood's, with
    the right fixed point; shapes come out wrong if few steps leave the data's neighbourhood,
    and modes without data are never visited. The shares of modes between which the chains do
    not move cannot be learned: those of the chains are those of the data, whatever the energy.
    """

    takes_conditions: ClassVar[bool] = True

    def init(self, rng_key: Key, energy: Energy, data: Array) -> None:
        return None

    def begin(
        self, rng_key: Key, state: None, points: Array, energies: Energies
    ) -> tuple[Starts, None]:
        return Starts(points), state


class Buffer(NamedTuple):
    """Persistent chains: their positions, their ages in transitions, and their noise."""

    points: Float[Array, "size *event"]
    ages: Array
    is_stuck: Array
    noise: Any


class Persistent(AbstractStart):
    """Chains continue from where earlier steps left them: PCD [Tieleman 2008].

    Each step draws chains from a buffer without replacement, restarts a few, and those that got
    stuck, from noise, and writes them back to their slots. Only positions are kept: energies
    from before a parameter update must not be compared with those after it. Asymptotically
    exact as the learning rate goes to zero, if the kernel is exact.

    **Arguments**

    - `size`: chains in the buffer, at least as many as a batch.
    - `reinit`: the share of the chains of a step that restart. For a while they follow the
      noise, not the energy: on two moons, 5 % of them cost 0.01 nats.
    - `noise`: the distribution they start from; by default a Gaussian fitted to the data.
    """

    size: int = eqx.field(static=True, default=10_000)
    reinit: float = 0.05
    noise: Any = None

    def __check_init__(self) -> None:
        check_count("size", self.size)
        check_reinit(self.reinit)

    def init(self, rng_key: Key, energy: Energy, data: Array) -> Buffer:
        noise = start_noise(self.noise, energy, data)
        points = noise.sample(rng_key, (self.size,))
        return Buffer(points, jnp.zeros(self.size, int), jnp.zeros(self.size, bool), noise)

    def begin(
        self, rng_key: Key, state: Buffer, points: Array, energies: Energies
    ) -> tuple[Starts, Buffer]:
        check_fits(len(points), self.size)
        slot_key, again_key, noise_key = jr.split(rng_key, 3)
        # Without replacement: if two chains shared a slot, one would be lost.
        _, slots = jax.lax.top_k(jr.uniform(slot_key, (self.size,)), len(points))
        again = jr.bernoulli(again_key, self.reinit, (len(points),)) | state.is_stuck[slots]
        old, fresh = state.points[slots], state.noise.sample(noise_key, (len(points),))
        points = jnp.where(column(again, old), fresh, old)
        ages = jnp.where(again, 0, state.ages[slots])
        return Starts(points, slots), state._replace(ages=state.ages.at[slots].set(ages))

    def end(
        self, state: Buffer, starts: Starts, points: Array, is_stuck: Array, num_steps: int
    ) -> Buffer:
        return state._replace(
            points=state.points.at[starts.slots].set(points),
            ages=state.ages.at[starts.slots].add(num_steps),
            is_stuck=state.is_stuck.at[starts.slots].set(is_stuck),
        )

    def metrics(self, state: Buffer) -> dict[str, Array]:
        return {"age": state.ages.mean(dtype=state.points.dtype)}

    def origin(self, state: Buffer, num_steps: int) -> Origin | None:
        return origin_of_restarted(state.noise, num_steps, self.reinit)


class FromNoise(AbstractStart):
    """Short chains start from noise in each step [Nijkamp et al. 2019].

    **A generator only**: it learns where `num_steps` transitions from the noise lead, not an
    energy of the data (for a unit Gaussian, 5 steps from noise four times as wide learn a
    precision of 3.2). So the result is a
    [`ShortRunGenerator`][numpyro_ebm.objectives.ShortRunGenerator].

    **Arguments**

    - `noise`: a distribution; by default a Gaussian fitted to the data.
    """

    noise: Any = None
    takes_conditions: ClassVar[bool] = True

    def init(self, rng_key: Key, energy: Energy, data: Array) -> Any:
        return start_noise(self.noise, energy, data)

    def begin(
        self, rng_key: Key, state: Any, points: Array, energies: Energies
    ) -> tuple[Starts, Any]:
        return Starts(state.sample(rng_key, (len(points),))), state

    def origin(self, state: Any, num_steps: int) -> Origin:
        return Origin(state, num_steps)


class FromResampledNoise(AbstractStart):
    r"""Chains start at one of $K$ draws $u_k \sim q$ of noise, chosen by $e^{-E(u_k)}/q(u_k)$.

    Sampling importance resampling [Rubin 1988]: starts have the law of the energy up to
    $O(1/K)$, modes in their proportions, so the chains only have to correct the rest. Needs
    few dimensions, in which noise covers the modes, and for a conditional energy those of each
    condition. Asymptotically exact as $K$ grows. Cost: $K$ energies per datum, without
    gradients. Shown by `tests/objectives/test_starts.py`.

    **Arguments**

    - `num_proposals`: $K$.
    - `noise`: a distribution; by default a Gaussian fitted to the data, wider by half.
    """

    num_proposals: int = eqx.field(static=True, default=64)
    noise: Any = None
    takes_conditions: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_count("num_proposals", self.num_proposals, 2)

    def init(self, rng_key: Key, energy: Energy, data: Array) -> Any:
        return start_noise(self.noise, energy, data, 1.5)

    def begin(
        self, rng_key: Key, state: Any, points: Array, energies: Energies
    ) -> tuple[Starts, Any]:
        draw_key, choose_key = jr.split(rng_key)
        size, num = len(points), self.num_proposals
        proposals = jax.lax.stop_gradient(state.sample(draw_key, (num * size,)))
        log_weights = -energies(proposals) - state.log_prob(proposals)
        # Outside the energy's support, or where it overflows, nothing starts.
        log_weights = jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)
        chosen = jr.categorical(choose_key, log_weights.reshape(num, size), axis=0)
        return Starts(proposals[chosen * size + jnp.arange(size)]), state


def start_noise(noise: Any, energy: Energy, data: Array, widening: float = 1.0) -> Any:
    """`noise`, or by default a Gaussian fitted to the data, on points like those of `data`."""
    noise = fitted_noise(energy, data, widening) if noise is None else noise
    check_noise(noise, data.shape[1:])
    return noise


def check_reinit(reinit: float) -> None:
    check_finite("reinit", reinit)
    if not 0 <= reinit <= 1:
        raise ValueError(f"`reinit` must lie between 0 and 1, got {reinit}.")


def check_fits(batch_size: int, size: int) -> None:
    if batch_size > size:
        raise ValueError(
            f"`size` of the buffer must be at least the {batch_size} points of a batch, got "
            f"{size}."
        )


def origin_of_restarted(noise: Any, num_steps: int, reinit: float) -> Origin | None:
    """If chains restart with probability `reinit`, they live for `1 / reinit` runs."""
    return Origin(noise, round(num_steps / reinit)) if reinit else None


def column(flags: Array, like: Array) -> Array:
    """`flags`, to be broadcast over the points of `like`."""
    return flags.reshape(-1, *(1,) * (like.ndim - 1))
