"""Many chains at once under one adaptation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Energy, Float, Int, Key, Point, Scalar
from ..energies import as_energy, unconstrained
from ._adaptation import AbstractAdaptation, Adaptation
from ._move import AbstractMove, Report


class ChainState(NamedTuple):
    """Where many chains stand, after `i` transitions of each.

    - **i**: the number of transitions made.
    - **move_state**: BlackJAX's states, stacked along a leading chain axis.
    - **totals**: of each chain, sums since the start of the warm-up, or since its end. Read
      them as `accept_prob`, a mean, `num_diverging` and `n_grad`, the number of gradients.
    - **adapt_state**: step size and metric, the same for all chains, and their adaptation.
    - **rng_key**: of each chain; transition `i` draws from `fold_in(rng_key, i)`.
    """

    i: Array
    move_state: Any
    totals: Float[Array, "chain 3"]
    adapt_state: Any
    rng_key: Key

    @property
    def z(self) -> Point:
        return self.move_state.position

    @property
    def num_warmup(self) -> int:
        return len(self.adapt_state.schedule)

    @property
    def accept_prob(self) -> Float[Array, " chain"]:
        i, num_warmup = self.i, self.num_warmup
        n = jnp.where(i <= num_warmup, i, i - num_warmup)
        return self.totals[:, 0] / jnp.maximum(n, 1)

    @property
    def num_diverging(self) -> Int[Array, " chain"]:
        return self.totals[:, 1].astype(int)

    @property
    def n_grad(self) -> Int[Array, " chain"]:
        return self.totals[:, 2].astype(int)


def start_chains(
    rng_key: Key,
    move: AbstractMove,
    adaptation: AbstractAdaptation,
    energy: Energy,
    positions: Point,
    num_warmup: int,
) -> ChainState:
    """Chains at `positions`, stacked along a leading axis, before their first transition."""
    num_chains = len(jax.tree.leaves(positions)[0])
    start_key, run_key = jr.split(rng_key)
    start_keys, run_keys = jr.split(start_key, num_chains), jr.split(run_key, num_chains)
    one = jax.tree.map(lambda x: x[0], positions)
    started = move.started(start_keys[0], one, energy)
    return ChainState(
        i=jnp.zeros((), int),
        move_state=jax.vmap(lambda key, x: move.init(key, x, energy))(start_keys, positions),
        totals=jnp.zeros((num_chains, 3)),
        adapt_state=adaptation.init(started, one, num_warmup),
        rng_key=run_keys,
    )


def advance_chains(
    move: AbstractMove,
    adaptation: AbstractAdaptation,
    energy: Energy,
    state: ChainState,
    num_steps: int | Array,
    visit: Callable[[Any, ChainState, Report], Any] = lambda kept, state, report: kept,
    kept: Any = None,
) -> tuple[ChainState, Any]:
    """`num_steps` transitions of all chains, and what `visit` keeps of them."""

    def run(move: AbstractMove, carry: tuple[ChainState, Any], num_steps: Any) -> tuple:
        def step(_: Array, carry: tuple[ChainState, Any]) -> tuple[ChainState, Any]:
            state, kept = carry
            new, report = _advance(move, adaptation, energy, state)
            return new, visit(
                kept, new._replace(move_state=move.unpack(new.move_state)), report
            )

        state, kept = carry
        state = state._replace(move_state=move.pack(state.move_state))
        state, kept = jax.lax.fori_loop(0, num_steps, step, (state, kept))
        return state._replace(move_state=move.unpack(state.move_state)), kept

    traveller, num_travel = adaptation.traveller(state.num_warmup)
    if traveller is None or num_travel == 0:
        return run(move, (state, kept), num_steps)
    # Two loops, because a condition in one would be felt in every step.
    num_first = jnp.clip(num_travel - state.i, 0, num_steps)
    carry = run(traveller, (state, kept), num_first)
    return run(move, carry, num_steps - num_first)


def _advance(
    move: AbstractMove, adaptation: AbstractAdaptation, energy: Energy, state: ChainState
) -> tuple[ChainState, Report]:
    """One transition of all chains, packed, and what they learn from it together."""
    tuned = adaptation.tune(move, state.adapt_state)
    keys, i = state.rng_key, state.i
    move_state, report = tuned.transition_all(keys, i, state.move_state, energy)
    # One array instead of three: for one chain each costs a tenth of a small network.
    counts = report.accept_prob, report.diverging, report.n_grad
    row = jnp.stack([jnp.asarray(x, state.totals.dtype) for x in counts], -1)
    # What comes after the warm-up is counted apart.
    totals = jnp.where(i == state.num_warmup, 0, state.totals)
    positions = move.unpack(move_state).position
    new = ChainState(
        i=i + 1,
        move_state=move_state,
        totals=totals + row,
        adapt_state=adaptation.update(i, state.adapt_state, positions, report),
        rng_key=keys,
    )
    return new, report


def run_chains(
    rng_key: Key, move: AbstractMove, energy: Energy, positions: Point, num_steps: int
) -> tuple[Point, ChainState, Scalar]:
    """`num_steps` transitions of chains from `positions`, by `kernel.move`, at its step size.

    What objectives, normalisers and tasks share: a pure function, to be called inside of `jit`.
    It keeps nothing from call to call but positions, so that no energy that a state caches can
    go stale when parameters change. Nothing adapts, and no gradient flows through the chains.

    **Arguments**

    - `positions`: stacked along a leading chain axis, on the support of the energy.

    **Returns** where the chains end, their state in unconstrained space, and the mean of what
    their step size is tuned by, for `Adaptation.follow`.
    """
    energy, move, positions = map(_constant, (energy, move, positions))
    energy, transform = unconstrained(as_energy(energy))
    if transform is not None:
        # A point on the boundary lies infinitely far out.
        free = jax.vmap(transform.inv)(positions)
        positions = jnp.nan_to_num(free, posinf=_FAR, neginf=-_FAR)
    state = start_chains(rng_key, move, NO_ADAPTATION, energy, positions, 0)
    state, tuning = advance_to_tune(move, energy, state, num_steps)
    ends = state.z if transform is None else jax.vmap(transform)(state.z)
    return ends, state, tuning


#: Where a chain starts in unconstrained space that would start at the boundary.
_FAR = 10.0


def advance_to_tune(
    move: AbstractMove, energy: Energy, state: ChainState, num_steps: int
) -> tuple[ChainState, Scalar]:
    """`num_steps` transitions, and the mean of `Report.tuning`, for `Adaptation.follow`."""

    def add(total: Scalar, state: ChainState, report: Report) -> Scalar:
        # As in a warm-up, NaN means that a proposal was rejected.
        return total + jnp.nan_to_num(report.tuning).mean()

    state, total = advance_chains(
        move, NO_ADAPTATION, energy, state, num_steps, add, jnp.zeros(())
    )
    return state, total / num_steps


NO_ADAPTATION = Adaptation(False, False, False, 0.5)


def _constant(tree: Any) -> Any:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)
