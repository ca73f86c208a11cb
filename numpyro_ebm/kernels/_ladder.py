"""The warm-up of parallel tempering: rounds that equalise the ladder."""

from typing import NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import cond
from jax.scipy.special import erfinv

from .._types import Array, Float, Point
from ..chains import AbstractAdaptation, Adaptation, AdaptState, Report, averaged
from ._fitted import Fit, FittedGaussian
from ._replicas import TemperingMove


class TemperingAdaptState(NamedTuple):
    """What a warm-up carries: one step size per rung that moves, the ladder, the reference.

    - **rejected**: the sum over the transitions of this round of the probability that each
      pair does not swap, and **count**, their number.
    """

    inner: AdaptState
    beta: Float[Array, " temperature"]
    rejected: Float[Array, " pair"]
    count: Array
    fit: Fit | None

    @property
    def step_size(self) -> Array:
        return self.inner.step_size

    @property
    def schedule(self) -> Array:
        return self.inner.schedule


class TemperingAdaptation(AbstractAdaptation):
    """Adapts one step size per rung, and the ladder in rounds until all pairs swap alike."""

    inner: Adaptation
    adapt_temperatures: bool = eqx.field(static=True)
    fitted: FittedGaussian | None = None

    def init(
        self, move: TemperingMove, position: Point, num_warmup: int
    ) -> TemperingAdaptState:
        return TemperingAdaptState(
            inner=self.inner.init(move, position, num_warmup),
            beta=move.beta,
            rejected=jnp.zeros_like(move.beta[1:]),
            count=jnp.zeros((), move.beta.dtype),
            fit=None if self.fitted is None else Fit.begin(self.fitted, position),
        )

    def tune(self, move: TemperingMove, state: TemperingAdaptState) -> TemperingMove:
        move = cast(TemperingMove, self.inner.tune(move, state.inner))
        learnt = state.beta, state.fit
        return eqx.tree_at(
            lambda m: (m.beta, m.fit), move, learnt, is_leaf=lambda node: node is None
        )

    def update(
        self, i: Array, state: TemperingAdaptState, positions: Point, reports: Report
    ) -> TemperingAdaptState:
        steps, swaps = reports.tuning
        inner = self.inner.update(i, state.inner, positions, reports._replace(tuning=steps))
        state = state._replace(inner=inner)
        num_warmup = len(state.schedule)
        if num_warmup == 0:
            return state
        return cond(
            i < num_warmup,
            lambda: self._learn(i, state, positions, 1 - swaps.mean(0)),
            lambda: state,
        )

    def _learn(
        self, i: Array, state: TemperingAdaptState, positions: Point, rejected: Array
    ) -> TemperingAdaptState:
        fit = None if state.fit is None else state.fit.learn(positions)
        state = state._replace(
            rejected=state.rejected + rejected, count=state.count + 1, fit=fit
        )
        num_warmup = len(state.schedule)
        is_end = jnp.isin(i + 1, jnp.asarray(round_ends(num_warmup)))
        is_last = i + 1 == num_warmup
        return cond(is_end, lambda: self._end_round(state, is_last), lambda: state)

    def _end_round(self, state: TemperingAdaptState, is_last: Array) -> TemperingAdaptState:
        beta, inner, fit = state.beta, state.inner, state.fit
        if self.adapt_temperatures:
            beta = equalised(beta, state.rejected / state.count)
        if self.inner.adapt_step_size:
            inner = self.inner.start_over(inner, _interpolated(inner, state.beta, beta))
        if fit is not None:
            # The last ladder is that of the last reference.
            fit = jax.tree.map(lambda a, b: jnp.where(is_last, a, b), fit, fit.end_round())
        nothing = jnp.zeros_like(state.rejected), jnp.zeros_like(state.count)
        return TemperingAdaptState(inner, beta, *nothing, fit)


def round_ends(num_warmup: int) -> list[int]:
    """The numbers of transitions after which rounds end: each is as long as all before it."""
    ends = [num_warmup >> k for k in range(num_warmup.bit_length())]
    return [end for end in ends if end >= _SHORTEST] or [num_warmup]


#: The first round has at least so many transitions.
_SHORTEST = 12


def equalised(
    beta: Float[Array, " temperature"], rejection: Float[Array, " pair"]
) -> Float[Array, " temperature"]:
    r"""The rungs between which $\Lambda(\beta)$, piecewise linear, rises alike.

    The mean rejections of neighbours add up to the communication barrier $\Lambda(\beta)$
    [Syed et al. 2022], if they are small. Pairs that hardly swap have more of it than their
    rejection $r$ shows: between two normals, $\tfrac{2}{\sqrt\pi}\operatorname{erf}^{-1}(r)$.
    """
    pairs = erfinv(jnp.clip(rejection, _LEAST, _MOST))
    barrier = jnp.append(0, jnp.cumsum(pairs))
    wanted = jnp.linspace(0, barrier[-1], len(beta))
    new = jnp.interp(wanted, barrier, beta)
    # Nobody knows the scale of the first rungs if none of them swaps with the reference.
    is_far = (beta[-1] == 0) & (rejection[-1] > _FAR) & (wanted > barrier[-2])
    part = jnp.exp(-_POWERS * (wanted - barrier[-2]) / pairs[-1])
    new = jnp.where(is_far, beta[-2] * part, new)
    return new.at[0].set(beta[0]).at[-1].set(beta[-1])


#: A pair that always swaps still takes part of the ladder, and one that never does not all of
#: it; and the rejection from which rungs near the reference are spaced by factors, over so many
#: powers of e.
_LEAST, _MOST, _FAR, _POWERS = 1e-3, 0.999, 0.9, 9.0


def _interpolated(state: AdaptState, old: Array, new: Array) -> Array:
    """The step sizes found on the `old` ladder, on the `new` one."""
    steps = jnp.log(averaged(state))
    num = len(steps)
    return jnp.exp(jnp.interp(new[:num], old[:num][::-1], steps[::-1]))
