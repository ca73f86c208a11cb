"""Plots of a training run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xarray import Dataset, DataTree

from .._checks import check_count
from ..diagnostics import to_arviz
from ..estimation import EstimatorRunResult, NonFiniteError
from ._axes import ALARM, COLORS, Axes, axes, grid_of_axes, style


@style()
def plot_training(
    result: EstimatorRunResult | NonFiniteError | DataTree,
    metrics: Sequence[str] | None = None,
    *,
    smoothing: int | None = None,
    validation_every: int | None = None,
    ax: Any = None,
) -> np.ndarray:
    """Plot the loss and the metrics of each step, one panel each.

    The faint line shows each step, the strong one the running mean. The band of the energy gap
    is one running standard deviation wide each way: in a healthy run of contrastive divergence
    it contains zero. Acceptance in the hatched region means that chains hardly move. Steps with
    a non-finite value are marked below the loss.

    **Arguments**

    - `result`: of [`Estimator.run`][numpyro_ebm.Estimator.run], its
      [`to_arviz`][numpyro_ebm.to_arviz] form, or the `NonFiniteError` that ended the run, whose
      undone last step is marked.
    - `metrics`: names of the metrics to plot; by default all.
    - `smoothing`: steps in a running mean; by default a fiftieth of the run, at most 500.
    - `validation_every`: steps between evaluations on held-out points; by default such that the
      last one is at the end. A star marks the best, to which the run returned.
    - `ax`: where to draw, one axes for the loss and one for each metric; by default a new
      figure.

    **Returns** `ax`.
    """
    table = _table(result)
    metrics = _check_metrics(table, metrics)
    num_steps = table.sizes["step"]
    window = min(max(num_steps // 50, 1), 500) if smoothing is None else smoothing
    check_count("smoothing", window)
    num = 1 + len(metrics)
    panels = _panels(num) if ax is None else grid_of_axes(ax, (num, 1)).ravel()
    for name, panel in zip(("loss", *metrics), panels, strict=True):
        _plot_metric(panel, name, table, min(window, num_steps))
    if "validation_loss" in table:
        _plot_validation(panels[0], table, validation_every)
    _mark_steps(panels[0], table, isinstance(result, NonFiniteError))
    panels[0].legend()
    return panels


@style()
def plot_buffer_ages(ages: Any, *, bins: int = 40, ax: Axes | None = None) -> Axes:
    """Plot the ages of the chains of [`Persistent`][numpyro_ebm.Persistent], in transitions.

    If chains restart at random, ages fall off geometrically. A second hump means chains that
    have not been drawn for long, one at zero chains that keep getting stuck.

    **Arguments**

    - `ages`: one per chain, or the result of [`Estimator.run`][numpyro_ebm.Estimator.run].
    - `bins`: the most bins.
    - `ax`: where to draw; by default a new figure.

    **Returns** `ax`.
    """
    check_count("bins", bins)
    values = _ages(ages)
    # Ages are multiples of the transitions per step; other bins would look like a comb.
    unit = max(int(np.gcd.reduce(values)), 1)
    width = unit * -(-(values.max() // unit + 1) // bins)
    edges = np.arange(0, values.max() + 2 * width, width) - unit / 2
    ax = axes(ax)
    ax.hist(values, edges, color=COLORS[0], label=f"{values.size} chains")
    median = np.median(values)
    ax.axvline(median, color=COLORS[1], linestyle="--", label=f"median {median:.4g}")
    ax.set(xlabel="age (transitions)", ylabel="chains", xlim=edges[[0, -1]])
    ax.legend()
    return ax


def _table(result: Any) -> Dataset:
    if isinstance(result, NonFiniteError):
        result = result.result
    if isinstance(result, EstimatorRunResult):
        result = to_arviz(result)
    if not isinstance(result, DataTree) or "training" not in result.children:
        raise TypeError(
            "`result` must be what `Estimator.run` returns, or `ebm.to_arviz` of it, got "
            f"{type(result).__name__}."
        )
    table = result["training"].to_dataset()
    if not table.sizes["step"]:
        raise ValueError("`result` is of a run without a step: there is nothing to draw.")
    return table


def _check_metrics(table: Dataset, metrics: Sequence[str] | None) -> list[str]:
    known = [str(name) for name in table if name not in ("loss", "validation_loss")]
    if metrics is None:
        return known
    unknown = [name for name in metrics if name not in known]
    if isinstance(metrics, str) or unknown:
        raise ValueError(f"`metrics` must be a list of some of {known}, got {metrics!r}.")
    return list(metrics)


def _panels(num: int) -> np.ndarray:
    """Panels below one another, in two columns if there are many."""
    columns = 1 if num <= 3 else 2
    rows = -(-num // columns)
    size = (2 + 4.2 * columns, 0.8 + 1.7 * rows)
    panels = grid_of_axes(None, (rows, columns), sharex=True, figsize=size).ravel()
    for ax in panels[num:]:
        ax.remove()
    for ax in panels[:num][-columns:]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    return panels[:num]


def _plot_metric(ax: Axes, name: str, table: Dataset, window: int) -> None:
    step, values = table["step"].values, table[name].values.astype(float)
    mean, spread = _running(values, window)
    ax.plot(*_envelope(step, values), color=COLORS[0], alpha=0.35, linewidth=0.7)
    ax.plot(step, mean, color=COLORS[0], label=_steps_of_mean(window))
    ax.set_ylabel(_WORDS.get(name, name.replace("_", " ")))
    _set_view(ax, values)
    if name == "energy_gap":
        ax.fill_between(
            step,
            mean - spread,
            mean + spread,
            color=COLORS[0],
            alpha=0.2,
            label="± 1 standard deviation",
        )
        ax.axhline(0, color="black", linewidth=0.8)
        ax.legend()
    if name == "accept_prob":
        ax.axhspan(0, 0.1, facecolor="none", edgecolor="0.6", hatch="///", linewidth=0)
        ax.set_ylim(0, 1)


def _steps_of_mean(window: int) -> str:
    return "each step" if window == 1 else f"mean of {window} steps"


def _plot_validation(ax: Axes, table: Dataset, every: int | None) -> None:
    losses = table["validation_loss"].values
    if every is None:
        every = table.sizes["step"] // len(losses)
    check_count("validation_every", every)
    step = table["step"].values[0] - 1 + every * np.arange(1, len(losses) + 1)
    best = np.nanargmin(losses)
    ax.plot(step, losses, "o-", color=COLORS[1], markersize=3, label="held out")
    ax.plot(step[best], losses[best], "*", color=COLORS[1], markersize=12)


def _mark_steps(ax: Axes, table: Dataset, is_undone: bool) -> None:
    step = table["step"].values
    columns = [table[name].values for name in table if name != "validation_loss"]
    bad = step[~np.isfinite(columns).all(0)]
    style = {"color": ALARM, "transform": ax.get_xaxis_transform(), "clip_on": False}
    if bad.size:
        height = np.zeros(bad.size)
        ax.plot(bad, height, "x", label=f"{bad.size} steps not finite", zorder=4, **style)
    if is_undone:
        ax.axvline(step[-1] + 1, color=ALARM, linestyle="--", label="step undone")


def _running(values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the finite values around each step."""
    finite = np.isfinite(values)
    x, ones = np.where(finite, values, 0.0), np.ones(window)
    count, total, squares = (np.convolve(y, ones, "same") for y in (finite, x, x**2))
    count = np.where(count > 0.5, count, np.nan)
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def _envelope(step: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line of few points with the same extent as the line of all points."""
    size = len(values) // _MANY_STEPS
    if size < 2:
        return step, values
    bins = values[: len(values) // size * size].reshape(-1, size)
    ends = np.stack([np.fmin.reduce(bins, 1), np.fmax.reduce(bins, 1)], axis=1)
    return np.repeat(step[: bins.size : size], 2), ends.ravel()


def _set_view(ax: Axes, values: np.ndarray) -> None:
    """Limit the view to nearly all values, on a log scale if they span decades."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return
    low, high = np.quantile(finite, [0.005, 0.995])
    if finite.min() > 0 and high > 100 * low:
        ax.set_yscale("log")
    elif np.ptp(finite) > 10 * (high - low) > 0:
        margin = 0.1 * (high - low)
        ax.set_ylim(low - margin, high + margin)


def _ages(source: Any) -> np.ndarray:
    if isinstance(source, EstimatorRunResult):
        starts = getattr(source.state.objective_state, "starts", None)
        source = getattr(starts, "ages", None)
        if source is None:
            raise ValueError(
                "`ages` is the result of a run without a buffer of chains; that of "
                "`ebm.ContrastiveDivergence(start=ebm.Persistent())` has one."
            )
    values = np.asarray(source)
    if values.dtype.kind not in "iu" or not values.size or values.min() < 0:
        raise ValueError(
            "`ages` must be numbers of transitions, integers from zero, got "
            f"{values.dtype} of shape {values.shape}."
        )
    return values.ravel()


_WORDS = {"accept_prob": "acceptance"}
#: With more points a line is a block of ink.
_MANY_STEPS = 2000
