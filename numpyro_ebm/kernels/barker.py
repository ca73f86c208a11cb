"""Barker's proposal."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from numpyro.infer.initialization import init_to_uniform

from .._types import Array, Energy, Key, Point, Scalar
from ._adaptation import Adaptation
from ._blackjax import blackjax
from ._kernel import AbstractKernel
from ._move import AbstractMove, Report, log_density, report


class BarkerMove(AbstractMove):
    r"""A Gaussian step whose coordinates turn to where the score points, most of the time."""

    step_size: float | Scalar
    inverse_mass_matrix: Array | None = None

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        return blackjax().mcmc.barker.init(position, log_density(energy))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        # BlackJAX's Barker scales its proposal by the inverse of the metric that it is given.
        metric = self.metric(state.position)
        mass = 1 / metric if metric.ndim == 1 else jnp.linalg.inv(metric)
        return blackjax().mcmc.barker.build_kernel()(
            rng_key, state, log_density(energy), self.step_size, mass
        )

    def report(self, info: Any) -> Report:
        # NaN where the energy of the proposal is: a rejection.
        return report(jnp.nan_to_num(info.acceptance_rate))


class BarkerMH(AbstractKernel):
    r"""Barker's proposal [Livingstone and Zanella 2022].

    A Gaussian step $z \sim N(0, \sigma^2 M^{-1})$, each coordinate of which keeps its sign with
    probability $1/(1 + e^{-z s(x)})$. Asymptotically exact. As MALA it takes one gradient a
    transition; it is less efficient at the best step and forgives a bad one. Shown by
    `tests/kernels/test_detailed_balance.py` and `test_exactness.py`.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: an energy, what [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: $\sigma$; where adaptation starts.
    - `inverse_mass_matrix`: $M^{-1}$, diagonal or whole, over the flattened position.
    - `adapt_step_size`: adapt $\sigma$ in warm-up, to `target_accept_prob`.
    - `adapt_mass_matrix`: learn $M^{-1}$ in warm-up.
    - `dense_mass`: learn the whole matrix, not only its diagonal.
    - `target_accept_prob`: 0.4 is optimal in high dimension.
    - `init_strategy`: where chains of a model start.
    """

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
        target_accept_prob: float = 0.4,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        move = BarkerMove(step_size, inverse_mass_matrix)
        adaptation = Adaptation(
            adapt_step_size, adapt_mass_matrix, dense_mass, target_accept_prob
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)
