"""The move of `FlowJump`: a local one, then jumps that Metropolis accepts."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree

from .._types import Array, Energy, Key, Point, Scalar, Shape
from ..chains import AbstractMove, Report, log_density, map_chains, settle
from ._flow import Flow, check_size
from ._work import work
from ._wrapped import AbstractWrappedMove


class JumpState(NamedTuple):
    """The state of the inner move, and what became of the jumps.

    - **position**, **logdensity**: those of the chain.
    - **inner**: the state of the inner move, at the same position.
    - **jump_prob**: the mean acceptance probability of the last jumps that were tried.
    - **jumps**, **jumps_accepted**: how many were tried and accepted so far.
    - **price**: the work of the jumps of a transition, in gradients of the energy.
    """

    position: Point
    logdensity: Scalar
    inner: Any
    jump_prob: Scalar
    jumps: Array
    jumps_accepted: Array
    price: Scalar


class JumpInfo(NamedTuple):
    """The report of the inner move, and whether, how well and at which price it jumped."""

    report: Report
    has_jumped: Array
    jump_prob: Scalar
    price: Scalar


class JumpMove(AbstractWrappedMove):
    r"""The inner move, then with probability `share` jumps $x \to y \sim q$ by Metropolis.

    - **num_jumps**: so many in a row.
    """

    inner: AbstractMove
    flow: Flow
    share: float | Scalar
    num_jumps: int = eqx.field(static=True)
    kept: ClassVar[tuple[str, ...]] = ("jump_prob", "jumps", "jumps_accepted")

    def init(self, rng_key: Key, position: Point, energy: Energy) -> JumpState:
        check_size(len(self.flow.loc), ravel_pytree(position)[0].size)
        inner = self.inner.init(rng_key, position, energy)
        zero, none = jnp.zeros_like(inner.logdensity), jnp.zeros((), int)
        price = zero + self._price(inner.position, energy)
        return JumpState(inner.position, inner.logdensity, inner, zero, none, none, price)

    def step(
        self, rng_key: Key, state: JumpState, energy: Energy
    ) -> tuple[JumpState, JumpInfo]:
        return self._step(rng_key, state, energy, self._coin(rng_key))

    def step_all(self, rng_keys: Key, states: Any, energy: Energy) -> tuple[Any, Any]:
        # All chains jump at once, or none: a condition on each would run both branches.
        coin = self._coin(rng_keys[0])
        return map_chains(
            lambda key, state: self._step(key, state, energy, coin), rng_keys, states
        )

    def report(self, info: JumpInfo) -> Report:
        inner, paid = info.report, info.report.n_grad / info.price
        facts = [inner.tuning, info.has_jumped, info.jump_prob, paid]
        tuning = jnp.stack([jnp.asarray(x, info.price.dtype) for x in facts])
        # One gradient where the jumps end.
        n_grad = inner.n_grad + (self.num_jumps + 1) * info.has_jumped
        return inner._replace(n_grad=n_grad, tuning=tuning)

    def refresh(self, state: JumpState, energy: Energy) -> JumpState:
        inner = self.inner.refresh(state.inner, energy)
        return state._replace(logdensity=inner.logdensity, inner=inner)

    def started(self, rng_key: Key, position: Point, energy: Energy) -> "JumpMove":
        return with_inner(self, self.inner.started(rng_key, position, energy))

    def draw_start(self, rng_key: Key, energy: Energy, shape: Shape) -> Array:
        return self.inner.draw_start(rng_key, energy, shape)

    def _coin(self, rng_key: Key) -> Array:
        return jr.uniform(jr.fold_in(rng_key, 0)) < self.share

    def _step(
        self, rng_key: Key, state: JumpState, energy: Energy, is_jumping: Array
    ) -> tuple[JumpState, JumpInfo]:
        move_key, jump_key = jr.split(rng_key)
        new, info = self.inner.step(move_key, state.inner, energy)
        new, report = settle(state.inner, new, self.inner.report(info))
        stay = new, state.jump_prob, jnp.zeros((), int)
        new, jump_prob, accepted = jax.lax.cond(
            is_jumping, lambda: self._jump(jump_key, new, energy), lambda: stay
        )
        state = JumpState(
            position=new.position,
            logdensity=new.logdensity,
            inner=new,
            jump_prob=jump_prob,
            jumps=state.jumps + self.num_jumps * is_jumping,
            jumps_accepted=state.jumps_accepted + accepted,
            price=state.price,
        )
        return state, JumpInfo(report, is_jumping, jump_prob, state.price)

    def _jump(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Scalar, Array]:
        """The inner state after the jumps, their mean acceptance, and how many were made."""
        draw_key, accept_key = jr.split(rng_key)
        here, unravel = ravel_pytree(state.position)
        log_p = log_density(energy)
        draws = self.flow.draw(draw_key, self.num_jumps)
        log_weights = jax.vmap(lambda x: log_p(unravel(x)) + self.flow(x))(draws)
        u = jr.uniform(accept_key, (self.num_jumps,), here.dtype)
        start = here, state.logdensity + self.flow(here)
        (there, _), (accept_prob, has_moved) = jax.lax.scan(
            _jump, start, (draws, log_weights, u)
        )
        arrived = state._replace(position=unravel(there))
        arrived = self.inner.refresh(arrived, energy)
        new = jax.tree.map(lambda a, b: jnp.where(has_moved.any(), a, b), arrived, state)
        return new, accept_prob.mean(), has_moved.sum()

    def _price(self, position: Point, energy: Energy) -> float:
        x, unravel = ravel_pytree(position)

        def jump(x: Array) -> tuple[Scalar, Scalar]:
            y = self.flow.draw(jr.key(0), 1)[0]
            return self.flow(x) + self.flow(y), energy(unravel(y))

        gradient = _GRADIENT * work(energy, position) + _OVERHEAD
        return self.num_jumps * work(jump, x) / gradient


#: A gradient takes about as long as so many energies, and with all that goes with it in a
#: transition, random numbers and bookkeeping, this many operations longer.
_GRADIENT, _OVERHEAD = 3, 8000


def with_inner(move: JumpMove, inner: AbstractMove) -> JumpMove:
    """The same jumps after another move."""
    return JumpMove(inner, move.flow, move.share, move.num_jumps)


def _jump(
    at: tuple[Array, Scalar], candidate: tuple[Array, Scalar, Scalar]
) -> tuple[tuple[Array, Scalar], tuple[Scalar, Array]]:
    """One jump from a point of weight $p/q$ to another, or none."""
    (_, log_weight), (there, log_candidate, u) = at, candidate
    accept_prob = jnp.nan_to_num(jnp.exp(jnp.minimum(0, log_candidate - log_weight)))
    has_moved = u < accept_prob
    new = jax.tree.map(lambda a, b: jnp.where(has_moved, a, b), (there, log_candidate), at)
    return new, (accept_prob, has_moved)
