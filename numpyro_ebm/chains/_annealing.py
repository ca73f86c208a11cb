"""Particles that follow the geometric path from a reference to a target."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import logsumexp

from .._checks import as_floats
from .._types import Array, Float, Key, Scalar
from ..energies import AbstractEnergy
from ._adaptation import NO_ADAPTATION
from ._blackjax import blackjax
from ._engine import Sampler, advance_to_tune, start
from ._path import GeometricPath, caches_of, cooled, heated
from ._state import ChainState


class Particles(NamedTuple):
    r"""The state of particles on a path.

    - **chains**: their states, which cache energies and gradients of the target, whatever
      $\beta$ they were moved at.
    - **reference**: what they would cache of the reference, at the same points.
    - **step_size**: for the next move; **accept_prob**: the mean acceptance of the last.
    """

    chains: ChainState
    reference: dict[str, Any]
    step_size: Scalar
    accept_prob: Scalar

    @property
    def log_ratio(self) -> Float[Array, " particle"]:
        r"""$E_0(x) - E(x)$, or minus infinity if it is NaN."""
        ratio = self.chains.move_state.logdensity - self.reference["logdensity"]
        return jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)


class Annealing(eqx.Module):
    r"""Moves particles at each $\beta$ by `num_steps` transitions; the step size follows."""

    sampler: Sampler
    reference: AbstractEnergy
    energy: AbstractEnergy
    num_steps: int = eqx.field(static=True)

    def start(self, rng_key: Key, num_particles: int) -> Particles:
        """Independent draws of the reference."""
        draw_key, start_key = jr.split(rng_key)
        return self.start_at(start_key, self.reference.sample(draw_key, (num_particles,)))

    def start_at(self, rng_key: Key, points: Array) -> Particles:
        """Particles at `points`."""
        points = as_floats(points)
        fixed = Sampler(self.sampler.move, NO_ADAPTATION)
        chains = start(rng_key, fixed, self.energy, points, 0)
        step_size = as_floats(self.sampler.move.step_size)
        return Particles(
            chains, caches_of(self.reference, chains.move_state), step_size, jnp.ones(())
        )

    def move_at(self, particles: Particles, beta: Scalar) -> Particles:
        r"""`particles` after transitions that leave $e^{-E_\beta}$ invariant."""
        # The states know the target, and the reference is cheap: mixing the caches saves the
        # gradient that a kernel would otherwise compute at each new energy.
        step_size = particles.step_size
        move = self.sampler.move.with_step(step_size)
        path = GeometricPath(reference=self.reference, energy=self.energy, beta=beta)
        chains = particles.chains
        on_path = heated(chains.move_state, particles.reference, beta)
        chains = chains._replace(move_state=on_path)
        moved, tuning = advance_to_tune(move, path, chains, self.num_steps)
        gained = moved.totals[:, 0] - particles.chains.totals[:, 0]
        accept_prob = jnp.nan_to_num(gained / self.num_steps).mean()
        step_size = self.sampler.adaptation.follow(step_size, tuning, _GAIN)
        reference = caches_of(self.reference, moved.move_state)
        cool = moved._replace(move_state=cooled(moved.move_state, reference, beta))
        return Particles(cool, reference, step_size, accept_prob)


#: How fast the step size follows between temperatures.
_GAIN = 1.5


#: More steps than this mean that the reference misses the target.
MAX_LEVELS = 10_000


class Descent(NamedTuple):
    r"""How far tempered sequential Monte Carlo has come.

    - **particles**: with equal weights.
    - **beta**: the position on the path; **num_levels**: the number of steps so far.
    - **log_ratio_z**: an estimate of $Z_\beta/Z_0$, as a logarithm; unbiased if the path was
      not chosen by these particles.
    """

    particles: Particles
    beta: Scalar
    num_levels: Array
    log_ratio_z: Scalar


def begin(rng_key: Key, annealing: Annealing, num_particles: int) -> Descent:
    r"""Draws of the reference where the target has a density, and the share of them.

    A draw of infinite energy has weight zero at any $\beta > 0$, however short the step. So the
    first step, of length zero, drops such draws, and others replace them: the path begins at
    the reference restricted to finite energies.
    """
    start_key, source_key = jr.split(rng_key)
    particles = annealing.start(start_key, num_particles)
    alive = particles.log_ratio > -jnp.inf
    count = alive.sum()
    systematic = blackjax().smc.resampling.systematic
    source = systematic(source_key, alive / jnp.maximum(count, 1), num_particles)
    is_whole = (count == 0) | (count == num_particles)
    source = jnp.where(is_whole, jnp.arange(num_particles), source)
    log_share = jnp.log(count / num_particles)
    return Descent(_resampled(particles, source), jnp.zeros(()), jnp.zeros((), int), log_share)


def descend(
    rng_key: Key,
    annealing: Annealing,
    start: Descent,
    advance: Callable[[Array, Scalar], Scalar],
    visit: Callable[[Any, Descent, Descent], Any] = lambda kept, old, new: kept,
    kept: Any = None,
    most_levels: int | Array = MAX_LEVELS,
) -> tuple[Descent, Any]:
    """Adaptive tempered sequential Monte Carlo, from its start to the target.

    It ends there, or after `most_levels` steps, counted from the reference.
    `advance(log_ratio, room)` returns the length of the next step, at most `room`. `visit` sees
    the state after each step and the one before it, and returns what is kept.
    """

    def level(carry: tuple[Descent, Any]) -> tuple[Descent, Any]:
        old, kept = carry
        room = 1 - old.beta
        delta = jnp.clip(advance(old.particles.log_ratio, room), 0, room)
        beta = jnp.where(delta > room - 1e-6, 1, old.beta + delta)
        new = next_descent(rng_key, annealing, old, beta)
        return new, visit(kept, old, new)

    def is_on_the_way(carry: tuple[Descent, Any]) -> Array:
        at, _ = carry
        return (at.beta < 1) & (at.num_levels < most_levels) & (at.log_ratio_z > -jnp.inf)

    return jax.lax.while_loop(is_on_the_way, level, (start, kept))


def next_descent(rng_key: Key, annealing: Annealing, old: Descent, beta: Scalar) -> Descent:
    """Particles weighted for `beta`, resampled and moved there."""
    delta = beta - old.beta
    log_weights = jnp.where(delta > 0, delta * old.particles.log_ratio, 0)
    log_sum, num = logsumexp(log_weights), len(log_weights)
    systematic = blackjax().smc.resampling.systematic
    weights = jnp.exp(log_weights - log_sum)
    source = systematic(jr.fold_in(rng_key, old.num_levels), weights, num)
    return Descent(
        particles=annealing.move_at(_resampled(old.particles, source), beta),
        beta=beta,
        num_levels=old.num_levels + 1,
        log_ratio_z=old.log_ratio_z + log_sum - jnp.log(num),
    )


def keeping_ess(target_ess: Any) -> Callable[[Array, Scalar], Scalar]:
    """Steps after which the effective sample size is a share `target_ess` of the particles."""
    # Not a closure: equal ones made anew must not compile anew.
    return eqx.Partial(_step_keeping_ess, target_ess)


def _step_keeping_ess(target_ess: Any, log_ratio: Array, room: Scalar) -> Scalar:
    smc = blackjax().smc
    return smc.ess.ess_solver(lambda x: x, log_ratio, target_ess, room, smc.solver.dichotomy)


def _resampled(particles: Particles, source: Array) -> Particles:
    """Particles moved to the places of others; each keeps its own random numbers."""
    chains = particles.chains
    moved = jax.tree.map(lambda x: x[source], (chains.move_state, particles.reference))
    return particles._replace(chains=chains._replace(move_state=moved[0]), reference=moved[1])
