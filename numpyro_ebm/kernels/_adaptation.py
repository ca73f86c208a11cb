"""Warm-up: Stan's schedule, dual averaging and Welford's covariance, by BlackJAX."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.lax import cond

from .._types import Array, Point, Scalar
from ._blackjax import blackjax


class AdaptState(NamedTuple):
    """What the warm-up of one chain carries, with NumPyro's names for what it adapts.

    - **step_size**: used by the next transition.
    - **inverse_mass_matrix**: used by the next transition, diagonal or whole.
    - **schedule**: for each warm-up step, whether the metric learns from it, and whether it is
      the last of a window.
    - **step_size_state**, **metric_state**: BlackJAX's dual averaging and Welford states.
    """

    step_size: Scalar
    inverse_mass_matrix: Array
    schedule: Array
    step_size_state: Any
    metric_state: Any


class Adaptation(eqx.Module):
    """Adapts step size and metric of one chain by Stan's windows [Hoffman and Gelman 2014]."""

    adapt_step_size: bool = eqx.field(static=True)
    adapt_mass_matrix: bool = eqx.field(static=True)
    dense_mass: bool = eqx.field(static=True)
    target_accept_prob: float

    def init(
        self, step_size: Any, metric: Array, position: Point, num_warmup: int
    ) -> AdaptState:
        dim = ravel_pytree(position)[0].size
        if self.adapt_mass_matrix and self.dense_mass and metric.ndim == 1:
            metric = jnp.diag(metric)
        return AdaptState(
            step_size=jnp.asarray(step_size, jnp.result_type(float)),
            inverse_mass_matrix=jnp.asarray(metric, jnp.result_type(float)),
            schedule=_schedule(num_warmup),
            step_size_state=self._step_size_algorithm().init(step_size),
            metric_state=self._metric_algorithm().init(dim, metric),
        )

    def update(
        self, i: Array, state: AdaptState, position: Point, accept_prob: Scalar
    ) -> AdaptState:
        """Learn from transition `i`; after warm-up the state stays as it is."""
        num_warmup = len(state.schedule)
        if num_warmup == 0 or not (self.adapt_step_size or self.adapt_mass_matrix):
            return state
        return cond(
            i < num_warmup,
            lambda: self._learn(i, state, position, accept_prob),
            lambda: state,
        )

    def _learn(
        self, i: Array, state: AdaptState, position: Point, accept_prob: Scalar
    ) -> AdaptState:
        is_slow, is_window_end = state.schedule[i]
        if self.adapt_step_size:
            state = self._learn_step_size(state, accept_prob)
        if self.adapt_mass_matrix:
            learnt = self._metric_algorithm().update(state.metric_state, position)
            state = state._replace(metric_state=_select(is_slow, learnt, state.metric_state))
            state = _select(is_window_end, self._end_window(state), state)
        if self.adapt_step_size:
            is_last = i == len(state.schedule) - 1
            final = self._step_size_algorithm().final(state.step_size_state)
            state = state._replace(step_size=jnp.where(is_last, final, state.step_size))
        return state

    def _learn_step_size(self, state: AdaptState, accept_prob: Scalar) -> AdaptState:
        # One NaN would poison the average for good; it means that the proposal was rejected.
        learnt = self._step_size_algorithm().update(
            state.step_size_state, jnp.nan_to_num(accept_prob)
        )
        return state._replace(step_size=jnp.exp(learnt.log_step_size), step_size_state=learnt)

    def _end_window(self, state: AdaptState) -> AdaptState:
        metric_state = self._metric_algorithm().final(state.metric_state)
        state = state._replace(
            inverse_mass_matrix=metric_state.inverse_mass_matrix, metric_state=metric_state
        )
        if self.adapt_step_size:
            # The best step depends on the metric: start over from where this window got to.
            algorithm = self._step_size_algorithm()
            step_size = algorithm.final(state.step_size_state)
            state = state._replace(
                step_size=step_size, step_size_state=algorithm.init(step_size)
            )
        return state

    def _step_size_algorithm(self) -> "_Algorithm":
        adaptation = blackjax().adaptation.step_size
        return _Algorithm(*adaptation.dual_averaging_adaptation(self.target_accept_prob))

    def _metric_algorithm(self) -> "_Algorithm":
        adaptation = blackjax().adaptation.mass_matrix
        return _Algorithm(*adaptation.mass_matrix_adaptation(not self.dense_mass))


class _Algorithm(NamedTuple):
    """BlackJAX's triple of functions, by name."""

    init: Any
    update: Any
    final: Any


def _schedule(num_warmup: int) -> Array:
    stages = blackjax().adaptation.staged_adaptation.build_schedule(num_warmup)
    return jnp.asarray(stages, bool).reshape(num_warmup, 2)


def _select(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda y, n: jnp.where(condition, y, n), yes, no)
