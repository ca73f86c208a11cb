"""Energies of several samples, side by side."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import check_count
from .._types import EnergyLike, Shape
from ..energies import AbstractEnergy, as_energy, check_energy
from ._axes import COLORS, DASHES, Axes, axes, style, values_of
from ._view import energies_at


@style()
def plot_energies(
    samples: Mapping[str, Any],
    energy: EnergyLike,
    *,
    event_shape: Shape | None = None,
    bounds: tuple[float, float] | None = None,
    bins: int = 60,
    ax: Axes | None = None,
) -> Axes:
    """Plot histograms of the energies of several samples, on common bins.

    Draws from a good energy have the same energies as the data, and noise has higher ones.
    Values outside the plot, infinite or NaN count in the share of their sample, and are
    reported in the legend.

    ```python
    ebm.plots.plot_energies(
        {"data": data, "draws": draws, "noise": noise}, energy
    )
    ```

    **Arguments**

    - `samples`: names mapped to points of shape `(..., *event)`, or
      [`Draws`][numpyro_ebm.sampling.Draws].
    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `event_shape`: the shape of one point, if the energy does not know it.
    - `bounds`: `(low, high)` of the energies shown; by default the central 99 % of each sample,
      but at most twice the width of the first sample beyond it.
    - `bins`: the number of bins.
    - `ax`: where to draw; by default a new figure.

    **Returns** `ax`.
    """
    check_count("bins", bins)
    if not samples:
        raise ValueError("`samples` must hold at least one sample, got none.")
    energy = as_energy(energy, event_shape)
    energies = _by_label(energy, samples, event_shape)
    edges = np.linspace(*_bounds(list(energies.values()), bounds), bins + 1)
    ax = axes(ax)
    for i, (label, values) in enumerate(energies.items()):
        color, dashes = COLORS[i % len(COLORS)], DASHES[i % len(DASHES)]
        share = np.histogram(values, edges)[0] / values.size / np.diff(edges)
        line = {"color": color, "linestyle": dashes, "linewidth": 1.5}
        ax.stairs(share, edges, label=f"{label}{_missing(values, edges)}", **line)
        ax.stairs(share, edges, fill=True, color=color, alpha=0.2)
    ax.set(xlabel="energy (nats)", ylabel="share per nat", xlim=edges[[0, -1]])
    ax.set_ylim(bottom=0)
    ax.legend()
    return ax


def _by_label(
    energy: AbstractEnergy, samples: Mapping[str, Any], event_shape: Shape | None
) -> dict[str, np.ndarray]:
    shape = energy.event_shape if event_shape is None else tuple(event_shape)
    if shape is None:
        raise ValueError("`event_shape` is needed because this energy doesn't know it.")
    check_energy(energy, shape)
    points = {label: _points(label, sample, shape) for label, sample in samples.items()}
    # All at once: samples of different sizes would each need a compilation.
    everything = np.concatenate(list(points.values()))
    values = np.asarray(energies_at(energy, jnp.asarray(everything, jnp.result_type(float))))
    ends = np.cumsum([len(x) for x in points.values()])[:-1]
    return dict(zip(points, np.split(values, ends), strict=True))


def _points(label: str, sample: Any, shape: Shape) -> np.ndarray:
    points = values_of(f"samples[{label!r}]", sample)
    lead = points.ndim - len(shape)
    if lead < 1 or points.shape[lead:] != shape or not points.size:
        raise ValueError(
            f"`samples[{label!r}]` must hold points of shape {shape} along its first axes, "
            f"got shape {points.shape}."
        )
    return points.reshape(-1, *shape)


def _bounds(
    energies: list[np.ndarray], bounds: tuple[float, float] | None
) -> tuple[float, float]:
    if bounds is not None:
        if np.shape(bounds) != (2,) or not bounds[0] < bounds[1]:
            raise ValueError(f"`bounds` must be `(low, high)`, got {bounds!r}.")
        return bounds
    finite = [values[np.isfinite(values)] for values in energies]
    ranges = [np.quantile(values, [0.005, 0.995]) for values in finite if values.size]
    if not ranges:
        raise ValueError("`samples` have no finite energy at all: is `energy` NaN?")
    reach = 2 * max(np.ptp(ranges[0]), 1e-3)
    low = max(np.min(ranges), ranges[0][0] - reach)
    high = min(np.max(ranges), ranges[0][1] + reach)
    margin = 0.02 * max(high - low, 1e-3)
    return low - margin, high + margin


def _missing(values: np.ndarray, edges: np.ndarray) -> str:
    """What a histogram does not show."""
    finite = values[np.isfinite(values)]
    counts = {
        "lower": (finite < edges[0]).sum(),
        "higher": (finite > edges[-1]).sum(),
        "infinite": np.isinf(values).sum(),
        "NaN": np.isnan(values).sum(),
    }
    words = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f" ({words})" if words else ""
