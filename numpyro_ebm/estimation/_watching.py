"""What looks after a run: early stopping, and checkpoints."""

import os
import time
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._checks import check_positive, check_probability
from ..objectives import AbstractObjective
from ._batches import Rows
from ._state import EstimatorState
from ._steps import compiled_evaluate

#: Seconds from one checkpoint to the next.
_SECONDS_A_CHECKPOINT = 10.0


class EarlyStopping(eqx.Module):
    """Stop when the loss on points that were held out no longer falls, and return to its best.

    Not for [`ContrastiveDivergence`][numpyro_ebm.ContrastiveDivergence], whose value is no
    loss.

    **Arguments**

    - `fraction`: the share of the points that is held out, at random.
    - `every`: steps from one evaluation to the next.
    - `patience`: evaluations without a new best after which the run stops.
    """

    fraction: float = eqx.field(static=True, default=0.1)
    every: int = eqx.field(static=True, default=100)
    patience: int = eqx.field(static=True, default=10)

    def __check_init__(self) -> None:
        check_probability("fraction", self.fraction)
        check_positive("every", self.every)
        check_positive("patience", self.patience)


class Watch:
    """Watches the loss on points that were held out."""

    def __init__(
        self,
        objective: AbstractObjective,
        stopping: EarlyStopping | None,
        held_out: Rows | None,
    ) -> None:
        self.losses: list[float] = []
        self.every = None if stopping is None else stopping.every
        self._objective = objective
        self._stopping = stopping
        self._held_out = held_out
        self._best: EstimatorState | None = None

    def is_over(self, state: EstimatorState) -> bool:
        if self._stopping is None or self._held_out is None:
            return False
        if int(state.step) % self._stopping.every:
            return False
        rows = self._held_out
        # By the same draws each time.
        fixed = eqx.tree_at(lambda s: s.step, state, jnp.zeros_like(state.step))
        loss = float(compiled_evaluate(self._objective, fixed, rows.data, rows.weights))
        if loss < min(self.losses, default=np.inf):
            self._best = state
        self.losses.append(loss)
        return len(self.losses) - 1 - int(np.argmin(self.losses)) >= self._stopping.patience

    def best(self, state: EstimatorState) -> EstimatorState:
        return state if self._best is None else self._best


class Checkpoint:
    """A file that always holds one whole state."""

    def __init__(self, path: Path, like: EstimatorState) -> None:
        self.path = path
        self.like = like
        self._saved = time.perf_counter()

    def load(self) -> EstimatorState:
        if not self.path.exists():
            return self.like
        try:
            state = eqx.tree_deserialise_leaves(self.path, self.like)
        except (RuntimeError, ValueError, EOFError) as error:
            raise ValueError(
                f"`checkpoint`, {self.path}, is not of this estimator, energy and data: remove "
                "it, or give another path."
            ) from error
        if not np.array_equal(state.key_data, self.like.key_data):
            raise ValueError(
                f"`checkpoint`, {self.path}, is of a run with another `rng_key`: remove it, or "
                "give another path."
            )
        return state

    def save(self, state: EstimatorState, is_due: bool) -> None:
        if not is_due and time.perf_counter() - self._saved < _SECONDS_A_CHECKPOINT:
            return
        # A file is replaced whole or not at all.
        fresh = self.path.with_name(self.path.name + ".part")
        with open(fresh, "wb") as file:
            eqx.tree_serialise_leaves(file, state)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.path)
        self._saved = time.perf_counter()
