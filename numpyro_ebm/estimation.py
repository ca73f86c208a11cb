"""`Estimator`: optax drives an objective."""

import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from tqdm.auto import tqdm

from ._checks import as_data
from ._trainable import partition_trainable, unfreeze
from ._types import Array, Float, Key, PyTree, Scalar
from .energies import as_energy, check_energy
from .objectives import AbstractObjective

#: The most steps in one compiled call: the length of the buffer for their losses.
_MAX_FUSED = 1000
#: Seconds that one compiled call should take: the bar moves, and an interrupt gets through.
_SECONDS_A_CALL = 0.25

#: Data, weights and batch size.
_Batches: TypeAlias = tuple[Array, Array | None, int | None]


class EstimatorState(eqx.Module):
    """Everything a run needs to go on, as arrays that `eqx.tree_serialise_leaves` can write.

    - **step**: the number of steps made.
    - **trainable**: what the objective trains, frozen parts included.
    - **opt_state**: optax's state.
    - **objective_state**: what the objective carries.
    - **key_data**, **key_impl**: the key that every step folds its number into.
    """

    step: Array
    trainable: PyTree
    opt_state: PyTree
    objective_state: PyTree
    key_data: Array
    key_impl: str = eqx.field(static=True)

    def fold_in(self, number: Array) -> Key:
        return jr.fold_in(jr.wrap_key_data(self.key_data, impl=self.key_impl), number)


class EstimatorRunResult(NamedTuple):
    """What [`Estimator.run`][numpyro_ebm.Estimator.run] returns.

    - **energy**: what was learned.
    - **losses**: the loss of each step of this run.
    - **metrics**: whatever else the objective reports, one value a step.
    - **state**: goes on with `run(..., init_state=result.state)`.
    """

    energy: Any
    losses: Float[np.ndarray, " num_steps"]
    metrics: dict[str, np.ndarray]
    state: EstimatorState


class NonFiniteError(FloatingPointError):
    """Training met a NaN or an infinity; `result` holds the run up to the step before."""

    def __init__(self, message: str, result: EstimatorRunResult) -> None:
        super().__init__(message)
        self.result = result


