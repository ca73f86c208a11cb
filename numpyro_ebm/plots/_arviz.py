"""ArviZ's plots, limited to a readable number of chains; only this imports arviz-plots."""

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from xarray import Dataset, DataTree

from .._checks import check_count
from ..diagnostics import to_arviz

if TYPE_CHECKING:
    from arviz_plots.plot_collection import PlotCollection
else:
    PlotCollection = Any


def plot_rank(
    source: Any,
    var_names: str | Sequence[str] | None = None,
    *,
    max_chains: int = 16,
    max_draws: int = 500,
    max_plots: int = 8,
    **kwargs: Any,
) -> "PlotCollection":
    """Show whether the ranks of each chain are uniform, by `arviz_plots.plot_rank`.

    **Arguments**

    - `source`: what [`to_arviz`][numpyro_ebm.to_arviz] takes, or a `DataTree`.
    - `var_names`: which variables; by default the first ones.
    - `max_chains`, `max_draws`: the most chains and draws to show, evenly chosen.
    - `max_plots`: the most variables and array elements to show, also evenly chosen.
    - `kwargs`: passed on to arviz-plots.
    """
    few = _few(source, var_names, max_chains, max_draws, max_plots)
    return arviz_plots().plot_rank(few, **_style(kwargs))


def plot_trace(
    source: Any,
    var_names: str | Sequence[str] | None = None,
    *,
    max_chains: int = 16,
    max_draws: int = 1000,
    max_plots: int = 8,
    **kwargs: Any,
) -> "PlotCollection":
    """Plot the values of each chain, draw by draw, by `arviz_plots.plot_trace`.

    **Arguments** are those of [`plot_rank`][numpyro_ebm.plots.plot_rank].
    """
    few = _few(source, var_names, max_chains, max_draws, max_plots)
    return arviz_plots().plot_trace(few, **_style(kwargs))


def plot_ess(
    source: Any,
    var_names: str | Sequence[str] | None = None,
    *,
    max_plots: int = 8,
    **kwargs: Any,
) -> "PlotCollection":
    """Plot the effective sample size of small intervals, by `arviz_plots.plot_ess`.

    It uses all chains and all draws: a subset would have a smaller one.

    **Arguments** are those of [`plot_rank`][numpyro_ebm.plots.plot_rank], without
    `max_chains` and `max_draws`.
    """
    few = _few(source, var_names, None, None, max_plots)
    return arviz_plots().plot_ess(few, **_style(kwargs))


def arviz_plots() -> ModuleType:
    """Import arviz-plots."""
    import arviz_plots

    return arviz_plots


def _style(kwargs: dict[str, Any]) -> dict[str, Any]:
    # Without the layout, the titles of a single row of plots are cut off.
    figure = {"layout": "constrained", **kwargs.get("figure_kwargs", {})}
    return {"backend": "matplotlib", **kwargs, "figure_kwargs": figure}


def _few(
    source: Any,
    var_names: str | Sequence[str] | None,
    max_chains: int | None,
    max_draws: int | None,
    max_plots: int,
) -> DataTree:
    """A few variables, draws and chains."""
    check_count("max_plots", max_plots)
    tree = source if isinstance(source, DataTree) else to_arviz(source)
    if "posterior" not in tree.children:
        raise ValueError(
            "`source` must have a group `posterior` with the draws of chains, got groups "
            f"{list(tree.children)}."
        )
    posterior = _variables(tree["posterior"].to_dataset(), var_names, max_plots)
    rows = {}
    for dim, most in (("chain", max_chains), ("draw", max_draws)):
        if most is not None:
            check_count(f"max_{dim}s", most)
            rows[dim] = _thin(posterior.sizes[dim], most, is_regular=dim == "draw")
    groups = {"posterior": posterior.isel(rows)}
    if "sample_stats" in tree.children:
        groups["sample_stats"] = tree["sample_stats"].to_dataset().isel(rows)
    return DataTree.from_dict(groups)


def _thin(size: int, most: int, is_regular: bool) -> np.ndarray:
    return np.arange(0, size, -(-size // most)) if is_regular else _spread(size, most)


def _spread(size: int, most: int) -> np.ndarray:
    """At most `most` indices, each in the middle of its share: image borders are dull."""
    num = min(size, most)
    return ((np.arange(num) + 0.5) * size / num).astype(int)


def _variables(
    posterior: Dataset, var_names: str | Sequence[str] | None, max_plots: int
) -> Dataset:
    known = [str(name) for name in posterior]
    names = [var_names] if isinstance(var_names, str) else list(var_names or known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"`var_names` must be some of {known}, got {unknown}.")
    few = posterior[names[:max_plots]]
    num: dict[Any, int] = {}
    for variable in few.values():
        dims = [dim for dim in variable.dims if dim not in ("chain", "draw")]
        # In a grid, the same number along each side.
        side = int((max_plots // len(few)) ** (1 / max(len(dims), 1)) + 1e-9)
        num.update({dim: min(side, num.get(dim, side)) for dim in dims})
    return few.isel({dim: _spread(few.sizes[dim], most) for dim, most in num.items()})
