"""Importance sampling, in one step or along a path."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count
from .._types import Array, Float, Key, Scalar
from ..chains import Annealing, Particles, in_calls, keeping_ess, run_alone
from ..energies import (
    AbstractEnergy,
    LogZ,
    confined,
    is_discrete,
    is_real,
    is_within,
    judged,
    reference_for,
)
from ..kernels import MALA, AbstractKernel, as_sampler
from ._base import BLOCK, AbstractLongMethod, AbstractNormalizer, rounding, weighted
from ._ends import checks_of, run_on
from ._reference import annealing, check_density, check_same_space
from ._schedule import NOT_REACHED, Schedule, pilot, respaced, without_adaptation


class ImportanceSampling(AbstractNormalizer):
    r"""$\log\frac1n\sum_i w_i$, with $w_i = e^{-E(x_i)}/q(x_i)$ and $x_i \sim q$.

    Unbiased for $Z$. Hard to beat in few dimensions; in many, almost all weights vanish.
    `lower` is $E\log w$. There is an interval only if the effective sample size and the tail
    index, Pareto $k$ [[Vehtari et al. 2024](https://jmlr.org/papers/v25/19-556.html)], allow
    it. Shown by `tests/normalizers/test_estimates.py`.

    **Arguments**

    - `proposal`: $q$, wider than the target: a NumPyro distribution, or an energy with `log_z`
      and `sampler`; by default the reference of a [`Tilted`][numpyro_ebm.Tilted] energy.
    - `num_samples`: draws from it.
    """

    proposal: Any = None
    num_samples: int = eqx.field(static=True, default=20_000)

    def __check_init__(self) -> None:
        check_density("proposal", self.proposal)
        check_count("num_samples", self.num_samples)

    def estimate(self, rng_key: Key, energy: AbstractEnergy) -> LogZ:
        proposal = reference_for(self.proposal, energy, "proposal")
        check_same_space("proposal", proposal, energy)
        if not is_within(energy.support, proposal.support):
            raise ValueError(
                f"`proposal` has the support {proposal.support} and never falls on the rest of "
                f"the energy's, {energy.support}: give one that covers it."
            )
        weigh_key, probe_key = jr.split(rng_key)
        log_weights, noise = _weigh(weigh_key, energy, proposal, self.num_samples)
        log_z = weighted(log_weights, noise, method=type(self).__name__)
        if is_discrete(energy) or not is_real(energy.support):
            return log_z
        beyond = _share_beyond(probe_key, energy, proposal, log_weights.max())
        return judged(
            log_z,
            {
                "chains on the energy find points with larger weights than all draws: "
                "the proposal misses some of the target": beyond > _MOST_BEYOND
            },
        )


@eqx.filter_jit
def _weigh(
    rng_key: Key, energy: AbstractEnergy, proposal: Any, num_samples: int
) -> tuple[Float[Array, " n"], Scalar]:
    draws = proposal.sample(rng_key, (num_samples,))
    energy = confined(energy)

    def both(x: Array) -> tuple[Scalar, Scalar]:
        return proposal(x), energy(x)

    of_proposal, of_energy = jax.lax.map(both, draws, batch_size=min(BLOCK, num_samples))
    log_weights = of_proposal - of_energy + proposal.log_z
    return log_weights, rounding(of_proposal, of_energy)


@eqx.filter_jit
def _share_beyond(
    rng_key: Key, energy: AbstractEnergy, proposal: AbstractEnergy, largest: Scalar
) -> Scalar:
    """The share of short chains on the energy that end at a larger weight than any draw's."""
    start_key, chain_key = jr.split(rng_key)
    around = proposal.sample(start_key, (_NUM_PROBES,))
    zero = jr.uniform(start_key, around.shape, around.dtype, minval=-2, maxval=2)
    is_even = jnp.arange(_NUM_PROBES) % 2 == 0
    starts = jax.vmap(jnp.where)(is_even, around, zero)
    keys = jr.split(chain_key, _NUM_PROBES)
    ends = run_alone(keys, as_sampler(MALA()), energy, starts, _PROBE_STEPS).z[:, 0]
    log_weights = jax.vmap(lambda x: proposal(x) - energy(x))(ends) + proposal.log_z
    return (log_weights > largest).mean()


#: Chains that look for missed mass, their length, and how many may exceed all draws.
_NUM_PROBES, _PROBE_STEPS, _MOST_BEYOND = 64, 200, 0.05


class AnnealedImportanceSampling(AbstractLongMethod):
    r"""$\log w = -\sum_k (\beta_k - \beta_{k-1})(E(x_k) + \log q(x_k))$ along a path.

    Annealed importance sampling [[Neal 2001](https://doi.org/10.1023/A:1008923215028)]: points
    start from the reference $q$ and move on $q^{1-\beta}e^{-\beta E}$ as $\beta$ rises;
    $E[w] = Z$, so `lower` $= E\log w \le \log Z$. The reverse path, from target draws, gives
    `upper` $\ge \log Z$ [[Grosse et al. 2015](https://arxiv.org/abs/1511.02543)]. `upper` is a
    bound if those draws are exact, that is, if the energy has a `sampler`. Otherwise they are
    the resampled end points of the forward path, and it is approximate. A pilot run of tempered
    sequential Monte Carlo chooses the $\beta_k$ and the step size at each. There is no interval
    if the weights have a heavy tail, or if a short run from the end points moves only some of
    them, as in a funnel. Shown by `tests/normalizers/test_estimates.py`.

    **Arguments**

    - `kernel`: moves the points and must leave its target invariant; by default
      [`HMC`][numpyro_ebm.HMC] of two leapfrog steps, or
      [`GibbsWithGradients`][numpyro_ebm.GibbsWithGradients] for spins.
    - `reference`: a NumPyro distribution, or an energy with `log_z` and `sampler`, wider than
      the target; by default that of a [`Tilted`][numpyro_ebm.Tilted] energy, and all states
      of spins.
    - `num_temperatures`: the number of $\beta_k$ above zero.
    - `num_particles`: points, each with its own weight.
    - `num_steps`: transitions at each $\beta_k$.
    """

    kernel: AbstractKernel | None = eqx.field(static=True, default=None)
    reference: Any = None
    num_temperatures: int = eqx.field(static=True, default=500, kw_only=True)
    num_particles: int = eqx.field(static=True, default=500, kw_only=True)
    num_steps: int = eqx.field(static=True, default=1, kw_only=True)

    def __check_init__(self) -> None:
        check_density("reference", self.reference)
        check_count("num_temperatures", self.num_temperatures)
        check_count("num_particles", self.num_particles)
        check_count("num_steps", self.num_steps)

    def run(self, rng_key: Key, energy: AbstractEnergy, *, progress_bar: bool) -> LogZ:
        anneal = annealing(energy, self.kernel, self.reference, self.num_steps)
        log_weights, upper, noise, checks = _there_and_back(
            rng_key, anneal, self.num_temperatures, self.num_particles, progress_bar
        )
        is_exact = anneal.energy.sampler is not None
        log_z = weighted(
            log_weights,
            noise,
            upper=upper,
            upper_is_exact=is_exact,
            method=type(self).__name__,
        )
        return judged(log_z, checks)


def _there_and_back(
    rng_key: Key,
    annealing: Annealing,
    num_temperatures: int,
    num_particles: int,
    progress_bar: bool,
) -> tuple[Float[Array, " n"], Scalar, Scalar, dict[str, Array]]:
    pilot_key, start_key, target_key, back_key, end_key = jr.split(rng_key, 5)
    found = pilot(pilot_key, annealing, keeping_ess(0.9), progress_bar=progress_bar)
    schedule = respaced(found, num_temperatures)
    fixed = without_adaptation(annealing)
    start = _start(start_key, fixed, num_particles)
    risen = rise(fixed, start, schedule, progress_bar=progress_bar)
    log_weights, back = _turn((target_key, back_key), fixed, start, *risen)
    fallen = _fall(fixed, back, schedule, progress_bar=progress_bar)
    return _conclude(end_key, fixed, schedule, start, log_weights, risen[1], back, fallen)


@eqx.filter_jit
def _start(rng_key: Key, annealing: Annealing, num_particles: int) -> Particles:
    return annealing.start(rng_key, num_particles)


@eqx.filter_jit
def _turn(
    rng_keys: tuple[Key, Key],
    annealing: Annealing,
    start: Particles,
    log_weights: Float[Array, " n"],
    ends: Particles,
) -> tuple[Float[Array, " n"], Particles]:
    """The weights of the forward path, and where the reverse path starts."""
    target_key, back_key = rng_keys
    # Draws of infinite energy have zero weight. The reverse path never reaches them.
    log_weights = jnp.where(start.log_ratio > -jnp.inf, log_weights, -jnp.inf)
    points = _draws_of_target(target_key, annealing, log_weights, ends)
    return log_weights, annealing.start_at(back_key, points)


@eqx.filter_jit
def _conclude(
    rng_key: Key,
    annealing: Annealing,
    schedule: Schedule,
    start: Particles,
    log_weights: Float[Array, " n"],
    ends: Particles,
    back: Particles,
    fallen: Float[Array, " n"],
) -> tuple[Float[Array, " n"], Scalar, Scalar, dict[str, Array]]:
    backwards = fallen + jnp.log((start.log_ratio > -jnp.inf).mean())
    constant = annealing.reference.log_z
    noise = rounding(ends.reference["logdensity"], ends.chains.move_state.logdensity)
    short = run_on(rng_key, annealing, back.chains.z, schedule.step_sizes[-1], 512)
    checks = {NOT_REACHED: schedule.betas[-1] < 1, **checks_of(short, annealing)}
    return log_weights + constant, backwards.mean() + constant, noise, checks


def rise(
    annealing: Annealing, particles: Particles, schedule: Schedule, *, progress_bar: bool
) -> tuple[Float[Array, " n"], Particles]:
    """Log weights of points that start from the reference, and their end points."""
    betas, step_sizes, _ = schedule
    rungs = jnp.diff(betas), betas[1:], step_sizes[1:]
    return _walk(annealing, particles, rungs, progress_bar, "forward path")


def _fall(
    annealing: Annealing, particles: Particles, schedule: Schedule, *, progress_bar: bool
) -> Float[Array, " n"]:
    r"""Log weights of points that start from the target, whose mean bounds $\log Z$."""
    betas, step_sizes, _ = schedule
    deltas = jnp.diff(betas)
    rungs = deltas[:0:-1], betas[-2:0:-1], step_sizes[-2:0:-1]
    log_weights, particles = _walk(annealing, particles, rungs, progress_bar, "reverse path")
    return log_weights + _scaled(deltas[0], particles.log_ratio)


def _walk(
    annealing: Annealing,
    particles: Particles,
    rungs: tuple[Array, ...],
    progress_bar: bool,
    label: str,
) -> tuple[Float[Array, " n"], Particles]:
    """Weight by `delta`, then move at `beta`, one temperature after another."""
    go_on = functools.partial(_move_on, annealing, rungs)
    start = jnp.zeros_like(particles.log_ratio), particles
    return in_calls(go_on, start, len(rungs[0]), progress_bar=progress_bar, label=label)


@eqx.filter_jit
def _move_on(
    annealing: Annealing,
    rungs: tuple[Array, ...],
    carry: tuple[Array, Particles],
    first: Array,
    last: Array,
) -> tuple[Array, Particles]:
    def level(i: Array, carry: tuple[Array, Particles]) -> tuple[Array, Particles]:
        log_weights, particles = carry
        delta, beta, step_size = (x[i] for x in rungs)
        log_weights += _scaled(delta, particles.log_ratio)
        moved = annealing.move_at(particles._replace(step_size=step_size), beta)
        return log_weights, moved

    return jax.lax.fori_loop(first, last, level, carry)


def _scaled(delta: Scalar, log_ratio: Array) -> Array:
    return jnp.where(delta > 0, delta * log_ratio, 0)


def _draws_of_target(
    rng_key: Key, annealing: Annealing, log_weights: Array, ends: Particles
) -> Array:
    num = len(log_weights)
    if annealing.energy.sampler is not None:
        return annealing.energy.sample(rng_key, (num,))
    return ends.chains.z[jr.categorical(rng_key, log_weights, shape=(num,))]
