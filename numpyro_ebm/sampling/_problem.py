"""Chains before their first transition: their target, where they start, and how they resume."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Sharding

from .._checks import as_automatic
from .._guard import check_potential
from .._types import Array, Key, Point, Scalar
from ..chains import (
    ChainState,
    Sampler,
    as_position,
    can_resample,
    finite_starts,
    refresh_chains,
    resampled_starts,
    start,
)
from ..energies import AbstractEnergy, Flat, check_energy, check_points, unconstrained
from ..kernels import as_sampler


class Problem(eqx.Module):
    """The kernel and target of the chains, and the map from their points to the user's."""

    sampler: Sampler
    energy: AbstractEnergy
    transform: Any

    def points(self, positions: Point) -> Point:
        return positions if self.transform is None else jax.vmap(self.transform)(positions)


def as_problem(energy: AbstractEnergy, kernel: Any) -> Problem:
    sampler = as_sampler(kernel)
    sampler.move.check(energy)
    return Problem(sampler, *unconstrained(kernel.as_target(energy)))


def first_state(
    problem: Problem,
    energy: AbstractEnergy,
    rng_key: Key,
    num_chains: int | None,
    num_warmup: int,
    init_params: Point | None,
    init_state: ChainState | None,
    sharding: Sharding | None,
) -> ChainState:
    """The state before a run: at a start, or where an earlier run ended."""
    if init_state is not None:
        return _refresh(problem, init_state)
    positions = _positions(problem, energy, rng_key, init_params, num_chains)
    return _start(problem, rng_key, positions, num_warmup, sharding)


def _positions(
    problem: Problem,
    energy: AbstractEnergy,
    rng_key: Key,
    init_params: Point | None,
    num_chains: int | None,
) -> Point:
    """Where the chains start, in the space in which they move."""
    if init_params is None:
        return _draw_positions(problem, rng_key, num_chains or 4)
    points = as_position(init_params)
    sizes = {x.shape[:1] for x in jax.tree.leaves(points)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "`init_params` must be stacked along a leading chain axis, got shapes "
            f"{[x.shape for x in jax.tree.leaves(points)]}."
        )
    ((size,),) = sizes
    if num_chains not in (None, size):
        raise ValueError(
            f"`num_chains` is {num_chains}, but `init_params` holds {size} points along its "
            "first axis, the chains."
        )
    if isinstance(points, jax.Array):
        check_energy(energy, points.shape[1:])
        check_points(energy, points, "init_params")
    return points if problem.transform is None else jax.vmap(problem.transform.inv)(points)


def _draw_positions(problem: Problem, rng_key: Key, num_chains: int) -> Point:
    shape = problem.energy.event_shape
    if problem.energy.sites:
        flat = Flat(problem.energy)
        vectors = _draw_positions(Problem(problem.sampler, flat, None), rng_key, num_chains)
        return jax.vmap(flat.unflatten)(vectors)
    if shape is None:
        raise ValueError(
            "`event_shape` or `init_params` is needed, because this energy doesn't know the "
            "shape of one point."
        )
    check_energy(problem.energy, shape)
    if can_resample(problem.energy, shape):
        return resampled_starts(jr.fold_in(rng_key, 1), problem.energy, shape, num_chains)
    keys = jr.split(jr.fold_in(rng_key, 1), num_chains)
    draw = jax.vmap(lambda key: problem.sampler.move.draw_start(key, problem.energy, shape))
    return draw(keys)


def _start(
    problem: Problem,
    rng_key: Key,
    positions: Point,
    num_warmup: int,
    sharding: Sharding | None,
) -> ChainState:
    """The state of chains at `positions`; raises if one could never leave its start."""
    if sharding is not None:
        positions = jax.device_put(positions, as_automatic(sharding))
    state, num_bad = _start_chains(problem, rng_key, positions, num_warmup)
    if not hasattr(state.move_state, "logdensity_grad"):
        check_potential(problem.energy, jax.tree.map(lambda x: x[0], positions))
    if num_bad:
        raise ValueError(
            f"The energy or its gradient is not finite where {int(num_bad)} of "
            f"{len(state.accept_prob)} chains start, so they could never move. Give a "
            "better start with `init_params`."
        )
    return state


@eqx.filter_jit
def _start_chains(
    problem: Problem, rng_key: Key, positions: Point, num_warmup: int
) -> tuple[ChainState, Array]:
    state = start(rng_key, problem.sampler, problem.energy, positions, num_warmup)
    return state, (~finite_starts(state)).sum()


@eqx.filter_jit
def _refresh(problem: Problem, state: ChainState) -> ChainState:
    """`state` with its caches recomputed, unless only rounding makes a difference.

    A chain that compares new energies with old ones may never accept again.
    """
    old = state.move_state
    new = refresh_chains(problem.sampler, problem.energy, state).move_state
    # Another program may round the same energy differently; this must not change a draw.
    eps = jnp.finfo(old.logdensity.dtype).eps
    allowed = _NOTHING + _ROUNDING * eps * jnp.abs(old.logdensity).max()
    is_stale = _differs(new.logdensity, old.logdensity, allowed)
    gradients = (jax.tree.leaves(getattr(x, "logdensity_grad", ())) for x in (new, old))
    for new_grad, old_grad in zip(*gradients, strict=True):
        is_stale |= _differs(new_grad, old_grad, _NOTHING * jnp.abs(old_grad).max())
    move_state = jax.tree.map(lambda n, o: jnp.where(is_stale, n, o), new, old)
    return state._replace(move_state=move_state)


def _differs(new: Array, old: Array, allowed: Scalar) -> Array:
    return ~(jnp.abs(new - old).max() <= allowed)


#: Last-digit errors that another order of the same sums may cause; and the error of a log
#: acceptance that no chain would feel in one transition.
_ROUNDING, _NOTHING = 32, 1e-3
