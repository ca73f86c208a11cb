"""The move of parallel tempering: one replica per rung of a path, and their swaps."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._trainable import unfreeze
from .._types import Array, Energy, EnergyLike, Float, Int, Key, Metric, Point, Scalar, Shape
from ..chains import AbstractMove, GeometricPath, Report, settle
from ..energies import AbstractEnergy, as_energy
from ._path import Fit, Zero


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

    - **beta**: the position of each rung on the path; **log_ratio**: $\log q_0(x) + E(x)$, with
      the sign changed, $E_0 + \log Z_0 - E$, of the replica at it, and **replica**: which one
      that is.
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

    $E_k = (1 - \beta_k)\,E_0 + \beta_k E$ from a reference $E_0$, which is `fit` or that of the
    energy; `is_heated` by temperatures, $\beta_k = 1/T_k$ and $E_0 = 0$. From a proper
    reference, $\beta = 0$ at the last rung, where the replica is a new draw each time.
    """

    inner: AbstractMove
    step_size: Float[Array, " rung"]
    beta: Float[Array, " temperature"]
    inverse_mass_matrix: Metric | None = None
    fit: Fit | None = None
    is_heated: bool = eqx.field(static=True, default=False)
    kept: ClassVar[tuple[str, ...]] = KEPT

    @property
    def is_exact(self) -> bool:
        return self.inner.is_exact

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
        move_key, draw_key, swap_key = jr.split(rng_key, 3)
        # A plain function would not know that its points are spins.
        energy = as_energy(energy)
        reference = self._reference(energy, state.position)
        # A fitted reference may have changed since.
        cached = state.reference if self.fit is None else _caches(reference, state.replicas)
        replicas, cached, reports = self._move(
            move_key, reference, energy, state.replicas, cached
        )
        if not self.is_heated:
            fresh = self.inner.init(draw_key, reference.sampler(draw_key, ()), energy)
            fresh = jax.tree.map(lambda x: x[None], fresh)
            new = fresh, _caches(reference, fresh)
            replicas, cached = jax.tree.map(
                lambda a, b: jnp.concatenate([a, b]), (replicas, cached), new
            )
        log_ratio = _log_ratio(reference, replicas, cached)
        gain = (self.beta[:-1] - self.beta[1:]) * (log_ratio[1:] - log_ratio[:-1])
        swap_prob = jnp.nan_to_num(jnp.exp(jnp.minimum(0, gain)))
        # Even and odd pairs in turn, not at random: replicas travel instead of diffusing.
        pairs = jnp.arange(len(swap_prob))
        swap = (pairs % 2 == state.parity) & (jr.uniform(swap_key, pairs.shape) < swap_prob)
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
        return _counted(new, leg), TemperingInfo(reports, swap_prob)

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
        if self.fit is not None:
            return self.fit.at(position)
        return as_energy(unfreeze(as_energy(energy).reference))

    def _move(
        self,
        rng_key: Key,
        reference: AbstractEnergy,
        energy: AbstractEnergy,
        replicas: Any,
        cached: dict[str, Any],
    ) -> tuple[Any, dict[str, Any], Report]:
        """The replicas on the path after a transition, with the reference's caches."""
        num = len(self.step_size)

        def move(key: Key, old: Any, cached: Any, step_size: Scalar, beta: Scalar) -> tuple:
            inner = self.inner.with_step(step_size)
            path = GeometricPath(reference=reference, energy=energy, beta=beta)
            start = _with_caches(old, cached, lambda e, e0: beta * e + (1 - beta) * e0)
            new, info = inner.step(key, start, path)
            return settle(start, new, inner.report(info))

        old = jax.tree.map(lambda x: x[:num], (replicas, cached))
        beta = self.beta[:num]
        keys = jr.split(rng_key, num)
        moved, reports = jax.vmap(move)(keys, *old, self.step_size, beta)
        cached = _caches(reference, moved)

        def cool(new: Any, cached: Any, beta: Scalar) -> Any:
            return _with_caches(new, cached, lambda e, e0: (e - (1 - beta) * e0) / beta)

        return jax.vmap(cool)(moved, cached, beta), cached, reports

    def _gathered(
        self, reference: AbstractEnergy, replicas: Any, **known: Any
    ) -> TemperingState:
        cached = _caches(reference, replicas)
        return TemperingState(
            position=jax.tree.map(lambda x: x[0], replicas.position),
            logdensity=replicas.logdensity[0],
            replicas=replicas,
            reference=cached,
            log_ratio=_log_ratio(reference, replicas, cached),
            **known,
        )


def _caches(reference: AbstractEnergy, replicas: Any) -> dict[str, Any]:
    """What `replicas` cache of the target, of the reference."""
    if "logdensity_grad" not in replicas._fields:
        return {"logdensity": -jax.vmap(reference)(replicas.position)}
    values, slopes = jax.vmap(jax.value_and_grad(reference))(replicas.position)
    return {"logdensity": -values, "logdensity_grad": jax.tree.map(jnp.negative, slopes)}


def _with_caches(state: Any, cached: dict[str, Any], combine: Callable[..., Array]) -> Any:
    new = {
        name: jax.tree.map(combine, getattr(state, name), of_reference)
        for name, of_reference in cached.items()
    }
    return state._replace(**new)


def _log_ratio(reference: AbstractEnergy, replicas: Any, cached: dict[str, Any]) -> Array:
    """Minus infinity where the target has no density."""
    log_z = reference.log_z
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
