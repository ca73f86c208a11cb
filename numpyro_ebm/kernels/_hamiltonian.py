"""What Hamiltonian moves share: metric, trajectories, step, and their reports."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Energy, Key, Point, Scalar
from ..chains import AbstractMove, Report, blackjax, log_density, report


def hamiltonian_report(info: Any) -> Report:
    """BlackJAX's info on a trajectory as a report, Hamiltonian included."""
    one = report(info.acceptance_rate, info.is_divergent, info.num_integration_steps)
    return one._replace(energy=info.energy)


def euclidean(metric: Array) -> Any:
    r"""BlackJAX's metric, whose kinetic energy $\tfrac12 p^\top M^{-1}p$ is never negative.

    If a momentum runs away, the terms of a dense metric overflow with both signs, and their sum
    may be minus infinity: every proposal would be accepted. NaN is rejected.
    """
    exact = blackjax().mcmc.metrics.default_metric(metric)

    def kinetic_energy(momentum: Point, position: Point | None = None) -> Scalar:
        energy = exact.kinetic_energy(momentum, position)
        # Added, because the velocity is the gradient; rounding may push a zero below zero.
        return energy + jnp.where(energy > -1, 0, jnp.nan)

    return exact._replace(kinetic_energy=kinetic_energy)


def jittered(
    rng_key: Key, step_size: Any, length: Any, max_steps: int = 1000
) -> tuple[Scalar, Array]:
    """A step that varies by 20 %, and the number of steps that gives `length` on average.

    Trajectories of a single length resonate with the target: after a whole period of a Gaussian
    they return to where they began, and are accepted.
    """
    num_steps = jnp.clip(jnp.round(length / step_size), 1, max_steps).astype(int)
    factor = jr.uniform(rng_key, (), jnp.result_type(float), minval=0.8, maxval=1.2)
    return step_size * factor, num_steps


def with_end_energy(info: Any, state: Any, metric: Any) -> Any:
    """`info` with the Hamiltonian at the chain's position: BlackJAX gives the proposal's."""
    start = metric.kinetic_energy(info.momentum) - state.logdensity
    return info._replace(energy=jnp.where(info.is_accepted, info.energy, start))


def with_found_step_size(
    move: Any, rng_key: Key, position: Point, energy: Energy
) -> AbstractMove:
    """`move` with the step at which a leapfrog starts to be rejected, if it searches for it."""
    if not move.find_step_size:
        return move
    hmc, metric = blackjax().mcmc.hmc, euclidean(move.metric(position))
    target = log_density(energy)

    def leapfrog(step_size: Scalar) -> Callable[[Key, Any], Any]:
        kernel = hmc.build_kernel()
        return lambda key, state: kernel(key, state, target, step_size, metric, 1)

    step_size = blackjax().adaptation.step_size.find_reasonable_step_size(
        rng_key,
        leapfrog,
        hmc.init(position, target),
        jnp.asarray(move.step_size, jnp.result_type(float)),
    )
    return move.with_step(step_size)


def check_differentiation(forward_mode_differentiation: bool) -> None:
    if forward_mode_differentiation:
        raise NotImplementedError(
            "`forward_mode_differentiation` must be False, because BlackJAX differentiates in "
            "reverse mode: write loops of the model as `jax.lax.scan`, or use NumPyro's kernel."
        )
