"""The metric of a warm-up: moments of the chains, and how Stan shrinks them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from .._checks import as_floats
from .._types import Array, DenseMass, Float, Metric, Point
from ._blackjax import blackjax


class Algorithm(NamedTuple):
    """BlackJAX's triple of functions, by name."""

    init: Any
    update: Any
    final: Any


def begin_moments(dense_mass: bool, size: int, metric: Array) -> Any:
    """BlackJAX's Welford state before the first point, for points of `size` coordinates."""
    mass_matrix = blackjax().adaptation.mass_matrix
    algorithm = Algorithm(*mass_matrix.mass_matrix_adaptation(not dense_mass))
    return as_arrays(algorithm.init(size, metric))


def metric_of(moments: Any, old: Array, regularize: bool) -> Array:
    r"""$\frac{n}{n+5}S + \frac{5}{n+5}10^{-3}D$ for a window of $n$ points with covariance $S$.

    In Stan $D$ is the identity: it protects short windows, but overstates the width of
    coordinates whose scales are far below one. Here it is the larger of the variances found now
    and in the last window. A coordinate that has not moved keeps its value.
    """
    _, m2, count = moments
    found = m2 / jnp.maximum(count - 1, 1)
    variances, before = (jnp.diagonal(x) if x.ndim == 2 else x for x in (found, old))
    weight = count / (count + 5) if regularize else 1.0
    shrunk = weight * variances + (1 - weight) * 1e-3 * jnp.maximum(variances, before)
    diagonal = jnp.where(variances > 0, shrunk, before)
    if found.ndim == 1:
        return diagonal
    return weight * found + jnp.diag(diagonal - weight * variances)


def learn_moments(metric_state: Any, positions: Point) -> Any:
    """BlackJAX's Welford state after a batch of points [Chan, Golub and LeVeque 1983]."""
    mean, m2, count = old = metric_state.wc_state
    flat: Float[Array, "n d"] = jax.vmap(lambda x: ravel_pytree(x)[0])(positions)
    # A runaway chain must not spoil the metric of the others.
    kept = jnp.isfinite(flat).all(1, keepdims=True)
    flat = jnp.where(kept, flat, mean)
    size = kept.sum()
    total = count + size
    share = size / jnp.maximum(total, 1)
    batch_mean = jnp.where(kept, flat, 0).sum(0) / jnp.maximum(size, 1)
    delta = batch_mean - mean
    spread = jnp.where(kept, flat - batch_mean, 0)
    if m2.ndim == 1:
        m2 = m2 + (spread**2).sum(0) + delta**2 * count * share
    else:
        m2 = m2 + spread.T @ spread + jnp.outer(delta, delta) * count * share
    new = type(old)(mean + delta * share, m2, total)
    return metric_state._replace(wc_state=jax.tree.map(_like, new, old))


def _like(new: Array, old: Any) -> Array:
    return jnp.asarray(new, jnp.result_type(old))


def as_arrays(state: Any) -> Any:
    """BlackJAX's numbers, in the types that its updates return."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)


#: The names of the sites of each dense block.
Blocks: TypeAlias = tuple[tuple[str, ...], ...]


def as_dense_mass(dense_mass: DenseMass) -> bool | Blocks:
    """A flag, or blocks as tuples; raises for anything else."""
    if isinstance(dense_mass, bool):
        return dense_mass
    if not isinstance(dense_mass, list | tuple):
        raise TypeError(
            "`dense_mass` must be True, False, or a list of tuples of site names such as "
            f'`[("x", "y"), ("z",)]`, got {dense_mass!r}.'
        )
    _check_names("dense_mass", dense_mass)
    return tuple(map(tuple, dense_mass))


def by_blocks(metric: Metric) -> dict[Any, Any]:
    """The arrays of a metric, by the names of their sites; a single one has none."""
    return metric if isinstance(metric, dict) else {(): metric}


def check_metric(metric: Any) -> None:
    """Raise unless it is `None`, or positive definite."""
    if metric is None:
        return
    if isinstance(metric, dict):
        _check_names("inverse_mass_matrix", list(metric))
    for block in by_blocks(metric).values():
        if not isinstance(block, Tracer):
            _check_block(np.asarray(block))


def _check_block(values: np.ndarray) -> None:
    if values.ndim not in (1, 2) or (values.ndim == 2 and len(set(values.shape)) != 1):
        raise ValueError(
            "`inverse_mass_matrix` must be a vector, its diagonal, or a square matrix, got "
            f"shape {values.shape}."
        )
    scales = values if values.ndim == 1 else np.linalg.eigvalsh(values)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError("`inverse_mass_matrix` must be positive definite.")


def _check_names(argument: str, blocks: Sequence[Any]) -> None:
    """Raise unless each block is a tuple of names, and no name is in two of them."""
    for block in blocks:
        is_tuple = isinstance(block, list | tuple) and len(block) > 0
        if not is_tuple or not all(isinstance(name, str) for name in block):
            raise TypeError(
                f"A block of `{argument}` must be a tuple of site names such as "
                f'`("x", "y")` or `("z",)`, got {block!r}.'
            )
    names = [name for block in blocks for name in block]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`{argument}` must hold each site once, got {twice} twice.")


def assembled(blocks: dict[tuple[str, ...], Any], position: Point) -> Array:
    """The metric over the flattened `position`; sites of no block have the identity.

    As in NumPyro, the coordinates of a block are in the order of its names.
    """
    sites = _sites("inverse_mass_matrix", tuple(blocks), position)
    metric = jnp.eye(len(sites), dtype=jnp.result_type(float))
    arrays = {names: as_floats(block) for names, block in blocks.items()}
    for names, block in arrays.items():
        inside = np.concatenate([np.flatnonzero(sites == name) for name in names])
        if len(block) != len(inside):
            raise ValueError(
                f"`inverse_mass_matrix[{names}]` must have {len(inside)} rows, one per "
                f"coordinate of its sites, got shape {block.shape}."
            )
        matrix = jnp.diag(block) if block.ndim == 1 else block
        metric = metric.at[np.ix_(inside, inside)].set(matrix)
    is_diagonal = all(block.ndim == 1 for block in arrays.values())
    return jnp.diagonal(metric) if is_diagonal else metric


def structured(metric: Array, dense_mass: bool | Blocks, position: Point) -> Array:
    """`metric` with the entries that `dense_mass` leaves; its blocks stay positive definite."""
    if not dense_mass:
        return jnp.diagonal(metric) if metric.ndim == 2 else metric
    matrix = jnp.diag(metric) if metric.ndim == 1 else metric
    if dense_mass is True:
        return matrix
    sites = _sites("dense_mass", dense_mass, position)
    kept = np.eye(len(sites), dtype=bool)
    for names in dense_mass:
        inside = np.isin(sites, names)
        kept |= np.outer(inside, inside)
    return jnp.where(kept, matrix, 0)


def _sites(argument: str, blocks: Blocks, position: Point) -> np.ndarray:
    """The site of each coordinate of the flattened `position`, which must have all of them."""
    if not isinstance(position, dict):
        raise ValueError(
            f"`{argument}` names sites {blocks}, and the points here have none: they are not "
            "dicts, such as those of a model. Use one block for all coordinates."
        )
    unknown = sorted({name for names in blocks for name in names} - set(position))
    if unknown:
        raise ValueError(
            f"`{argument}` must name sites that are sampled here, {sorted(position)}, got "
            f"{unknown}."
        )
    paths = jax.tree_util.tree_leaves_with_path(position)
    return np.concatenate([np.full(jnp.size(x), path[0].key) for path, x in paths])
