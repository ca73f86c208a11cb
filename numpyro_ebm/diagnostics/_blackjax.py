"""States and infos of a loop around BlackJAX, for ArviZ."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xarray import DataTree

from .._types import ArrayLike
from ._datatree import as_tree, by_name, version, with_attributes

#: Names in a BlackJAX info, and the corresponding ArviZ names.
_INFOS = {
    "acceptance_rate": "acceptance_rate",
    "is_accepted": "accepted",
    "is_divergent": "diverging",
    "num_integration_steps": "n_steps",
    "num_trajectory_expansions": "tree_depth",
    "energy": "energy",
    "energy_change": "energy_error",
    "nonans": "finite",
}


def from_blackjax(
    states: Any,
    infos: Any = None,
    *,
    sample_dims: Sequence[str],
    gradients_per_step: int = 1,
    superchains: int | ArrayLike | None = None,
    attrs: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> DataTree:
    r"""Collect the states and infos of a loop around a BlackJAX kernel in a `DataTree`.

    `sample_dims` has no default, because the arrays do not tell chains from draws, and swapped
    axes hide a failure: they turned an R-hat of 1.49 into 1.05. `vmap` over chains outside
    `scan` over draws gives `("chain", "draw")`; `scan` outside gives `("draw", "chain")`.

    `lp` is the log-density and `ebm_energy` its negative. BlackJAX's HMC reports the
    Hamiltonian $H'$ of the proposal even if it was rejected; here `energy` is the Hamiltonian
    at the chain's position, $H' + \log\alpha$ with the acceptance probability $\alpha$ (NaN if
    $\alpha$ is zero).

    ```python
    _, (states, infos) = jax.lax.scan(step_all_chains, states, keys)
    tree = ebm.from_blackjax(states, infos, sample_dims=("draw", "chain"))
    ```

    **Arguments**

    - `states`: stacked states, with `position` and, if there is one, `logdensity`; or the
      positions alone, any pytree.
    - `infos`: the infos of the same transitions.
    - `sample_dims`: what the first two axes are, `("chain", "draw")` or `("draw", "chain")`;
      `("draw",)` for one chain.
    - `gradients_per_step`: gradients per integrator step; two for McLachlan's, as in MCLMC.
    - `superchains`, `attrs`, `coords`, `dims`: as in [`to_arviz`][numpyro_ebm.to_arviz].
    """
    order = _order(sample_dims)
    positions = by_name(getattr(states, "position", states))
    stats = _stats(states, infos, gradients_per_step)
    shapes = {name: np.shape(x) for name, x in (positions | stats).items()}
    if len({shape[: len(order)] for shape in shapes.values()}) != 1:
        raise ValueError(
            f"Arrays of `states` and `infos` must all begin with the axes {order}, got shapes "
            f"{shapes}."
        )
    groups = {"posterior": {name: _by_chain(x, order) for name, x in positions.items()}}
    if stats:
        groups["sample_stats"] = {name: _by_chain(x, order) for name, x in stats.items()}
    own_attrs = {
        "inference_library": "blackjax",
        "inference_library_version": version("blackjax"),
    }
    tree = as_tree(groups, own_attrs, coords, dims or {})
    return with_attributes(tree, superchains, attrs or {})


def _order(sample_dims: Any) -> tuple[str, ...]:
    order = (sample_dims,) if isinstance(sample_dims, str) else tuple(sample_dims)
    if order not in (("chain", "draw"), ("draw", "chain"), ("draw",)):
        raise ValueError(
            '`sample_dims` must name the first axes, ("chain", "draw") or ("draw", "chain"), '
            f'or ("draw",) of one chain, got {sample_dims}.'
        )
    return order


def _by_chain(x: np.ndarray, order: tuple[str, ...]) -> np.ndarray:
    return x[None] if len(order) == 1 else np.moveaxis(x, order.index("chain"), 0)


def _stats(states: Any, infos: Any, gradients_per_step: int) -> dict[str, np.ndarray]:
    stats = {
        ours: np.asarray(getattr(infos, theirs))
        for theirs, ours in _INFOS.items()
        if hasattr(infos, theirs)
    }
    if {"energy", "accepted", "acceptance_rate"} <= set(stats):
        stats["energy"] = _end_energy(stats)
    if hasattr(states, "logdensity"):
        stats["lp"] = np.asarray(states.logdensity)
        stats["ebm_energy"] = -stats["lp"]
    if hasattr(states, "logdensity_grad"):
        one = np.ones(np.shape(states.logdensity), int)
        stats["n_grad"] = gradients_per_step * stats.get("n_steps", one)
    return stats


def _end_energy(stats: dict[str, np.ndarray]) -> np.ndarray:
    """The Hamiltonian at the chain's position; BlackJAX's is that of the proposal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        start = stats["energy"] + np.log(stats["acceptance_rate"])
    start = np.where(np.isfinite(start), start, np.nan)
    return np.where(stats["accepted"], stats["energy"], start)
