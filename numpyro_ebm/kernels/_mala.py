"""The Metropolis-adjusted Langevin algorithm, with a given or a self-tuning step."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from numpyro.infer.initialization import init_to_uniform

from .._types import DenseMass, Energy, Key, Metric, Point, Scalar
from ..chains import (
    AbstractMove,
    Adaptation,
    Report,
    blackjax,
    learns_metric,
    log_density,
    report,
)
from ._hamiltonian import euclidean
from ._hmc import travelling
from ._numpyro import AbstractKernel


class MALAMove(AbstractMove):
    r"""$x' = x + \eta M^{-1} s(x) + \sqrt{2\eta}\,M^{-1/2}\epsilon$, accepted by Metropolis."""

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        return blackjax().mcmc.hmc.init(position, log_density(energy))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        # One leapfrog step of size sqrt(2 eta) is the same proposal, and supports a metric.
        return blackjax().mcmc.hmc.build_kernel()(
            rng_key,
            state,
            log_density(energy),
            jnp.sqrt(2 * self.step_size),
            euclidean(self.metric(state.position)),
            1,
        )


class AutoMALAMove(AbstractMove):
    r"""A MALA step of $4^j\eta$, with the first $j$ whose acceptance is in a middle range.

    The range is drawn anew in each transition, and the search from the proposal must find the
    same $j$.
    """

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        return blackjax().mcmc.composed.step_size.init(position, log_density(energy))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        return blackjax().mcmc.composed.step_size.build_kernel()(
            rng_key,
            state,
            log_density(energy),
            jnp.sqrt(2 * self.step_size),
            euclidean(self.metric(state.position)),
            1,
        )

    def report(self, info: Any) -> Report:
        # The search evaluates 2 + |j| steps, in both directions.
        forth, back = jnp.abs(info.step_index), jnp.abs(info.reverse_step_index)
        # Half of the searches should go up: then the step is the median of the chosen ones.
        tuning = 0.5 + 0.5 * jnp.sign(info.step_index)
        return report(info.acceptance_rate, info.is_divergent, 5 + forth + back, tuning)


class MALA(AbstractKernel):
    r"""Metropolis-adjusted Langevin: $x' = x + \eta\,s(x) + \sqrt{2\eta}\,\epsilon$.

    Asymptotically exact. One gradient per transition. Shown by `tests/kernels/test_mala.py`
    against a closed-form acceptance probability and by `tests/kernels/test_exactness.py`.

    The first 60 % of the warm-up runs Hamiltonian trajectories of up to 64 steps, which travel
    to the target and learn the metric; the rest adapts the kernel's own step.

    ```python
    mcmc = MCMC(ebm.MALA(model), num_warmup=500, num_samples=1000, num_chains=4)
    ```

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: anything [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: BlackJAX's $\eta$ (HMC's step is $\sqrt{2\eta}$); where adaptation starts.
    - `inverse_mass_matrix`: $M^{-1}$, diagonal or dense, over the flattened position, or by
      blocks of sites, `{("x", "y"): matrix}`.
    - `adapt_step_size`: adapt $\eta$ in warm-up, to `target_accept_prob`.
    - `adapt_mass_matrix`: learn $M^{-1}$ in warm-up, by Stan's windows; by default if the step
      adapts, or if `dense_mass`.
    - `dense_mass`: learn the dense matrix, not only its diagonal, or dense blocks of sites,
      `[("x", "y")]`.
    - `target_accept_prob`: 0.574 is optimal in high dimension [Roberts and Rosenthal 1998].
    - `init_strategy`: where the chains of a model start.
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 0.1,
        inverse_mass_matrix: Metric | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool | None = None,
        dense_mass: DenseMass = False,
        target_accept_prob: float = 0.574,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        move = MALAMove(step_size, inverse_mass_matrix)
        adaptation = Adaptation(
            adapt_step_size,
            learns_metric(adapt_mass_matrix, adapt_step_size, dense_mass),
            dense_mass,
            target_accept_prob,
            travel=travelling(inverse_mass_matrix, adapt_step_size, 2),
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)


class AutoMALA(AbstractKernel):
    r"""MALA that finds its step in every transition [Biron-Lattes et al. 2024].

    Asymptotically exact: a Gibbs draw of the step [Bou-Rabee, Carpenter and Marsden 2024],
    BlackJAX's `gist_step_size` with the symmetric criterion of AutoStep [Liu et al. 2024]. If
    the scale of the target varies in space, as in a funnel or a quartic tail, no single step of
    [`MALA`][numpyro_ebm.MALA] suits it, and many chains get stuck. The price is at least 5
    gradients per transition, and with many chains all wait for the longest search. Shown by
    exact rank tests in `tests/kernels/test_ranks.py`.

    The first 60 % of the warm-up runs Hamiltonian trajectories of up to 64 steps, which travel
    to the target and learn the metric; the rest adapts the kernel's own step.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: anything [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: $\eta$, from which each search starts; it goes up to a factor of $2^{20}$.
    - `inverse_mass_matrix`: $M^{-1}$, diagonal or dense, over the flattened position, or by
      blocks of sites, `{("x", "y"): matrix}`.
    - `adapt_step_size`: in warm-up, move $\eta$ to the median of the steps chosen.
    - `adapt_mass_matrix`: learn $M^{-1}$ in warm-up, by Stan's windows; by default if the step
      adapts, or if `dense_mass`.
    - `dense_mass`: learn the dense matrix, not only its diagonal, or dense blocks of sites,
      `[("x", "y")]`.
    - `init_strategy`: where the chains of a model start.
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 0.1,
        inverse_mass_matrix: Metric | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool | None = None,
        dense_mass: DenseMass = False,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        move = AutoMALAMove(step_size, inverse_mass_matrix)
        adaptation = Adaptation(
            adapt_step_size,
            learns_metric(adapt_mass_matrix, adapt_step_size, dense_mass),
            dense_mass,
            0.5,
            travel=travelling(inverse_mass_matrix, adapt_step_size, 2),
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)
