"""One chain over time."""

from typing import Any

import numpy as np

from .._checks import check_count
from .._types import EnergyLike, Shape
from ._axes import (
    IMAGE_MAP,
    SAMPLES,
    SHARE_MAP,
    Axes,
    axes,
    colour_bar,
    evenly,
    style,
    values_of,
)
from ._images import scale_of, show_image
from ._landscapes import plot_energy
from ._view import around, figure_size


@style()
def plot_chain(
    draws: Any,
    chain: int = 0,
    *,
    num: int = 12,
    energy: EnergyLike | None = None,
    image_shape: Shape | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot one chain over time: images as a film strip, points in the plane as a path.

    A chain that mixes forgets its first image within the strip; one that does not shows the
    same image throughout.

    **Arguments**

    - `draws`: [`Draws`][numpyro_ebm.sampling.Draws] or an array, `(chain, draw, *event)`,
      where `event` is `(2,)`, `(height, width)` or `(height, width, rgb)`.
    - `chain`: which one.
    - `num`: draws to show, evenly spaced, including the first and the last. The path goes
      through all draws.
    - `energy`: for points in the plane, an energy whose contours are drawn below.
    - `image_shape`: the shape of one draw, if it is a flattened image.
    - `ax`: where to draw; by default a new figure.

    **Returns** `ax`.
    """
    check_count("num", num)
    points = _one_chain(values_of("draws", draws), chain)
    if image_shape is not None:
        points = _as_images(points, tuple(image_shape))
    if points.shape[1:] == (2,):
        ax = _plot_path(points, num, energy, ax)
    elif points.ndim == 3 or (points.ndim == 4 and points.shape[-1] in (3, 4)):
        ax = _plot_strip(points, num, ax)
    else:
        raise ValueError(
            "`draws` must be of points in the plane or of images, got points of shape "
            f"{points.shape[1:]}. Pass `image_shape=(height, width)` for flat images."
        )
    return ax


def _one_chain(values: np.ndarray, chain: int) -> np.ndarray:
    if values.ndim < 3 or not values.size:
        raise ValueError(
            f"`draws` must be of shape `(chain, draw, *event)`, got shape {values.shape}."
        )
    if not -len(values) <= chain < len(values):
        raise ValueError(f"`chain` must be one of the {len(values)} of `draws`, got {chain}.")
    return values[chain]


def _as_images(points: np.ndarray, image_shape: Shape) -> np.ndarray:
    if np.prod(image_shape) != points[0].size:
        raise ValueError(
            f"`image_shape` {image_shape} does not hold a point of shape {points.shape[1:]}."
        )
    return points.reshape(-1, *image_shape)


def _plot_strip(images: np.ndarray, num: int, ax: Axes | None) -> Axes:
    shown = evenly(len(images), num)
    height, width = images.shape[1:3]
    ax = axes(ax, figsize=(0.4 + 0.8 * len(shown), 0.7 + 0.8 * height / width))
    scale = {"cmap": IMAGE_MAP, **scale_of(images[shown])}
    lefts = 1.1 * width * np.arange(len(shown))
    for left, image in zip(lefts, images[shown], strict=True):
        show_image(ax, image, extent=(left, left + width, height, 0), **scale)
    ax.set(xlim=(0, lefts[-1] + width), ylim=(height, 0), yticks=[], xlabel="draw")
    ax.set_xticks(lefts + width / 2, [str(n) for n in shown])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _plot_path(
    points: np.ndarray, num: int, energy: EnergyLike | None, ax: Axes | None
) -> Axes:
    box = around(points)
    ax = axes(ax, figsize=figure_size(box))
    if energy is not None:
        plot_energy(energy, bounds=box, ax=ax, colorbar=False)
    shown = evenly(len(points), num)
    ax.plot(*points.T, color=SAMPLES, alpha=0.8, linewidth=0.7)
    dots = {"cmap": SHARE_MAP, "edgecolors": "black", "linewidths": 0.8, "zorder": 3}
    marks = ax.scatter(*points[shown].T, c=shown, s=36, vmin=0, **dots)
    colour_bar(ax, marks, "draw")
    ax.set(aspect="equal", xlim=box[0], ylim=box[1])
    return ax
