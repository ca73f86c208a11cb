"""One step of optax on an objective, and many in one compiled call."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._trainable import partition_trainable, unfreeze
from .._types import Array, PyTree, Scalar
from .._values import ByValue
from ..objectives import AbstractObjective, Batch
from ._batches import Rows, Stack
from ._state import EstimatorState

#: The most steps in one compiled call: the length of the buffer for their losses.
MAX_FUSED = 1000


class Rule(NamedTuple):
    """What defines one step."""

    objective: AbstractObjective
    optim: ByValue
    ema_decay: float | None


def loss_and_grads(
    objective: AbstractObjective,
    state: EstimatorState,
    batch: Batch,
    weights: Array | None,
) -> tuple[tuple[Scalar, Any], PyTree]:
    params, rest = partition_trainable(state.trainable)
    loss_key = state.fold_in(2 * state.step)

    def loss_fn(params: PyTree) -> tuple[Scalar, Any]:
        trainable = unfreeze(eqx.combine(params, rest))
        return objective.loss(loss_key, trainable, state.objective_state, batch, weights)

    return eqx.filter_value_and_grad(loss_fn, has_aux=True)(params)


def step(
    rule: Rule, state: EstimatorState, batch: Batch, weights: Array | None
) -> tuple[EstimatorState, Scalar, dict[str, Array], Array]:
    """The next state, loss, metrics, and whether loss and update are finite."""
    (loss, (objective_state, metrics)), grads = loss_and_grads(
        rule.objective, state, batch, weights
    )
    params, rest = partition_trainable(state.trainable)
    updates, opt_state = rule.optim.value.update(grads, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    average = state.average
    if rule.ema_decay is not None:
        # A plain average over the first steps, to forget the start.
        decay = jnp.minimum(rule.ema_decay, state.step / (state.step + 1))
        average = optax.incremental_update(params, average, 1 - decay)
    new_state = EstimatorState(
        step=state.step + 1,
        trainable=eqx.combine(params, rest),
        average=average,
        opt_state=opt_state,
        objective_state=objective_state,
        key_data=state.key_data,
        key_impl=state.key_impl,
        is_bare=state.is_bare,
    )
    return new_state, loss, metrics, _all_finite((loss, updates))


def best_of(state: EstimatorState) -> EstimatorState:
    """The best state that early stopping has seen, or `state` itself if there is none."""
    if state.best is None:
        return state
    bare = eqx.tree_at(lambda s: s.best, state, None)
    is_seen = jnp.isfinite(state.best.loss)
    arrays, static = eqx.partition(bare, eqx.is_array)
    best = eqx.filter(state.best.state, eqx.is_array)
    chosen = jax.tree.map(lambda b, x: jnp.where(is_seen, b, x), best, arrays)
    return eqx.combine(chosen, static)


def learned(state: EstimatorState) -> PyTree:
    if state.average is None:
        return state.trainable
    _, rest = partition_trainable(state.trainable)
    return eqx.combine(state.average, rest)


@eqx.filter_jit
def compiled_update(
    rule: Rule, state: EstimatorState, batch: Batch, weights: Array | None
) -> tuple[EstimatorState, Scalar, dict[str, Array]]:
    return step(rule, state, batch, weights)[:3]


@eqx.filter_jit
def compiled_stable_update(
    rule: Rule, state: EstimatorState, batch: Batch, weights: Array | None
) -> tuple[EstimatorState, Scalar]:
    new_state, loss, _, is_finite = step(rule, state, batch, weights)
    arrays, static = eqx.partition(new_state, eqx.is_array)
    old = eqx.filter(state, eqx.is_array)
    kept = jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), arrays, old)
    return eqx.combine(kept, static), loss


@eqx.filter_jit
def compiled_evaluate(
    objective: AbstractObjective,
    state: EstimatorState,
    data: Batch,
    weights: Array | None,
) -> Scalar:
    key = state.fold_in(2 * state.step)
    state = best_of(state)
    trainable = unfreeze(learned(state))
    return objective.loss(key, trainable, state.objective_state, data, weights)[0]


@eqx.filter_jit
def first_order(state: EstimatorState, source: Any) -> Any:
    return source.first_order(state)


@eqx.filter_jit
def fused_steps(
    rule: Rule, state: EstimatorState, source: Rows | Stack, order: Any, length: Array
) -> tuple[EstimatorState, Any, Array, Array, dict[str, Array]]:
    """Up to `length` steps, fewer if one is not finite: that one is undone.

    `length` is an array, so calls of any length share one compiled loop. The order of the rows
    is passed from call to call, because sorting them again costs as much as many steps.
    """
    arrays, static = eqx.partition(state, eqx.is_array)

    def body_step(arrays: PyTree, order: Any) -> tuple[PyTree, tuple, Array]:
        state = eqx.combine(arrays, static)
        batch, weights = source.batch(state, order)
        state, *record, is_finite = step(rule, state, batch, weights)
        return eqx.filter(state, eqx.is_array), tuple(record), is_finite

    _, record, _ = jax.eval_shape(body_step, arrays, order)
    history = jax.tree.map(lambda x: jnp.zeros((MAX_FUSED, *x.shape), x.dtype), record)

    def keep_going(carry: tuple) -> Array:
        count, _, _, _, is_finite = carry
        return (count < length) & is_finite

    def body(carry: tuple) -> tuple:
        count, arrays, order, history, _ = carry
        order = source.next_order(eqx.combine(arrays, static), order)
        new_arrays, record, is_finite = body_step(arrays, order)
        arrays = jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new_arrays, arrays)
        history = jax.tree.map(lambda h, r: h.at[count].set(r), history, record)
        return count + is_finite, arrays, order, history, is_finite

    carry = (jnp.zeros((), int), arrays, order, history, jnp.array(True))
    count, arrays, order, history, _ = jax.lax.while_loop(keep_going, body, carry)
    return eqx.combine(arrays, static), order, count, *history


def _all_finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def show_optimiser(update: Callable[..., Any]) -> str:
    """The names of the optax functions that made an optimiser, which holds only functions."""
    name = getattr(update, "__qualname__", type(update).__name__).split(".")[0]
    inside = inspect.getclosurevars(update).nonlocals if inspect.isfunction(update) else {}
    if "tx" in inside:  # Optax wraps those that take no extra arguments.
        return show_optimiser(inside["tx"].update)
    links = inside.get("update_fns")
    return f"{name}({', '.join(map(show_optimiser, links))})" if links else name
