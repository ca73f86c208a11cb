"""The warm-up of `FlowJump`: that of the inner kernel, and the training of the flow."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jax.lax import cond

from .._trainable import partition_trainable, strongly_typed
from .._types import Array, Float, Key, Point, PyTree, Scalar
from ..chains import AbstractAdaptation, Report
from ..estimation import decaying_adam
from ._flow import Flow
from ._jump_move import JumpMove
from ._jump_share import Share, begin_share, learn_share
from ._wrapped import AbstractWrappedAdaptation


class Training(NamedTuple):
    """A flow in training.

    - **flow**: so far; **opt_state**: of its optimiser.
    - **points**: the last ones that the chains visited, and **count**: of all of them.
    """

    flow: Flow
    opt_state: PyTree
    points: Float[Array, "n d"]
    count: Array


class FlowTraining(eqx.Module):
    r"""One step per transition on $-\log q$ of points that the chains visited lately.

    The first quarter of the warm-up only collects points, and then shifts and scales the flow
    to their means and standard deviations. Points of the newer half of those seen so far count.
    """

    learning_rate: float = eqx.field(static=True)

    def begin(self, flow: Flow, num_warmup: int) -> Training:
        flow = strongly_typed(flow)
        params, _ = partition_trainable(flow.arrays)
        opt_state = self._optim(num_warmup).init(params)
        points = jnp.zeros((_MOST, len(flow.loc)), flow.loc.dtype)
        return Training(flow, opt_state, points, jnp.zeros((), int))

    def learn(
        self, i: Array, at: Training, points: Float[Array, "chain d"], num_warmup: int
    ) -> Training:
        """`at` after the chains have come to `points`."""
        points = points[:_MOST]
        rows = (at.count + jnp.arange(len(points))) % _MOST
        at = at._replace(points=at.points.at[rows].set(points), count=at.count + len(points))
        start = num_warmup // 4
        # Which points are taken needs no randomness of its own.
        rng_key = jr.fold_in(jr.key(0), i)
        at = cond(i == start, lambda: self._scaled(rng_key, at), lambda: at)
        return cond(i >= start, lambda: self._step(rng_key, at, num_warmup), lambda: at)

    def _optim(self, num_warmup: int) -> Any:
        return decaying_adam(max(1, num_warmup - num_warmup // 4), self.learning_rate)

    def _scaled(self, rng_key: Key, at: Training) -> Training:
        """The flow's own draws moved and scaled to the points: nothing, if it fits already."""
        draws, points = at.flow.draw(rng_key, _BATCH), _recent(rng_key, at, _MOST)
        ratio = points.std(0) / draws.std(0)
        ratio = jnp.where((ratio > 0) & jnp.isfinite(ratio), ratio, 1)
        loc = points.mean(0) + ratio * (at.flow.loc - draws.mean(0))
        ends = loc, ratio * at.flow.scale
        flow = eqx.tree_at(lambda flow: (flow.loc, flow.scale), at.flow, ends)
        return at._replace(flow=flow)

    def _step(self, rng_key: Key, at: Training, num_warmup: int) -> Training:
        params, fixed = partition_trainable(at.flow.arrays)
        batch = _recent(rng_key, at, _BATCH)

        def loss(params: PyTree) -> Scalar:
            arrays = eqx.combine(params, fixed)
            flow = eqx.tree_at(lambda flow: flow.arrays, at.flow, arrays)
            return jax.vmap(flow)(batch).mean()

        grads = jax.grad(loss)(params)
        updates, opt_state = self._optim(num_warmup).update(grads, at.opt_state, params)
        stepped = jax.tree.map(jnp.add, params, updates)
        flow = eqx.tree_at(lambda flow: flow.arrays, at.flow, eqx.combine(stepped, fixed))
        new = at._replace(flow=flow, opt_state=opt_state)
        finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(updates)]).all()
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, at)


def _recent(rng_key: Key, at: Training, num: int) -> Float[Array, "n d"]:
    """Points drawn from the newer half of those seen so far."""
    newest = jnp.clip((at.count + 1) // 2, 1, _MOST)
    age = jr.randint(rng_key, (num,), 1, newest + 1)
    return at.points[(at.count - age) % _MOST]


#: Points that are kept, and those of one step.
_MOST, _BATCH = 4096, 256


class JumpAdaptState(NamedTuple):
    """The adaptation of the inner kernel, of the share of jumps, and the flow if it trains."""

    inner: Any
    share: Share | None
    training: Training | None

    @property
    def step_size(self) -> Array:
        return self.inner.step_size

    @property
    def inverse_mass_matrix(self) -> Array:
        return self.inner.inverse_mass_matrix

    @property
    def schedule(self) -> Array:
        return self.inner.schedule


class JumpAdaptation(AbstractWrappedAdaptation):
    """Adapts the inner move as its kernel would, the share of jumps, and the flow."""

    inner: AbstractAdaptation
    adapt_share: bool = eqx.field(static=True)
    training: FlowTraining | None
    travel: JumpMove | None

    def init(self, move: JumpMove, position: Point, num_warmup: int) -> JumpAdaptState:
        inner = self.inner.init(move.inner, position, num_warmup)
        share = begin_share(move.share) if self.adapt_share else None
        begun = None if self.training is None else self.training.begin(move.flow, num_warmup)
        return JumpAdaptState(inner, share, begun)

    def tune(self, move: JumpMove, state: JumpAdaptState) -> JumpMove:
        inner = self.inner.tune(move.inner, state.inner)
        flow = move.flow if state.training is None else state.training.flow
        share = move.share if state.share is None else state.share.value
        return JumpMove(inner, flow, share, move.num_jumps)

    def update(
        self, i: Array, state: JumpAdaptState, positions: Point, reports: Report
    ) -> JumpAdaptState:
        tuning, *facts = jnp.moveaxis(reports.tuning, -1, 0)
        reports = reports._replace(tuning=tuning)
        inner = self.inner.update(i, state.inner, positions, reports)
        state, num_warmup = state._replace(inner=inner), len(state.schedule)
        if num_warmup == 0:
            return state
        if state.share is not None:
            share = learn_share(i, state.share, facts, num_warmup)
            state = state._replace(share=share)
        return state._replace(training=self._train(i, state, positions))

    def _train(self, i: Array, state: JumpAdaptState, positions: Point) -> Training | None:
        trainer, so_far, num_warmup = self.training, state.training, len(state.schedule)
        if trainer is None or so_far is None:
            return None
        flat = jax.vmap(lambda x: ravel_pytree(x)[0])(positions)
        return cond(
            i < num_warmup,
            lambda: trainer.learn(i, so_far, flat, num_warmup),
            lambda: so_far,
        )
