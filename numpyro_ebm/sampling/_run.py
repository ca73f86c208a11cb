"""Chains in compiled calls of many transitions each."""

import equinox as eqx
import jax.numpy as jnp

from .._driver import Progress, drive
from .._types import PyTree, Scalar
from ..chains import ChainState, Report, advance
from ._keep import AbstractKeeper
from ._problem import Problem


def run_until(
    end: int, problem: Problem, state: ChainState, keeper: AbstractKeeper, progress_bar: bool
) -> tuple[ChainState, PyTree]:
    """The chains after `end` transitions, or fewer if interrupted, and what is kept of them."""
    kept = _empty(problem, keeper, state)

    def call(length: int) -> Progress:
        nonlocal state, kept
        state, kept, status = _fused((problem, keeper, state, jnp.asarray(length)), kept)
        accepted, step_size = (float(x) for x in status)
        shown = f"accepted {accepted:.2f}, " if problem.sampler.move.is_exact else ""
        return Progress(length, f"{shown}step {step_size:.2g}")

    drive(
        call,
        end - int(state.i),
        progress_bar=progress_bar,
        resume="init_state=draws.state",
        is_shared=not state.totals.is_fully_addressable,
    )
    return state, kept


@eqx.filter_jit
def _empty(problem: Problem, keeper: AbstractKeeper, state: ChainState) -> PyTree:
    return keeper.empty(state, problem.points(state.z))


@eqx.filter_jit(donate="all-except-first")
def _fused(fixed: tuple, kept: PyTree) -> tuple[ChainState, PyTree, tuple[Scalar, Scalar]]:
    """Some transitions of all chains; what they keep is written in place."""
    problem, keeper, state, length = fixed

    def visit(kept: PyTree, state: ChainState, report: Report) -> PyTree:
        return keeper.update(kept, state, problem.points(state.z), report)

    state, kept = advance(problem.sampler, problem.energy, state, length, visit, kept)
    step_size = state.adapt_state.step_size.reshape(-1)[0]
    return state, kept, (state.accept_prob.mean(), step_size)