class Estimator:
    """Fits an energy to data, in the manner of `numpyro.infer.SVI`.

    ```python
    estimator = ebm.Estimator(ebm.DenoisingScoreMatching(0.1), optax.adam(1e-3))
    result = estimator.run(jax.random.key(0), 2000, energy, data, batch_size=256)
    result.energy
    ```

    Trained are the energy's floating-point arrays that nothing
    [`freeze`][numpyro_ebm.freeze]s. Runs with the same estimator, shapes and batch size share
    one compilation, whatever their length.

    **Arguments**

    - `objective`: what to minimise, such as
      [`DenoisingScoreMatching`][numpyro_ebm.DenoisingScoreMatching].
    - `optim`: an optax `GradientTransformation`.
    """

    def __init__(
        self, objective: AbstractObjective, optim: optax.GradientTransformation
    ) -> None:
        if not isinstance(objective, AbstractObjective):
            raise TypeError(
                "`objective` must be an objective such as "
                f"`ebm.DenoisingScoreMatching(0.1)`, got {type(objective).__name__}."
            )
        if not hasattr(optim, "update"):
            raise TypeError(
                "`optim` must be an optax optimiser such as `optax.adam(1e-3)`, got "
                f"{type(optim).__name__}."
            )
        self.objective = objective
        self.optim = optim

    def init(self, rng_key: Key, energy: Any, data: Array) -> EstimatorState:
        """The state before the first step."""
        energy, data = as_energy(energy), as_data(data)
        check_energy(energy, data.shape[1:])
        init_key, run_key = jr.split(rng_key)
        trainable, objective_state = self.objective.init(init_key, energy, data)
        params, _ = partition_trainable(trainable)
        if not jax.tree.leaves(params):
            raise ValueError(
                "`energy` has nothing to train: no floating-point array, or all frozen. Undo "
                "that with `ebm.unfreeze(energy)`."
            )
        return EstimatorState(
            step=jnp.zeros((), int),
            trainable=trainable,
            opt_state=self.optim.init(params),
            objective_state=objective_state,
            key_data=jr.key_data(run_key),
            key_impl=str(jr.key_impl(run_key)),
        )

    def update(
        self, state: EstimatorState, batch: Array, weights: Array | None = None
    ) -> tuple[EstimatorState, Scalar]:
        """One step on one batch: the next state, and the loss before the step."""
        new_state, loss, _ = _update(self.objective, self.optim, state, batch, weights)
        return new_state, loss

    def evaluate(
        self, state: EstimatorState, data: Array, weights: Array | None = None
    ) -> Scalar:
        """The loss on `data`, without a step."""
        data, weights = as_data(data), _as_weights(weights, data)
        return _evaluate(self.objective, state, data, weights)

    def get_energy(self, state: EstimatorState) -> Any:
        """What has been learned so far."""
        return self.objective.finalize(state.trainable, state.objective_state)

    def run(
        self,
        rng_key: Key,
        num_steps: int,
        energy: Any,
        data: Float[Array, "n *event"],
        *,
        weights: Float[Array, " n"] | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
        init_state: EstimatorState | None = None,
    ) -> EstimatorRunResult:
        """Make `num_steps` steps.

        **Arguments**

        - `rng_key`: seeds initialisation, batches and the objective's own draws.
        - `num_steps`: the number of optimiser steps.
        - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
        - `data`: one point a row; cast to JAX's default float type.
        - `weights`: the weight of each row; scaled to average one.
        - `batch_size`: rows a step. Batches go through the data in a new random order each
          epoch; without a batch size every step sees all of it.
        - `progress_bar`: whether to show one.
        - `init_state`: the state of an earlier run to go on from, bit for bit as if it had
          never stopped; `rng_key` and `energy` are then those of that run.

        **Raises** [`NonFiniteError`][numpyro_ebm.NonFiniteError] at the first step whose loss
        or update isn't finite; its `result` is the run up to there. An interrupt
        (`KeyboardInterrupt`) warns and returns the run so far.
        """
        data = as_data(data)
        weights = _as_weights(weights, data)
        batch_size = _as_batch_size(batch_size, len(data))
        if num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1, got {num_steps}.")
        state = self.init(rng_key, energy, data) if init_state is None else init_state
        history: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        batches: _Batches = (data, weights, batch_size)
        with tqdm(total=num_steps, disable=not progress_bar) as bar:
            try:
                for call in self._calls(state, num_steps, batches):
                    state, losses, metrics = call
                    history.append((losses, metrics))
                    bar.set_postfix_str(f"loss {losses[-1]:.4g}", refresh=False)
                    bar.update(len(losses))
            except _NonFiniteStepError as stop:
                result = self._result(stop.state, [*history, stop.history])
                raise NonFiniteError(self._diagnose(stop.state, batches), result) from None
            except KeyboardInterrupt:
                warnings.warn(
                    f"Interrupted at step {int(state.step)} and returning the run so far; go "
                    "on with `run(..., init_state=result.state)`.",
                    stacklevel=2,
                )
        return self._result(state, history)

    def _calls(self, state: EstimatorState, num_steps: int, batches: _Batches) -> Iterator:
        """Compiled calls of many steps each, of a length that suits the progress bar."""
        left, length = num_steps, 1
        while left:
            start = time.perf_counter()
            length = min(length, left, _MAX_FUSED)
            state, count, losses, metrics = _fused(
                self.objective, self.optim, state, *batches, jnp.asarray(length)
            )
            count = int(count)
            history = (np.asarray(losses)[:count], _heads(metrics, count))
            if count < length:
                raise _NonFiniteStepError(state, history)
            yield state, *history
            left -= count
            if time.perf_counter() - start < _SECONDS_A_CALL:
                length *= 2

    def _result(self, state: EstimatorState, history: list) -> EstimatorRunResult:
        losses, metrics = zip(*(history or [(np.zeros(0), {})]), strict=True)
        return EstimatorRunResult(
            energy=self.get_energy(state),
            losses=np.concatenate(losses),
            metrics=jax.tree.map(lambda *parts: np.concatenate(parts), *metrics),
            state=state,
        )

    def _diagnose(self, state: EstimatorState, batches: _Batches) -> str:
        """Say where the step that `state` could not make went wrong."""
        data, weights, batch_size = batches
        order = _order(state, len(data), batch_size)
        batch, batch_weights = _batch(state, data, weights, order, batch_size)
        (loss, _), grads = _loss_and_grads(self.objective, state, batch, batch_weights)
        bad = [
            jax.tree_util.keystr(path)
            for path, grad in jax.tree_util.tree_leaves_with_path(grads)
            if not np.isfinite(grad).all()
        ]
        where = f"the gradient of {', '.join(bad)}" if bad else "the optimiser's update"
        if not np.isfinite(loss):
            where = f"the loss ({float(loss)})" + (f" and {where}" if bad else "")
        return (
            f"Step {int(state.step)} is not finite in {where}. The error's `result` holds the "
            "last good state; go on from it with a smaller learning rate, or look at what "
            "grows in `result.energy`."
        )


