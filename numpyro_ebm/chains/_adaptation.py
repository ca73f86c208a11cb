"""Warm-up: Stan's schedule, dual averaging and Welford's covariance, from BlackJAX."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import cond

from .._checks import check_probability
from .._types import Array, DenseMass, Point, Scalar
from ._blackjax import blackjax
from ._metric import (
    Algorithm,
    Blocks,
    as_arrays,
    as_dense_mass,
    begin_moments,
    learn_moments,
    metric_of,
    structured,
)
from ._move import AbstractMove, Report, dimension


class AdaptState(NamedTuple):
    """The state of a warm-up, with NumPyro's names for what it adapts.

    - **step_size**: used by the next transition.
    - **inverse_mass_matrix**: used by the next transition, diagonal or dense.
    - **schedule**: for each warm-up step, whether the metric learns from it, and whether it is
      the last of a window.
    - **step_size_state**, **metric_state**: BlackJAX's dual averaging and Welford states.
    """

    step_size: Scalar
    inverse_mass_matrix: Array
    schedule: Array
    step_size_state: Any
    metric_state: Any


class Travel(eqx.Module):
    r"""The first part of a warm-up, which uses another move.

    From a bad start, a local move with neither step nor metric tuned goes nowhere: it would
    learn both from chains that hardly move. Trajectories do travel, and teach it both.

    - **move**: makes the transitions, on the states of the move that it replaces.
    - **share**: the fraction of the warm-up.
    - **power**: if the step of `move` is $\epsilon$, that of the other is $\epsilon^k/k$:
      Langevin's $\eta = \epsilon^2/2$.
    """

    move: AbstractMove
    share: float = eqx.field(static=True, default=0.6)
    power: int = eqx.field(static=True, default=1)
    target_accept_prob: float = 0.8

    def stands_in(self, step_size: Scalar) -> Scalar:
        """The initial step of `move`, if the other's step is `step_size`."""
        return (self.power * step_size) ** (1 / self.power)

    def hands_over(self, step_size: Scalar) -> Scalar:
        """The other's step, if the step of `move` has become `step_size`."""
        return step_size**self.power / self.power


class AbstractAdaptation(eqx.Module):
    """How a warm-up tunes a move."""

    def check(self, move: Any) -> None:
        """Raise if it cannot tune `move`."""
        return

    @abc.abstractmethod
    def init(self, move: Any, position: Point, num_warmup: int) -> Any:
        """The state before the first transition of chains at points like `position`."""

    @abc.abstractmethod
    def tune(self, move: Any, state: Any) -> Any:
        """`move` with what has been learnt so far."""

    @abc.abstractmethod
    def update(self, i: Array, state: Any, positions: Point, reports: Report) -> Any:
        """Learn from transition `i` of chains stacked along a leading axis.

        After warm-up the state does not change.
        """

    def traveller(self, num_warmup: int) -> tuple[AbstractMove | None, int]:
        """Another move for the start of a warm-up, if any, and its number of transitions."""
        return None, 0

    def follow(self, step_size: Scalar, tuning: Scalar, gain: float = 0.05) -> Scalar:
        """A step of Robbins and Monro [1951] towards the target, without a warm-up.

        **Arguments**

        - `tuning`: the mean of `Report.tuning` over the last transitions.
        - `gain`: how fast the step size follows; slow while an energy is learned.
        """
        raise TypeError(f"`{type(self).__name__}` tunes more than one step size.")


