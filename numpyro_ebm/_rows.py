"""Rows of a table: whether they have a density that can be learned."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._checks import as_data
from ._types import Array, ArrayLike, Float, Key


def split_rows(
    rng_key: Key, data: ArrayLike, held_out: ArrayLike | None
) -> tuple[Array, Array]:
    data = _rows("data", data)
    if held_out is None:
        order, size = jr.permutation(rng_key, len(data)), len(data) // 5
        return data[order[size:]], data[order[:size]]
    held_out = _rows("held_out", held_out)
    if held_out.shape[1] != data.shape[1]:
        raise ValueError(
            f"`held_out` must have as many columns as `data`, {data.shape[1]}, got "
            f"{held_out.shape[1]}."
        )
    return data, held_out


def _rows(name: str, data: ArrayLike) -> Float[Array, "n d"]:
    if isinstance(data, tuple):
        raise TypeError(
            f"`{name}` must be an array. For pairs `(y, x)` give an `ebm.ConditionalEnergy` to "
            "an `ebm.Estimator`."
        )
    rows = as_data(data, name)
    if rows.ndim != 2:
        raise ValueError(
            f"`{name}` must have one point per row, got shape {rows.shape}. Flatten points: "
            "`data.reshape(len(data), -1)`."
        )
    return rows


def check_rows(rows: Float[Array, "n d"]) -> None:
    """Raise unless the rows are enough, and continuous."""
    count, dim = rows.shape
    if count < max(50, 2 * dim):
        raise ValueError(
            f"`data` must have at least {max(50, 2 * dim)} rows to learn from, for {dim} "
            f"columns, got {count}. Use `ebm.Gaussian` with fewer."
        )
    shares = [np.unique(column, return_counts=True)[1].max() / count for column in rows.T]
    worst = int(np.argmax(shares))
    if shares[worst] > _MOST_EQUAL:
        raise ValueError(
            f"`data` must be continuous, but column {worst} has one value in "
            f"{shares[worst]:.0%} of the rows, and so no density. Drop it if it is constant; "
            "add noise as wide as its rounding (to integers, with `ebm.energies.dequantize`). "
            "For binary data use `ebm.Estimator(ebm.PseudoLikelihood(), ...)`."
        )


def unconstrained_rows(to_real: Any, rows: Array) -> Array:
    points = jnp.asarray(to_real(rows))
    if not np.isfinite(points).all():
        raise ValueError("`data` must lie inside of `support`, and not on its boundary.")
    return points


def check_rank(points: Float[Array, "n d"]) -> None:
    """Raise if whitening could not give some direction unit scale."""
    if np.linalg.eigvalsh(np.cov(points.T).reshape(points.shape[1], -1))[0] < _NARROW:
        raise ValueError(
            "`data` must not have a column that is a combination of others, such as a sum or a "
            "copy: they have no density. Drop it."
        )


#: The largest share of equal values in a continuous column, and the least variance of a
#: direction after whitening.
_MOST_EQUAL, _NARROW = 0.2, 0.5
