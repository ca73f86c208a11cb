"""The Metropolis-adjusted Langevin algorithm."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from numpyro.infer.initialization import init_to_uniform

from .._checks import check_positive, check_probability
from .._types import Array, Energy, Key, Point, Scalar
from ._adaptation import Adaptation
from ._blackjax import blackjax
from ._kernel import AbstractKernel
from ._move import AbstractMove, log_density


class MALAMove(AbstractMove):
    r"""$x' = x + \eta M^{-1} s(x) + \sqrt{2\eta}\,M^{-1/2}\epsilon$, accepted by Metropolis."""

    step_size: float | Scalar
    inverse_mass_matrix: Array | None = None

    def init(self, position: Point, energy: Energy) -> Any:
        return blackjax().mcmc.hmc.init(position, log_density(energy))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        # One leapfrog step of size sqrt(2 eta) is the same proposal, and takes a metric.
        return blackjax().mcmc.hmc.build_kernel()(
            rng_key,
            state,
            log_density(energy),
            jnp.sqrt(2 * self.step_size),
            self.metric(state.position),
            1,
        )


class MALA(AbstractKernel):
    r"""Metropolis-adjusted Langevin: $x' = x + \eta\,s(x) + \sqrt{2\eta}\,\epsilon$.

    Asymptotically exact. One gradient a transition. Shown by `tests/kernels/test_mala.py`
    against a closed-form acceptance probability and by `tests/kernels/test_exactness.py`.

    ```python
    mcmc = MCMC(ebm.MALA(model), num_warmup=500, num_samples=1000, num_chains=4)
    ```

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: an energy, what [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: BlackJAX's $\eta$ (HMC's step is $\sqrt{2\eta}$); where adaptation starts.
    - `inverse_mass_matrix`: $M^{-1}$, diagonal or whole, over the flattened position.
    - `adapt_step_size`: adapt $\eta$ in warm-up, to `target_accept_prob`.
    - `adapt_mass_matrix`: learn $M^{-1}$ in warm-up; off by default, because a chain of local
      moves learns a metric slowly.
    - `dense_mass`: learn the whole matrix, not only its diagonal.
    - `target_accept_prob`: 0.574 is optimal in high dimension [Roberts and Rosenthal 1998].
    - `init_strategy`: where chains of a model start.
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 0.1,
        inverse_mass_matrix: Array | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = False,
        dense_mass: bool = False,
        target_accept_prob: float = 0.574,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        check_positive("step_size", step_size)
        check_probability("target_accept_prob", target_accept_prob)
        move = MALAMove(step_size, inverse_mass_matrix)
        adaptation = Adaptation(
            adapt_step_size, adapt_mass_matrix, dense_mass, target_accept_prob
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)
