"""Grids of images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._types import ArrayLike
from ._axes import UNKNOWN, Figure, pyplot, values_of


def plot_images(rows: Mapping[str, ArrayLike], **imshow: Any) -> Figure:
    """Plot rows of grey images, one row per entry of `rows`, labelled by its key.

    **Arguments**

    - `rows`: names mapped to images of shape `(n, height, width)`; NaN is drawn as "unknown".
    - `imshow`: passed to `Axes.imshow`, such as `vmin` and `vmax`; by default each row has its
      own scale.
    """
    rows = {label: values_of("rows", images) for label, images in rows.items()}
    _check(rows)
    num_columns = max(len(images) for images in rows.values())
    figure, axes = pyplot().subplots(
        len(rows),
        num_columns,
        squeeze=False,
        figsize=(1 + 0.8 * num_columns, 0.85 * len(rows)),
        layout="constrained",
    )
    for (label, images), row in zip(rows.items(), axes, strict=True):
        scale = {**scale_of(images), **imshow}
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for image, ax in zip(images, row, strict=False):
            ax.imshow(image, **{"cmap": "gray_r", **scale})
        for ax in row:
            ax.set(xticks=[], yticks=[], facecolor=UNKNOWN)
    return figure


def scale_of(images: np.ndarray) -> dict[str, float]:
    """The smallest and the largest finite value, as keywords of `Axes.imshow`."""
    finite = images[np.isfinite(images)]
    return {"vmin": finite.min(), "vmax": finite.max()} if finite.size else {}


def _check(rows: dict[str, np.ndarray]) -> None:
    if not rows:
        raise ValueError("`rows` must hold at least one row of images, got none.")
    for label, images in rows.items():
        if images.ndim != 3 or not images.size:
            raise ValueError(
                f"`rows` must hold images of shape `(n, height, width)`, got shape "
                f"{images.shape} in {label!r}. Flat ones need `reshape(-1, height, width)`."
            )