class Adaptation(AbstractAdaptation):
    """Adapts step size and metric by Stan's windows [Hoffman and Gelman 2014].

    It learns from all chains together: one update on their mean acceptance, because one update
    per chain would oscillate [BlackJAX #1003].
    """

    adapt_step_size: bool = eqx.field(static=True)
    adapt_mass_matrix: bool = eqx.field(static=True)
    dense_mass: bool | Blocks = eqx.field(static=True, converter=as_dense_mass)
    #: For the mean of `Report.tuning`; for most kernels, the target acceptance.
    target_tuning: float
    #: Shrink the metric of a short window, like Stan, but relative to the scales found.
    regularize_mass_matrix: bool = eqx.field(static=True, default=True)
    travel: Travel | None = None

    def __check_init__(self) -> None:
        check_probability("target_accept_prob", self.target_tuning)
        for name in ("adapt_step_size", "adapt_mass_matrix"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}` must be True or False, got {getattr(self, name)!r}.")

    def check(self, move: AbstractMove) -> None:
        has_metric = self.adapt_mass_matrix or move.inverse_mass_matrix is not None
        if self.dense_mass and not has_metric:
            raise ValueError(
                f"`dense_mass={self.dense_mass}` with `adapt_mass_matrix=False` has no metric "
                "to use: let it adapt, or give an `inverse_mass_matrix`."
            )

    def init(self, move: AbstractMove, position: Point, num_warmup: int) -> AdaptState:
        metric = move.metric(position)
        if self.adapt_mass_matrix:
            metric = structured(metric, self.dense_mass, position)
        step_size = jnp.asarray(move.step_size, jnp.result_type(float))
        num_travel = self._num_travel(num_warmup)
        if self.travel is not None and num_travel:
            step_size = self.travel.stands_in(step_size)
        return AdaptState(
            step_size=step_size,
            inverse_mass_matrix=metric,
            schedule=_schedule(num_warmup, num_travel, self.travel is not None),
            step_size_state=self._begin_averaging(step_size),
            metric_state=begin_moments(bool(self.dense_mass), dimension(position), metric),
        )

    def traveller(self, num_warmup: int) -> tuple[AbstractMove | None, int]:
        num_travel = self._num_travel(num_warmup)
        if self.travel is None or num_travel == 0:
            return None, 0
        return self.travel.move, num_travel

    def _num_travel(self, num_warmup: int) -> int:
        share = 0.0 if self.travel is None else self.travel.share
        # A part of only a few transitions would learn no step to hand over.
        return 0 if share < 1 and num_warmup < _SHORT else round(share * num_warmup)

    def tune(self, move: AbstractMove, state: AdaptState) -> AbstractMove:
        if self.adapt_step_size:
            move = move.with_step(state.step_size)
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

    def follow(self, step_size: Scalar, tuning: Scalar, gain: float = 0.05) -> Scalar:
        if not self.adapt_step_size:
            return step_size
        return step_size * jnp.exp(gain * (tuning - self.target_tuning))

    def _learn(
        self, i: Array, state: AdaptState, positions: Point, reports: Report
    ) -> AdaptState:
        is_slow, is_window_end = state.schedule[i]
        if self.adapt_step_size:
            # One NaN would ruin the average for good; it means that a proposal was rejected.
            tuning = jnp.nan_to_num(reports.tuning).mean(0)
            state = self._learn_step_size(i, state, tuning)
        if self.adapt_mass_matrix:
            learnt = learn_moments(state.metric_state, positions)
            state = state._replace(metric_state=_select(is_slow, learnt, state.metric_state))
            ended = self._end_window(state, jax.tree.map(lambda x: x[0], positions))
            state = _select(is_window_end, ended, state)
        if self.adapt_step_size:
            state = self._end_stage(i, state)
        return state

    def _learn_step_size(self, i: Array, state: AdaptState, tuning: Array) -> AdaptState:
        num_travel, target = self._num_travel(len(state.schedule)), self.target_tuning
        if self.travel is not None:
            target = jnp.where(i < num_travel, self.travel.target_accept_prob, target)
        algorithm = _step_size_algorithm(target)
        learnt = algorithm.update(state.step_size_state, tuning)
        return state._replace(step_size=jnp.exp(learnt.log_step_size), step_size_state=learnt)

    def _end_window(self, state: AdaptState, position: Point) -> AdaptState:
        old = state.inverse_mass_matrix
        found = metric_of(state.metric_state.wc_state, old, self.regularize_mass_matrix)
        metric = structured(found, self.dense_mass, position)
        fresh = begin_moments(bool(self.dense_mass), len(old), metric)
        state = state._replace(inverse_mass_matrix=metric, metric_state=fresh)
        if not self.adapt_step_size:
            return state
        # The best step depends on the metric: start over from this window's average.
        return self.start_over(state, averaged(state))

    def _end_stage(self, i: Array, state: AdaptState) -> AdaptState:
        """Use the average step at the end of a warm-up, and when `travel` hands over."""
        num_warmup = len(state.schedule)
        num_travel = self._num_travel(num_warmup)
        step_size = averaged(state)
        if self.travel is not None and num_travel:
            new = self.start_over(state, self.travel.hands_over(step_size))
            state = _select(i == num_travel - 1, new, state)
            if num_travel == num_warmup:
                return state
        is_last = i == num_warmup - 1
        return state._replace(step_size=jnp.where(is_last, step_size, state.step_size))

    def start_over(self, state: AdaptState, step_size: Array) -> AdaptState:
        """Average the step anew, from `step_size` on."""
        averaging = self._begin_averaging(step_size)
        return state._replace(step_size=step_size, step_size_state=averaging)

    def _begin_averaging(self, step_size: Array) -> Any:
        begun = _step_size_algorithm(self.target_tuning).init(step_size)
        # One average for each of several step sizes.
        return jax.tree.map(lambda x: jnp.broadcast_to(x, step_size.shape), as_arrays(begun))


#: Leaves a move unchanged.
NO_ADAPTATION = Adaptation(False, False, False, 0.5)

#: Below this number of transitions, a warm-up does not start with another move, and learns
#: no metric if it would have.
_SHORT = 50


def learns_metric(
    adapt_mass_matrix: bool | None, adapt_step_size: bool, dense_mass: DenseMass
) -> bool:
    """Whether a kernel adapts its metric; by default, if it adapts its step.

    A given step is in units of the given metric.
    """
    return (
        adapt_step_size or bool(dense_mass) if adapt_mass_matrix is None else adapt_mass_matrix
    )


def _step_size_algorithm(target_accept_prob: Any) -> Algorithm:
    adaptation = blackjax().adaptation.step_size
    return Algorithm(*adaptation.dual_averaging_adaptation(target_accept_prob))


def averaged(state: AdaptState) -> Array:
    """The step size that a warm-up would end with."""
    return jnp.exp(state.step_size_state.log_step_size_avg)


def _schedule(num_warmup: int, num_travel: int, would_travel: bool) -> Array:
    """Stan's windows; if the first part of the warm-up travels, in that part."""
    if would_travel and num_travel == 0:
        # A few local moves can teach only their step.
        return jnp.zeros((num_warmup, 2), bool)
    build = blackjax().adaptation.staged_adaptation.build_schedule
    num_rest = num_warmup - num_travel if num_travel else 0
    # Trajectories arrive without a metric, and the move after them adapts the step again.
    sizes = {"initial_buffer_size": 25, "final_buffer_size": 25} if num_rest else {}
    stages = jnp.asarray(build(num_warmup - num_rest, **sizes), bool).reshape(-1, 2)
    return jnp.concatenate([stages, jnp.zeros((num_rest, 2), bool)])


def _select(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda y, n: jnp.where(condition, y, n), yes, no)
