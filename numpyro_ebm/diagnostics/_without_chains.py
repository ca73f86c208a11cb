"""What is not made of chains: fits, and weighted draws."""

from typing import Any

import jax
import numpy as np
from xarray import Dataset, DataTree

from .._types import PyTree
from ..estimation import EstimatorRunResult
from ..sampling import WeightedDraws


def equally_weighted(draws: WeightedDraws) -> PyTree:
    """One chain of draws, at equal steps of the cumulative weight."""
    chosen = draws.systematic(0.5, max(1, int(draws.ess)))
    return jax.tree.map(lambda x: x[None], chosen)


def facts(draws: WeightedDraws) -> dict[str, Any]:
    return {
        "inference_library": "numpyro_ebm",
        "kernel": draws.log_z.method,
        "sampling_time": float(draws.seconds),
        "log_z": float(draws.log_z.estimate),
        "log_z_error": float(draws.log_z.std_error),
    }


def from_fit(result: EstimatorRunResult) -> DataTree:
    columns = {"loss": result.losses, **result.metrics}
    values: dict[str, Any] = {name: ("step", column) for name, column in columns.items()}
    if len(result.validation_losses):
        values["validation_loss"] = ("evaluation", result.validation_losses)
    step = np.arange(len(result.losses))
    attrs = {"inference_library": "numpyro_ebm"}
    return DataTree.from_dict({"training": Dataset(values, {"step": step}, attrs)})
