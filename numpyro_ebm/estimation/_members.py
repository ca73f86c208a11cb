"""Many energies trained at once, as one compiled program."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_count
from .._driver import Progress, drive
from .._types import Array, Float, PyTree
from ._batches import Rows, as_batch_size, as_weighted, num_rows
from ._estimator import Estimator
from ._state import EstimatorState
from ._steps import MAX_FUSED, Rule, step


def train_members(
    estimator: Estimator,
    states: list[EstimatorState],
    num_steps: int,
    data: PyTree,
    weights: Float[Array, "member n"] | None,
    batch_size: int | None,
    *,
    progress_bar: bool,
) -> tuple[Any, dict[str, np.ndarray]]:
    """The energy of each member, stacked, and the loss and metrics of each step and member.

    Each member is what `Estimator.run` makes of its state and its row of `weights`.
    """
    check_count("num_steps", num_steps)
    data, _ = as_weighted(data, None)
    batch_size = as_batch_size(batch_size, num_rows(data))
    arrays = [eqx.filter(state, eqx.is_array) for state in states]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *arrays)
    static = eqx.filter(states[0], eqx.is_array, inverse=True)
    # Sorted anew in the first step of each epoch.
    order = None if batch_size is None else jnp.zeros((len(states), num_rows(data)), int)
    rule, done, history = estimator._rule, 0, []

    def call(length: int) -> Progress:
        nonlocal stacked, order, done
        length = min(length, MAX_FUSED)
        count, stacked, order, record, is_finite = _advance(
            rule, static, stacked, data, weights, batch_size, order, jnp.asarray(length)
        )
        done += int(count)
        check_finite_step(is_finite, done, "member", _REMEDY)
        history.append(jax.tree.map(lambda x: np.asarray(x)[:length], record))
        return Progress(length, f"loss {history[-1]['loss'][-1].mean():.4g}")

    drive(call, num_steps, progress_bar=progress_bar, resume=None)
    energies = eqx.filter_vmap(estimator.get_energy)(eqx.combine(stacked, static))
    return energies, jax.tree.map(lambda *parts: np.concatenate(parts), *history)


def check_finite_step(is_finite: Array, step: int, name: str, remedy: str) -> None:
    """Raise if the last of `step` steps is not finite in some member or chain, by `name`."""
    if not is_finite.all():
        where = ", ".join(map(str, np.flatnonzero(~np.asarray(is_finite))))
        raise FloatingPointError(f"Step {step - 1} is not finite in {name} {where}. {remedy}")


_REMEDY = "Use a smaller learning rate, or `optax.clip_by_global_norm`."


@eqx.filter_jit
def _advance(
    rule: Rule,
    static: PyTree,
    arrays: PyTree,
    data: PyTree,
    weights: Float[Array, "member n"] | None,
    batch_size: int | None,
    order: Array | None,
    length: Array,
) -> tuple[Array, PyTree, Array | None, dict[str, Array], Array]:
    """Up to `length` steps of all members, fewer if one is not finite in some member."""

    def rows(weights: Array | None) -> Rows:
        return Rows(data, weights, batch_size)

    def new_order(arrays: PyTree) -> Array | None:
        return jax.vmap(lambda one: rows(None).order(eqx.combine(one, static)))(arrays)

    def one(arrays: PyTree, order: Any, weights: Any) -> tuple[PyTree, dict[str, Array], Array]:
        state = eqx.combine(arrays, static)
        state, loss, metrics, is_finite = step(rule, state, *rows(weights).batch(state, order))
        return eqx.filter(state, eqx.is_array), {"loss": loss, **metrics}, is_finite

    each = jax.vmap(one)
    _, record, _ = jax.eval_shape(each, arrays, order, weights)
    history = jax.tree.map(lambda x: jnp.zeros((MAX_FUSED, *x.shape), x.dtype), record)

    def goes_on(carry: tuple) -> Array:
        count, *_, is_finite = carry
        return (count < length) & is_finite.all()

    def body(carry: tuple) -> tuple:
        count, arrays, order, history, _ = carry
        if batch_size is not None:
            # All members are at the same step, so sorting needs no `select`.
            is_new = arrays.step[0] % (num_rows(data) // batch_size) == 0
            order = jax.lax.cond(is_new, new_order, lambda _: order, arrays)
        arrays, record, is_finite = each(arrays, order, weights)
        history = jax.tree.map(lambda h, r: h.at[count].set(r), history, record)
        return count + 1, arrays, order, history, is_finite

    num_members = len(arrays.step)
    start = (jnp.zeros((), int), arrays, order, history, jnp.ones(num_members, bool))
    return jax.lax.while_loop(goes_on, body, start)
