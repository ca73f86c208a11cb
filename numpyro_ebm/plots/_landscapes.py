"""Energies and densities of up to six coordinates: a curve, a plane, or a corner of planes."""

import math
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import logsumexp

from .._checks import check_count
from .._types import ArrayLike, EnergyLike, Float
from ..normalizers._search import descend_from
from ._axes import energy_map, pyplot, style
from ._panels import Picture, draw
from ._view import Bounds, View, view_of


@style()
def plot_energy(
    energy: EnergyLike,
    samples: ArrayLike | Any = None,
    *,
    bounds: Bounds | None = None,
    ax: Any = None,
    num_grid: int = 150,
    colorbar: bool = True,
    at: ArrayLike | None = None,
) -> Any:
    """Plot an energy above the lowest value shown, with samples on top.

    In one dimension a curve, in two contours; in three to six a corner of *slices*, along each
    coordinate and each pair of coordinates, the others fixed at one point. (Samples are
    projected, so they may lie outside the low regions of a slice;
    [`plot_density`][numpyro_ebm.plots.plot_density] shows marginals.) The first contour is half
    a nat above the lowest energy, and each next one twice as high; the colours are evenly
    spread over contours, not over nats.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes, on points of one to six
      coordinates; if it does not know their shape, on those of `bounds` or `samples`, else of
      shape `(2,)`.
    - `samples`: points of shape `(..., *event)`, or [`Draws`][numpyro_ebm.sampling.Draws].
    - `bounds`: `(low, high)` of each coordinate, such as `((-3, 3), (-2, 2))`; by default
      around the samples, else three standard deviations around the mean if the energy knows
      both, else from -3 to 3.
    - `ax`: where to draw: axes, or an array of them for a corner, as from `plt.subplots(3, 3)`;
      by default a new figure.
    - `num_grid`: grid points per side.
    - `colorbar`: whether to draw one.
    - `at`: the point that all slices go through; by default the lowest one found.

    **Returns** `ax`.
    """
    check_count("num_grid", num_grid)
    view = view_of(energy, samples, bounds, range(1, _MOST_DIM + 1))
    return draw(_slices(view, num_grid, at), view, ax, colorbar)


@style()
def plot_density(
    energy: EnergyLike,
    samples: ArrayLike | Any = None,
    *,
    bounds: Bounds | None = None,
    ax: Any = None,
    num_grid: int | None = None,
    colorbar: bool = True,
) -> Any:
    r"""Plot the density $e^{-E(x)}/Z$, with samples on top.

    In one dimension a curve, with the histogram of the samples; in two contours; in three to
    six a corner of the *marginal* densities of each coordinate and each pair. $Z$ and the
    marginals are integrated within `bounds` by the trapezoidal rule on a grid, so `bounds` must
    hold all of the mass, and modes narrower than the spacing of the grid are misjudged.

    **Arguments** are those of [`plot_energy`][numpyro_ebm.plot_energy], and

    - `num_grid`: grid points per side; by default 400, 150, 60, 26, 16 or 11 in one to six
      dimensions.
    """
    view = view_of(energy, samples, bounds, range(1, _MOST_DIM + 1))
    num = _NUM_GRID[view.dim] if num_grid is None else num_grid
    check_count("num_grid", num, 2)
    return draw(_marginals(view, num), view, ax, colorbar)


#: The most coordinates of a corner, and the default grid of a density by dimension.
_MOST_DIM = 6
_NUM_GRID = {1: 400, 2: 150, 3: 60, 4: 26, 5: 16, 6: 11}


