"""Energies and scores in the plane."""

from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._calculus import score
from .._checks import check_count
from .._types import Array, EnergyLike, Float
from ..energies import AbstractEnergy, as_energy, check_energy
from ._axes import Axes, axes, pyplot, values_of

#: `((x_min, x_max), (y_min, y_max))`
Bounds: TypeAlias = tuple[tuple[float, float], tuple[float, float]]


def plot_energy(
    energy: EnergyLike,
    samples: Float[Array, "*n 2"] | None = None,
    *,
    bounds: Bounds | None = None,
    ax: Axes | None = None,
    num_grid: int = 150,
    colorbar: bool = True,
) -> Axes:
    """Plot the contours of an energy in the plane, with samples on top.

    The first contour is half a nat above the lowest energy shown; each next one is twice as
    high.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes, on points of shape `(2,)`.
    - `samples`: points of shape `(..., 2)`, or [`Draws`][numpyro_ebm.sampling.Draws] of them.
    - `bounds`: `((x_min, x_max), (y_min, y_max))`; by default around the samples, else
      $[-3, 3]^2$.
    - `ax`: where to draw; by default a new figure.
    - `num_grid`: grid points per side.
    - `colorbar`: whether to draw one.
    """
    check_count("num_grid", num_grid)
    energy, points = _in_plane(energy), _points(samples)
    bounds = _bounds(points, bounds)
    ax = axes(ax, figsize=figure_size(bounds))
    x, y = (np.linspace(low, high, num_grid) for low, high in bounds)
    height = np.asarray(_energies(energy, _grid(x, y)))
    height = height - np.nanmin(height)
    levels = [0, *0.5 * 2.0 ** np.arange(8)]
    filled = ax.contourf(x, y, height, levels, cmap="Blues_r", extend="max")
    if colorbar:
        ax.figure.colorbar(filled, ax=ax, label="energy above its minimum (nats)")
    return _finish(ax, points, bounds)


def plot_scores(
    energy: EnergyLike,
    samples: Float[Array, "*n 2"] | None = None,
    *,
    bounds: Bounds | None = None,
    ax: Axes | None = None,
    num_arrows: int = 20,
    contours: bool = True,
    colorbar: bool = True,
) -> Axes:
    r"""Plot the score field $s(x) = -\nabla E(x)$ of an energy in the plane.

    The length of an arrow is $|s| / (|s| + m)$ times the distance to the next one, where $m$ is
    the lower quartile of $|s|$ shown: both weak and strong scores are visible. Scores that are
    not finite are not drawn.

    **Arguments** are those of [`plot_energy`][numpyro_ebm.plot_energy], and

    - `num_arrows`: arrows along the longer side.
    - `contours`: draw those of `plot_energy` below; without them the colour of an arrow is
      $|s|$.
    - `colorbar`: of the contours, or of $|s|$.
    """
    check_count("num_arrows", num_arrows)
    energy, points = _in_plane(energy), _points(samples)
    bounds = _bounds(points, bounds)
    ax = axes(ax, figsize=figure_size(bounds))
    if contours:
        plot_energy(energy, bounds=bounds, ax=ax, colorbar=colorbar)
    cell = max(high - low for low, high in bounds) / num_arrows
    x, y = (_centres(low, high, cell) for low, high in bounds)
    field = np.asarray(_scores(energy, _grid(x, y)))
    norm = np.linalg.norm(field, axis=-1)
    norm = np.where(np.isfinite(norm), norm, np.nan)
    shown = cell * field / (norm + _typical(norm))[..., None]
    style = {"color": "tab:orange"} if contours else {"cmap": "viridis_r"}
    args = (x, y, *np.moveaxis(shown, -1, 0), *(() if contours else (norm,)))
    unit = {"angles": "xy", "scale_units": "xy", "scale": 1, "pivot": "mid", "width": 0.004}
    arrows = ax.quiver(*args, **unit, **style)
    if colorbar and not contours:
        arrows.set_norm(pyplot().matplotlib.colors.LogNorm())
        ax.figure.colorbar(arrows, ax=ax, label="norm of the score")
    return _finish(ax, points, bounds)


@eqx.filter_jit
def _energies(energy: AbstractEnergy, grid: Array) -> Array:
    return jax.vmap(jax.vmap(energy))(grid)


@eqx.filter_jit
def _scores(energy: AbstractEnergy, grid: Array) -> Array:
    return jax.vmap(jax.vmap(lambda x: score(energy, x)))(grid)


def _in_plane(energy: EnergyLike) -> AbstractEnergy:
    energy = as_energy(energy, (2,))
    check_energy(energy, (2,))
    return energy


def _grid(x: np.ndarray, y: np.ndarray) -> Array:
    return jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1), jnp.result_type(float))


def _centres(low: float, high: float, cell: float) -> np.ndarray:
    """The centres of cells of about this size."""
    num = max(round((high - low) / cell), 1)
    return low + (high - low) * (np.arange(num) + 0.5) / num


def _typical(norm: np.ndarray) -> float:
    """A typical norm, positive even for a flat energy."""
    positive = norm[norm > 0]
    return float(np.quantile(positive, 0.25)) if positive.size else 1.0


def _points(samples: Any) -> np.ndarray | None:
    if samples is None:
        return None
    points = values_of("samples", samples)
    if points.ndim == 0 or points.shape[-1] != 2 or not points.size:
        raise ValueError(f"`samples` must be of shape `(..., 2)`, got shape {points.shape}.")
    return points.reshape(-1, 2)


def _bounds(points: np.ndarray | None, bounds: Bounds | None) -> Bounds:
    if bounds is None:
        return ((-3.0, 3.0), (-3.0, 3.0)) if points is None else around(points)
    if np.shape(bounds) != (2, 2) or not all(low < high for low, high in bounds):
        raise ValueError(
            f"`bounds` must be `((x_min, x_max), (y_min, y_max))`, got {bounds!r}."
        )
    return bounds


def around(points: np.ndarray) -> Bounds:
    finite = points[np.isfinite(points).all(1)]
    if not finite.size:
        raise ValueError("`samples` are not finite anywhere: pass `bounds`, or look at them.")
    low, high = finite.min(0), finite.max(0)
    margin = 0.15 * (high - low) + 1e-6
    (x_min, y_min), (x_max, y_max) = (low - margin).tolist(), (high + margin).tolist()
    return (x_min, x_max), (y_min, y_max)


def figure_size(bounds: Bounds) -> tuple[float, float]:
    """The size of a figure with an unstretched plane and a colour bar of the same height."""
    (x_min, x_max), (y_min, y_max) = bounds
    return 6.4, 0.6 + float(np.clip(4.9 * (y_max - y_min) / (x_max - x_min), 1.5, 9))


def _finish(ax: Axes, points: np.ndarray | None, bounds: Bounds) -> Axes:
    if points is not None:
        ax.scatter(*points.T, s=3, c="tab:orange", alpha=0.5, linewidths=0)
    ax.set(aspect="equal", xlim=bounds[0], ylim=bounds[1])
    return ax