class _NonFiniteStepError(Exception):
    """The step after `state` isn't finite; `history` is what the call did before it."""

    def __init__(self, state: EstimatorState, history: tuple) -> None:
        self.state = state
        self.history = history


def _loss_and_grads(
    objective: AbstractObjective,
    state: EstimatorState,
    batch: Array,
    weights: Array | None,
) -> tuple[tuple[Scalar, Any], PyTree]:
    params, rest = partition_trainable(state.trainable)
    loss_key = state.fold_in(2 * state.step)

    def loss_fn(params: PyTree) -> tuple[Scalar, Any]:
        trainable = unfreeze(eqx.combine(params, rest))
        return objective.loss(loss_key, trainable, state.objective_state, batch, weights)

    return eqx.filter_value_and_grad(loss_fn, has_aux=True)(params)


def _step(
    objective: AbstractObjective,
    optim: optax.GradientTransformation,
    state: EstimatorState,
    batch: Array,
    weights: Array | None,
) -> tuple[EstimatorState, Scalar, dict[str, Scalar], Array]:
    """The next state, loss, metrics, and whether loss and update are finite."""
    (loss, (objective_state, metrics)), grads = _loss_and_grads(
        objective, state, batch, weights
    )
    params, rest = partition_trainable(state.trainable)
    updates, opt_state = optim.update(grads, state.opt_state, params)
    new_state = EstimatorState(
        step=state.step + 1,
        trainable=eqx.combine(optax.apply_updates(params, updates), rest),
        opt_state=opt_state,
        objective_state=objective_state,
        key_data=state.key_data,
        key_impl=state.key_impl,
    )
    return new_state, loss, metrics, _all_finite((loss, updates))


@eqx.filter_jit
def _update(
    objective: AbstractObjective,
    optim: optax.GradientTransformation,
    state: EstimatorState,
    batch: Array,
    weights: Array | None,
) -> tuple[EstimatorState, Scalar, dict[str, Scalar]]:
    return _step(objective, optim, state, batch, weights)[:3]


@eqx.filter_jit
def _evaluate(
    objective: AbstractObjective,
    state: EstimatorState,
    data: Array,
    weights: Array | None,
) -> Scalar:
    key = state.fold_in(2 * state.step)
    trainable = unfreeze(state.trainable)
    return objective.loss(key, trainable, state.objective_state, data, weights)[0]


