"""A conditional density over its condition."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import check_count, check_probability
from ..energies import AbstractConditional, is_conditional
from ..objectives import as_float_batch
from ..tasks import Prediction, predict
from ._axes import ALARM, SHARE_MAP, Axes, axes, colour_bar, pyplot, style
from ._view import Bounds, around


@style()
def plot_conditional(
    conditional: AbstractConditional,
    data: Any = None,
    *,
    bounds: Bounds | None = None,
    prob: float = 0.9,
    num_grid: int = 200,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    r"""Plot $p(y \mid x)$ over $x$, its median, and the central interval, with data on top.

    One dimension of each. The density is computed by quadrature at each $x$, and the colours
    go by its square root, so that broad parts show beside narrow ones.

    ```python
    ebm.plots.plot_conditional(conditional, (y, x))
    ```

    **Arguments**

    - `conditional`: a [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy] with one number `y`
      and one number `x`, or one that is normalised.
    - `data`: a pair `(y, x)`.
    - `bounds`: `((x_min, x_max), (y_min, y_max))`; by default those of the data.
    - `prob`: the probability of the interval.
    - `num_grid`: grid points per side.
    - `ax`: where to draw; by default a new figure.
    - `colorbar`: whether to draw one.

    **Returns** `ax`.
    """
    check_count("num_grid", num_grid, 2)
    check_probability("prob", prob)
    if not is_conditional(conditional):
        raise TypeError(
            "`conditional` must be a `ConditionalEnergy(fn, event_shape)`, got "
            f"{type(conditional).__name__}."
        )
    points, x_shape = _points(data)
    if bounds is None:
        if points is None:
            raise ValueError("`bounds` or `data` is needed: they say which `x` to show.")
        # What lies beyond the data is extrapolated.
        bounds = (points[:, 0].min(), points[:, 0].max()), around(points)[1]
    x, y = (np.linspace(low, high, num_grid) for low, high in bounds)
    conditions = jnp.asarray(x, jnp.result_type(float)).reshape(-1, *x_shape)
    prediction = predict(jr.key(0), conditional, conditions)
    ax = axes(ax)
    norm = pyplot().matplotlib.colors.PowerNorm(0.5)
    look = {"cmap": SHARE_MAP, "norm": norm, "shading": "gouraud", "rasterized": True}
    image = ax.pcolormesh(x, y, _density(prediction, y).T, **look)
    if colorbar:
        colour_bar(ax, image, "density of y given x")
    low, high = prediction.interval(prob)
    line = {"color": ALARM, "linewidth": 1.2}
    ax.plot(x, np.ravel(prediction.quantile(0.5)), label="median", **line)
    for end, label in ((low, f"central {prob:.0%}"), (high, None)):
        ax.plot(x, np.ravel(end), linestyle="--", label=label, **line)
    if points is not None:
        ax.scatter(*points.T, s=4, c="0.2", alpha=0.4, linewidths=0, label="data")
    ax.set(xlim=bounds[0], ylim=bounds[1], xlabel="x", ylabel="y")
    ax.legend(loc="best")
    return ax


def _points(data: Any) -> tuple[np.ndarray | None, tuple[int, ...]]:
    """`(x, y)` of each datum, and the shape of one condition."""
    if data is None:
        return None, ()
    batch = as_float_batch(data)
    x: Any = batch.conditions
    is_single = isinstance(x, jax.Array) and x.size == batch.points.size == len(batch)
    if not is_single:
        raise ValueError(
            "`data` must be a pair `(y, x)` with one number each per row, got shapes "
            f"{jax.tree.map(jnp.shape, (batch.points, x))}."
        )
    return np.stack([np.ravel(x), np.ravel(batch.points)], 1), x.shape[1:]


def _density(prediction: Prediction, y: np.ndarray) -> np.ndarray:
    """The density at each condition and each of `y`, from the mass between nodes."""
    nodes = np.asarray(prediction.points).reshape(prediction.weights.shape)
    mass = np.asarray(prediction.weights) / np.gradient(nodes, axis=1)
    rows = [np.interp(y, at, p, 0, 0) for at, p in zip(nodes, mass, strict=True)]
    return np.stack(rows)
