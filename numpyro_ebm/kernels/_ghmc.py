"""Generalised Hamiltonian Monte Carlo, whose momentum persists."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import jax.random as jr
from numpyro.infer.initialization import init_to_uniform

from .._checks import check_positive
from .._types import DenseMass, Energy, Key, Metric, Point, Scalar
from ..chains import AbstractMove, Adaptation, Report, blackjax, log_density
from ._hamiltonian import euclidean, hamiltonian_report, with_end_energy
from ._hmc import travelling
from ._numpyro import AbstractKernel


class GHMCMove(AbstractMove):
    """One leapfrog step with a persistent momentum, accepted by a slice that persists too."""

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None
    is_hamiltonian: ClassVar[bool] = True
    trajectory_length: float | Scalar = 1.0

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        start_key, momentum_key = jr.split(rng_key)
        state = blackjax().mcmc.ghmc.init(position, log_density(energy), start_key)
        # BlackJAX starts with a momentum of unit masses, which does not match the metric.
        metric = blackjax().mcmc.metrics.default_metric(self.metric(position))
        return state._replace(momentum=metric.sample_momentum(momentum_key, position))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        # After time `trajectory_length`, 1/e of the momentum is left.
        alpha = -jnp.expm1(-2 * self.step_size / self.trajectory_length)
        metric = euclidean(self.metric(state.position))
        new, info = blackjax().mcmc.ghmc.build_kernel()(
            rng_key, state, log_density(energy), self.step_size, metric, alpha, alpha / 2
        )
        # A proposal of infinite energy is rejected; the slice must not become 0 * inf.
        return new._replace(slice=jnp.nan_to_num(new.slice)), with_end_energy(
            info, state, metric
        )

    def report(self, info: Any) -> Report:
        return hamiltonian_report(info)


class GHMC(AbstractKernel):
    r"""Generalised HMC [Horowitz 1991], with Neal's persistent slice [Neal 2020].

    Underdamped Langevin dynamics with a Metropolis correction: one gradient per transition, and
    a momentum that lasts for several. Asymptotically exact, not reversible. Shown by
    `tests/kernels/test_hamiltonian.py` and `test_exactness.py`.

    The first 60 % of the warm-up runs Hamiltonian trajectories of up to 64 steps, which travel
    to the target and learn the metric; the rest adapts the kernel's own step.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: anything [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: the leapfrog step; where adaptation starts.
    - `inverse_mass_matrix`: diagonal or dense, over the flattened position, or by blocks of
      sites, `{("x", "y"): matrix}`; where adaptation starts.
    - `adapt_step_size`: adapt the step in warm-up, to `target_accept_prob`.
    - `adapt_mass_matrix`: learn the metric in warm-up, by Stan's windows.
    - `dense_mass`: learn the dense matrix, not only its diagonal, or dense blocks of sites,
      `[("x", "y")]`.
    - `target_accept_prob`: high, because a rejection reverses the momentum.
    - `trajectory_length`: the time in which the momentum decays to $1/e$. Once the metric is
      learnt, the target is about one unit wide.
    - `init_strategy`: where the chains of a model start.
    """

    move: GHMCMove

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 0.5,
        inverse_mass_matrix: Metric | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        dense_mass: DenseMass = False,
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
