"""The bridge to ArviZ; the only module that imports arviz-base."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import arviz_base
import jax
import numpy as np
import numpyro
from numpyro.infer import MCMC
from xarray import DataTree

from .._types import ArrayLike, PyTree
from ..estimation import EstimatorRunResult
from ..kernels import AbstractKernel
from ..sampling import AbstractDraws, AbstractFromRows, Draws, RowDraws, WeightedDraws
from ._ladder import TEMPERING_DIMS, Ladder
from ._sites import ebm_energy, energy_at, is_data, plates, trace
from ._without_chains import equally_weighted, facts, from_fit

#: NumPyro's names for what a kernel reports, and ArviZ's.
_STATS = {
    "potential_energy": "lp",
    "accept_prob": "acceptance_rate",
    "adapt_state.step_size": "step_size",
    "num_steps": "n_steps",
    **{f"move_state.{name}": name for name in TEMPERING_DIMS},
}


def to_arviz(
    source: MCMC | Draws | EstimatorRunResult | DataTree | PyTree,
    *,
    superchains: int | ArrayLike | None = None,
    attrs: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> DataTree:
    """Collect an `MCMC` run, draws from `sample`, or an `Estimator` run in a `DataTree`.

    The groups are `posterior`, `sample_stats` and, for a model, `observed_data`. The plates of
    a model name its dimensions. The model is not sampled and no likelihood is computed. For a
    fit, there is one group, `training`: the loss and the metrics, one value per `step`, and,
    with early stopping on held-out points, `validation_loss`, one per `evaluation`.

    In `sample_stats`, `lp` is the log-density, minus the potential energy (for a constrained
    support, with the Jacobian); `ebm_energy` is $E(x)$, for a model the sum over its latent
    [`EnergyDistribution`][numpyro_ebm.EnergyDistribution] sites; `energy`, for Hamiltonian
    kernels only, is the Hamiltonian at the chain's position. `n_grad` counts gradients. The
    attributes of each group give its sampler, the number of warm-up transitions, the number of
    draws with a non-finite value, `num_non_finite`, and whether the kernel leaves its target
    invariant, `is_exact` (1, or 0 if unadjusted: then `acceptance_rate` is not an acceptance
    rate).

    A tempered run also has the statistics of its replicas in `sample_stats`, over `temperature`
    and `pair`, and `barrier`, `num_restarts`, `num_round_trips`, `log_z` and `log_z_std_error`
    among its attributes: see [`tempering_report`][numpyro_ebm.tempering_report].

    ```python
    tree = ebm.to_arviz(draws)
    tree.to_netcdf("draws.nc")
    ```

    **Arguments**

    - `source`: an `MCMC` after `run`, the `Draws` of [`sample`][numpyro_ebm.sample], the result
      of [`Estimator.run`][numpyro_ebm.Estimator.run], or arrays `(chain, draw, *event)`: one, a
      dict or another pytree of them. A `DataTree` is returned unchanged. Weighted draws, such
      as those of [`NestedSampling`][numpyro_ebm.NestedSampling], become one chain of as many
      equally weighted ones as their effective sample size. Of many energies at once,
      [`RowDraws`][numpyro_ebm.sampling.RowDraws] and what rests on them have a dimension `row`.
    - `superchains`: which chains started together, for the nested R-hat of
      [`mixing_report`][numpyro_ebm.mixing_report]: one superchain index per chain, or the
      number of superchains, if the chains of each are neighbours.
    - `attrs`: more attributes, such as `{"sampling_time": 12.3}`, in seconds.
    - `coords`, `dims`: coordinates and dimension names, as in `arviz_base.from_dict`.
    """
    if isinstance(source, EstimatorRunResult):
        return from_fit(source)
    if isinstance(source, WeightedDraws):
        source, attrs = equally_weighted(source), {**facts(source), **(attrs or {})}
    if isinstance(source, DataTree):
        if coords is not None or dims is not None:
            raise ValueError("`coords` and `dims` are for arrays: a `DataTree` has its own.")
        return with_attributes(source.copy(), superchains, attrs or {})
    source = source.draws if isinstance(source, AbstractFromRows) else source
    if isinstance(source, MCMC):
        groups, own_attrs, own_dims = _from_mcmc(source)
    elif isinstance(source, AbstractDraws):
        groups, own_attrs = _from_draws(source)
        own_dims = _dims_of_rows(groups) if isinstance(source, RowDraws) else {}
    else:
        groups, own_attrs, own_dims = {"posterior": by_name(source)}, {}, {}
    tree = as_tree(groups, own_attrs, coords, {**own_dims, **(dims or {})})
    return with_attributes(tree, superchains, attrs or {})


def as_tree(
    groups: dict[str, dict[str, np.ndarray]],
    attrs: dict[str, Any],
    coords: Mapping[str, Any] | None,
    dims: Mapping[str, Sequence[str]],
) -> DataTree:
    """A `DataTree` of arrays `(chain, draw, ...)`, after checking their shapes and values."""
    posterior = {name: _as_numbers(name, x) for name, x in groups["posterior"].items()}
    groups = {**groups, "posterior": posterior}
    shapes = {name: x.shape for name, x in posterior.items()}
    leading = {shape[:2] for shape in shapes.values()}
    if len(leading) != 1 or len(*leading) < 2 or 0 in next(iter(leading)):
        raise ValueError(
            "`source` must hold arrays `(chain, draw, *event)` with the same numbers of "
            f"chains and draws, got shapes {shapes}. One chain `x` is `x[None]`."
        )
    stats = groups.get("sample_stats", {})
    is_tempered = set(TEMPERING_DIMS) <= set(stats)
    if is_tempered:
        rest = {name: x for name, x in stats.items() if name not in TEMPERING_DIMS}
        groups = {**groups, "sample_stats": rest}
    finite = [np.isfinite(x).all(tuple(range(2, x.ndim))) for x in posterior.values()]
    attrs = {
        **attrs,
        "numpyro_ebm_version": version("numpyro-ebm"),
        "num_non_finite": int((~np.stack(finite).all(0)).sum()),
    }
    tree = arviz_base.from_dict(
        groups,
        coords=coords,
        dims=dims,
        # Many short chains are normal here, not a swapped axis.
        check_conventions=False,
        attrs={group: attrs for group in groups},
    )
    return _with_ladder(tree, stats) if is_tempered else tree


def _with_ladder(tree: DataTree, stats: dict[str, np.ndarray]) -> DataTree:
    """`tree` with the statistics of a tempered run, over rungs, and what they tell."""
    group = tree["sample_stats"].to_dataset()
    found = {n: (("chain", "draw", *dims), stats[n]) for n, dims in TEMPERING_DIMS.items()}
    size = stats["beta"].shape[-1]
    coords = {"temperature": np.arange(size), "pair": np.arange(size - 1)}
    if stats["beta"].shape[1] > 1:
        thinning = int(group.attrs.get("thinning", 1))
        group = group.assign_attrs(Ladder.of(stats, thinning).attrs())
    tree["sample_stats"] = DataTree(group.assign(found).assign_coords(coords))
    return tree


def with_attributes(tree: DataTree, superchains: Any, attrs: Mapping[str, Any]) -> DataTree:
    labels = None if superchains is None else _superchains(superchains, tree)
    for name in ("posterior", "sample_stats"):
        if name in tree.children:
            group = tree[name].to_dataset().assign_attrs(attrs)
            if labels is not None:
                group = group.assign_coords(superchain=("chain", labels))
            tree[name] = DataTree(group)
    return tree


def _superchains(superchains: Any, tree: DataTree) -> np.ndarray:
    """One superchain index per chain, from indices or from their number."""
    num_chains = tree["posterior"].sizes["chain"]
    if isinstance(superchains, int):
        if not 2 <= superchains <= num_chains or num_chains % superchains:
            raise ValueError(
                f"`superchains` must be 2 or more and divide the number of chains, "
                f"{num_chains}, got {superchains}."
            )
        superchains = np.repeat(np.arange(superchains), num_chains // superchains)
    labels = np.asarray(superchains)
    sizes = np.unique(labels, return_counts=True)[1]
    if labels.shape != (num_chains,) or len(set(sizes)) != 1 or len(sizes) < 2:
        raise ValueError(
            f"`superchains` must give each of {num_chains} chains one of two or more labels, "
            f"each of them equally often, got {superchains}."
        )
    return labels


def _from_mcmc(mcmc: MCMC) -> tuple[dict, dict, dict]:
    draws = mcmc.get_samples(group_by_chain=True)
    model = getattr(mcmc.sampler, "model", None)
    sites = {} if model is None else trace(mcmc, model, jax.tree.map(lambda x: x[0, 0], draws))
    groups = {"posterior": by_name(draws), "sample_stats": _sample_stats(mcmc)}
    stats = groups["sample_stats"]
    if any(energy_at(site) is not None for site in sites.values()):
        stats["ebm_energy"] = ebm_energy(mcmc, model, draws)
    elif model is None and "lp" in stats:
        stats["ebm_energy"] = -stats["lp"]
    observed = {name: np.asarray(s["value"]) for name, s in sites.items() if is_data(s)}
    if observed:
        groups["observed_data"] = observed
    attrs = {
        "inference_library": "numpyro",
        "inference_library_version": numpyro.__version__,
        "kernel": type(mcmc.sampler).__name__,
        "num_warmup": mcmc.num_warmup,
        "thinning": mcmc.thinning,
    }
    if isinstance(mcmc.sampler, AbstractKernel):
        attrs["is_exact"] = int(mcmc.sampler.move.is_exact)
    return groups, attrs, plates(sites)


def _from_draws(draws: AbstractDraws) -> tuple[dict, dict]:
    if isinstance(draws, RowDraws):
        num_warmup, step_size = draws.num_warmup, None
    elif isinstance(draws, Draws) and draws.state is not None:
        num_warmup = draws.state.num_warmup
        step_size = np.asarray(draws.state.adapt_state.step_size)
    else:
        raise ValueError(
            "These draws are independent, so there are no chains to diagnose: pass what "
            f"`ebm.sample` drew with a kernel, got {draws}."
        )
    stats = {_STATS.get(name, name): np.asarray(x) for name, x in draws.stats.items()}
    stats["lp"] = -stats["lp"]
    if not draws.is_transformed:  # The potential has no Jacobian.
        stats["ebm_energy"] = -stats["lp"]
    if step_size is not None and step_size.ndim == 0:
        stats["step_size"] = np.broadcast_to(step_size, stats["lp"].shape)
    if "energy" in stats:
        stats["n_steps"] = stats["n_grad"]
    if draws.kernel == "NUTS":
        stats["tree_depth"] = _tree_depth(stats["n_steps"])
    attrs = {
        "inference_library": "numpyro_ebm",
        "inference_library_version": version("numpyro-ebm"),
        "kernel": draws.kernel,
        "is_exact": int(draws.is_exact),  # netCDF has no bool.
        "num_warmup": num_warmup,
        "thinning": draws.num_steps // max(stats["lp"].shape[1], 1),
        "sampling_time": float(draws.seconds),
    }
    return {"posterior": by_name(draws.values), "sample_stats": stats}, attrs


def _dims_of_rows(groups: dict[str, dict[str, np.ndarray]]) -> dict[str, list[str]]:
    for name in TEMPERING_DIMS:  # A ladder per row has no report.
        groups["sample_stats"].pop(name, None)
    return {name: ["row"] for group in groups.values() for name in group}


def by_name(draws: Any) -> dict[str, np.ndarray]:
    """Each array of `draws` under its path: `x` if there is one, else `a`, `a.b`, `a.0`."""

    def name(path: tuple) -> str:
        return jax.tree_util.keystr(path, simple=True, separator=".") or "x"

    return {
        name(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(draws)
    }


def _as_numbers(name: str, x: np.ndarray) -> np.ndarray:
    if x.dtype.kind in "biuf":
        return x
    if x.dtype.name == "bfloat16":
        return x.astype(np.float32)
    raise TypeError(
        "`source` must be an `MCMC`, what `ebm.sample` or `Estimator.run` returned, a "
        f"`DataTree`, or arrays of real numbers; got {name} of dtype {x.dtype}."
    )


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # Not installed, only the sources.
        return "unknown"


def _sample_stats(mcmc: MCMC) -> dict[str, np.ndarray]:
    fields = mcmc.get_extra_fields(group_by_chain=True)
    stats = {
        _STATS.get(name, str(name).removeprefix("move_state.")): np.asarray(value)
        for name, value in fields.items()
        if _is_array(value)
    }
    if "lp" in stats:
        stats["lp"] = -stats["lp"]
    if "n_steps" in stats:
        depth = stats["tree_depth"] = _tree_depth(stats["n_steps"])
        limit = getattr(mcmc.sampler, "_max_tree_depth", None)
        if isinstance(limit, int):
            # The name read by `arviz_stats.diagnose`.
            stats["reached_max_treedepth"] = depth >= limit
    elif {"energy", "n_grad"} <= set(stats):
        stats["n_steps"] = stats["n_grad"]
    return stats


def _tree_depth(n_steps: np.ndarray) -> np.ndarray:
    return np.log2(np.maximum(n_steps, 1)).astype(int) + 1


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)
