"""Microcanonical Langevin Monte Carlo, without and with a Metropolis correction."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from numpyro.infer.initialization import init_to_uniform

from .._checks import check_positive
from .._types import Energy, Key, Metric, Point, Scalar
from ..chains import (
    TUNED_ERROR,
    AbstractMove,
    Adaptation,
    Report,
    blackjax,
    by_blocks,
    dimension,
    log_density,
    report,
    tuning_of_error,
)
from ._hamiltonian import jittered
from ._numpyro import AbstractKernel

#: McLachlan's integrator evaluates two gradients per step.
_GRADIENTS = 2


class UnadjustedMCLMCMove(AbstractMove):
    """One step of a particle of constant speed, steered by the score and turned by noise."""

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None
    trajectory_length: float | Scalar | None = None
    energy_variance: float | Scalar = 5e-4

    @property
    def is_exact(self) -> bool:
        return False

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        _check_dimension(position)
        return blackjax().mcmc.mclmc.init(position, log_density(energy), rng_key)

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        new, info = blackjax().mcmc.mclmc.build_kernel()(
            rng_key,
            state,
            log_density(energy),
            self.metric(state.position),
            _length(self.trajectory_length, state.position),
            self.step_size,
        )
        # Per dimension, relative to what is allowed.
        scale = self.energy_variance * dimension(state.position)
        return new, info._replace(energy_change=info.energy_change**2 / scale)

    def report(self, info: Any) -> Report:
        error = jnp.where(info.nonans, info.energy_change, jnp.inf)
        return report(1.0, ~info.nonans, _GRADIENTS, tuning_of_error(error))


class AdjustedMCLMCMove(AbstractMove):
    """A constant-speed trajectory steered by the score, whose end is accepted by Metropolis."""

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None
    trajectory_length: float | Scalar | None = None

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        _check_dimension(position)
        return blackjax().mcmc.adjusted_mclmc.init(position, log_density(energy))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        rng_key, jitter_key = jr.split(rng_key)
        length = _length(self.trajectory_length, state.position)
        step_size, num_steps = jittered(jitter_key, self.step_size, length)
        return blackjax().mcmc.adjusted_mclmc.build_kernel()(
            rng_key,
            state,
            log_density(energy),
            step_size,
            (num_steps,),
            self.metric(state.position),
        )

    def report(self, info: Any) -> Report:
        n_grad = _GRADIENTS * info.num_integration_steps
        return report(info.acceptance_rate, info.is_divergent, n_grad)


def _length(trajectory_length: Any, position: Point) -> Any:
    # The speed is one: crossing a target of unit variances in d dimensions takes sqrt(d).
    return jnp.sqrt(dimension(position)) if trajectory_length is None else trajectory_length


def _check_dimension(position: Point) -> None:
    if dimension(position) < 2:
        raise ValueError(
            "Microcanonical kernels move on a sphere of directions and need two dimensions or "
            "more; use `HMC` or `NUTS` in one."
        )


def _check_diagonal(inverse_mass_matrix: Any) -> None:
    blocks = {} if inverse_mass_matrix is None else by_blocks(inverse_mass_matrix)
    if any(np.ndim(block) != 1 for block in blocks.values()):
        raise ValueError(
            "`inverse_mass_matrix` must be a vector, the diagonal: BlackJAX's microcanonical "
            "integrators take no whole matrix."
        )


class UnadjustedMCLMC(AbstractKernel):
    r"""Microcanonical Langevin Monte Carlo [Robnik et al. 2023], without a correction.

    **Biased**, by the error of the integrator: its step is tuned so that the variance of the
    energy is `energy_variance` per dimension, which keeps variances accurate to a few per cent.
    In return it needs few gradients in high dimension, two per transition. `accept_prob` is
    one. Shown by `tests/kernels/test_exactness.py`, bias included.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: anything [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: the integrator's step; where adaptation starts.
    - `inverse_mass_matrix`: its diagonal, over the flattened position.
    - `adapt_step_size`: adapt the step in warm-up, to `energy_variance`.
    - `adapt_mass_matrix`: learn the metric in warm-up, by Stan's windows.
    - `energy_variance`: the variance of the energy error of a step, per dimension.
    - `trajectory_length`: how long the direction is remembered; by default $\sqrt d$, the
      width of a target of unit variances in $d$ dimensions.
    - `init_strategy`: where the chains of a model start.
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 0.5,
        inverse_mass_matrix: Metric | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        energy_variance: float = 5e-4,
        trajectory_length: float | None = None,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        check_positive("energy_variance", energy_variance)
        if trajectory_length is not None:
            check_positive("trajectory_length", trajectory_length)
        _check_diagonal(inverse_mass_matrix)
        move = UnadjustedMCLMCMove(
            step_size, inverse_mass_matrix, trajectory_length, energy_variance
        )
        adaptation = Adaptation(adapt_step_size, adapt_mass_matrix, False, TUNED_ERROR)
        super().__init__(model, potential_fn, move, adaptation, init_strategy)


class AdjustedMCLMC(AbstractKernel):
    r"""Microcanonical HMC: the trajectories of MCLMC with a Metropolis correction.

    Asymptotically exact [Robnik, Cohn-Gordon and Seljak 2025]. Each transition draws a new
    direction, and the step varies by 20 %. Two gradients per step. Shown by
    `tests/kernels/test_hamiltonian.py` (reversibility) and `test_exactness.py`.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: anything [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: the integrator's step; where adaptation starts.
    - `inverse_mass_matrix`: its diagonal, over the flattened position.
    - `adapt_step_size`: adapt the step in warm-up, to `target_accept_prob`.
    - `adapt_mass_matrix`: learn the metric in warm-up, by Stan's windows.
    - `target_accept_prob`: the mean acceptance probability.
    - `trajectory_length`: the mean length of a trajectory, of at most 1000 steps; by default
      $\sqrt d$, the width of a target of unit variances in $d$ dimensions.
    - `init_strategy`: where the chains of a model start.
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 0.5,
        inverse_mass_matrix: Metric | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        target_accept_prob: float = 0.9,
        trajectory_length: float | None = None,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        if trajectory_length is not None:
            check_positive("trajectory_length", trajectory_length)
        _check_diagonal(inverse_mass_matrix)
        move = AdjustedMCLMCMove(step_size, inverse_mass_matrix, trajectory_length)
        adaptation = Adaptation(adapt_step_size, adapt_mass_matrix, False, target_accept_prob)
        super().__init__(model, potential_fn, move, adaptation, init_strategy)
