"""Barker's proposal."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jax.nn import softplus
from numpyro.infer.initialization import init_to_uniform

from .._types import Array, DenseMass, Energy, Float, Key, Metric, Point, Scalar
from ..chains import AbstractMove, Adaptation, Report, blackjax, log_density, report
from ._hmc import travelling
from ._numpyro import AbstractKernel


class BarkerMove(AbstractMove):
    r"""A Gaussian step whose coordinates take the sign of the score, most of the time.

    BlackJAX's `barker` computes $\log(1+e^a)$ with an exponential that overflows at $a = 89$,
    so it accepts nothing if the score is steep.
    """

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        return blackjax().mcmc.barker.init(position, log_density(energy))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        noise_key, sign_key, accept_key = jr.split(rng_key, 3)
        flat, unravel = ravel_pytree(state.position)
        root = self._root(state.position)
        noise = self.step_size * jr.normal(noise_key, flat.shape)
        slope = _times(root.T, state.logdensity_grad)
        keeps = jr.uniform(sign_key, flat.shape) < jax.nn.sigmoid(noise * slope)
        jump = jnp.where(keeps, noise, -noise)
        there = unravel(flat + _times(root, unravel(jump)))
        proposal = self.init(rng_key, there, energy)
        back = _times(root.T, proposal.logdensity_grad)
        # The log-probability of this step is -softplus(-jump * slope), up to a constant.
        ways = (softplus(-jump * slope) - softplus(jump * back)).sum()
        log_ratio = proposal.logdensity - state.logdensity + ways
        accept_prob = jnp.nan_to_num(jnp.exp(jnp.minimum(log_ratio, 0)))
        is_accepted = jr.uniform(accept_key) < accept_prob
        new = jax.tree.map(lambda n, o: jnp.where(is_accepted, n, o), proposal, state)
        info = blackjax().mcmc.barker.BarkerInfo(accept_prob, is_accepted, proposal)
        return new, info

    def report(self, info: Any) -> Report:
        return report(info.acceptance_rate, ~jnp.isfinite(info.proposal.logdensity))

    def _root(self, position: Point) -> Array:
        metric = self.metric(position)
        return jnp.sqrt(metric) if metric.ndim == 1 else jnp.linalg.cholesky(metric)


def _times(root: Array, x: Point) -> Float[Array, " d"]:
    flat, _ = ravel_pytree(x)
    return root * flat if root.ndim == 1 else root @ flat


class BarkerMH(AbstractKernel):
    r"""Barker's proposal [Livingstone and Zanella 2022].

    A Gaussian step $z \sim N(0, \sigma^2 M^{-1})$, each coordinate of which keeps its sign with
    probability $1/(1 + e^{-z s(x)})$. Asymptotically exact. Like MALA, it takes one gradient
    per transition; it is less efficient at the best step and more robust to a bad one. Shown by
    `tests/kernels/test_detailed_balance.py` and `test_exactness.py`.

    The first 60 % of the warm-up runs Hamiltonian trajectories of up to 64 steps, which travel
    to the target and learn the metric; the rest adapts the kernel's own step.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: anything [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: $\sigma$; where adaptation starts.
    - `inverse_mass_matrix`: $M^{-1}$, diagonal or dense, over the flattened position, or by
      blocks of sites, `{("x", "y"): matrix}`.
    - `adapt_step_size`: adapt $\sigma$ in warm-up, to `target_accept_prob`.
    - `adapt_mass_matrix`: learn $M^{-1}$ in warm-up.
    - `dense_mass`: learn the dense matrix, not only its diagonal, or dense blocks of sites,
      `[("x", "y")]`.
    - `target_accept_prob`: 0.4 is optimal in high dimension.
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
        target_accept_prob: float = 0.4,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        move = BarkerMove(step_size, inverse_mass_matrix)
        adaptation = Adaptation(
            adapt_step_size,
            adapt_mass_matrix,
            dense_mass,
            target_accept_prob,
            travel=travelling(inverse_mass_matrix, adapt_step_size),
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)
