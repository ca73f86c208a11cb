"""Warm-up: Stan's schedule, dual averaging and Welford's covariance, by BlackJAX."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.lax import cond

from .._checks import check_probability
from .._types import Array, Float, Point, Scalar
from ._blackjax import blackjax
from ._move import AbstractMove, Report, dimension


class AdaptState(NamedTuple):
    """What a warm-up carries, with NumPyro's names for what it adapts.

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


class AbstractAdaptation(eqx.Module):
    """How a warm-up tunes a move."""

    @abc.abstractmethod
    def init(self, move: Any, position: Point, num_warmup: int) -> Any:
        """Before the first transition of chains at points like `position`."""

    @abc.abstractmethod
    def tune(self, move: Any, state: Any) -> Any:
        """`move` with what has been learnt so far."""

    @abc.abstractmethod
    def update(self, i: Array, state: Any, positions: Point, reports: Report) -> Any:
        """Learn from transition `i` of chains stacked along a leading axis.

        After warm-up the state stays as it is.
        """


class Adaptation(AbstractAdaptation):
    """Adapts step size and metric by Stan's windows [Hoffman and Gelman 2014].

    It learns from all the chains that it is given: one update on their mean acceptance, as
    many updates as chains would swing [BlackJAX #1003].
    """

    adapt_step_size: bool = eqx.field(static=True)
    adapt_mass_matrix: bool = eqx.field(static=True)
    dense_mass: bool = eqx.field(static=True)
    #: Of the mean of `Report.tuning`; the same as of the acceptance, for most kernels.
    target_tuning: float
    #: Shrink the metric of a short window towards a small multiple of one, as Stan does.
    regularize_mass_matrix: bool = eqx.field(static=True, default=True)

    def __check_init__(self) -> None:
        check_probability("target_accept_prob", self.target_tuning)
        if not isinstance(self.dense_mass, bool):
            raise NotImplementedError(
                "`dense_mass` must be True or False: metrics of several dense blocks are not "
                f"implemented, got {self.dense_mass}."
            )

    def init(self, move: AbstractMove, position: Point, num_warmup: int) -> AdaptState:
        metric = move.metric(position)
        if self.adapt_mass_matrix and self.dense_mass and metric.ndim == 1:
            metric = jnp.diag(metric)
        step_size = jnp.asarray(move.step_size, jnp.result_type(float))
        return AdaptState(
            step_size=step_size,
            inverse_mass_matrix=metric,
            schedule=_schedule(num_warmup),
            step_size_state=self._begin_averaging(step_size),
            metric_state=_arrays(self._metric_algorithm().init(dimension(position), metric)),
        )

    def tune(self, move: AbstractMove, state: AdaptState) -> AbstractMove:
        if self.adapt_step_size:
            move = eqx.tree_at(lambda m: m.step_size, move, state.step_size)
        if self.adapt_mass_matrix:
            metric = state.inverse_mass_matrix
            move = eqx.tree_at(
                lambda m: m.inverse_mass_matrix, move, metric, is_leaf=lambda x: x is None
            )
        return move

    def update(
        self, i: Array, state: AdaptState, positions: Point, reports: Report
    ) -> AdaptState:
        num_warmup = len(state.schedule)
        if num_warmup == 0 or not (self.adapt_step_size or self.adapt_mass_matrix):
            return state
        return cond(
            i < num_warmup,
            lambda: self._learn(i, state, positions, reports),
            lambda: state,
        )

    def follow(self, step_size: Scalar, tuning: Scalar, gain: float) -> Scalar:
        """A step of Robbins and Monro [1951] towards the target, where no warm-up tunes it.

        **Arguments**

        - `tuning`: the mean of `Report.tuning` over the last transitions.
        - `gain`: how fast the step size follows.
        """
        if not self.adapt_step_size:
            return step_size
        return step_size * jnp.exp(gain * (tuning - self.target_tuning))

    def _learn(
        self, i: Array, state: AdaptState, positions: Point, reports: Report
    ) -> AdaptState:
        is_slow, is_window_end = state.schedule[i]
        if self.adapt_step_size:
            # One NaN would poison the average for good; it means that a proposal was rejected.
            state = self._learn_step_size(state, jnp.nan_to_num(reports.tuning).mean(0))
        if self.adapt_mass_matrix:
            learnt = _learn_moments(state.metric_state, positions)
            state = state._replace(metric_state=_select(is_slow, learnt, state.metric_state))
            state = _select(is_window_end, self._end_window(state), state)
        if self.adapt_step_size:
            is_last = i == len(state.schedule) - 1
            final = self._step_size_algorithm().final(state.step_size_state)
            state = state._replace(step_size=jnp.where(is_last, final, state.step_size))
        return state

    def _learn_step_size(self, state: AdaptState, tuning: Scalar) -> AdaptState:
        learnt = self._step_size_algorithm().update(state.step_size_state, tuning)
        return state._replace(step_size=jnp.exp(learnt.log_step_size), step_size_state=learnt)

    def _end_window(self, state: AdaptState) -> AdaptState:
        metric_state = self._metric_algorithm().final(state.metric_state)
        metric = metric_state.inverse_mass_matrix
        if not self.regularize_mass_matrix:
            _, m2, count = state.metric_state.wc_state
            metric = m2 / jnp.maximum(count - 1, 1)
        state = state._replace(inverse_mass_matrix=metric, metric_state=metric_state)
        if self.adapt_step_size:
            # The best step depends on the metric: start over from where this window got to.
            step_size = self._step_size_algorithm().final(state.step_size_state)
            state = state._replace(
                step_size=step_size, step_size_state=self._begin_averaging(step_size)
            )
        return state

    def _begin_averaging(self, step_size: Array) -> Any:
        begun = self._step_size_algorithm().init(step_size)
        # One average for each of several step sizes.
        return jax.tree.map(lambda x: jnp.broadcast_to(x, step_size.shape), _arrays(begun))

    def _step_size_algorithm(self) -> "_Algorithm":
        adaptation = blackjax().adaptation.step_size
        return _Algorithm(*adaptation.dual_averaging_adaptation(self.target_tuning))

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


def _learn_moments(metric_state: Any, positions: Point) -> Any:
    """BlackJAX's Welford state after a batch of points [Chan, Golub and LeVeque 1983]."""
    mean, m2, count = old = metric_state.wc_state
    flat: Float[Array, "n d"] = jax.vmap(lambda x: ravel_pytree(x)[0])(positions)
    # A chain that ran away must not take the metric of the others with it.
    kept = jnp.isfinite(flat).all(1, keepdims=True)
    flat = jnp.where(kept, flat, mean)
    size = kept.sum()
    total = count + size
    share = size / jnp.maximum(total, 1)
    batch_mean = jnp.where(kept, flat, 0).sum(0) / jnp.maximum(size, 1)
    delta = batch_mean - mean
    spread = jnp.where(kept, flat - batch_mean, 0)
    if m2.ndim == 1:
        m2 = m2 + (spread**2).sum(0) + delta**2 * count * share
    else:
        m2 = m2 + spread.T @ spread + jnp.outer(delta, delta) * count * share
    new = type(old)(mean + delta * share, m2, total)
    return metric_state._replace(wc_state=jax.tree.map(_like, new, old))


def _like(new: Array, old: Any) -> Array:
    return jnp.asarray(new, jnp.result_type(old))


def _arrays(state: Any) -> Any:
    # BlackJAX's numbers, in the types that its updates return.
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)


def _select(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda y, n: jnp.where(condition, y, n), yes, no)
