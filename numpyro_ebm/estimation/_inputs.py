"""Inputs of a run: energies, batches, and whether they fit together."""

from typing import Any

import equinox as eqx
import jax

from .._types import Array, EnergyLike, PyTree
from ..energies import FunctionEnergy, as_energy, check_energy, check_points, is_conditional
from ..objectives import Batch, as_batch
from ._batches import as_weighted
from ._state import EstimatorState


def weighted(batch: PyTree, weights: Array | None) -> tuple[Batch, Array | None]:
    # Without weights any value is accepted: `stable_update` handles NaN.
    return (as_batch(batch), None) if weights is None else as_weighted(batch, weights)


def as_learnable(energy: EnergyLike) -> Any:
    """`energy` as an energy, or unchanged if it is a conditional energy."""
    return energy if is_conditional(energy) else as_energy(energy)


def as_given(energy: Any, state: EstimatorState) -> Any:
    """The network itself, if a network was given to train."""
    is_bare = state.is_bare and isinstance(energy, FunctionEnergy)
    return energy.fn if is_bare else energy


def structure(energy: PyTree) -> PyTree:
    """`energy` without its array values, which other devices round differently."""
    return jax.tree.map(lambda x: jax.eval_shape(lambda: x) if eqx.is_array(x) else x, energy)


def check_shapes(energy: Any, batch: Batch) -> None:
    """Raise unless `energy` accepts the points of `batch`."""
    shape = batch.points.shape[1:]
    if is_conditional(energy):
        # Only the objective knows whether the condition is data or a noise scale.
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
