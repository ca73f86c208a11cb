"""`Estimator`: optax drives an objective."""

import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Sharding
from tqdm.auto import tqdm

from .._checks import check_count, check_key, check_probability, user_level
from .._interrupts import delayed_interrupt
from .._trainable import partition_trainable
from .._types import Array, Float, Key, PyTree, Scalar
from .._values import ByValue
from ..energies import (
    FunctionEnergy,
    as_energy,
    check_energy,
    check_points,
    forget_constants,
    is_conditional,
)
from ..objectives import AbstractObjective, Batch, as_batch
from ._batches import (
    Batches,
    Rows,
    Stack,
    as_batch_size,
    as_float_batch,
    as_weighted,
    hold_out,
    next_source,
    num_rows,
)
from ._state import EstimatorState
from ._steps import (
    MAX_FUSED,
    Rule,
    best_of,
    compiled_evaluate,
    compiled_stable_update,
    compiled_update,
    first_order,
    fused_steps,
    learned,
    loss_and_grads,
)
from ._watching import Checkpoint, EarlyStopping, Watch, prepared, with_best

#: Seconds that one compiled call should take: the bar moves, and an interrupt gets through.
_SECONDS_A_CALL = 0.25


class EstimatorRunResult(NamedTuple):
    """What [`Estimator.run`][numpyro_ebm.Estimator.run] returns.

    - **energy**: what was learned.
    - **losses**: the loss of each step of this run.
    - **metrics**: whatever else the objective reports, one value a step.
    - **state**: where the run stands; it goes on with `run(..., init_state=result.state)`.
    - **validation_losses**: with [`EarlyStopping`][numpyro_ebm.EarlyStopping], those of this
      run's evaluations; `energy` is then the best one, and `state` remembers it.
    """

    energy: Any
    losses: Float[np.ndarray, " num_steps"]
    metrics: dict[str, np.ndarray]
    state: EstimatorState
    validation_losses: Float[np.ndarray, " n"] = np.zeros(0)


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
    - `optim`: an optax `GradientTransformation`: a schedule goes in as its learning rate,
      `optax.MultiSteps(optim, k).gradient_transformation()` accumulates gradients.
    - `ema_decay`: learn the moving average of the parameters of all steps, with this weight on
      the past, instead of those of the last step.
    """

    def __init__(
        self,
        objective: AbstractObjective,
        optim: optax.GradientTransformation,
        *,
        ema_decay: float | None = None,
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
        if ema_decay is not None:
            check_probability("ema_decay", ema_decay)
        self.objective = objective
        self.optim = optim
        self.ema_decay = ema_decay
        self._rule = Rule(objective, ByValue(optim), ema_decay)

    def init(self, rng_key: Key, energy: Any, data: PyTree) -> EstimatorState:
        """The state before the first step; `data`, or a batch of it, as in `run`."""
        learnable, batch = _as_learnable(energy), as_float_batch(data)
        is_bare = learnable is not energy
        # A constant that is known now will not be that of what is learned.
        energy = forget_constants(learnable)
        _check_shapes(energy, batch)
        init_key, run_key = jr.split(rng_key)
        trainable, objective_state = self.objective.init(init_key, energy, batch)
        params, _ = partition_trainable(trainable)
        if not jax.tree.leaves(params):
            raise ValueError(
                "`energy` has nothing to train: no floating-point array, or all frozen. Undo "
                "that with `ebm.unfreeze(energy)`."
            )
        return EstimatorState(
            step=jnp.zeros((), int),
            trainable=trainable,
            average=None if self.ema_decay is None else params,
            opt_state=self.optim.init(params),
            objective_state=objective_state,
            key_data=jr.key_data(run_key),
            key_impl=str(jr.key_impl(run_key)),
            is_bare=is_bare,
        )

    def update(
        self, state: EstimatorState, batch: PyTree, weights: Array | None = None
    ) -> tuple[EstimatorState, Scalar]:
        """One step on one batch: the next state, and the loss before the step.

        `weights` are scaled to average one, as in `run`.
        """
        batch, weights = _weighted(batch, weights)
        new_state, loss, _ = compiled_update(self._rule, state, batch, weights)
        return new_state, loss

    def stable_update(
        self, state: EstimatorState, batch: PyTree, weights: Array | None = None
    ) -> tuple[EstimatorState, Scalar]:
        """Like `update`, but a step that is not finite leaves the state as it is."""
        batch, weights = _weighted(batch, weights)
        return compiled_stable_update(self._rule, state, batch, weights)

    def evaluate(
        self, state: EstimatorState, data: PyTree, weights: Array | None = None
    ) -> Scalar:
        """The loss on `data`, without a step."""
        data, weights = as_weighted(data, weights)
        return compiled_evaluate(self.objective, state, data, weights)

    def get_energy(self, state: EstimatorState) -> Any:
        """What has been learned so far."""
        state = best_of(state)
        energy = self.objective.finalize(learned(state), state.objective_state)
        return _as_given(energy, state)

    def run(
        self,
        rng_key: Key,
        num_steps: int,
        energy: Any,
        data: PyTree | Iterator[PyTree],
        *,
        weights: Float[Array, " n"] | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
        early_stopping: EarlyStopping | None = None,
        callback: Callable[[EstimatorState, np.ndarray], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        sharding: Sharding | None = None,
        init_state: EstimatorState | None = None,
    ) -> EstimatorRunResult:
        """Make `num_steps` steps.

        **Arguments**

        - `rng_key`: seeds initialisation, batches and the objective's own draws.
        - `num_steps`: the number of optimiser steps.
        - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes, or a
          [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy]; a network comes back as one.
        - `data`: one point per row; cast to JAX's default float type. Of a conditional energy
          a tuple `(y, x)` of points and their conditions. Or an iterator of batches, one a
          step, whose sizes may differ; the run ends where it does.
        - `weights`: the weight of each row, or a mask; scaled to average one. What stands in
          rows of weight zero does not matter.
        - `batch_size`: rows a step. Batches go through the data in a new random order each
          epoch; without a batch size every step sees all of it.
        - `progress_bar`: whether to show one.
        - `early_stopping`: hold points out, and stop when their loss no longer falls.
        - `callback`: called several times a second, between compiled calls, with the state and
          the losses since the last time; to stop the run, return True.
        - `checkpoint`: a file that is written every ten seconds and at the end, atomically. If
          it exists, the run goes on from there, to `num_steps` steps in all, as if it had never
          stopped; its losses are those since then. Pass the same arguments again, an iterator
          from its beginning: a file of another objective, optimiser, energy, data or key is
          refused. `ebm.load(path, like=state)` reads the state in it.
        - `sharding`: how the rows of a batch are laid out over devices.
        - `init_state`: the state of an earlier run to go on from, bit for bit as if it had
          never stopped; `rng_key` and `energy` are then those of that run.

        **Raises** [`NonFiniteError`][numpyro_ebm.NonFiniteError] at the first step whose loss
        or update isn't finite; its `result` is the run up to there. An interrupt (Ctrl-C)
        warns and returns the run so far.
        """
        check_key(rng_key)
        check_count("num_steps", num_steps)
        first, batches = self._batches(data, weights, batch_size, sharding)
        state = self.init(rng_key, energy, first) if init_state is None else init_state
        held_out = None
        if early_stopping is not None:
            batches, held_out = hold_out(batches, early_stopping.fraction, state)
        state, saved = prepared(state, early_stopping), None
        if checkpoint is not None:
            arguments = {
                "energy": _structure(energy),
                "data": first,
                "weights": None if weights is None else np.asarray(weights),
                "batch_size": batch_size,
                "early_stopping": early_stopping,
            }
            saved = self._checkpoint(Path(checkpoint), state, arguments)
            state = saved.load()
            num_steps -= int(state.step)
            if isinstance(batches, Batches):  # Those that the steps so far have seen.
                batches.skip(int(state.step))
        watch = Watch(self.objective, early_stopping, held_out, state)
        num_steps = 0 if watch.has_ended else num_steps
        state = with_best(state, None)
        history: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        bar = tqdm(total=max(num_steps, 0), disable=not progress_bar)
        with bar, delayed_interrupt() as interrupted:
            try:
                for call in self._calls(state, num_steps, batches, watch.every):
                    state, losses, metrics = call
                    history.append((losses, metrics))
                    watch.see(state)
                    bar.set_postfix_str(_postfix(losses, metrics), refresh=False)
                    bar.update(len(losses))
                    if saved is not None:
                        saved.save(watch.attach(state), is_due=False)
                    stops = callback is not None and bool(callback(state, losses))
                    if watch.has_ended or stops or interrupted():
                        break
            except NonFiniteStepError as stop:
                good = watch.attach(stop.state)
                result = self._result(rng_key, good, [*history, stop.history], None)
                message = self._diagnose(stop.state, stop.batches)
                raise NonFiniteError(message, result) from None
        if interrupted():
            _warn(
                f"Interrupted at step {int(state.step)} and returning the run so far; go on "
                "with `run(..., init_state=result.state)`."
            )
        state = watch.attach(state)
        if saved is not None:
            saved.save(state, is_due=True)
        rows = batches if isinstance(batches, Rows) else None
        result = self._result(rng_key, state, history, rows)
        if len(result.losses):
            self._warn(self.objective.remark(result.metrics))
        return result._replace(validation_losses=np.asarray(watch.losses))

    def _checkpoint(
        self, path: Path, state: EstimatorState, arguments: dict[str, Any]
    ) -> Checkpoint:
        own = {"objective": self.objective, "optim": self.optim, "ema_decay": self.ema_decay}
        return Checkpoint(path, state, {"rng_key": state.key_data, **own, **arguments})

    def _batches(
        self,
        data: Any,
        weights: Any,
        batch_size: int | None,
        sharding: Sharding | None,
    ) -> tuple[Batch, Rows | Batches]:
        """A batch to begin with, and where the batches of the steps come from."""
        if isinstance(data, Iterator):
            if weights is not None or batch_size is not None:
                raise ValueError(
                    "`weights` and `batch_size` are for arrays; an iterator gives its batches "
                    "as they are."
                )
            batches = Batches(data)
            if batches.next is None:
                raise ValueError("`data` is an iterator without a batch.")
            return batches.next, batches
        data, weights = as_weighted(data, weights)
        batch_size = as_batch_size(batch_size, num_rows(data))
        if sharding is not None and batch_size is None:
            data, weights = jax.device_put((data, weights), sharding)
        return data, Rows(data, weights, batch_size, sharding)

    def _calls(
        self,
        state: EstimatorState,
        num_steps: int,
        batches: Rows | Batches,
        every: int | None,
    ) -> Iterator:
        """Compiled calls of many steps each, of a length that suits the progress bar."""
        left, length = num_steps, 1
        order = first_order(state, batches) if isinstance(batches, Rows) else None
        while left > 0:
            start = time.perf_counter()
            length = min(length, left, MAX_FUSED)
            if every is not None:  # An evaluation comes after a certain step.
                length = min(length, every - int(state.step) % every)
            source, length = next_source(batches, state, length)
            if length == 0:
                _warn(f"`data` ended after {num_steps - left} of {num_steps} steps.")
                return
            state, order, count, losses, metrics = fused_steps(
                self._rule, state, source, order, jnp.asarray(length)
            )
            count = int(count)
            history = (np.asarray(losses)[:count], _heads(metrics, count))
            if count < length:
                raise NonFiniteStepError(state, history, source)
            yield state, *history
            left -= count
            if time.perf_counter() - start < _SECONDS_A_CALL:
                length *= 2

    def _result(
        self, rng_key: Key, state: EstimatorState, history: list, rows: "Rows | None"
    ) -> EstimatorRunResult:
        losses, metrics = zip(*(history or [(np.zeros(0), {})]), strict=True)
        if rows is None:
            energy = self.get_energy(state)
        else:
            best = best_of(state)
            energy, remark = self.objective.quantify(
                rng_key, learned(best), best.objective_state, rows.data, rows.weights
            )
            energy = _as_given(energy, state)
            self._warn(remark)
        return EstimatorRunResult(
            energy=energy,
            losses=np.concatenate(losses),
            metrics=jax.tree.map(lambda *parts: np.concatenate(parts), *metrics),
            state=state,
        )

    def _warn(self, remark: str | None) -> None:
        if remark is not None:
            _warn(f"`{type(self.objective).__name__}`: {remark}")

    def _diagnose(self, state: EstimatorState, source: "Rows | Stack") -> str:
        """Say where the step that `state` could not make went wrong."""
        batch, weights = source.batch(state, source.order(state))
        (loss, _), grads = loss_and_grads(self.objective, state, batch, weights)
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


class NonFiniteStepError(Exception):
    """The step after `state` isn't finite; `history` is what the call did before it."""

    def __init__(self, state: EstimatorState, history: tuple, batches: Any) -> None:
        self.state = state
        self.history = history
        self.batches = batches


