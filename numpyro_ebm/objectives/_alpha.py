"""Fitting a density by an alpha-divergence, at points that are annealed towards the target."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count, check_positive
from .._trainable import constant
from .._types import Array, EnergyLike, Float, Key, Point, Scalar, Shape
from ..chains import Annealing, blackjax
from ..energies import AbstractEnergy, as_energy, is_discrete, is_real
from ..kernels import (
    HMC,
    AbstractKernel,
    as_sampler,
    check_exact,
    check_free_kernel,
    step_adaptation,
)
from ._base import AbstractObjective
from ._batch import Batch, Data
from ._drawn import check_pair, no_data


class AlphaState(NamedTuple):
    """The points that `AlphaDivergence` learns from, and how they were found.

    - **points**: the last ones annealed; **log_weights**: theirs, for the density of today as
      far as it was seen there; **log_density**: of that density.
    - **step_size**: of the kernel; **count**: of steps so far.
    - **metrics**: of the last round of annealing.
    """

    points: Array
    log_weights: Float[Array, " n"]
    log_density: Float[Array, " n"]
    step_size: Scalar
    count: Array
    metrics: dict[str, Scalar]


class AlphaDivergence(AbstractObjective):
    r"""$\int p^\alpha q^{1-\alpha}$, at points annealed from $q$ to $p^\alpha q^{1-\alpha}$.

    Flow annealed importance sampling bootstrap [Midgley et al. 2023]: fits a density to an
    energy without data, `estimator.run(rng_key, num_steps, flow)`. At $\alpha = 2$ it minimises
    the variance of the importance weights $p/q$, so it covers every mode that it finds, unlike
    [`ReverseKL`][numpyro_ebm.objectives.ReverseKL]; and annealing finds modes that draws of $q$
    do not reach. The points go to a buffer, from which each step takes `num_samples`, in
    proportion to their weights, which follow $q$ as it learns. Asymptotically exact as
    `num_samples` and the buffer grow. Shown by `tests/objectives/test_alpha.py` against
    quadrature.

    The metrics of the last annealing: `ess`, the effective sample size of draws of $q$ weighted
    by $p/q$, as a fraction, and `accept_prob`.

    ```python
    objective = ebm.objectives.AlphaDivergence(energy)
    estimator = ebm.Estimator(objective, optax.adam(1e-3))
    flow = estimator.run(jax.random.key(0), 2000, flow).energy
    ```

    **Arguments**

    - `energy`: the target $p$, anything [`as_energy`][numpyro_ebm.as_energy] takes, of
      unconstrained points.
    - `alpha`: $\alpha$, positive. At 1 it is $KL(p\,\|\,q)$.
    - `num_samples`: points per annealing, and per step.
    - `kernel`: moves the points and must leave its target invariant; by default
      [`HMC`][numpyro_ebm.HMC] of two leapfrog steps. Its step size follows its acceptance.
    - `num_temperatures`: between $q$ and its target; one transition at each.
    - `num_reuse`: steps per annealing.
    - `buffer_size`: the number of points kept, the last ones annealed.

    **Raises** `ValueError` if what is fitted has no `log_z` and `sampler`, or if the energy is
    discrete or constrained.
    """

    energy: AbstractEnergy
    kernel: AbstractKernel = eqx.field(static=True)
    alpha: Scalar
    num_samples: int = eqx.field(static=True)
    num_temperatures: int = eqx.field(static=True)
    num_reuse: int = eqx.field(static=True)
    buffer_size: int = eqx.field(static=True)

    def __init__(
        self,
        energy: EnergyLike,
        alpha: float = 2.0,
        num_samples: int = 256,
        *,
        kernel: AbstractKernel | None = None,
        num_temperatures: int = 4,
        num_reuse: int = 4,
        buffer_size: int = 8192,
    ) -> None:
        check_positive("alpha", alpha)
        check_count("num_samples", num_samples)
        check_count("num_temperatures", num_temperatures)
        check_count("num_reuse", num_reuse)
        check_count("buffer_size", buffer_size)
        if buffer_size < num_samples:
            raise ValueError(
                f"`buffer_size` must be at least `num_samples`, {num_samples}, got "
                f"{buffer_size}."
            )
        if kernel is not None:
            check_free_kernel(kernel)
            step_adaptation(kernel)
            check_exact(kernel)
        self.energy, self.alpha = as_energy(energy), jnp.asarray(alpha, float)
        self.kernel = HMC(num_steps=2, trajectory_length=None) if kernel is None else kernel
        self.num_samples, self.num_temperatures = num_samples, num_temperatures
        self.num_reuse, self.buffer_size = num_reuse, buffer_size

    def without_data(self, energy: Any) -> Batch:
        return no_data(energy)

    def init(self, rng_key: Key, energy: Any, data: Data) -> tuple[Any, AlphaState]:
        check_pair(self, energy, self.energy)
        if is_discrete(self.energy) or not is_real(self.energy.support):
            raise ValueError(
                "`AlphaDivergence` moves points by gradients, without bounds, and the target "
                f"{self.energy!r} lives on {self.energy.support}: fit it in unconstrained "
                "space, `ebm.Transformed(target, biject_to(target.support))`."
            )
        zero, nothing = jnp.zeros(()), jnp.zeros(self.buffer_size)
        return energy, AlphaState(
            points=jnp.zeros((self.buffer_size, *energy.event_shape)),
            log_weights=jnp.full(self.buffer_size, -jnp.inf),
            log_density=nothing,
            step_size=jnp.asarray(self.kernel.move.step_size, zero.dtype),
            count=jnp.zeros((), int),
            metrics={"ess": zero, "accept_prob": zero},
        )

    def loss(
        self,
        rng_key: Key,
        trainable: Any,
        state: AlphaState,
        batch: Batch,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[AlphaState, dict[str, Array]]]:
        anneal_key, choose_key = jr.split(rng_key)
        density = constant(trainable)
        state = jax.lax.cond(
            state.count % self.num_reuse == 0,
            lambda: self._annealed(anneal_key, density, state),
            lambda: state,
        )
        systematic = blackjax().smc.resampling.systematic
        shares = jax.nn.softmax(state.log_weights)
        rows = systematic(choose_key, shares, self.num_samples)
        log_density = jax.vmap(lambda x: -trainable(x) - trainable.log_z)(state.points[rows])
        # How the weights at the density of today differ from those that chose the rows.
        now = jax.lax.stop_gradient(log_density)
        shift = (self.alpha - 1) * (state.log_density[rows] - now)
        share = jnp.exp(jnp.minimum(shift, _LARGEST))
        loss = -jnp.mean(share * log_density)
        state = state._replace(
            log_weights=state.log_weights.at[rows].set(state.log_weights[rows] + shift),
            log_density=state.log_density.at[rows].set(now),
            count=state.count + 1,
        )
        # Without a single weight, whatever rows were chosen mean nothing.
        is_sound = (state.log_weights > -jnp.inf).any()
        return jnp.where(is_sound, loss, jnp.nan), (state, state.metrics)

    def _annealed(self, rng_key: Key, density: Any, state: AlphaState) -> AlphaState:
        r"""`state` with new points in place of the oldest."""
        target = _Between(density=density, energy=self.energy, alpha=self.alpha)
        anneal = Annealing(as_sampler(self.kernel), density, target, 1)
        start = anneal.start(rng_key, self.num_samples)._replace(step_size=state.step_size)
        betas = jnp.linspace(0, 1, self.num_temperatures + 1)
        rungs = jnp.diff(betas), betas[1:]

        def rise(carry: tuple[Array, Any], rung: tuple[Scalar, Scalar]) -> tuple[Any, Scalar]:
            log_weights, particles = carry
            delta, beta = rung
            log_weights += delta * particles.log_ratio
            particles = anneal.move_at(particles, beta)
            return (log_weights, particles), particles.accept_prob

        risen = jnp.zeros(self.num_samples), start
        (log_weights, end), accept_prob = jax.lax.scan(rise, risen, rungs)
        points = end.chains.z
        return self._kept(state, points, log_weights, density)._replace(
            step_size=end.step_size,
            metrics={
                "ess": _ess(start.log_ratio / self.alpha) / self.num_samples,
                "accept_prob": accept_prob.mean(),
            },
        )

    def _kept(
        self, state: AlphaState, points: Array, log_weights: Array, density: Any
    ) -> AlphaState:
        num = self.num_samples
        first = state.count // self.num_reuse * num
        rows = (first + jnp.arange(num)) % self.buffer_size
        log_density = jax.vmap(lambda x: -density(x) - density.log_z)(points)
        is_finite = jnp.isfinite(log_weights) & jnp.isfinite(log_density)
        return state._replace(
            points=state.points.at[rows].set(points),
            log_weights=state.log_weights.at[rows].set(
                jnp.where(is_finite, log_weights, -jnp.inf)
            ),
            log_density=state.log_density.at[rows].set(log_density),
        )

    def finalize(self, trainable: Any, state: AlphaState) -> Any:
        return trainable


class _Between(AbstractEnergy):
    r"""$\alpha E(x) - (1-\alpha)\log q(x)$, up to the constant of $q$ of its own reference."""

    density: Any
    energy: AbstractEnergy
    alpha: Scalar

    @property
    def event_shape(self) -> Shape | None:
        return self.density.event_shape

    def __call__(self, x: Point) -> Scalar:
        # Log weights start from the density without its constant, hence `alpha` times that.
        own = (1 - self.alpha) * self.density(x) - self.alpha * self.density.log_z
        return self.alpha * self.energy(x) + own


def _ess(log_weights: Float[Array, " n"]) -> Scalar:
    return 1 / jnp.sum(jax.nn.softmax(log_weights) ** 2)


#: The largest logarithm by which the weight of a point may have changed since it was chosen.
_LARGEST = math.log(10)
