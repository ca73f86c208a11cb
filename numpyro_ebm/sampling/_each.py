"""`sample_each`: chains on many energies at once, one energy per row of data."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import user_level
from .._driver import Progress, drive
from .._types import Array, EnergyLike, Key, Point, PyTree, Scalar, Shape
from ..chains import (
    BEFORE,
    ChainState,
    Report,
    Sampler,
    advance,
    as_position,
    finite_starts,
    start,
)
from ..energies import as_energy, unconstrained
from ..kernels import AbstractKernel, as_sampler
from ._draws import ENOUGH_DRAWS
from ._keep import History
from ._problem import Problem
from ._row_draws import RowDraws
from ._sizes import check_run, check_thinning


def sample_each(
    rng_key: Key,
    family: Callable[[PyTree], EnergyLike],
    rows: PyTree,
    kernel: AbstractKernel,
    *,
    event_shape: Shape | None = None,
    init_params: Point | None = None,
    num_chains: int | None = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    thinning: int = 1,
    progress_bar: bool = True,
) -> RowDraws:
    r"""Draw from many energies at once, $p_i(x) \propto e^{-E(x; r_i)}$, one per row of data.

    ```python
    def posterior(y):
        return prior + ebm.as_energy(dist.Normal(y, 0.1).to_event(1))


    draws = ebm.sampling.sample_each(
        jax.random.key(0), posterior, observations, ebm.HMC()
    )
    ```

    Each row has its own chains, which adapt their own step size and metric; all rows run in one
    compiled program, which other rows of the same shape reuse. Chains of row $i$ do not depend
    on the other rows. Exact if the kernel is.

    **Arguments**

    - `family`: a function from one row to what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `rows`: along the first axis, an array or a pytree of arrays.
    - `init_params`: `(chain, row, *event)`, by default uniform in $[-2, 2]^d$ (of unconstrained
      space).
    - The others are those of [`sample`][numpyro_ebm.sample].

    **Raises** `ValueError` if chains start at an infinite energy or gradient. Warns if a chain
    is stuck or produced non-finite draws. An interrupt ends it.
    """
    check_run(rng_key, num_chains, num_warmup, num_samples)
    check_thinning(thinning, num_samples)
    began = time.perf_counter()
    target = _Target(family, kernel, event_shape, as_sampler(kernel))
    num_rows = _num_rows(rows)
    first = target.problem(jax.tree.map(lambda x: x[0], rows), is_checked=True)
    keys = jax.vmap(lambda i: jr.fold_in(rng_key, i))(jnp.arange(num_rows))
    positions = _positions(first, keys, init_params, num_chains, num_rows)
    state, num_bad = _begin(target, rows, keys, positions, num_warmup)
    _check_starts(num_bad, state)
    num_draws, num_left = divmod(num_samples, thinning)
    one = jax.tree.map(lambda x: x[0], state._replace(i=state.i[None]))
    start_at = num_warmup + num_left
    history = History.of(kernel.move, one, start_at, num_draws, thinning)
    state, kept = _run(target, rows, history, state, num_warmup + num_samples, progress_bar)
    values, stats = jax.vmap(lambda kept: history.draws(kept, num_draws), out_axes=2)(kept)
    draws = RowDraws(
        values,
        state.accept_prob.T,
        num_samples,
        stats=stats,
        num_warmup=num_warmup,
        kernel=type(kernel).__name__,
        is_exact=kernel.move.is_exact,
        is_transformed=first.transform is not None,
        seconds=time.perf_counter() - began,
    )
    if num_samples >= ENOUGH_DRAWS and not draws.ok:
        warnings.warn(f"`{_NAME}`: {draws}.", stacklevel=user_level())
    return draws


#: In warnings.
_NAME = "sample_each"


class _Target(eqx.Module):
    """What the chains of a row move on."""

    family: Callable[[PyTree], EnergyLike]
    kernel: AbstractKernel = eqx.field(static=True)
    event_shape: Shape | None = eqx.field(static=True)
    sampler: Sampler

    def problem(self, row: PyTree, is_checked: bool = False) -> Problem:
        energy = as_energy(self.family(row), self.event_shape)
        if is_checked:
            self.sampler.move.check(energy)
        return Problem(self.sampler, *unconstrained(self.kernel.as_target(energy)))


def _num_rows(rows: PyTree) -> int:
    sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(rows)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        shapes = [jnp.shape(x) for x in jax.tree.leaves(rows)]
        raise ValueError(
            "`rows` must be an array of one row or more along its first axis, or a pytree of "
            f"such arrays with the same number of rows, got shapes {shapes}."
        )
    return sizes.pop()[0]


def _positions(
    problem: Problem, rng_keys: Key, init_params: Any, num_chains: int | None, num_rows: int
) -> Point:
    """Where the chains start, `(row, chain, *event)`, in the space in which they move."""
    energy, shape = problem.energy, problem.energy.event_shape
    if init_params is None:
        if shape is None:
            raise ValueError(
                "`event_shape` or `init_params` is needed, because these energies don't know "
                "the shape of one point."
            )
        size = num_chains or 4
        keys = jax.vmap(lambda key: jr.split(jr.fold_in(key, BEFORE), size))(rng_keys)
        draw = jax.vmap(lambda key: problem.sampler.move.draw_start(key, energy, shape))
        return jax.vmap(draw)(keys)
    points = as_position(init_params)
    sizes = {x.shape[:2] for x in jax.tree.leaves(points)}
    wanted = num_chains or next(iter(sizes), (1,))[0], num_rows
    if sizes != {wanted}:
        raise ValueError(
            f"`init_params` must hold {wanted[0]} chains of {num_rows} rows, "
            f"`(chain, row, *event)`, got shapes {[x.shape for x in jax.tree.leaves(points)]}."
        )
    free = problem.transform
    by_chain = jax.vmap(lambda x: x if free is None else free.inv(x))
    return jax.vmap(by_chain, 1)(points)


#: All rows have made the same number of transitions.
_AXES = ChainState(None, 0, 0, 0, 0)  # pyright: ignore[reportArgumentType]


@eqx.filter_jit
def _begin(
    target: _Target, rows: PyTree, keys: Key, positions: Point, num_warmup: int
) -> tuple[ChainState, Array]:
    def begin(row: PyTree, key: Key, positions: Point) -> ChainState:
        problem = target.problem(row)
        return start(key, problem.sampler, problem.energy, positions, num_warmup)

    state = jax.vmap(begin, out_axes=_AXES)(rows, keys, positions)
    return state, (~jax.vmap(finite_starts, (_AXES,))(state)).sum()


def _check_starts(num_bad: Array, state: ChainState) -> None:
    if num_bad:
        raise ValueError(
            f"The energy or its gradient is not finite where {int(num_bad)} of "
            f"{state.totals[..., 0].size} chains start, so they could never move. Give a "
            "better start with `init_params`."
        )


def _run(
    target: _Target,
    rows: PyTree,
    history: History,
    state: ChainState,
    num_steps: int,
    progress_bar: bool,
) -> tuple[ChainState, PyTree]:
    kept = _empty(target, rows, history, state)

    def call(length: int) -> Progress:
        nonlocal state, kept
        fixed = target, rows, history, state, jnp.asarray(length)
        state, kept, accepted = _advance(fixed, kept)
        return Progress(length, f"accepted {float(accepted):.2f}")

    drive(call, num_steps, progress_bar=progress_bar, resume=None)
    return state, kept


@eqx.filter_jit
def _empty(target: _Target, rows: PyTree, history: History, state: ChainState) -> PyTree:
    def empty(row: PyTree, state: ChainState) -> PyTree:
        return history.empty(state, target.problem(row).points(state.z))

    return jax.vmap(empty, (0, _AXES))(rows, state)


@eqx.filter_jit(donate="all-except-first")
def _advance(fixed: tuple, kept: PyTree) -> tuple[ChainState, PyTree, Scalar]:
    """Some transitions of all chains of all rows; what they keep is written in place."""
    target, rows, history, state, length = fixed

    def one(row: PyTree, state: ChainState, kept: PyTree) -> tuple[ChainState, PyTree]:
        problem = target.problem(row)

        def visit(kept: PyTree, state: ChainState, report: Report) -> PyTree:
            return history.update(kept, state, problem.points(state.z), report)

        return advance(problem.sampler, problem.energy, state, length, visit, kept)

    state, kept = jax.vmap(one, (0, _AXES, 0), (_AXES, 0))(rows, state, kept)
    return state, kept, state.accept_prob.mean()
