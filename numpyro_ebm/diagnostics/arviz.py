"""The bridge to ArviZ; the only door to arviz-base."""

from collections.abc import Mapping, Sequence
from typing import Any

import arviz_base
import jax
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.infer import MCMC
from xarray import Dataset, DataTree

from ..estimation import EstimatorRunResult
from ..sampling import Draws

#: NumPyro's names of what a kernel reports, and ArviZ's.
_STATS = {
    "potential_energy": "lp",
    "accept_prob": "acceptance_rate",
    "adapt_state.step_size": "step_size",
    "num_steps": "n_steps",
}


def to_arviz(
    mcmc: MCMC | Draws | EstimatorRunResult,
    *,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> DataTree:
    """Collect an `MCMC` run, what `sample` drew, or how an `Estimator` fared, in a `DataTree`.

    Groups `posterior`, `sample_stats` (`lp` is the log-density, minus the potential energy; all
    that the kernel collected is there) and, for a model, `observed_data`. The plates of a model
    name its dimensions. The model is not sampled and no likelihood is computed. Of a fit there
    is one group, `training`: the loss and the metrics, one value a `step`, and where it stopped
    by held-out points, `validation_loss`, one an `evaluation`.

    **Arguments**

    - `mcmc`: an `MCMC` after `run`, the `Draws` of [`sample`][numpyro_ebm.sample], or the
      result of [`Estimator.run`][numpyro_ebm.Estimator.run].
    - `coords`, `dims`: coordinates and dimension names, as in `arviz_base.from_dict`.
    """
    if isinstance(mcmc, Draws):
        return _from_draws(mcmc, coords, dims)
    if isinstance(mcmc, EstimatorRunResult):
        return _from_fit(mcmc)
    draws = mcmc.get_samples(group_by_chain=True)
    posterior = _by_name(draws)
    sites = _trace(mcmc, draws)
    groups = {"posterior": posterior, "sample_stats": _sample_stats(mcmc)}
    observed = {name: np.asarray(s["value"]) for name, s in sites.items() if _is_data(s)}
    if observed:
        groups["observed_data"] = observed
    attrs = {
        "inference_library": "numpyro",
        "inference_library_version": numpyro.__version__,
        "kernel": type(mcmc.sampler).__name__,
        "num_warmup": mcmc.num_warmup,
        "thinning": mcmc.thinning,
    }
    return arviz_base.from_dict(
        groups,
        coords=coords,
        dims={**_plates(sites), **(dims or {})},
        # Many short chains are normal here, not a swapped axis.
        check_conventions=False,
        attrs={group: attrs for group in groups},
    )


def _from_draws(draws: Draws, coords: Any, dims: Any) -> DataTree:
    if not draws.stats:
        raise ValueError(
            "These draws are independent, with no chain to diagnose: pass what `ebm.sample` "
            f"drew by a kernel, got {draws}."
        )
    stats = {_STATS.get(name, name): np.asarray(x) for name, x in draws.stats.items()}
    stats["lp"] = -stats["lp"]
    stats["diverging"] = stats["diverging"].astype(bool)
    return arviz_base.from_dict(
        {"posterior": _by_name(draws.values), "sample_stats": stats},
        coords=coords,
        dims=dims,
        check_conventions=False,
        attrs={"posterior": {"inference_library": "numpyro_ebm"}},
    )


def _from_fit(result: EstimatorRunResult) -> DataTree:
    columns = {"loss": result.losses, **result.metrics}
    values: dict[str, Any] = {name: ("step", column) for name, column in columns.items()}
    if len(result.validation_losses):
        values["validation_loss"] = ("evaluation", result.validation_losses)
    step = np.arange(len(result.losses))
    attrs = {"inference_library": "numpyro_ebm"}
    return DataTree.from_dict({"training": Dataset(values, {"step": step}, attrs)})


def _by_name(draws: Any) -> dict[str, np.ndarray]:
    """Each array of `draws` under its path: `x` if there is one, else `a`, `a.b`, `a.0`."""

    def name(path: tuple) -> str:
        return jax.tree_util.keystr(path, simple=True, separator=".") or "x"

    return {
        name(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(draws)
    }


def _sample_stats(mcmc: MCMC) -> dict[str, np.ndarray]:
    fields = mcmc.get_extra_fields(group_by_chain=True)
    stats = {
        _STATS.get(name, str(name)): np.asarray(value)
        for name, value in fields.items()
        if _is_array(value)
    }
    if "lp" in stats:
        stats["lp"] = -stats["lp"]
    if "n_steps" in stats:
        depth = np.log2(np.maximum(stats["n_steps"], 1)).astype(int) + 1
        stats["tree_depth"] = depth
        limit = getattr(mcmc.sampler, "_max_tree_depth", None)
        if isinstance(limit, int):
            # The name that `arviz_stats.diagnose` reads.
            stats["reached_max_treedepth"] = depth >= limit
    return stats


def _trace(mcmc: MCMC, draws: Any) -> dict[str, dict]:
    """The sites of the model at its first draw; none for a potential."""
    model = getattr(mcmc.sampler, "model", None)
    if model is None:
        return {}
    first = jax.tree.map(lambda x: x[0, 0], draws)
    model = handlers.substitute(handlers.seed(model, jax.random.key(0)), first)
    sites = handlers.trace(model).get_trace(*mcmc._args, **mcmc._kwargs)
    return {name: s for name, s in sites.items() if s["type"] in ("sample", "deterministic")}


def _is_data(site: dict) -> bool:
    # A `factor` is an observed site without a value.
    return site.get("is_observed", False) and np.size(site["value"]) > 0


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)


def _plates(sites: dict[str, dict]) -> dict[str, list[str]]:
    """Plate names for the batch dimensions of each site that has one plate a dimension."""
    stacks = {
        name: sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)
        for name, site in sites.items()
        if site["type"] == "sample"
    }
    return {
        name: [frame.name for frame in stack]
        for name, stack in stacks.items()
        if [frame.dim for frame in stack] == list(range(-len(stack), 0))
    }
