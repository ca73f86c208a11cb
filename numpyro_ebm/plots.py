"""Pictures, with matplotlib, which is imported at its first use."""

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ._types import Array, Float
from .energies import as_energy, check_energy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_energy(
    energy: Any,
    samples: Float[Array, "*n 2"] | None = None,
    *,
    bounds: tuple[tuple[float, float], tuple[float, float]] | None = None,
    ax: "Axes | None" = None,
    num_grid: int = 150,
    colorbar: bool = True,
) -> "Axes":
    """Draw the contours of an energy in the plane, and samples on top.

    The first contour lies half a nat above the lowest energy in sight; each next one twice as
    high as the one before.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes, on points of shape `(2,)`.
    - `samples`: points of shape `(..., 2)`.
    - `bounds`: `((x_min, x_max), (y_min, y_max))`; by default around the samples, else
      $[-3, 3]^2$.
    - `ax`: where to draw; by default a new figure.
    - `num_grid`: grid points a side.
    - `colorbar`: whether to draw one.
    """
    energy = as_energy(energy, (2,))
    check_energy(energy, (2,))
    points = None if samples is None else np.asarray(samples).reshape(-1, 2)
    (x_min, x_max), (y_min, y_max) = _bounds(points) if bounds is None else bounds
    x = jnp.linspace(x_min, x_max, num_grid)
    y = jnp.linspace(y_min, y_max, num_grid)
    grid = jnp.stack(jnp.meshgrid(x, y), axis=-1)
    height = np.asarray(jax.jit(jax.vmap(jax.vmap(energy)))(grid))
    height = height - np.nanmin(height)
    if ax is None:
        ax = _pyplot().subplots(layout="constrained")[1]
    assert ax is not None
    levels = [0, *0.5 * 2.0 ** np.arange(8)]
    filled = ax.contourf(x, y, height, levels, cmap="Blues_r", extend="max")
    if colorbar:
        ax.figure.colorbar(filled, ax=ax, label="energy above its minimum (nats)")
    if points is not None:
        ax.scatter(*points.T, s=3, c="tab:orange", alpha=0.5, linewidths=0)
    ax.set(aspect="equal", xlim=(x_min, x_max), ylim=(y_min, y_max))
    return ax


def plot_images(rows: Mapping[str, Float[Array, "n h w"]], **imshow: Any) -> "Figure":
    """Draw rows of grey images, one entry of `rows` a row, labelled by its key.

    **Arguments**

    - `rows`: label to images of shape `(n, height, width)`; NaN is drawn as "unknown".
    - `imshow`: passed to `Axes.imshow`, such as `vmin` and `vmax`; by default each row has its
      own scale.
    """
    num_columns = max(len(images) for images in rows.values())
    figure, axes = _pyplot().subplots(
        len(rows),
        num_columns,
        squeeze=False,
        figsize=(1 + 0.8 * num_columns, 0.85 * len(rows)),
        layout="constrained",
    )
    for (label, images), row in zip(rows.items(), axes, strict=True):
        scale = {"vmin": np.nanmin(images), "vmax": np.nanmax(images), **imshow}
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for image, ax in zip(images, row, strict=False):
            ax.imshow(np.asarray(image), **{"cmap": "gray_r", **scale})
        for ax in row:
            ax.set(xticks=[], yticks=[], facecolor="tab:blue")
    return figure


def _pyplot() -> ModuleType:
    """The door to matplotlib."""
    import matplotlib.pyplot as plt

    return plt


def _bounds(points: np.ndarray | None) -> tuple[tuple[float, float], tuple[float, float]]:
    if points is None:
        return (-3.0, 3.0), (-3.0, 3.0)
    low, high = points.min(0), points.max(0)
    margin = 0.15 * (high - low) + 1e-6
    (x_min, y_min), (x_max, y_max) = low - margin, high + margin
    return (x_min, x_max), (y_min, y_max)
