"""What a run returns, or leaves behind when it stops."""

from typing import Any, NamedTuple

import numpy as np

from .._types import Float
from ._state import EstimatorState
from ._steps import best_of


class EstimatorRunResult(NamedTuple):
    """What [`Estimator.run`][numpyro_ebm.Estimator.run] returns.

    - **energy**: what was learned.
    - **losses**: the loss of each step of this run.
    - **metrics**: whatever else the objective reports, one value per step.
    - **state**: the final state; continue with `run(..., init_state=result.state)`.
    - **validation_losses**: with [`EarlyStopping`][numpyro_ebm.EarlyStopping], those of this
      run's evaluations; `energy` is then the best one, and `state` remembers it.
    """

    energy: Any
    losses: Float[np.ndarray, " num_steps"]
    metrics: dict[str, np.ndarray]
    state: EstimatorState
    validation_losses: Float[np.ndarray, " n"] = np.zeros(0)

    def __repr__(self) -> str:
        num_steps = len(self.losses)
        ends = f", loss {self.losses[0]:.4g} to {self.losses[-1]:.4g}" if num_steps else ""
        return f"{num_steps} steps{ends}: {self.energy!r}"


def up_to_best(result: EstimatorRunResult) -> dict[str, np.ndarray]:
    """The loss and the metrics of the steps up to the energy that early stopping chose."""
    undone = int(result.state.step - best_of(result.state).step)
    size = max(len(result.losses) - undone, 1)
    every = {"loss": result.losses, **result.metrics}
    return {name: values[:size] for name, values in every.items()}


class NonFiniteError(FloatingPointError):
    """Training met a NaN or an infinity; `result` holds the run up to the step before."""

    def __init__(self, message: str, result: EstimatorRunResult) -> None:
        super().__init__(message)
        self.result = result
