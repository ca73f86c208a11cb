"""Hamiltonian Monte Carlo, with a fresh momentum or one that persists."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from numpyro.infer.initialization import init_to_uniform

from .._checks import check_positive, user_level
from .._types import Array, Energy, Key, Point, Scalar
from ._adaptation import Adaptation, Travel
from ._blackjax import blackjax
from ._kernel import AbstractKernel
from ._move import (
    AbstractMove,
    Report,
    euclidean,
    hamiltonian_report,
    jittered,
    log_density,
)
from ._state import HamiltonianState, KernelState


class HMCMove(AbstractMove):
    """A leapfrog trajectory of a given length, its end accepted by Metropolis."""

    step_size: float | Scalar
    inverse_mass_matrix: Array | None = None
    trajectory_length: float | Scalar | None = 2 * math.pi
    #: A fixed number of steps instead, of a step that does not vary.
    num_steps: int | None = eqx.field(static=True, default=None)
    find_step_size: bool = eqx.field(static=True, default=False)
    max_steps: int = eqx.field(static=True, default=1000)

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        return blackjax().mcmc.hmc.init(position, log_density(energy))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        step_size, num_steps = self.step_size, self.num_steps
        if num_steps is None:
            rng_key, jitter_key = jr.split(rng_key)
            length, most = self.trajectory_length, self.max_steps
            step_size, num_steps = jittered(jitter_key, step_size, length, most)
        hmc, metric = blackjax().mcmc.hmc, euclidean(self.metric(state.position))
        # A move for which this one stands in may keep more in its state.
        start = hmc.HMCState(state.position, state.logdensity, state.logdensity_grad)
        new, info = hmc.build_kernel()(
            rng_key, start, log_density(energy), step_size, metric, num_steps
        )
        return state._replace(**new._asdict()), with_end_energy(info, state, metric)

    def report(self, info: Any) -> Report:
        return hamiltonian_report(info)

    def started(self, rng_key: Key, position: Point, energy: Energy) -> AbstractMove:
        return with_found_step_size(self, rng_key, position, energy)


class GHMCMove(AbstractMove):
    """One leapfrog step of a momentum that persists, accepted by a slice that persists too."""

    step_size: float | Scalar
    inverse_mass_matrix: Array | None = None
    trajectory_length: float | Scalar = 1.0

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        start_key, momentum_key = jr.split(rng_key)
        state = blackjax().mcmc.ghmc.init(position, log_density(energy), start_key)
        # BlackJAX begins with a momentum of unit masses, which is not that of the metric.
        metric = blackjax().mcmc.metrics.default_metric(self.metric(position))
        return state._replace(momentum=metric.sample_momentum(momentum_key, position))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        # After the time `trajectory_length`, 1/e of the momentum is left.
        alpha = -jnp.expm1(-2 * self.step_size / self.trajectory_length)
        metric = euclidean(self.metric(state.position))
        new, info = blackjax().mcmc.ghmc.build_kernel()(
            rng_key, state, log_density(energy), self.step_size, metric, alpha, alpha / 2
        )
        # A proposal of infinite energy is rejected, and 0 * inf must not become the slice.
        return new._replace(slice=jnp.nan_to_num(new.slice)), with_end_energy(
            info, state, metric
        )

    def report(self, info: Any) -> Report:
        return hamiltonian_report(info)


def with_end_energy(info: Any, state: Any, metric: Any) -> Any:
    """`info` with the Hamiltonian where the chain is: BlackJAX's is that of the proposal."""
    start = metric.kinetic_energy(info.momentum) - state.logdensity
    return info._replace(energy=jnp.where(info.is_accepted, info.energy, start))


def with_found_step_size(
    move: Any, rng_key: Key, position: Point, energy: Energy
) -> AbstractMove:
    """`move` with the step at which one leapfrog begins to be rejected, if it looks for it."""
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
    return eqx.tree_at(lambda m: m.step_size, move, step_size)


def travelling(
    inverse_mass_matrix: Array | None, adapt_step_size: bool, power: int = 1
) -> Travel | None:
    """Trajectories for the first part of the warm-up of a local move, if its step adapts.

    A quarter of a period of a target as wide as the metric says; before the metric is known,
    as many steps as one can afford.
    """
    if not adapt_step_size:
        return None
    move = HMCMove(1.0, inverse_mass_matrix, math.pi / 2, max_steps=64)
    return Travel(move, power=power)


def check_differentiation(forward_mode_differentiation: bool) -> None:
    if forward_mode_differentiation:
        raise NotImplementedError(
            "`forward_mode_differentiation` must be False, because BlackJAX differentiates in "
            "reverse mode: write loops of the model as `jax.lax.scan`, or use NumPyro's kernel."
        )


