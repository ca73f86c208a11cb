"""What plots of energies draw: curves, planes, and corners of both."""

import textwrap
from typing import Any, NamedTuple

import numpy as np

from .._types import Float
from ._axes import COLORS, SAMPLES, Axes, axes, colour_bar, grid_of_axes
from ._view import View, figure_size


class Picture(NamedTuple):
    """Values on grids: along each coordinate, and of each pair, with their contours.

    - **planes**: by `(i, j)` with `i < j`, rows along coordinate `j`.
    - **panel**: of `contourf`: the colours, and what lies above the last contour.
    """

    label: str
    grids: list[np.ndarray]
    lines: list[np.ndarray]
    planes: dict[tuple[int, int], np.ndarray]
    levels: np.ndarray
    panel: dict[str, Any]
    is_density: bool = False


def draw(picture: Picture, view: View, ax: Any, colorbar: bool) -> Any:
    """The panels of a picture, with samples."""
    if view.dim == 1:
        ax = axes(ax)
        _draw_line(ax, picture, view, 0)
        ax.set(xlabel=view.names[0], ylabel=picture.label)
        return ax
    if view.dim == 2:
        ax = axes(ax, figsize=figure_size(view.box))
        filled = _draw_plane(ax, picture, view, (0, 1))
        ax.set_aspect("equal")
        if colorbar:
            colour_bar(ax, filled, picture.label)
        return ax
    return _draw_corner(picture, view, ax, colorbar)


def _draw_line(ax: Axes, picture: Picture, view: View, i: int) -> None:
    values = picture.lines[i]
    ax.plot(picture.grids[i], np.where(np.isfinite(values), values, np.nan), color=COLORS[0])
    ax.set(xlim=view.box[i], ylim=(0, None))
    if view.points is None:
        return
    points = view.points[:, i]
    if picture.is_density:
        look = {"density": True, "color": SAMPLES, "alpha": 0.5}
        ax.hist(points, bins="auto", range=tuple(view.box[i]), **look)
    else:
        place = {"transform": ax.get_xaxis_transform(), "clip_on": True}
        ax.plot(points, np.full(len(points), 0.02), "|", color=SAMPLES, alpha=0.5, **place)


def _draw_plane(ax: Axes, picture: Picture, view: View, pair: tuple[int, int]) -> Any:
    i, j = pair
    # A wall is higher than any contour.
    values = np.nan_to_num(picture.planes[pair], nan=np.nan, posinf=1e30)
    values = np.ma.masked_invalid(values)
    x, y = picture.grids[i], picture.grids[j]
    filled = ax.contourf(x, y, values, picture.levels, **picture.panel)
    if view.points is not None:
        draw_points(ax, view.points[:, pair])
    ax.set(xlim=view.box[i], ylim=view.box[j])
    return filled


def draw_points(ax: Axes, points: Float[np.ndarray, "n 2"]) -> None:
    ax.scatter(*points.T, s=5, c=SAMPLES, alpha=0.8, linewidths=0, rasterized=True)


def _draw_corner(picture: Picture, view: View, ax: Any, colorbar: bool) -> np.ndarray:
    dim = view.dim
    filled, grid = None, grid_of_axes(ax, (dim, dim), figsize=(1.9 * dim, 1.8 * dim))
    for (row, column), cell in np.ndenumerate(grid):
        if column > row:
            cell.set_axis_off()
        elif column == row:
            _draw_line(cell, picture, view, row)
            cell.set_yticks([])
        else:
            filled = _draw_plane(cell, picture, view, (column, row))
        _label(cell, view, row, column)
    if colorbar:
        # In a cell above the diagonal, where it is in nobody's way.
        bar = grid[0, 1].inset_axes((0.1, 0, 0.12, 1))
        label = textwrap.fill(picture.label, 20)
        bar.figure.colorbar(filled, cax=bar, label=label, format="%g")
    return grid


def _label(cell: Axes, view: View, row: int, column: int) -> None:
    """Names and numbers at the edges of a corner only."""
    is_last, is_first = row == view.dim - 1, column == 0 < row
    cell.tick_params(labelbottom=is_last, labelleft=is_first)
    cell.set_xlabel(view.names[column] if is_last else "")
    cell.set_ylabel(view.names[row] if is_first else "")
