"""How chains share their time among modes, and whether they drift."""

from typing import Any

import numpy as np

from ..diagnostics import DriftProbe, ModeReport
from ._axes import (
    ALARM,
    COLORS,
    DASHES,
    SHARE_MAP,
    Axes,
    colour_bar,
    evenly,
    grid_of_axes,
    pyplot,
    style,
)


@style()
def plot_modes(report: ModeReport, *, ax: Any = None) -> np.ndarray:
    """Plot a `mode_report`: the modes of each chain, and the transitions between them.

    Left: one bar per chain, one for all chains together, and one for the reference, if any.
    Chains that mix have similar bars. More than 32 chains are sorted by their main mode and its
    share. Right: how often a draw in the mode of a row is followed by one in the mode of a
    column.

    **Arguments**

    - `report`: a [`ModeReport`][numpyro_ebm.diagnostics.ModeReport].
    - `ax`: where to draw, an array of two axes; by default a new figure.

    **Returns** `ax`.
    """
    _check_type(report, ModeReport, "mode_report")
    (panels,) = grid_of_axes(ax, (1, 2), figsize=(9, 3.6), width_ratios=(1.5, 1))
    _plot_occupancy(panels[0], report)
    _plot_transitions(panels[1], report.transitions)
    return panels


@style()
def plot_drift(report: DriftProbe, statistic: str = "energy", *, ax: Any = None) -> np.ndarray:
    """Plot a `drift_probe`: how a statistic drifts with the length of chains.

    Top: the mean over the chains of a start, with two standard errors. If starts agree, chains
    forget where they started; a common drift means that chains as short as in training are far
    from the learned energy. Bottom: nested R-hat, with the limit beyond which the probe fails
    dashed.

    **Arguments**

    - `report`: a [`DriftProbe`][numpyro_ebm.diagnostics.DriftProbe].
    - `statistic`: which one.
    - `ax`: where to draw, an array of two axes; by default a new figure.

    **Returns** `ax`.
    """
    _check_type(report, DriftProbe, "drift_probe")
    known = list(report.table["statistic"].values)
    if statistic not in known:
        raise ValueError(f"`statistic` must be one of {known}, got {statistic!r}.")
    table = report.table.sel(statistic=statistic)
    lengths = table["length"].values
    size = {"figsize": (6.4, 4.8), "height_ratios": (2.5, 1)}
    panels = grid_of_axes(ax, (2, 1), sharex=True, **size).ravel()
    top, bottom = panels
    for i, start in enumerate(table["start"].values):
        mean, error = (table[name].sel(start=start).values for name in ("mean", "std_error"))
        color, dashes = COLORS[i % len(COLORS)], DASHES[i % len(DASHES)]
        top.fill_between(lengths, mean - 2 * error, mean + 2 * error, color=color, alpha=0.2)
        line = {"color": color, "linestyle": dashes, "marker": "osD^v"[i % 5]}
        top.plot(lengths, mean, label=f"from {start}", markersize=4, **line)
    top.set(xscale="log", ylabel=f"mean of {statistic}")
    top.legend()
    bottom.plot(lengths, table["nested_r_hat"], color="black", marker="o", markersize=4)
    bottom.plot(lengths, table["nested_r_hat_limit"], color=ALARM, linestyle="--")
    bottom.set(xlabel="length of the chains (transitions)", ylabel="nested R-hat")
    return panels


def _check_type(report: Any, kind: type, source: str) -> None:
    if not isinstance(report, kind):
        raise TypeError(
            f"`report` must be what `ebm.{source}` returns, got {type(report).__name__}."
        )


def _plot_occupancy(ax: Axes, report: ModeReport) -> None:
    shares = report.chains["occupancy"].transpose("chain", "mode")
    chains, modes = shares["chain"].values, shares["mode"].values
    values, is_long = shares.values, len(chains) > _MANY_CHAINS
    if is_long:
        values = values[np.lexsort((-values.max(1), values.argmax(1)))]
    sums = {"all": "occupancy", "reference": "reference"}
    sums = {
        label: report.table[name].values for label, name in sums.items() if name in report.table
    }
    width = max(1.0, len(chains) / 8)
    lefts = len(chains) + width * (0.5 + 1.5 * np.arange(len(sums)))
    for k, mode in enumerate(modes):
        style = {"color": _color(k, len(modes)), "fill": True}
        below, above = values[:, :k].sum(1), values[:, : k + 1].sum(1)
        ax.stairs(above, np.arange(len(chains) + 1), baseline=below, label=f"{mode}", **style)
        for left, share in zip(lefts, sums.values(), strict=True):
            edges = [left, left + width]
            ax.stairs(
                share[: k + 1].sum(keepdims=True), edges, baseline=share[:k].sum(), **style
            )
    if not is_long:
        ax.vlines(np.arange(1, len(chains)), 0, 1, color="white", linewidth=0.8)
    shown = np.arange(0) if is_long else evenly(len(chains), 16)
    ticks = [*(shown + 0.5), *(lefts + width / 2)]
    ax.set_xticks(ticks, [*(str(chain) for chain in chains[shown]), *sums])
    label = f"{len(chains)} chains, sorted" if is_long else "chain"
    ax.set(xlabel=label, ylabel="share of draws", ylim=(0, 1), xlim=(0, lefts[-1] + width))
    place = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
    ax.legend(title="mode", reverse=True, ncols=1 + (len(modes) - 1) // 12, **place)


def _plot_transitions(ax: Axes, transitions: Any) -> None:
    values = transitions.transpose("mode", "next_mode").values
    names = [str(name) for name in transitions["mode"].values]
    colors = pyplot().get_cmap(SHARE_MAP).with_extremes(bad="0.85")
    image = ax.imshow(values, cmap=colors, vmin=0, vmax=1)
    few = len(names) <= _MANY_MODES
    for (row, column), value in np.ndenumerate(values) if few else ():
        color = "white" if value > 0.5 else "black"
        ax.text(column, row, _as_text(value), ha="center", va="center", color=color, fontsize=9)
    if not few:
        colour_bar(ax, image, "share of transitions")
    shown = np.arange(0, len(names), -(-len(names) // _MANY_MODES))
    labels = [names[i] for i in shown]
    ax.set_xticks(shown, labels)
    ax.set_yticks(shown, labels)
    ax.set(xlabel="next mode", ylabel="mode")


def _as_text(share: float) -> str:
    if np.isnan(share):
        return "-"
    if share in (0, 1):
        return f"{share:.0f}"
    return "<0.001" if share < 0.0005 else f"{share:.3f}"


def _color(k: int, num: int) -> Any:
    """The colour of the `k`-th mode: neighbours differ."""
    if num <= len(COLORS):
        return COLORS[k]
    return pyplot().get_cmap("viridis")(k / (num - 1))


#: With more bars, single ones are no longer visible.
_MANY_CHAINS = 32
#: With more rows, numbers are no longer readable.
_MANY_MODES = 10