class HMC(AbstractKernel):
    r"""Hamiltonian Monte Carlo [Duane et al. 1987; Neal 2011].

    Asymptotically exact. The step varies by 20 % from transition to transition: trajectories of
    one length resonate with the target, so that a chain can accept 0.995 of its proposals and
    not move. Shown by `tests/kernels/test_hamiltonian.py` (acceptance against a closed form,
    reversibility) and `test_exactness.py`.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: an energy, what [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: the leapfrog step; where adaptation starts.
    - `inverse_mass_matrix`: diagonal or whole, over the flattened position; where adaptation
      starts.
    - `adapt_step_size`: adapt the step in warm-up, to `target_accept_prob`.
    - `adapt_mass_matrix`: learn the metric in warm-up, by Stan's windows.
    - `dense_mass`: learn the whole matrix, not only its diagonal.
    - `target_accept_prob`: 0.65 is optimal in high dimension; a little more is robust.
    - `num_steps`: a fixed number of leapfrog steps, which all have the same step; with
      `trajectory_length=None`, or their step is `trajectory_length / num_steps`, as in NumPyro.
    - `trajectory_length`: the mean length of a trajectory, of at most 1000 steps.
    - `init_strategy`: where chains of a model start.
    - `find_heuristic_step_size`: double or halve `step_size` before the warm-up, until one
      leapfrog step begins to be rejected.
    - `forward_mode_differentiation`: must be False; BlackJAX differentiates in reverse mode.
    - `regularize_mass_matrix`: shrink the metric of a short window, as Stan and NumPyro do but
      relative to the scales found: an absolute shrinkage hides scales far below one.
    """

    move: HMCMove
    _state_type = HamiltonianState

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 1.0,
        inverse_mass_matrix: Array | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        dense_mass: bool = False,
        target_accept_prob: float = 0.8,
        num_steps: int | None = None,
        trajectory_length: float | None = 2 * math.pi,
        init_strategy: Callable[..., Any] = init_to_uniform,
        find_heuristic_step_size: bool = False,
        forward_mode_differentiation: bool = False,
        regularize_mass_matrix: bool = True,
    ) -> None:
        check_differentiation(forward_mode_differentiation)
        if num_steps is None and trajectory_length is None:
            raise ValueError(
                "At least one of `num_steps` or `trajectory_length` must be specified."
            )
        for name, value in (("num_steps", num_steps), ("trajectory_length", trajectory_length)):
            if value is not None:
                check_positive(name, value)
        if num_steps is not None and trajectory_length is not None:
            if adapt_step_size:
                warnings.warn(
                    "If both `num_steps` and `trajectory_length` are specified step size can't "
                    "be adapted. Pass `trajectory_length=None`.",
                    stacklevel=user_level(),
                )
            step_size, adapt_step_size = trajectory_length / num_steps, False
        find = find_heuristic_step_size and adapt_step_size
        move = HMCMove(step_size, inverse_mass_matrix, trajectory_length, num_steps, find)
        adaptation = Adaptation(
            adapt_step_size,
            adapt_mass_matrix,
            dense_mass,
            target_accept_prob,
            regularize_mass_matrix,
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)

    @property
    def default_fields(self) -> tuple[str, ...]:
        return (*super().default_fields, "energy")

    def get_diagnostics_str(self, state: KernelState) -> str:
        return f"{state.n_grad} steps of {super().get_diagnostics_str(state)}"

    def _extra(self, report: Report) -> dict[str, Any]:
        return {"energy": report.energy}


class GHMC(AbstractKernel):
    r"""Generalised HMC [Horowitz 1991], with Neal's persistent slice [Neal 2020].

    Underdamped Langevin dynamics with a Metropolis correction: one gradient a transition, and a
    momentum that lasts for several. Asymptotically exact, not reversible. Shown by
    `tests/kernels/test_hamiltonian.py` and `test_exactness.py`.

    The first 60 % of the warm-up are Hamiltonian trajectories of up to 64 steps, which travel
    to where the target is and learn the metric; the rest adapts the step of the kernel.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: an energy, what [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: the leapfrog step; where adaptation starts.
    - `inverse_mass_matrix`: diagonal or whole, over the flattened position; where adaptation
      starts.
    - `adapt_step_size`: adapt the step in warm-up, to `target_accept_prob`.
    - `adapt_mass_matrix`: learn the metric in warm-up, by Stan's windows.
    - `dense_mass`: learn the whole matrix, not only its diagonal.
    - `target_accept_prob`: high, because a rejection turns the momentum around.
    - `trajectory_length`: the time in which the momentum is forgotten, down to $1/e$. With the
      metric learnt, the target is about one unit wide.
    - `init_strategy`: where chains of a model start.
    """

    move: GHMCMove
    _state_type = HamiltonianState

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 0.5,
        inverse_mass_matrix: Array | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        dense_mass: bool = False,
        target_accept_prob: float = 0.9,
        trajectory_length: float = 1.0,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        check_positive("trajectory_length", trajectory_length)
        move = GHMCMove(step_size, inverse_mass_matrix, trajectory_length)
        adaptation = Adaptation(
            adapt_step_size,
            adapt_mass_matrix,
            dense_mass,
            target_accept_prob,
            travel=travelling(inverse_mass_matrix, adapt_step_size),
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)

    @property
    def default_fields(self) -> tuple[str, ...]:
        return (*super().default_fields, "energy")

    def _extra(self, report: Report) -> dict[str, Any]:
        return {"energy": report.energy}