def _slices(view: View, num: int, at: ArrayLike | None = None) -> Picture:
    """Of the energy above the lowest value on any of them."""
    grids = [view.axis(i, num) for i in range(view.dim)]
    point = _point(view, at)

    def through(*which: int) -> np.ndarray:
        mesh = np.stack(np.meshgrid(*(grids[i] for i in which)), -1)
        points = np.tile(point, (*mesh.shape[:-1], 1))
        points[..., which] = mesh
        return view.energies(points)

    lines = [] if view.dim == 2 else [through(i) for i in range(view.dim)]
    planes = {pair: through(*pair) for pair in combinations(range(view.dim), 2)}
    values = np.concatenate([np.ravel(x) for x in (*lines, *planes.values())])
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("`energy` is finite nowhere within `bounds`: pass others.")
    low, levels = finite.min(), _levels_up_to(np.ptp(finite))
    norm = pyplot().matplotlib.colors.BoundaryNorm(levels, 256, extend="max")
    panel = {"cmap": energy_map(), "norm": norm, "extend": "max"}
    lines, planes = [x - low for x in lines], {pair: x - low for pair, x in planes.items()}
    return Picture("energy above its minimum (nats)", grids, lines, planes, levels, panel)


def _marginals(view: View, num: int) -> Picture:
    """Of the density, integrated by the trapezoidal rule."""
    grids = [view.axis(i, num) for i in range(view.dim)]
    weights = [np.gradient(x) * np.where(np.isin(x, x[[0, -1]]), 0.5, 1) for x in grids]
    log_p = -view.energies(np.stack(np.meshgrid(*grids, indexing="ij"), -1))
    log_mass = np.nan_to_num(log_p, nan=-np.inf, neginf=-np.inf)
    for i, weight in enumerate(weights):
        log_mass = log_mass + np.log(weight).reshape(-1, *[1] * (view.dim - 1 - i))
    log_z = float(np.asarray(logsumexp(log_mass) if view.log_z is None else view.log_z))
    if not math.isfinite(log_z):
        raise ValueError("`energy` has no mass within `bounds`, or is infinite: pass others.")
    mass = np.exp(log_mass - log_z)

    def marginal(*which: int) -> np.ndarray:
        others = tuple(k for k in range(view.dim) if k not in which)
        return mass.sum(others) / reduce(np.multiply.outer, [weights[i] for i in which])

    lines = [] if view.dim == 2 else [marginal(i) for i in range(view.dim)]
    planes = {pair: marginal(*pair).T for pair in combinations(range(view.dim), 2)}
    label, top = "density", max((x.max() for x in planes.values()), default=1.0)
    if view.dim > 2:
        label, top = "density, relative to its maximum", 1.0
        planes = {pair: x / x.max() for pair, x in planes.items()}
    # What lies below the first contour stays blank.
    levels = pyplot().MaxNLocator(10, prune="lower").tick_values(0, top)
    panel = {"cmap": energy_map().reversed()}
    return Picture(label, grids, lines, planes, levels, panel, is_density=True)


def _levels_up_to(top: float) -> np.ndarray:
    """Zero, and contours that double from half a nat; equal steps if the energy is flat."""
    doubling = 0.5 * 2.0 ** np.arange(8)
    if top < doubling[3]:
        return pyplot().MaxNLocator(8).tick_values(0, max(top, 1e-3))
    return np.array([0, *doubling[: np.searchsorted(doubling, top) + 1]])


def _point(view: View, at: ArrayLike | None) -> Float[np.ndarray, " d"]:
    """The point that slices go through."""
    if at is not None:
        point = np.asarray(at, float)
        if point.shape != view.shape or not np.isfinite(point).all():
            raise ValueError(f"`at` must be one finite point of shape {view.shape}, got {at}.")
        return point.ravel()
    if view.dim < 3:  # There is nothing to fix.
        return np.zeros(view.dim)
    low, high = view.box.T
    starts = np.random.default_rng(0).uniform(low, high, (64, 64, view.dim))
    lows = descend_from(view.energy, starts.reshape(64, 64, *view.shape))
    ends = np.clip(np.asarray(lows.points, float).reshape(64, -1), low, high)
    return ends[np.nan_to_num(view.energies(ends), nan=np.inf).argmin()]
