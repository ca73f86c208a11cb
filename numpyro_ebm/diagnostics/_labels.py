"""The modes of draws, from a function of one point or by clustering."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from xarray import Dataset

from ..sampling import AbstractDraws, SiteDraws
from ._clusters import cluster
from ._datatree import by_name, to_arviz
from ._summaries import evaluate, values


class Run(NamedTuple):
    """The chains with finite draws, `(chain, draw, ...)`, and the number of other chains."""

    variables: Dataset
    num_dropped: int


def finite_run(source: Any) -> Run:
    if isinstance(source, AbstractDraws):
        arrays = by_name(source.values)
        if isinstance(source, SiteDraws):  # Independent draws, of any sample shape.
            ndim = source.accept_prob.ndim
            arrays = {k: x.reshape(1, -1, *x.shape[ndim:]) for k, x in arrays.items()}
        source = arrays
    variables = to_arviz(source)["posterior"].to_dataset()
    finite = [
        np.isfinite(x).all(tuple(range(1, x.ndim)))
        for x in map(values, variables.data_vars.values())
    ]
    usable = np.stack(finite).all(0)
    if not usable.any():
        raise ValueError("`source` and `reference` must have a chain of finite draws.")
    return Run(variables.isel(chain=usable), int((~usable).sum()))


def known_weights(reference: Any) -> dict[int, float] | None:
    """Known weights by label; `None` if `reference` is `None` or draws."""
    if isinstance(reference, Mapping) and all(np.ndim(x) == 0 for x in reference.values()):
        weights = {int(name): float(weight) for name, weight in reference.items()}
    elif isinstance(reference, Sequence | np.ndarray | jax.Array) and np.ndim(reference) == 1:
        weights = dict(enumerate(map(float, np.asarray(reference))))
    else:
        return None
    total = sum(weights.values())
    if min(weights.values(), default=-1) < 0 or abs(total - 1) > 1e-3:
        raise ValueError(f"`reference` must hold weights that sum to one, got {reference}.")
    return weights


def label(
    runs: dict[str, Run],
    labels: Callable[[Any], Any] | None,
    weights: dict[int, float],
    num_modes: int | None,
    seed: int,
) -> tuple[list[int], list[np.ndarray]]:
    """The labels of the modes, and for each run the mode of each draw."""
    variables = [run.variables for run in runs.values()]
    if labels is None:
        points = [_flat(one) for one in variables]
        if len({x.shape[2] for x in points}) > 1:
            raise ValueError(
                "`source` and `reference` must have points with the same number of "
                f"coordinates, got {[x.shape[2] for x in points]}."
            )
        rows = [x.reshape(-1, x.shape[2]) for x in points]
        found = [
            modes.reshape(x.shape[:2])
            for modes, x in zip(cluster(rows, num_modes, seed), points, strict=True)
        ]
    else:
        found = [evaluate(labels, one, "labels") for one in variables]
        if any(x.ndim != 2 or x.dtype.kind not in "biu" for x in found):
            raise ValueError(
                "`labels` must map one point to an integer, got dtype "
                f"{found[0].dtype} and shape {found[0].shape[2:]}."
            )
    names = np.unique(np.concatenate([*(x.ravel().astype(int) for x in found), [*weights]]))
    return [int(name) for name in names], [np.searchsorted(names, x) for x in found]


def _flat(variables: Dataset) -> np.ndarray:
    arrays = [values(x) for x in variables.data_vars.values()]
    return np.concatenate([x.reshape(*x.shape[:2], -1) for x in arrays], axis=2).astype(float)
