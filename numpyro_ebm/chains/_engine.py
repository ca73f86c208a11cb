"""The engine: many chains at once under one adaptation."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.lax import cond

from .._trainable import constant
from .._types import Array, Bool, Energy, Key, Point, Scalar
from ..energies import as_energy, unconstrained
from ._adaptation import NO_ADAPTATION, AbstractAdaptation
from ._move import AbstractMove, Report, map_chains, settle
from ._state import ChainState


class Sampler(eqx.Module):
    """What the engine needs from a kernel: how chains move, and how a warm-up tunes that.

    Its numbers are arguments of compiled code: an equal kernel made anew, or one with another
    step size, compiles nothing.
    """

    move: AbstractMove
    adaptation: AbstractAdaptation


def start(
    rng_key: Key, sampler: Sampler, energy: Energy, positions: Point, num_warmup: int
) -> ChainState:
    """Chains at `positions`, stacked along a leading axis, before their first transition."""
    num_chains = len(jax.tree.leaves(positions)[0])
    start_keys, rng_keys = (jr.split(key, num_chains) for key in jr.split(rng_key))
    return _start(start_keys, rng_keys, sampler, energy, positions, num_warmup)


def start_alone(
    rng_key: Key, sampler: Sampler, energy: Energy, position: Point, num_warmup: int
) -> ChainState:
    """A batch of one chain, which draws from `rng_key` itself."""
    start_key = jr.fold_in(rng_key, BEFORE)
    positions = jax.tree.map(lambda x: x[None], position)
    return _start(start_key[None], rng_key[None], sampler, energy, positions, num_warmup)


#: Folded in before the first transition; no transition has this number.
BEFORE = 2**32 - 1


def _start(
    start_keys: Key,
    rng_keys: Key,
    sampler: Sampler,
    energy: Energy,
    positions: Point,
    num_warmup: int,
) -> ChainState:
    move = sampler.move
    one = jax.tree.map(lambda x: x[0], positions)
    started = move.started(start_keys[0], one, energy)
    return ChainState(
        i=jnp.zeros((), int),
        move_state=map_chains(lambda key, x: move.init(key, x, energy), start_keys, positions),
        totals=jnp.zeros((len(rng_keys), 3)),
        adapt_state=sampler.adaptation.init(started, one, num_warmup),
        rng_key=rng_keys,
    )


def finite_starts(state: ChainState) -> Bool[Array, " chain"]:
    """Which chains have a finite energy and gradient, and can move."""
    inexact = jax.tree.leaves(eqx.filter(state.move_state, eqx.is_inexact_array))
    finite = [jnp.isfinite(x).reshape(len(x), -1).all(1) for x in inexact]
    return jnp.stack(finite).all(0)


def refresh_chains(sampler: Sampler, energy: Energy, state: ChainState) -> ChainState:
    """`state` with its cached energies and gradients recomputed."""
    fresh = map_chains(lambda one: sampler.move.refresh(one, energy), state.move_state)
    return state._replace(move_state=fresh)


def transition(
    sampler: Sampler, energy: Energy, state: ChainState
) -> tuple[ChainState, Report]:
    """One transition of all chains, by the move of the current phase."""

    def step(move: AbstractMove) -> tuple[ChainState, Report]:
        (rng_keys,) = _keys_of(state, 1)
        new, report = _step(move, sampler, energy, _packed(move, state), rng_keys)
        return _unpacked(move, new), report

    traveller, num_travel = sampler.adaptation.traveller(state.num_warmup)
    if traveller is None:
        return step(sampler.move)
    return cond(state.i < num_travel, lambda: step(traveller), lambda: step(sampler.move))


def advance(
    sampler: Sampler,
    energy: Energy,
    state: ChainState,
    num_steps: int | Array,
    visit: Callable[[Any, ChainState, Report], Any] = lambda kept, state, report: kept,
    kept: Any = None,
) -> tuple[ChainState, Any]:
    """`num_steps` transitions of all chains, and what `visit` keeps of them."""
    size = max(1, _KEYS // len(state.totals))
    if isinstance(num_steps, int):
        size = max(1, min(size, num_steps))

    def run(move: AbstractMove, carry: tuple[ChainState, Any], num_steps: Any) -> tuple:
        def steps(first: Array, carry: tuple[ChainState, Any]) -> tuple[ChainState, Any]:
            rng_keys = _keys_of(carry[0], size)

            def step(i: Any, carry: tuple[ChainState, Any]) -> tuple[ChainState, Any]:
                state, kept = carry
                new, report = _step(move, sampler, energy, state, rng_keys[i])
                return new, visit(kept, _unpacked(move, new), report)

            left = jnp.minimum(size, num_steps - first * size)
            return jax.lax.fori_loop(0, left, step, carry) if size > 1 else step(0, carry)

        state, kept = carry
        carry = _packed(move, state), kept
        state, kept = jax.lax.fori_loop(0, -(-num_steps // size), steps, carry)
        return _unpacked(move, state), kept

    traveller, num_travel = sampler.adaptation.traveller(state.num_warmup)
    if traveller is None:
        return run(sampler.move, (state, kept), num_steps)
    # Two loops, because a condition in one would cost time in every step.
    num_first = jnp.clip(num_travel - state.i, 0, num_steps)
    carry = run(traveller, (state, kept), num_first)
    return run(sampler.move, carry, num_steps - num_first)


#: Keys made at once: one at a time, they cost a single chain up to a tenth of a transition.
#: Under `vmap` each of the mapped chains holds this many.
_KEYS = 64


def _keys_of(state: ChainState, num_steps: int) -> Key:
    """The keys of the next transitions, `(step, chain)`."""
    fold_in = jax.vmap(jr.fold_in, (0, None))
    return jax.vmap(lambda i: fold_in(state.rng_key, i))(state.i + jnp.arange(num_steps))


def _step(
    move: AbstractMove, sampler: Sampler, energy: Energy, state: ChainState, rng_keys: Key
) -> tuple[ChainState, Report]:
    """One transition of all chains, packed, and what they learn from it together."""
    adaptation, i = sampler.adaptation, state.i
    tuned = adaptation.tune(move, state.adapt_state)
    move_state, report = _step_all(tuned, rng_keys, state.move_state, energy)
    if not sampler.move.is_hamiltonian:  # The move that travels in its place may be.
        report = report._replace(energy=None)
    # One array instead of three: for one chain, each costs a tenth of a small network.
    counts = report.accept_prob, report.diverging, report.n_grad
    row = jnp.stack([jnp.asarray(x, state.totals.dtype) for x in counts], -1)
    # The time after the warm-up is counted separately.
    totals = jnp.where(i == state.num_warmup, 0, state.totals)
    positions = _move_axis(move, move_state, back=True).position
    adapt_state = adaptation.update(i, state.adapt_state, positions, report)
    return ChainState(i + 1, move_state, totals + row, adapt_state, state.rng_key), report


def _step_all(
    move: AbstractMove, rng_keys: Key, states: Any, energy: Energy
) -> tuple[Any, Report]:
    """One transition of many chains; none moves to a point of non-finite energy."""
    new, infos = move.step_all(rng_keys, states, energy)
    reports = jax.vmap(move.report)(infos)
    axis = move.chain_axis(states)
    return jax.vmap(settle, (axis, axis, 0), (axis, 0))(states, new, reports)


def _packed(move: AbstractMove, state: ChainState) -> ChainState:
    """`state` in the layout that `step_all` expects."""
    return state._replace(move_state=_move_axis(move, state.move_state))


def _unpacked(move: AbstractMove, state: ChainState) -> ChainState:
    return state._replace(move_state=_move_axis(move, state.move_state, back=True))


def _move_axis(move: AbstractMove, states: Any, back: bool = False) -> Any:
    axis = move.chain_axis(states)
    ends = (axis, 0) if back else (0, axis)
    return jax.tree.map(lambda x: jnp.moveaxis(x, *ends), states) if axis else states


def run_alone(
    rng_keys: Key, sampler: Sampler, energy: Energy, starts: Point, num_steps: int
) -> ChainState:
    """The ends of independent chains, one per key; each adapts for the first half."""

    def run(rng_key: Key, position: Point) -> ChainState:
        chain_key, _ = jr.split(rng_key)
        state = start_alone(chain_key, sampler, energy, position, num_steps // 2)
        return advance(sampler, energy, state, num_steps)[0]

    return jax.vmap(run)(rng_keys, starts)


def run_chains(
    rng_key: Key, move: AbstractMove, energy: Energy, positions: Point, num_steps: int
) -> tuple[Point, ChainState, Scalar]:
    """`num_steps` transitions of chains from `positions`, by `kernel.move`, at its step size.

    Objectives, normalisers and tasks share it: a pure function, to be called inside `jit`. It
    keeps only positions between calls, so no cached energy can go stale when parameters change.
    Nothing adapts, and no gradient flows through the chains.

    **Arguments**

    - `positions`: stacked along a leading chain axis, on the support of the energy.

    **Returns** where the chains end, their state in unconstrained space, and the mean of the
    quantity that tunes their step size, for `Adaptation.follow`.
    """
    energy, move, positions = map(constant, (energy, move, positions))
    energy, transform = unconstrained(as_energy(energy))
    if transform is not None:
        # A point on the boundary is infinitely far away.
        free = jax.vmap(transform.inv)(positions)
        positions = jnp.nan_to_num(free, posinf=_FAR, neginf=-_FAR)
    state = start(rng_key, Sampler(move, NO_ADAPTATION), energy, positions, 0)
    state, tuning = advance_to_tune(move, energy, state, num_steps)
    ends = state.z if transform is None else jax.vmap(transform)(state.z)
    return ends, state, tuning


#: Where a chain that would start at the boundary starts in unconstrained space.
_FAR = 10.0


def advance_to_tune(
    move: AbstractMove, energy: Energy, state: ChainState, num_steps: int
) -> tuple[ChainState, Scalar]:
    """`num_steps` transitions, and the mean of `Report.tuning`, for `Adaptation.follow`."""

    def add(total: Scalar, state: ChainState, report: Report) -> Scalar:
        # As in a warm-up, NaN means that a proposal was rejected.
        return total + jnp.nan_to_num(report.tuning).mean()

    sampler = Sampler(move, NO_ADAPTATION)
    state, total = advance(sampler, energy, state, num_steps, add, jnp.zeros(()))
    return state, total / num_steps
