"""Inputs of a run: energies, batches, and whether they fit together."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from numpyro.optim import _NumPyroOptim

from .._trainable import unfreeze
from .._types import Array, EnergyLike, PyTree
from ..energies import (
    Bounded,
    ConvNetwork,
    FlowEnergy,
    FunctionEnergy,
    MLPNetwork,
    Normalized,
    Tilted,
    Transformed,
    as_energy,
    check_energy,
    check_points,
    is_conditional,
)
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
    """The network or flow itself, if one was given to train."""
    if state.is_bare and isinstance(energy, FlowEnergy):
        return energy.flow
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
        if energy.levels is not None:
            check_points(batch.energy_at(energy, 0), batch.points, "data")
        return
    if batch.conditions is not None:
        raise ValueError(
            "`data` is a pair `(y, x)`, for which `energy` must be a "
            "`ConditionalEnergy(fn, event_shape)`."
        )
    check_energy(energy, shape)
    check_points(energy, batch.points, "data")


def check_optim(optim: Any) -> None:
    """Raise unless `optim` is one of optax."""
    if isinstance(optim, _NumPyroOptim):
        name = type(optim).__name__
        raise TypeError(
            f"`optim` must be an optax optimiser, got `numpyro.optim.{name}`, which is made "
            f"for `SVI`: use `optax.{_OPTAX.get(name, 'adam')}(1e-3)`."
        )
    if not hasattr(optim, "update"):
        raise TypeError(
            "`optim` must be an optax optimiser such as `optax.adam(1e-3)`, got "
            f"{type(optim).__name__}."
        )


#: The names in optax of NumPyro's optimisers.
_OPTAX = {
    **{"Adam": "adam", "Adagrad": "adagrad", "ClippedAdam": "adam", "Momentum": "sgd"},
    **{"RMSProp": "rmsprop", "RMSPropMomentum": "rmsprop", "SGD": "sgd", "SM3": "sm3"},
}


def remark_on_scale(energy: Any, batch: Batch) -> str | None:
    """A warning if a network sees inputs far from unit scale."""
    network, inputs = energy, batch.points
    while isinstance(network, Bounded | Transformed | Tilted | Normalized):
        if isinstance(network, Transformed):
            inputs = unfreeze(network.transform)(inputs)
        network = unfreeze(network.energy)
    is_network = isinstance(network, MLPNetwork | ConvNetwork) or (
        isinstance(network, FunctionEnergy) and isinstance(network.fn, eqx.nn.MLP)
    )
    values = np.asarray(inputs)
    size, spread = np.sqrt(np.nanmean(values**2)), np.nanstd(values, 0).max()
    if not is_network or (size < _LARGE and spread > _SMALL):
        return None
    return (
        f"The network sees inputs of size {size:.2g} that vary by at most {spread:.2g}, and "
        "learns well from inputs of unit scale only. Scale them inside of the energy, "
        "`ebm.Transformed(energy, ebm.energies.Standardize.fit(data))`, or with "
        "`ebm.energies.Whiten` if coordinates are correlated."
    )


#: Inputs of a network that are larger, or vary less, have another scale than it was made for.
_LARGE, _SMALL = 100.0, 0.01
