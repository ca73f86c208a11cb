"""Traces and ranks of the summaries used to assess chains."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import binom, rankdata

from .._types import Float
from ._axes import COLORS, Axes, evenly, grid_of_axes, style

#: Bins of ranks, and the probability that a bar of a chain that mixes leaves the band.
_BINS, _OUTSIDE = 20, 0.01


@style()
def plot_summaries(
    summaries: Mapping[str, Float[np.ndarray, "chain draw"]],
    *,
    max_chains: int = 16,
    max_draws: int = 1000,
    ax: Any = None,
) -> np.ndarray:
    """Plot one row per summary: its trace, and the ranks of each chain among all draws.

    Chains that mix have similar ranks: their lines stay in the grey band, where independent
    draws would lie. Regions that one chain visits more than others stand out.

    **Arguments**

    - `summaries`: names mapped to values `(chain, draw)`.
    - `max_chains`, `max_draws`: the most to show, evenly chosen; ranks are among all draws.
    - `ax`: where to draw, an array of axes with two columns; by default a new figure.

    **Returns** `ax`.
    """
    if not summaries:
        raise ValueError("`summaries` must hold at least one, got none.")
    arrays = {name: np.asarray(values, float) for name, values in summaries.items()}
    for name, values in arrays.items():
        if values.ndim != 2:
            raise ValueError(
                f"`summaries[{name!r}]` must be `(chain, draw)`, got shape {values.shape}."
            )
    size = {"figsize": (9, 0.4 + 1.7 * len(arrays)), "width_ratios": (1.6, 1)}
    rows = grid_of_axes(ax, (len(arrays), 2), **size)
    for (name, values), (left, right) in zip(arrays.items(), rows, strict=True):
        chains = evenly(len(values), max_chains)
        draws = evenly(values.shape[1], max_draws)
        _plot_traces(left, values[np.ix_(chains, draws)], draws)
        left.set_ylabel(name)
        _plot_ranks(right, values, chains)
    rows[-1, 0].set_xlabel("draw")
    rows[-1, 1].set_xlabel("rank among all draws")
    return rows


def _plot_traces(ax: Axes, values: np.ndarray, draws: np.ndarray) -> None:
    for i, chain in enumerate(values):
        ax.plot(draws, chain, color=COLORS[i % len(COLORS)], linewidth=0.6, alpha=0.7)


def _plot_ranks(ax: Axes, values: np.ndarray, chains: np.ndarray) -> None:
    num_draws = values.shape[1]
    ranks = (rankdata(values).reshape(values.shape) - 0.5) / values.size
    low, high = binom.ppf([_OUTSIDE / 2, 1 - _OUTSIDE / 2], num_draws, 1 / _BINS)
    expected = num_draws / _BINS
    ax.axhspan(low / expected, high / expected, color="0.85")
    for i, chain in enumerate(ranks[chains]):
        counts, edges = np.histogram(chain, _BINS, (0, 1))
        ax.stairs(counts / expected, edges, color=COLORS[i % len(COLORS)], linewidth=0.8)
    ax.set(xlim=(0, 1), ylim=(0, None), ylabel="share")
