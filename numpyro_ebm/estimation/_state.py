"""`EstimatorState`: all that a run carries."""

import equinox as eqx
import jax.random as jr

from .._types import Array, Key, PyTree


class EstimatorState(eqx.Module):
    """Everything a run needs to go on, as arrays that `eqx.tree_serialise_leaves` can write.

    - **step**: the number of steps made.
    - **trainable**: what the objective trains, frozen parts included.
    - **average**: the moving average of what trains, if the estimator has an `ema_decay`.
    - **opt_state**: optax's state.
    - **objective_state**: what the objective carries.
    - **key_data**, **key_impl**: the key that every step folds its number into.
    """

    step: Array
    trainable: PyTree
    average: PyTree
    opt_state: PyTree
    objective_state: PyTree
    key_data: Array
    key_impl: str = eqx.field(static=True)

    def fold_in(self, number: Array) -> Key:
        return jr.fold_in(jr.wrap_key_data(self.key_data, impl=self.key_impl), number)