def _weighted(batch: PyTree, weights: Array | None) -> tuple[Batch, Array | None]:
    # Without weights anything goes: a NaN is for `stable_update`.
    return (as_batch(batch), None) if weights is None else as_weighted(batch, weights)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=user_level())


def _heads(metrics: dict[str, Array], count: int) -> dict[str, np.ndarray]:
    return jax.tree.map(lambda x: np.asarray(x)[:count], metrics)


def _postfix(losses: np.ndarray, metrics: dict[str, np.ndarray]) -> str:
    shown = {"loss": losses, **dict(itertools.islice(metrics.items(), 2))}
    return ", ".join(f"{name} {values[-1]:.4g}" for name, values in shown.items())


def _as_learnable(energy: Any) -> Any:
    return energy if is_conditional(energy) else as_energy(energy)


def _as_given(energy: Any, state: EstimatorState) -> Any:
    """A network where a network was to be trained."""
    is_bare = state.is_bare and isinstance(energy, FunctionEnergy)
    return energy.fn if is_bare else energy


def _structure(energy: Any) -> Any:
    """`energy` without the numbers in its arrays, which other devices round differently."""
    return jax.tree.map(lambda x: jax.eval_shape(lambda: x) if eqx.is_array(x) else x, energy)


def _check_shapes(energy: Any, batch: Batch) -> None:
    shape = batch.points.shape[1:]
    if is_conditional(energy):
        # What the condition is, a part of the data or a noise scale, the objective knows.
        if energy.event_shape not in (None, shape):
            raise ValueError(
                f"The energy lives on points of shape {energy.event_shape}, got points of "
                f"shape {shape}."
            )
        return
    if batch.conditions is not None:
        raise ValueError(
            "`data` is a pair `(y, x)`, for which `energy` must be a "
            "`ConditionalEnergy(fn, event_shape)`."
        )
    check_energy(energy, shape)
    check_points(energy, batch.points, "data")
