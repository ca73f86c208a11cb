"""Parallel tempering: replicas at rising temperatures that swap places."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import as_finite, as_floats
from .._types import Array, Energy, EnergyLike, Float, Key, Metric, Point, Scalar, Shape
from ..chains import AbstractAdaptation, AbstractMove, Adaptation, AdaptState, Report
from ..energies import as_energy
from ._numpyro import AbstractKernel
from ._sampler import check_kernel, step_adaptation


class TemperingState(NamedTuple):
    """One chain: one replica per temperature, the first at the target's.

    - **position**, **logdensity**: those of the first replica.
    - **replicas**: stacked states of the inner move, whose energies are not divided by their
      temperatures.
    - **parity**: which pairs of neighbours try to swap next, the even or the odd ones.
    """

    position: Point
    logdensity: Scalar
    replicas: Any
    parity: Array


class TemperingInfo(NamedTuple):
    """The report of each replica, and the swap probability of each pair."""

    reports: Report
    swap_prob: Float[Array, " pair"]


class TemperingMove(AbstractMove):
    r"""The inner move at each $E/T_k$, then swaps that keep $\prod_k e^{-E(x_k)/T_k}$."""

    inner: AbstractMove
    step_size: Float[Array, " temperature"]
    temperatures: Float[Array, " temperature"]
    inverse_mass_matrix: Metric | None = None

    @property
    def is_exact(self) -> bool:
        return self.inner.is_exact

    def check(self, energy: EnergyLike) -> None:
        # As it will be at each temperature.
        self.inner.check(1.0 * as_energy(energy))

    def init(self, rng_key: Key, position: Point, energy: Energy) -> TemperingState:
        keys = jr.split(rng_key, len(self.temperatures))
        replicas = jax.vmap(lambda key: self.inner.init(key, position, energy))(keys)
        return _of(replicas, jnp.zeros((), int))

    def step(
        self, rng_key: Key, state: TemperingState, energy: Energy
    ) -> tuple[TemperingState, TemperingInfo]:
        move_key, swap_key = jr.split(rng_key)
        keys = jr.split(move_key, len(self.temperatures))
        # A plain function would not know that its points are spins.
        whole = as_energy(energy)

        def move(key: Key, replica: Any, step_size: Scalar, beta: Scalar) -> tuple:
            inner = self.inner.with_step(step_size)
            heated = _scaled(replica, beta)
            cooled, info = inner.step(key, heated, whole * beta)
            return _scaled(cooled, 1 / beta), inner.report(info)

        beta = 1 / self.temperatures
        replicas, reports = jax.vmap(move)(keys, state.replicas, self.step_size, beta)
        gain = (beta[:-1] - beta[1:]) * (replicas.logdensity[1:] - replicas.logdensity[:-1])
        swap_prob = jnp.nan_to_num(jnp.exp(jnp.minimum(0, gain)))
        # Even and odd pairs in turn, not at random: replicas travel instead of diffusing.
        pairs = jnp.arange(len(swap_prob))
        swap = (pairs % 2 == state.parity) & (jr.uniform(swap_key, pairs.shape) < swap_prob)
        source = jnp.arange(len(beta)) + jnp.append(swap, False) - jnp.append(False, swap)
        replicas = jax.tree.map(lambda x: x[source], replicas)
        return _of(replicas, 1 - state.parity), TemperingInfo(reports, swap_prob)

    def report(self, info: TemperingInfo) -> Report:
        first = jax.tree.map(lambda x: x[0], info.reports)
        return first._replace(
            n_grad=info.reports.n_grad.sum(), tuning=(info.reports.tuning, info.swap_prob)
        )

    def refresh(self, state: TemperingState, energy: Energy) -> TemperingState:
        refresh = jax.vmap(lambda one: self.inner.refresh(one, energy))
        return _of(refresh(state.replicas), state.parity)

    def draw_start(self, rng_key: Key, energy: Energy, shape: Shape) -> Array:
        return self.inner.draw_start(rng_key, energy, shape)


class TemperingAdaptState(NamedTuple):
    """What a warm-up carries: one step size per temperature, and the ladder."""

    inner: AdaptState
    #: Logarithms of the rungs, up to a constant, as fractions of that of the top temperature.
    rungs: Float[Array, " pair"]

    @property
    def step_size(self) -> Array:
        return self.inner.step_size

    @property
    def schedule(self) -> Array:
        return self.inner.schedule


class TemperingAdaptation(AbstractAdaptation):
    """Adapts one step size per temperature, and the ladder until all pairs swap alike."""

    inner: Adaptation
    highest: Scalar
    adapt_temperatures: bool = eqx.field(static=True)

    def init(
        self, move: TemperingMove, position: Point, num_warmup: int
    ) -> TemperingAdaptState:
        inner = self.inner.init(move, position, num_warmup)
        rungs = jnp.log(jnp.diff(jnp.log(as_floats(move.temperatures))))
        return TemperingAdaptState(inner, rungs)

    def tune(self, move: TemperingMove, state: TemperingAdaptState) -> TemperingMove:
        move = cast(TemperingMove, self.inner.tune(move, state.inner))
        if not self.adapt_temperatures:
            return move
        parts = jnp.cumsum(jax.nn.softmax(state.rungs))
        temperatures = jnp.exp(jnp.log(self.highest) * jnp.append(0.0, parts))
        return eqx.tree_at(lambda m: m.temperatures, move, temperatures)

    def update(
        self, i: Array, state: TemperingAdaptState, positions: Point, reports: Report
    ) -> TemperingAdaptState:
        steps, swaps = reports.tuning
        inner = self.inner.update(i, state.inner, positions, reports._replace(tuning=steps))
        if not self.adapt_temperatures:
            return state._replace(inner=inner)
        # If a pair swaps more often than others, its rungs may spread [Robbins and Monro 1951].
        swap = swaps.mean(0)
        gain = jnp.where(i < len(state.schedule), 2 * (i + 1.0) ** -0.6, 0)
        return TemperingAdaptState(inner, state.rungs + gain * (swap - swap.mean()))


class ParallelTempering(AbstractKernel):
    r"""Parallel tempering [Geyer 1991]: chains at $E/T_k$ that swap places, for many modes.

    Hot chains cross between modes, and pass what they find down to $T = 1$. Even and odd pairs
    try to swap in turn, which sends replicas up and down the ladder instead of letting them
    diffuse [Okabe et al. 2001; Syed et al. 2022]. Asymptotically exact if the inner kernel is.
    Each transition makes one inner transition at every temperature. Shown by
    `tests/kernels/test_tempering.py`.

    ```python
    kernel = ebm.ParallelTempering(ebm.MALA(), temperatures=[1.0, 2.0, 4.0, 8.0])
    draws = ebm.sample(jax.random.key(0), energy, kernel)
    ```

    **Arguments**

    - `kernel`: the inner kernel; under `MCMC`, with its model or potential. If its step size
      adapts, it does so at every temperature; its metric stays fixed.
    - `temperatures`: rising from 1 to one at which nothing separates the modes any more; or
      $T_{\max}$ with `num_temperatures`, for a geometric ladder.
    - `num_temperatures`: the number of rungs if `temperatures` is one number. Use enough for
      neighbours to swap at least one time in five.
    - `adapt_temperatures`: move the temperatures between the two ends in warm-up, until all
      pairs swap equally often.
    """

    def __init__(
        self,
        kernel: AbstractKernel,
        temperatures: Sequence[float] | Array | float,
        *,
        num_temperatures: int = 8,
        adapt_temperatures: bool = True,
    ) -> None:
        check_kernel(kernel)
        ladder = np.asarray(as_finite("temperatures", temperatures), float)
        if ladder.ndim == 0:
            ladder = np.geomspace(1, max(float(ladder), 1.0), num_temperatures)
        if (
            ladder.ndim != 1
            or len(ladder) < 2
            or ladder[0] != 1
            or (np.diff(ladder) <= 0).any()
        ):
            raise ValueError(
                "`temperatures` must rise from 1, and be two or more, or one number above 1, "
                f"got {temperatures}."
            )
        inner = step_adaptation(kernel)
        ladder = as_floats(ladder)
        move = TemperingMove(
            inner=kernel.move,
            step_size=jnp.broadcast_to(as_floats(kernel.move.step_size), ladder.shape),
            temperatures=ladder,
            inverse_mass_matrix=kernel.move.inverse_mass_matrix,
        )
        steps = Adaptation(inner.adapt_step_size, False, False, inner.target_tuning)
        adaptation = TemperingAdaptation(steps, ladder[-1], adapt_temperatures)
        target = kernel.model, kernel.potential_fn
        super().__init__(*target, move, adaptation, kernel.init_strategy)

    def get_diagnostics_str(self, state: Any) -> str:
        return f"acc. prob={state.mean_accept_prob:.2f}"


def _of(replicas: Any, parity: Array) -> TemperingState:
    first = jax.tree.map(lambda x: x[0], replicas)
    return TemperingState(first.position, first.logdensity, replicas, parity)


def _scaled(state: Any, beta: Any) -> Any:
    """`state` of the inner move, with energy and gradient multiplied by `beta`."""
    cached = {"logdensity", "logdensity_grad"} & set(state._fields)
    new = {name: jax.tree.map(lambda x: beta * x, getattr(state, name)) for name in cached}
    return state._replace(**new)
