"""Monitoring a run: early stopping, and checkpoints."""

import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._checks import check_count, check_probability
from .._files import read_file, write_file
from .._values import fingerprint
from ..objectives import AbstractObjective
from ..saving import describe, fill, named_arrays
from ._batches import Rows
from ._state import Best, EstimatorState
from ._steps import compiled_evaluate

#: Seconds between checkpoints.
_SECONDS_A_CHECKPOINT = 10.0


class EarlyStopping(eqx.Module):
    """Stop when the loss on held-out points no longer falls, and return to the best state.

    Not for [`ContrastiveDivergence`][numpyro_ebm.ContrastiveDivergence], whose value is not a
    loss.

    **Arguments**

    - `fraction`: the share of the points held out, at random.
    - `every`: steps between evaluations.
    - `patience`: the run stops after this many evaluations without a new best.
    """

    fraction: float = eqx.field(static=True, default=0.1)
    every: int = eqx.field(static=True, default=100)
    patience: int = eqx.field(static=True, default=10)

    def __check_init__(self) -> None:
        check_probability("fraction", self.fraction)
        check_count("every", self.every)
        check_count("patience", self.patience)


class Watch:
    """Watches the loss on held-out points, and remembers the best state.

    States that it returns carry this memory; between evaluations, steps need not.
    """

    def __init__(
        self,
        objective: AbstractObjective,
        stopping: EarlyStopping | None,
        held_out: Rows | None,
        state: EstimatorState,
    ) -> None:
        self.losses: list[float] = []
        self.every = None if stopping is None else stopping.every
        self._objective = objective
        self._stopping = stopping
        self._held_out = held_out
        self._best = state.best

    @property
    def has_ended(self) -> bool:
        if self._stopping is None or self._best is None:
            return False
        return int(self._best.num_since) >= self._stopping.patience

    def see(self, state: EstimatorState) -> None:
        """Evaluate `state`, if an evaluation is due."""
        rows, best = self._held_out, self._best
        if self.every is None or rows is None or best is None or int(state.step) % self.every:
            return
        # With the same draws each time.
        fixed = eqx.tree_at(lambda s: s.step, state, jnp.zeros_like(state.step))
        loss = compiled_evaluate(self._objective, fixed, rows.data, rows.weights)
        self.losses.append(float(loss))
        if float(loss) < float(best.loss):
            self._best = Best(state, loss, jnp.zeros_like(best.num_since))
        else:
            self._best = Best(best.state, best.loss, best.num_since + 1)

    def attach(self, state: EstimatorState) -> EstimatorState:
        """`state` with what the watch remembers."""
        return with_best(state, self._best)


def with_best(state: EstimatorState, best: Best | None) -> EstimatorState:
    return eqx.tree_at(lambda s: s.best, state, best, is_leaf=lambda x: x is None)


def prepared(state: EstimatorState, stopping: EarlyStopping | None) -> EstimatorState:
    """`state` with a memory of the best state, if and only if there is early stopping."""
    if stopping is None:
        return with_best(state, None)
    nothing_yet = Best(with_best(state, None), jnp.asarray(jnp.inf), jnp.zeros((), int))
    return with_best(state, state.best or nothing_yet)


class Checkpoint:
    """A file that always holds one complete state, and identifies its run."""

    def __init__(self, path: Path, like: EstimatorState, run: dict[str, Any]) -> None:
        self.path = path
        self.like = like
        self._run = {name: fingerprint(value) for name, value in run.items()}
        self._saved = time.perf_counter()

    def load(self) -> EstimatorState:
        if not self.path.exists():
            return self.like
        try:
            description, arrays = read_file(self.path)
        except ValueError as error:
            raise ValueError(
                f"`checkpoint`, {self.path}, cannot be read: {error} Remove it, or give "
                "another path."
            ) from error
        saved = description.get("run", {})
        others = [name for name, digest in self._run.items() if saved.get(name) != digest]
        if others:
            raise ValueError(
                f"`checkpoint`, {self.path}, is of a run with another "
                f"{' and another '.join(f'`{name}`' for name in others)}: pass the same "
                "arguments again, or give another path. To go on from it all the same, pass "
                "`init_state=ebm.load(path, like=state)`, where `state` is that of a run of "
                "one step with the old arguments."
            )
        return fill(self.like, self.path, description, arrays)

    def save(self, state: EstimatorState, is_due: bool) -> None:
        if not is_due and time.perf_counter() - self._saved < _SECONDS_A_CHECKPOINT:
            return
        description = {**describe(state), "run": self._run}
        write_file(self.path, description, named_arrays(state))
        self._saved = time.perf_counter()
