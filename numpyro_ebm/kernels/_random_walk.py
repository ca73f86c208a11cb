"""Random-walk Metropolis."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from numpyro.infer.initialization import init_to_uniform

from .._types import DenseMass, Energy, Key, Metric, Point, Scalar
from ..chains import AbstractMove, Adaptation, Report, blackjax, log_density, report
from ._numpyro import AbstractKernel


class RandomWalkMove(AbstractMove):
    r"""$x' = x + \sigma M^{-1/2}\epsilon$, accepted by Metropolis."""

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        return blackjax().mcmc.random_walk.init(position, log_density(energy))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        random_walk = blackjax().mcmc.random_walk
        metric = self.metric(state.position)
        root = jnp.sqrt(metric) if metric.ndim == 1 else jnp.linalg.cholesky(metric)
        propose = random_walk.normal(self.step_size * root)
        return random_walk.build_additive_step()(rng_key, state, log_density(energy), propose)

    def report(self, info: Any) -> Report:
        return report(info.acceptance_rate)


class RandomWalkMetropolis(AbstractKernel):
    r"""A Gaussian random walk [Metropolis et al. 1953]: $x' = x + \sigma M^{-1/2}\epsilon$.

    Asymptotically exact, without gradients: for energies that have none, in a handful of
    dimensions. Shown by `tests/kernels/test_detailed_balance.py` and `test_exactness.py`.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: anything [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: $\sigma$; where adaptation starts.
    - `inverse_mass_matrix`: the covariance of a proposal, up to $\sigma^2$: diagonal or dense,
      over the flattened position.
    - `adapt_step_size`: adapt $\sigma$ in warm-up, to `target_accept_prob`.
    - `adapt_mass_matrix`: learn the covariance in warm-up.
    - `dense_mass`: learn the dense matrix, not only its diagonal, or dense blocks of sites,
      `[("x", "y")]`.
    - `target_accept_prob`: 0.234 is optimal in high dimension [Roberts, Gelman and Gilks 1997],
      0.44 in one.
    - `init_strategy`: where the chains of a model start.
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 1.0,
        inverse_mass_matrix: Metric | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        dense_mass: DenseMass = False,
        target_accept_prob: float = 0.234,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        move = RandomWalkMove(step_size, inverse_mass_matrix)
        adaptation = Adaptation(
            adapt_step_size, adapt_mass_matrix, dense_mass, target_accept_prob
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)
