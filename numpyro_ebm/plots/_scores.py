"""Scores in the plane."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._calculus import score
from .._checks import check_count
from .._types import Array, ArrayLike, EnergyLike
from ..energies import AbstractEnergy
from ._axes import SAMPLES, Axes, axes, colour_bar, energy_map, pyplot, style
from ._landscapes import plot_energy
from ._panels import draw_points
from ._view import Bounds, figure_size, view_of


@style()
def plot_scores(
    energy: EnergyLike,
    samples: ArrayLike | Any = None,
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

    **Arguments** are those of [`plot_energy`][numpyro_ebm.plot_energy] in the plane, and

    - `num_arrows`: arrows along the longer side.
    - `contours`: draw those of `plot_energy` below; without them the colour of an arrow is
      $|s|$.
    - `colorbar`: of the contours, or of $|s|$.

    **Returns** `ax`.
    """
    check_count("num_arrows", num_arrows)
    view = view_of(energy, samples, bounds, (2,))
    ax = axes(ax, figsize=figure_size(view.box))
    if contours:
        plot_energy(energy, bounds=view.box, ax=ax, colorbar=colorbar)
    cell = np.diff(view.box).max() / num_arrows
    x, y = (_centres(low, high, cell) for low, high in view.box)
    field = np.asarray(_scores(view.energy, _grid(x, y)))
    norm = np.linalg.norm(field, axis=-1)
    norm = np.where(np.isfinite(norm), norm, np.nan)
    shown = cell * field / (norm + _typical(norm))[..., None]
    look = {"color": SAMPLES} if contours else {"cmap": energy_map().reversed()}
    args = (x, y, *np.moveaxis(shown, -1, 0), *(() if contours else (norm,)))
    unit = {"angles": "xy", "scale_units": "xy", "scale": 1, "pivot": "mid", "width": 0.004}
    arrows = ax.quiver(*args, **unit, **look)
    if colorbar and not contours:
        arrows.set_norm(pyplot().matplotlib.colors.LogNorm())
        colour_bar(ax, arrows, "norm of the score")
    if view.points is not None:
        draw_points(ax, view.points)
    ax.set(aspect="equal", xlim=view.box[0], ylim=view.box[1])
    return ax


@eqx.filter_jit
def _scores(energy: AbstractEnergy, grid: Array) -> Array:
    return jax.vmap(jax.vmap(lambda x: score(energy, x)))(grid)


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
