"""`EstimatorState`: everything a run carries."""

from typing import Any

import equinox as eqx
import jax.random as jr

from .._types import Array, Key, PyTree, Scalar


class EstimatorState(eqx.Module):
    """Everything a run needs to continue; `ebm.save` writes it to a file.

    - **step**: the number of steps made.
    - **trainable**: what the objective trains, frozen parts included.
    - **average**: the moving average of trained parts, if the estimator has an `ema_decay`.
    - **opt_state**: optax's state.
    - **objective_state**: what the objective carries.
    - **key_data**, **key_impl**: the key into which every step folds its number.
    - **is_bare**: whether a network, not an energy, was given to train.
    - **best**: what early stopping remembers.
    """

    step: Array
    trainable: PyTree
    average: PyTree
    opt_state: PyTree
    objective_state: PyTree
    key_data: Array
    key_impl: str = eqx.field(static=True)
    is_bare: bool = eqx.field(static=True, default=False)
    best: Any = None

    def fold_in(self, number: Any) -> Key:
        return jr.fold_in(jr.wrap_key_data(self.key_data, impl=self.key_impl), number)


class Best(eqx.Module):
    """The best state of a run so far, by its loss on held-out points.

    - **state**: the state, or the first one before any evaluation.
    - **loss**: infinite before any evaluation.
    - **num_since**: evaluations since then.
    """

    state: EstimatorState
    loss: Scalar
    num_since: Array
