"""The metric of a warm-up: moments of the chains, and how Stan shrinks them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from .._types import Array, Float, Point
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


def check_metric(metric: Any) -> None:
    """Raise unless it is `None`, or positive definite."""
    if metric is None or isinstance(metric, Tracer):
        return
    if isinstance(metric, dict):
        raise NotImplementedError(
            "`inverse_mass_matrix` must be one array over the flattened position: metrics of "
            f"several blocks are not implemented, got blocks {list(metric)}."
        )
    values = np.asarray(metric)
    if values.ndim not in (1, 2) or (values.ndim == 2 and len(set(values.shape)) != 1):
        raise ValueError(
            "`inverse_mass_matrix` must be a vector, its diagonal, or a square matrix, got "
            f"shape {values.shape}."
        )
    scales = values if values.ndim == 1 else np.linalg.eigvalsh(values)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError("`inverse_mass_matrix` must be positive definite.")
