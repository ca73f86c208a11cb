"""Chains one by one: problems that a pooled number hides."""

import numpy as np
from xarray import Dataset, DataTree

from ._convergence import bfmi
from ._outliers import copies
from ._summaries import of_draw, values

#: A chain is stuck if it accepts or moves less.
_MIN_MOVED = 0.1
#: A stay is long if it takes this share of a chain, and this many draws,
_LONG_SHARE, _LONG_DRAWS = 0.1, 10
#: and one as long occurs by chance with at most this probability.
_CHANCE = 1e-4
#: The fewest draws for which a share of moves, or BFMI, is meaningful.
_ENOUGH_DRAWS = 50


def chain_health(tree: DataTree) -> Dataset:
    """A row per chain; see [`MixingReport`][numpyro_ebm.diagnostics.MixingReport]."""
    stats = tree["sample_stats"].to_dataset() if "sample_stats" in tree.children else Dataset()
    variables = [values(x) for x in tree["posterior"].data_vars.values()]
    moved = _moved(variables)
    longest_stay = _longest_stay(moved)
    columns = {
        "num_non_finite": _num_non_finite(variables, stats),
        "longest_stay": longest_stay,
        "moved": moved.mean(1) if moved.size else np.full(len(moved), np.nan),
    }
    if "acceptance_rate" in stats and tree["posterior"].attrs.get("is_exact", 1):
        columns["acceptance_rate"] = of_draw(stats["acceptance_rate"]).mean(1)
    if "diverging" in stats:
        columns["num_diverging"] = of_draw(stats["diverging"]).sum(1)
    is_one = "energy" in stats and stats["energy"].ndim == 2
    if is_one and moved.shape[1] >= _ENOUGH_DRAWS:
        columns["bfmi"] = bfmi(values(stats["energy"]))
    is_discrete = all(map(_is_discrete, variables))
    columns["is_stuck"] = _is_stuck(columns, moved, is_discrete)
    finite = columns["num_non_finite"] == 0
    columns["is_copy"] = finite & copies(variables, moved, is_discrete)
    chain = tree["posterior"].coords["chain"].values
    return Dataset({k: ("chain", x) for k, x in columns.items()}, {"chain": chain})


def _moved(variables: list[np.ndarray]) -> np.ndarray:
    """Which transitions changed anything, `(chain, draw - 1)`."""

    def one(x: np.ndarray) -> np.ndarray:
        return (x[1:] != x[:-1]).any(tuple(range(1, x.ndim)))

    # Chain by chain: comparing all images at once would double the memory.
    each = [np.stack([one(chain) for chain in x]) for x in variables]
    return np.asarray(np.stack(each).any(0))


def _longest_stay(moved: np.ndarray) -> np.ndarray:
    """The largest number of successive draws at one point."""
    step = np.arange(moved.shape[1])
    last_move = np.maximum.accumulate(np.where(moved, step, -1), axis=1)
    return 1 + (step - last_move).max(1, initial=0)


def _num_non_finite(variables: list[np.ndarray], stats: Dataset) -> np.ndarray:
    if "lp" in stats:
        variables = [*variables, values(stats["lp"])]
    finite = [np.isfinite(x).all(tuple(range(2, x.ndim))) for x in variables]
    return (~np.stack(finite).all(0)).sum(1)


def _is_stuck(columns: dict, moved: np.ndarray, is_discrete: bool) -> np.ndarray:
    num_draws = moved.shape[1] + 1
    # A chain of few draws may well reject all proposals.
    few = num_draws < _ENOUGH_DRAWS
    accepted = columns.get("acceptance_rate", np.ones(len(moved)))
    stuck = ~(accepted >= _MIN_MOVED) & (not few)
    if is_discrete:  # The units of a lattice may well stay unchanged.
        return stuck | ((columns["longest_stay"] == num_draws) & (num_draws >= _LONG_DRAWS))
    rate = np.median(columns["moved"]) if moved.size else 1.0
    by_chance = np.log(_CHANCE / moved.size) / np.log1p(-rate) if 0.1 <= rate < 1 else 0.0
    long = max(_LONG_DRAWS, _LONG_SHARE * num_draws, by_chance)
    stuck |= columns["longest_stay"] > long
    return stuck | ((columns["moved"] < _MIN_MOVED) & (not few))


def _is_discrete(x: np.ndarray) -> bool:
    return bool((x == np.floor(x)).all())