@eqx.filter_jit
def _fused(
    objective: AbstractObjective,
    optim: optax.GradientTransformation,
    state: EstimatorState,
    data: Array,
    weights: Array | None,
    batch_size: int | None,
    length: Array,
) -> tuple[EstimatorState, Array, Array, dict[str, Array]]:
    """Up to `length` steps, fewer if one isn't finite: that one is undone.

    `length` is an array, so that a call of any length is the same compiled loop.
    """
    arrays, static = eqx.partition(state, eqx.is_array)

    def step(arrays: PyTree, order: Array | None) -> tuple[PyTree, tuple, Array]:
        state = eqx.combine(arrays, static)
        batch, batch_weights = _batch(state, data, weights, order, batch_size)
        state, *record, is_finite = _step(objective, optim, state, batch, batch_weights)
        return eqx.filter(state, eqx.is_array), tuple(record), is_finite

    order = _order(state, len(data), batch_size)
    _, record, _ = jax.eval_shape(step, arrays, order)
    history = jax.tree.map(lambda x: jnp.zeros((_MAX_FUSED, *x.shape), x.dtype), record)

    def keep_going(carry: tuple) -> Array:
        count, _, _, _, is_finite = carry
        return (count < length) & is_finite

    def body(carry: tuple) -> tuple:
        count, arrays, order, history, _ = carry
        order = _next_order(eqx.combine(arrays, static), order, batch_size)
        new_arrays, record, is_finite = step(arrays, order)
        arrays = jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new_arrays, arrays)
        history = jax.tree.map(lambda h, r: h.at[count].set(r), history, record)
        return count + is_finite, arrays, order, history, is_finite

    carry = (jnp.zeros((), int), arrays, order, history, jnp.array(True))
    count, arrays, _, history, _ = jax.lax.while_loop(keep_going, body, carry)
    return eqx.combine(arrays, static), count, *history


def _order(state: EstimatorState, size: int, batch_size: int | None) -> Array | None:
    """The order in which the current epoch goes through the data."""
    if batch_size is None:
        return None
    epoch = state.step // (size // batch_size)
    # One sort of random words, where `jr.permutation` makes two: sorting is slow on CPU.
    return jnp.argsort(jr.bits(state.fold_in(2 * epoch + 1), (size,)))


def _next_order(
    state: EstimatorState, order: Array | None, batch_size: int | None
) -> Array | None:
    if order is None or batch_size is None:
        return None
    is_new_epoch = state.step % (len(order) // batch_size) == 0
    return jax.lax.cond(
        is_new_epoch, lambda: _order(state, len(order), batch_size), lambda: order
    )


def _batch(
    state: EstimatorState,
    data: Array,
    weights: Array | None,
    order: Array | None,
    batch_size: int | None,
) -> tuple[Array, Array | None]:
    if order is None or batch_size is None:
        return data, weights
    start = state.step % (len(data) // batch_size) * batch_size
    rows = jax.lax.dynamic_slice_in_dim(order, start, batch_size)
    return data[rows], None if weights is None else weights[rows]


def _all_finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def _heads(metrics: dict[str, Array], count: int) -> dict[str, np.ndarray]:
    return jax.tree.map(lambda x: np.asarray(x)[:count], metrics)


def _as_weights(weights: Any, data: Array) -> Array | None:
    if weights is None:
        return None
    weights = jnp.asarray(weights, jnp.result_type(float))
    if weights.shape != data.shape[:1]:
        raise ValueError(
            f"`weights` must have shape {data.shape[:1]}, one weight a row of `data`, got "
            f"{weights.shape}."
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError("`weights` must be finite, not negative, and not all zero.")
    return weights / weights.mean()


def _as_batch_size(batch_size: int | None, size: int) -> int | None:
    if batch_size is None:
        return None
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"`batch_size` must lie between 1 and the {size} points of `data`, got "
            f"{batch_size}. Leave it out to use all of them in every step."
        )
    return batch_size
