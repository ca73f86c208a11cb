"""`ExchangeAdaptation`: what a warm-up of an exchange learns."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.lax import cond

from .._types import Array, Point
from ..chains import AbstractAdaptation, Adaptation, AdaptState, Report
from ._exchange_move import ExchangeMove
from ._proposals import AbstractProposal


class ExchangeAdaptState(NamedTuple):
    """What a warm-up carries.

    - **walk**: the covariance of the proposals, and their step.
    - **aux_step_size**: the step sizes of the auxiliary chains.
    - **num_since**: transitions since the covariance was last learnt.
    """

    walk: AdaptState
    aux_step_size: Array
    num_since: Array

    @property
    def step_size(self) -> Array:
        return self.walk.step_size

    @property
    def inverse_mass_matrix(self) -> Array:
        return self.walk.inverse_mass_matrix

    @property
    def schedule(self) -> Array:
        return self.walk.schedule


class ExchangeAdaptation(AbstractAdaptation):
    r"""Adapts step and covariance of the proposals, and the steps of the auxiliary chains.

    Steps follow their targets by Robbins and Monro, with gains $n^{-0.6}$ since the last
    covariance. Dual averaging would take a few accepted proposals of one chain for leave to go
    ten times as far, to where energies are too large for their rounding.

    - **adapt_step_size**, **adapt_auxiliary**: which steps follow.
    - **metric**: how the covariance is learnt.
    - **target**: of the acceptance; `None` lets the proposal choose by the dimension.
    - **aux_target**: of what the auxiliary move tunes for.
    """

    adapt_step_size: bool = eqx.field(static=True)
    adapt_auxiliary: bool = eqx.field(static=True)
    metric: Adaptation
    proposal: AbstractProposal
    target: float | None
    aux_target: float

    def check(self, move: Any) -> None:
        self.metric.check(move)

    def init(self, move: ExchangeMove, position: Point, num_warmup: int) -> ExchangeAdaptState:
        walk = self.metric.init(move, position, num_warmup)
        return ExchangeAdaptState(walk, jnp.asarray(move.aux_step_size), jnp.zeros((), int))

    def tune(self, move: ExchangeMove, state: ExchangeAdaptState) -> ExchangeMove:
        tuned = self.metric.tune(move, state.walk).with_step(state.step_size)
        return eqx.tree_at(lambda m: m.aux_step_size, tuned, state.aux_step_size)  # pyright: ignore[reportReturnType]

    def update(
        self, i: Array, state: ExchangeAdaptState, positions: Point, reports: Report
    ) -> ExchangeAdaptState:
        if len(state.schedule) == 0:
            return state
        return cond(
            i < len(state.schedule),
            lambda: self._learn(i, state, positions, reports),
            lambda: state,
        )

    def _learn(
        self, i: Array, state: ExchangeAdaptState, positions: Point, reports: Report
    ) -> ExchangeAdaptState:
        walk = self.metric.update(i, state.walk, positions, reports)
        size, gain = len(walk.inverse_mass_matrix), (state.num_since + 1.0) ** -0.6
        target = self.proposal.target(size) if self.target is None else self.target
        # NaN means that a proposal was rejected; for steps, that none was used.
        accept, steps = reports.tuning
        steps = jnp.where(jnp.isnan(steps), self.aux_target, steps).mean(0)
        accept = jnp.nan_to_num(accept).mean()
        is_new = state.schedule[i, 1] & self.metric.adapt_mass_matrix
        if self.adapt_step_size:
            followed = walk.step_size * jnp.exp(gain * (accept - target))
            best = self.proposal.best_step(size)
            walk = walk._replace(step_size=jnp.where(is_new, best, followed))
        aux_step_size = state.aux_step_size
        if self.adapt_auxiliary:
            aux_step_size = aux_step_size * jnp.exp(gain * (steps - self.aux_target))
        return ExchangeAdaptState(
            walk, aux_step_size, jnp.where(is_new, 0, state.num_since + 1)
        )
