"""Grids of images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._types import ArrayLike
from ._axes import IMAGE_MAP, UNKNOWN, Axes, grid_of_axes, pyplot, style, values_of


@style()
def plot_images(rows: Mapping[str, ArrayLike], *, ax: Any = None, **imshow: Any) -> np.ndarray:
    """Plot rows of grey images, one row per entry of `rows`, labelled by its key.

    All images have one scale, from the smallest to the largest finite value. Where a row has
    fewer images than another, the page stays blank.

    **Arguments**

    - `rows`: names mapped to images of shape `(n, height, width)`; NaN has stripes.
    - `ax`: where to draw, an array of axes, `(row, image)`, as from `plt.subplots`; by default
      a new figure.
    - `imshow`: passed to `Axes.imshow`, such as `cmap`, or another scale by `vmin` and `vmax`.

    **Returns** `ax`; the figure is `ax[0, 0].figure`.
    """
    images = {label: values_of("rows", some) for label, some in rows.items()}
    _check(images)
    shape = len(images), max(map(len, images.values()))
    size = (1 + 0.8 * shape[1], 0.85 * shape[0])
    grid = grid_of_axes(ax, shape, figsize=size)
    everything = np.concatenate([np.ravel(some) for some in images.values()])
    scale = {"cmap": IMAGE_MAP, **scale_of(everything), **imshow}
    for (label, some), row in zip(images.items(), grid, strict=True):
        for image, cell in zip(some, row, strict=False):
            show_image(cell, image, **scale)
            cell.set(xticks=[], yticks=[])
        for cell in row[len(some) :]:
            cell.set_axis_off()
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return grid


def show_image(ax: Axes, image: np.ndarray, **imshow: Any) -> None:
    """Show one image on stripes, which are seen where it is NaN."""
    left, right, bottom, top = ax.imshow(image, **imshow).get_extent()
    if np.isnan(image).any():
        page = pyplot().Rectangle((left, bottom), right - left, top - bottom, zorder=-1)
        page.set(**UNKNOWN)
        ax.add_patch(page)


def scale_of(images: np.ndarray) -> dict[str, float]:
    """The smallest and the largest finite value, as keywords of `Axes.imshow`."""
    finite = images[np.isfinite(images)]
    return {"vmin": float(finite.min()), "vmax": float(finite.max())} if finite.size else {}


def _check(rows: dict[str, np.ndarray]) -> None:
    if not rows:
        raise ValueError("`rows` must hold at least one row of images, got none.")
    for label, images in rows.items():
        if images.ndim != 3 or not images.size:
            raise ValueError(
                f"`rows` must hold images of shape `(n, height, width)`, got shape "
                f"{images.shape} in {label!r}. Flat ones need `reshape(-1, height, width)`."
            )
