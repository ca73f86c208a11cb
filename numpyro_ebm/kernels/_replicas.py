"""The move of parallel tempering: one replica per rung of a path, and their swaps."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import functools
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._trainable import unfreeze
from .._types import Array, Energy, EnergyLike, Float, Int, Key, Metric, Point, Scalar, Shape
from ..chains import (
    AbstractMove,
    GeometricPath,
    Report,
    caches_of,
    cooled,
    heated,
    settle,
)
from ..energies import AbstractEnergy, as_energy
from ._fitted import Fit, FittedGaussian, Zero


class TemperingState(NamedTuple):
    r"""One chain: one replica per rung of the path, the first at the target, $\beta = 1$.

    - **position**, **logdensity**: those of the first replica.
    - **replicas**: stacked states of the inner move, which cache the target's energy and
      gradient, whatever $\beta$ they moved at.
    - **reference**: the same of the reference, at the same points.
    - **parity**: which pairs of neighbours try to swap next, the even or the odd ones.
    - **leg**: for the replica at each rung: 1 if it comes from the reference, 2 if it has been
      at the target since, 0 if it has not been at the reference yet.

    And what is kept of each draw:

    - **beta**: the position of each rung on the path; **log_ratio**: $E_0 + \log Z_0 - E$ of
      the replica at it, and **replica**: which one that is.
    - **swap_prob**: the probability that each pair of neighbours swaps.
    - **restarts**: how often a replica has come from the reference to the target; and
      **round_trips**: how often it has gone back, since the chain began.
    """

    position: Point
    logdensity: Scalar
    replicas: Any
    reference: dict[str, Any]
    parity: Array
    leg: Int[Array, " temperature"]
    beta: Float[Array, " temperature"]
    log_ratio: Float[Array, " temperature"]
    replica: Int[Array, " temperature"]
    swap_prob: Float[Array, " pair"]
    restarts: Array
    round_trips: Array


#: Fields of the state that are kept of each draw.
KEPT = ("beta", "log_ratio", "replica", "swap_prob", "restarts", "round_trips")


class TemperingInfo(NamedTuple):
    """The report of each replica that moved, and the swap probability of each pair."""

    reports: Report
    swap_prob: Float[Array, " pair"]


class TemperingMove(AbstractMove):
    r"""The inner move at each $E_k$, then swaps that keep $\prod_k e^{-E_k(x_k)}$.

    $E_k = (1 - \beta_k)\,E_0 + \beta_k E$, from a reference $E_0$, that of the energy or
    `fitted`. If it `is_heated`, by temperatures, $\beta_k = 1/T_k$ and $E_0 = 0$. From a proper
    reference, $\beta = 0$ at the last rung, where the replica is a new draw each time.
    """

    inner: AbstractMove
    step_size: Float[Array, " rung"]
    beta: Float[Array, " temperature"]
    inverse_mass_matrix: Metric | None = None
    #: A reference that a warm-up fits, and its present state.
    fitted: FittedGaussian | None = None
    fit: Fit | None = None
    is_heated: bool = eqx.field(static=True, default=False)
    kept: ClassVar[tuple[str, ...]] = KEPT

    @property
    def is_exact(self) -> bool:
        return self.inner.is_exact

    @property
    def is_sampler(self) -> bool:
        return self.inner.is_sampler

    def check(self, energy: EnergyLike) -> None:
        # As it will be on the path.
        energy, zero = as_energy(energy), Zero()
        self.inner.check(GeometricPath(reference=zero, energy=energy, beta=jnp.ones(())))

    def init(self, rng_key: Key, position: Point, energy: Energy) -> TemperingState:
        size = len(self.beta)
        keys = jr.split(rng_key, size)
        replicas = jax.vmap(lambda key: self.inner.init(key, position, energy))(keys)
        zero, rungs = jnp.zeros((), int), jnp.arange(size)
        return self._gathered(
            self._reference(energy, position),
            replicas,
            parity=zero,
            leg=jnp.zeros(size, int),
            beta=self.beta,
            replica=rungs,
            swap_prob=jnp.zeros_like(self.beta[1:]),
            restarts=zero,
            round_trips=zero,
        )

    def step(
        self, rng_key: Key, state: TemperingState, energy: Energy
    ) -> tuple[TemperingState, TemperingInfo]:
        one = jax.tree.map(lambda x: x[None], (rng_key, state))
        return jax.tree.map(lambda x: x[0], self.step_all(*one, energy))

    def step_all(
        self, rng_keys: Key, states: TemperingState, energy: Energy
    ) -> tuple[TemperingState, TemperingInfo]:
        move_keys, draw_keys, swap_keys = jax.vmap(lambda key: jr.split(key, 3), 0, 1)(rng_keys)
        # A plain function would not know that its points are spins.
        energy = as_energy(energy)
        reference = self._reference(energy, jax.tree.map(lambda x: x[0], states.position))
        replicas, reports = self._move(move_keys, reference, energy, states)
        if not self.is_heated:
            fresh = self._draw(draw_keys, reference, energy)
            replicas = jax.tree.map(lambda *x: jnp.concatenate(x, 1), replicas, fresh)
        swap = functools.partial(self._swap, reference.log_z)
        new, swap_prob = jax.vmap(swap)(swap_keys, states, *replicas)
        return new, TemperingInfo(reports, swap_prob)

    def report(self, info: TemperingInfo) -> Report:
        first = jax.tree.map(lambda x: x[0], info.reports)
        num_draws = 0 if self.is_heated else 1
        return first._replace(
            n_grad=info.reports.n_grad.sum() + num_draws,
            tuning=(info.reports.tuning, info.swap_prob),
        )

    def refresh(self, state: TemperingState, energy: Energy) -> TemperingState:
        replicas = jax.vmap(lambda one: self.inner.refresh(one, energy))(state.replicas)
        known = {name: getattr(state, name) for name in ("parity", "leg", *KEPT)}
        del known["log_ratio"]
        return self._gathered(self._reference(energy, state.position), replicas, **known)

    def draw_start(self, rng_key: Key, energy: Energy, shape: Shape) -> Array:
        return self.inner.draw_start(rng_key, energy, shape)

    def _reference(self, energy: Energy, position: Point) -> AbstractEnergy:
        if self.is_heated:
            return Zero()
        if self.fitted is not None:
            fit = Fit.begin(self.fitted, position) if self.fit is None else self.fit
            return fit.at(position)
        return as_energy(unfreeze(as_energy(energy).reference))

    def _move(
        self,
        rng_keys: Key,
        reference: AbstractEnergy,
        energy: AbstractEnergy,
        states: TemperingState,
    ) -> tuple[tuple[Any, dict[str, Any]], Report]:
        """The replicas that move on the path, and the reference's caches, `(chain, rung)`."""
        num = len(self.step_size)

        def move(key: Key, old: Any, cached: Any, step_size: Scalar, beta: Scalar) -> tuple:
            inner = self.inner.with_step(step_size)
            path = GeometricPath(reference=reference, energy=energy, beta=beta)
            start = heated(old, cached, beta)
            new, info = inner.step(key, start, path)
            return settle(start, new, inner.report(info))

        # All replicas of all chains along one axis: nested ones cost a network a third more.
        keys = _merged(jax.vmap(lambda key: jr.split(key, num))(rng_keys))
        known = states.replicas, states.reference
        old, cached = _merged(jax.tree.map(lambda x: x[:, :num], known))
        if self.fitted is not None:  # It may have changed since.
            cached = caches_of(reference, old)
        tiled = (
            jnp.tile(self.step_size, len(rng_keys)),
            jnp.tile(self.beta[:num], len(rng_keys)),
        )
        moved, reports = jax.vmap(move)(keys, old, cached, *tiled)
        cached = caches_of(reference, moved)
        moved = jax.vmap(cooled)(moved, cached, tiled[1])
        return _apart(((moved, cached), reports), len(rng_keys))

    def _draw(
        self, rng_keys: Key, reference: AbstractEnergy, energy: AbstractEnergy
    ) -> tuple[Any, dict[str, Any]]:
        """New replicas at the reference, `(chain, 1)`."""

        def draw(rng_key: Key) -> Any:
            return self.inner.init(rng_key, reference.sampler(rng_key, ()), energy)

        fresh = jax.vmap(draw)(rng_keys)
        return _apart((fresh, caches_of(reference, fresh)), len(rng_keys))

    def _swap(
        self,
        log_z: Scalar | None,
        rng_key: Key,
        state: TemperingState,
        replicas: Any,
        cached: dict[str, Any],
    ) -> tuple[TemperingState, Array]:
        """One chain after its neighbours have tried to swap, and how likely each pair was."""
        log_ratio = _log_ratio(log_z, replicas, cached)
        gain = (self.beta[:-1] - self.beta[1:]) * (log_ratio[1:] - log_ratio[:-1])
        swap_prob = jnp.nan_to_num(jnp.exp(jnp.minimum(0, gain)))
        # Even and odd pairs in turn, not at random: replicas travel instead of diffusing.
        pairs = jnp.arange(len(swap_prob))
        swap = (pairs % 2 == state.parity) & (jr.uniform(rng_key, pairs.shape) < swap_prob)
        source = jnp.arange(len(self.beta)) + jnp.append(swap, False) - jnp.append(False, swap)
        moved = replicas, cached, log_ratio, state.replica, state.leg
        replicas, cached, log_ratio, replica, leg = jax.tree.map(lambda x: x[source], moved)
        new = state._replace(
            position=jax.tree.map(lambda x: x[0], replicas.position),
            logdensity=replicas.logdensity[0],
            replicas=replicas,
            reference=cached,
            parity=1 - state.parity,
            beta=self.beta,
            log_ratio=log_ratio,
            replica=replica,
            swap_prob=swap_prob,
        )
        return _counted(new, leg), swap_prob

    def _gathered(
        self, reference: AbstractEnergy, replicas: Any, **known: Any
    ) -> TemperingState:
        cached = caches_of(reference, replicas)
        return TemperingState(
            position=jax.tree.map(lambda x: x[0], replicas.position),
            logdensity=replicas.logdensity[0],
            replicas=replicas,
            reference=cached,
            log_ratio=_log_ratio(reference.log_z, replicas, cached),
            **known,
        )


def _merged(tree: Any) -> Any:
    """Arrays `(chain, rung, ...)` as `(chain * rung, ...)`; `_apart` undoes it."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _apart(tree: Any, num_chains: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(num_chains, -1, *x.shape[1:]), tree)


def _log_ratio(log_z: Scalar | None, replicas: Any, cached: dict[str, Any]) -> Array:
    """Minus infinity where the target has no density."""
    ratio = replicas.logdensity - cached["logdensity"] + (0 if log_z is None else log_z)
    return jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)


def _counted(state: TemperingState, leg: Array) -> TemperingState:
    """`state` with the arrivals at both ends counted."""
    arrives, returns = leg[0] == 1, leg[-1] == 2
    leg = leg.at[0].set(jnp.where(arrives, 2, leg[0])).at[-1].set(1)
    return state._replace(
        leg=leg,
        restarts=state.restarts + arrives,
        round_trips=state.round_trips + returns,
    )
