"""The numbers that represent a point when chains are compared."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from xarray import Dataset, DataTree

from .._types import Array

#: A variable with more coordinates is summarised.
_MANY = 20
_NUM_PROJECTIONS = 8
_NUM_COMPONENTS = 4
#: Draws used for principal components, and draws per block of statistics.
_NUM_POINTS = 500
_BATCH = 4096

Statistics = Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] | None


def summaries(
    tree: DataTree, statistics: Statistics, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values `(chain, draw)`, one after another to save memory."""
    return _each(tree, _named(statistics), seed)


def _each(
    tree: DataTree, statistics: Mapping[str, Callable[[Any], Any]], seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    if "sample_stats" in tree.children and "lp" in tree["sample_stats"].data_vars:
        yield "lp", of_draw(tree["sample_stats"]["lp"])
    posterior = tree["posterior"].to_dataset()
    for name, variable in posterior.data_vars.items():
        x = values(variable)
        if x[0, 0].size <= _MANY:
            yield from coordinates(str(name), x)
        else:
            yield from _directions(str(name), x.reshape(*x.shape[:2], -1), seed)
    for name, statistic in statistics.items():
        yield from coordinates(name, evaluate(statistic, posterior, name))


def values(variable: Any) -> np.ndarray:
    return variable.transpose("chain", "draw", ...).to_numpy()


def coordinates(name: str, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for index in np.ndindex(x.shape[2:]):
        label = f"[{', '.join(map(str, index))}]" if index else ""
        yield name + label, x[(..., *index)]


def evaluate(statistic: Callable[[Any], Any], posterior: Dataset, name: str) -> np.ndarray:
    """A function of one point at every draw, `(chain, draw, ...)`.

    The point is the array if the posterior has one variable, else a dict of its variables.
    """
    arrays = {str(key): values(variable) for key, variable in posterior.data_vars.items()}
    points = arrays if len(arrays) > 1 else next(iter(arrays.values()))
    shape = next(iter(arrays.values())).shape[:2]
    flat = jax.tree.map(lambda x: jnp.asarray(x.reshape(-1, *x.shape[2:])), points)
    output = jax.eval_shape(statistic, jax.tree.map(lambda x: x[0], flat))
    if not isinstance(output, jax.ShapeDtypeStruct) or output.size > _MANY:
        raise ValueError(
            f"`{name}` must map one point to a number, or to an array of at most {_MANY}, got "
            f"{output}."
        )

    @jax.jit
    def evaluate(points: Any) -> Array:
        return jax.lax.map(statistic, points, batch_size=_BATCH)

    result = np.asarray(evaluate(flat))
    return result.reshape(*shape, *result.shape[1:])


def _named(statistics: Statistics) -> dict[str, Callable[[Any], Any]]:
    if statistics is None:
        return {}
    if callable(statistics):
        name = getattr(statistics, "__name__", "statistic")
        return {"statistic" if name == "<lambda>" else name: statistics}
    if not isinstance(statistics, Mapping) or not all(map(callable, statistics.values())):
        raise TypeError(
            "`statistics` must be a function of one point, or a dict of them by name, got "
            f"{statistics!r}."
        )
    return dict(statistics)


def _directions(name: str, x: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Random projections, the same for the same seed, and leading principal components."""
    random = np.random.default_rng(seed).normal(size=(_NUM_PROJECTIONS, x.shape[2]))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    principal = principal_components(x.reshape(-1, x.shape[2]), _NUM_COMPONENTS)
    labels = [f"{name}: projection {i}" for i in range(_NUM_PROJECTIONS)]
    labels += [f"{name}: component {i}" for i in range(len(principal))]
    rows = np.concatenate([random, principal]).astype(np.result_type(x.dtype, np.float32))
    for label, row in zip(labels, rows, strict=True):
        with np.errstate(invalid="ignore"):  # From an infinite pixel.
            projected = x @ row
        yield label, projected


def principal_components(points: np.ndarray, number: int) -> np.ndarray:
    """Leading principal components of evenly spaced `points`."""
    some = np.linspace(0, len(points) - 1, min(_NUM_POINTS, len(points))).astype(int)
    centred = points[some].astype(float)
    centred = centred[np.isfinite(centred).all(1)]
    if len(centred) == 0:
        return np.zeros((0, points.shape[1]))
    components = np.linalg.svd(centred - centred.mean(0), full_matrices=False)[2][:number]
    largest = np.abs(components).argmax(1)
    return components * np.sign(components[np.arange(len(components)), largest])[:, None]


def of_draw(statistic: Any) -> np.ndarray:
    """A statistic of each draw; of many energies at once, its mean over them."""
    x = values(statistic)
    return x if x.ndim == 2 else x.reshape(*x.shape[:2], -1).mean(2)
