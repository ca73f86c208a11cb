"""A run in progress: compiled calls of many steps, and their records."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._driver import Progress
from ._batches import Batches, Rows, Stack, next_source
from ._state import EstimatorState
from ._steps import MAX_FUSED, Rule, first_order, fused_steps, loss_and_grads
from ._watching import Checkpoint, Watch


class NonFiniteStepError(Exception):
    """The next step of a run is not finite; the message says where it went wrong."""


class Run:
    """The state of a run, and what monitors it; `call` makes the next steps."""

    def __init__(
        self,
        rule: Rule,
        state: EstimatorState,
        batches: Rows | Batches,
        watch: Watch,
        saved: Checkpoint | None,
        callback: Callable[[EstimatorState, np.ndarray], Any] | None,
    ) -> None:
        self.state = state
        self.watch = watch
        self.is_out_of_data = False
        self._rule = rule
        self._batches = batches
        self._saved = saved
        self._callback = callback
        self._order = first_order(state, batches) if isinstance(batches, Rows) else None
        self._history: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []

    @property
    def history(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The loss and the metrics of each step so far."""
        losses, metrics = zip(*(self._history or [(np.zeros(0), {})]), strict=True)
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *metrics)
        return np.concatenate(losses), joined

    def call(self, length: int) -> Progress:
        """At most `length` steps.

        **Raises** `NonFiniteStepError` if the one after them is not finite.
        """
        length = min(length, MAX_FUSED)
        if self.watch.every is not None:  # An evaluation is due after a certain step.
            length = min(length, self.watch.every - int(self.state.step) % self.watch.every)
        source, length = next_source(self._batches, self.state, length)
        if length == 0:
            self.is_out_of_data = True
            return Progress(0, "", ends=True)
        self.state, self._order, count, losses, metrics = fused_steps(
            self._rule, self.state, source, self._order, jnp.asarray(length)
        )
        losses, metrics = jax.tree.map(lambda x: np.asarray(x)[: int(count)], (losses, metrics))
        self._history.append((losses, metrics))
        if count < length:
            raise NonFiniteStepError(_diagnosis(self._rule, self.state, source))
        self.watch.see(self.state)
        if self._saved is not None:
            self._saved.save(self.watch.attach(self.state), is_due=False)
        stops = self._callback is not None and bool(self._callback(self.state, losses))
        return Progress(length, _shown(losses, metrics), self.watch.has_ended or stops)


def _shown(losses: np.ndarray, metrics: dict[str, np.ndarray]) -> str:
    shown = {"loss": losses, **dict(itertools.islice(metrics.items(), 2))}
    return ", ".join(f"{name} {values[-1]:.4g}" for name, values in shown.items())


def _diagnosis(rule: Rule, state: EstimatorState, source: Rows | Stack) -> str:
    """Where the step from `state` went wrong."""
    batch, weights = source.batch(state, source.order(state))
    (loss, _), grads = loss_and_grads(rule.objective, state, batch, weights)
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
