"""`Estimator`: optax minimises an objective."""

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Sharding

from .._checks import as_automatic, check_count, check_key, check_probability, user_level
from .._driver import drive
from .._trainable import partition_trainable, strongly_typed
from .._types import Array, ArrayLike, EnergyLike, Key, PyTree, Scalar
from .._values import ByValue
from ..energies import forget_constants
from ..objectives import AbstractObjective, Batch, as_float_batch
from ._batches import (
    Batches,
    Rows,
    as_batch_size,
    as_weighted,
    hold_out,
    num_rows,
)
from ._inputs import (
    as_given,
    as_learnable,
    check_optim,
    check_shapes,
    remark_on_scale,
    structure,
    weighted,
)
from ._result import EstimatorRunResult, NonFiniteError, up_to_best
from ._run import NonFiniteStepError, Run
from ._state import EstimatorState
from ._steps import (
    Rule,
    best_of,
    compiled_evaluate,
    compiled_stable_update,
    compiled_update,
    learned,
    show_optimiser,
)
from ._watching import Checkpoint, EarlyStopping, Watch, prepared, with_best


class Estimator:
    """Fits an energy to data, in the manner of `numpyro.infer.SVI`.

    ```python
    estimator = ebm.Estimator(ebm.DenoisingScoreMatching(0.1), optax.adam(1e-3))
    result = estimator.run(jax.random.key(0), 2000, energy, data, batch_size=256)
    result.energy
    ```

    It trains all floating-point arrays of the energy that are not frozen by
    [`freeze`][numpyro_ebm.freeze]. Runs with the same estimator, shapes and batch size share
    one compilation, whatever their length.

    **Arguments**

    - `objective`: what to minimise, such as
      [`DenoisingScoreMatching`][numpyro_ebm.DenoisingScoreMatching].
    - `optim`: an optax `GradientTransformation`: pass a schedule as its learning rate;
      `optax.MultiSteps(optim, k).gradient_transformation()` accumulates gradients.
    - `ema_decay`: return the moving average of the parameters over all steps, with this weight
      on the past, instead of the parameters of the last step.
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
        check_optim(optim)
        if ema_decay is not None:
            check_probability("ema_decay", ema_decay)
        self.objective = objective
        self.optim = optim
        self.ema_decay = ema_decay
        self._rule = Rule(objective, ByValue(optim), ema_decay)

    def __repr__(self) -> str:
        ema = "" if self.ema_decay is None else f", ema_decay={self.ema_decay}"
        return f"Estimator({self.objective!r}, {show_optimiser(self.optim.update)}{ema})"

    def init(self, rng_key: Key, energy: EnergyLike, data: PyTree) -> EstimatorState:
        """The state before the first step; `data`, or a batch of it, as in `run`."""
        check_key(rng_key)
        learnable, batch = as_learnable(energy), as_float_batch(data)
        is_bare = learnable is not energy
        # A log Z known now will not be that of the learned energy.
        unknown = forget_constants(learnable)
        check_shapes(unknown, batch)
        init_key, run_key = jr.split(rng_key)
        trainable, objective_state = self.objective.init(init_key, unknown, batch)
        params, _ = partition_trainable(trainable := strongly_typed(trainable))
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
        batch, weights = weighted(batch, weights)
        new_state, loss, _ = compiled_update(self._rule, state, batch, weights)
        return new_state, loss

    def stable_update(
        self, state: EstimatorState, batch: PyTree, weights: Array | None = None
    ) -> tuple[EstimatorState, Scalar]:
        """Like `update`, but a step that is not finite leaves the state as it is."""
        batch, weights = weighted(batch, weights)
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
        return as_given(energy, state)

    def run(
        self,
        rng_key: Key,
        num_steps: int,
        energy: EnergyLike,
        data: PyTree | Iterator[PyTree] = None,
        *,
        weights: ArrayLike | None = None,
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
        - `num_steps`: steps of the optimiser.
        - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes, or a
          [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy]; a network or flow stays one.
        - `data`: one point per row; cast to JAX's default float type. For a conditional energy,
          a tuple `(y, x)` of points and their conditions. Or an iterator of batches, one per
          step; the run ends when it does. `None` if the objective needs none.
        - `weights`: the weight of each row, or a mask; scaled to average one. Rows of weight
          zero may contain anything.
        - `batch_size`: rows per step, in a new random order each epoch; by default all.
        - `progress_bar`: whether to show one.
        - `early_stopping`: hold out points, and stop when their loss no longer falls.
        - `callback`: called several times a second, between compiled calls, with the state and
          the losses since the last call; return True to stop the run.
        - `checkpoint`: a file written atomically every ten seconds and at the end. If it
          exists, the run continues from it, to `num_steps` steps in all, as if it had never
          stopped; its losses are those since then. Pass the same arguments again, an iterator
          from its beginning: a file from another objective, optimiser, energy, data or key is
          refused. `ebm.load(path, like=state)` reads its state.
        - `sharding`: how the rows of a batch are laid out over devices.
        - `init_state`: the state of an earlier run to continue, bit for bit as if it had never
          stopped; `rng_key` and `energy` are then those of that run.

        **Raises** [`NonFiniteError`][numpyro_ebm.estimation.NonFiniteError] at the first step
        whose loss or update is not finite; its `result` is the run up to there. An interrupt
        (Ctrl-C) warns and returns the run so far.
        """
        check_key(rng_key)
        check_count("num_steps", num_steps)
        data = self.objective.without_data(as_learnable(energy)) if data is None else data
        first, batches = self._batches(data, weights, batch_size, sharding)
        if init_state is None:
            init_state = self.init(rng_key, energy, first)
            self._warn(remark_on_scale(as_learnable(energy), first))
            self._warn(self.objective.caution(as_learnable(energy), first))
        state = init_state
        held_out = None
        if early_stopping is not None:
            batches, held_out = hold_out(batches, early_stopping.fraction, state)
        state, saved = prepared(state, early_stopping), None
        if checkpoint is not None:
            arguments = {
                "energy": structure(energy),
                "data": first,
                "weights": None if weights is None else np.asarray(weights),
                "batch_size": batch_size,
                "early_stopping": early_stopping,
            }
            saved = self._checkpoint(Path(checkpoint), state, arguments)
            state = saved.load()
            num_steps -= int(state.step)
            if isinstance(batches, Batches):  # Skip those used by the steps so far.
                batches.skip(int(state.step))
        watch = Watch(self.objective, early_stopping, held_out, state)
        run = Run(self._rule, with_best(state, None), batches, watch, saved, callback)
        resume = "run(..., init_state=result.state)"
        try:
            left = 0 if watch.has_ended else num_steps
            done = drive(run.call, left, progress_bar=progress_bar, resume=resume)
        except NonFiniteStepError as stop:
            result = self._result(rng_key, run, None)
            raise NonFiniteError(str(stop), result) from None
        if run.is_out_of_data:
            self._warn(f"`data` ended after {done} of {left} steps.")
        if saved is not None:
            saved.save(watch.attach(run.state), is_due=True)
        result = self._result(rng_key, run, batches if isinstance(batches, Rows) else None)
        if len(result.losses):
            self._warn(self.objective.remark(up_to_best(result)))
        return result

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
        """A first batch, and the source of the batches of the steps."""
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
        sharding = as_automatic(sharding)
        if sharding is not None and batch_size is None:
            data, weights = jax.device_put((data, weights), sharding)
        return data, Rows(data, weights, batch_size, sharding)

    def _result(self, rng_key: Key, run: Run, rows: Rows | None) -> EstimatorRunResult:
        """What was learned, with errors computed from all `rows`."""
        state = run.watch.attach(run.state)
        if rows is None:
            energy = self.get_energy(state)
        else:
            best = best_of(state)
            energy, remark = self.objective.quantify(
                rng_key, learned(best), best.objective_state, rows.data, rows.weights
            )
            energy = as_given(energy, state)
            self._warn(remark)
        losses, metrics = run.history
        return EstimatorRunResult(energy, losses, metrics, state, np.asarray(run.watch.losses))

    def _warn(self, remark: str | None) -> None:
        if remark is not None:
            message = f"`{type(self.objective).__name__}`: {remark}"
            warnings.warn(message, stacklevel=user_level())
