"""How replicas travel along a tempered path, and where it is steep."""

from typing import Any

import numpy as np

from ..diagnostics import tempering_report, to_arviz
from ._axes import ALARM, COLORS, Axes, axes, pyplot, style


@style()
def plot_index_process(
    source: Any, chain: int = 0, *, num_transitions: int = 200, ax: Axes | None = None
) -> Axes:
    r"""Plot which replica of a tempered chain is at which rung, draw by draw.

    The target is at the top; the reference, or the highest temperature, at the bottom. The line
    of a replica is coloured from the reference until it reaches the target, and grey on its way
    back. In a run that mixes, coloured lines soon arrive at the top; rungs that few of them
    cross are a bottleneck.

    **Arguments**

    - `source`: a run of [`ParallelTempering`][numpyro_ebm.ParallelTempering], in any form that
      [`to_arviz`][numpyro_ebm.to_arviz] takes.
    - `chain`: which chain.
    - `num_transitions`: plot so many of its last draws.
    - `ax`: where to draw, by default a new figure.

    **Returns** `ax`.
    """
    stats = _statistics(source)
    num_chains, num_draws, num_rungs = stats["replica"].shape
    if not 0 <= chain < num_chains:
        raise ValueError(f"`chain` must be one of {num_chains} chains, got {chain}.")
    first = max(num_draws - num_transitions, 0)
    draws = stats["draw"].values[first:]
    # Where each replica is: the inverse of which replica is where.
    rungs = np.argsort(stats["replica"].values[chain], axis=-1)
    ax = axes(ax, figsize=(9, 3.6))
    width = 2.2 if len(draws) <= _FEW else 1.2
    for replica in range(num_rungs):
        rung = rungs[:, replica]
        rising = np.where(_is_rising(rung, num_rungs), rung, np.nan)
        ax.plot(draws, rung[first:], color="0.8", linewidth=0.5, zorder=1)
        color = _color(replica, num_rungs)
        ax.plot(draws, rising[first:], color=color, linewidth=width)
    beta = stats["beta"].values[chain, -1]
    ax.set_yticks(range(num_rungs), [f"{x:.3g}" for x in beta])
    ax.set(xlabel="draw", ylabel=r"$\beta$", ylim=(num_rungs - 0.7, -0.3))
    ax.margins(x=0.01)
    return ax


@style()
def plot_barrier(source: Any, *, ax: Axes | None = None) -> Axes:
    r"""Plot the communication barrier of a tempered path, and the rungs of its ladder.

    The line is $\Lambda(\beta)$, the mean probabilities that neighbours do not swap, added up
    from the start of the path. Its slope, the local barrier, is the shaded area, on the right
    axis: where it is high, rungs must be close. On an equalised ladder, the points are evenly
    spaced in height, as the dotted lines are.

    **Arguments**

    - `source`: a run of [`ParallelTempering`][numpyro_ebm.ParallelTempering], in any form that
      [`to_arviz`][numpyro_ebm.to_arviz] takes.
    - `ax`: where to draw, by default a new figure.

    **Returns** `ax`.
    """
    table = tempering_report(source).table
    beta = np.append(table["beta"].values, table["beta_below"].values[-1])
    barrier = np.append(table["barrier"].values, 0.0)
    ax = axes(ax)
    even = np.linspace(0, barrier[0], len(beta))
    ax.hlines(even, beta[-1], beta[0], color="0.8", linestyle=":", linewidth=0.8)
    ax.plot(beta, barrier, color=COLORS[0], marker="o", markersize=5)
    right: Any = ax.twinx()
    local = -np.diff(barrier) / -np.diff(beta)
    right.stairs(local[::-1], beta[::-1], color=ALARM, fill=True, alpha=0.2)
    right.set_ylabel("local barrier", color=ALARM)
    right.spines["right"].set_visible(True)
    right.set_ylim(bottom=0)
    if beta[0] > _DECADES * beta[-2]:
        # Linear up to the rung above the start, which may be zero.
        ax.set_xscale("symlog", linthresh=beta[-2])
        ax.set_xlim(-0.1 * beta[-2], 1.2 * beta[0])
        right.set_yscale("log")
        right.set_ylim(bottom=local.min() / 2)
    ax.set_zorder(right.get_zorder() + 1)
    ax.patch.set_visible(False)
    ax.set(xlabel=r"$\beta$", ylabel=r"communication barrier $\Lambda(\beta)$")
    ax.set_ylim(bottom=0)
    return ax


def _statistics(source: Any) -> Any:
    tree = to_arviz(source)
    tempering_report(tree)  # Raises if it is not a tempered run.
    return tree["sample_stats"]


def _is_rising(rung: np.ndarray, num_rungs: int) -> np.ndarray:
    """Whether a replica is on its way from the reference to the target, the ends included."""
    at = np.arange(len(rung))
    low, high = (
        np.maximum.accumulate(np.where(rung == end, at, -1)) for end in (num_rungs - 1, 0)
    )
    is_on_the_way = low > high
    arrives = np.append(False, is_on_the_way[:-1]) & (rung == 0)
    return is_on_the_way | arrives


def _color(replica: int, num: int) -> Any:
    if num <= len(COLORS):
        return COLORS[replica]
    return pyplot().get_cmap("turbo")((replica + 0.5) / num)


#: With more draws, lines are thinner; with rungs this far apart, the axis is logarithmic.
_FEW, _DECADES = 300, 30
