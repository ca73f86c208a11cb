"""`mixing_report`: whether chains agree, and how much information they carry."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from xarray import Dataset, DataTree

from .._checks import check_positive
from .._show import Printed, Rows
from .._types import ArrayLike
from ._convergence import (
    convergence,
    drift_limit,
    nested_r_hat_limit,
    r_hat_limit,
    rank_scores,
)
from ._datatree import to_arviz
from ._failures import (
    ADVICE,
    disagreements,
    drifts,
    failures_of_axes,
    failures_of_chains,
    outliers,
    scarcities,
    shapes,
)
from ._health import chain_health
from ._outliers import apart, distances
from ._report import as_parts, verdict
from ._summaries import Statistics, summaries

#: Columns that are not printed.
_HIDDEN = ("_limit", "_noise", "neighbour_correlation", "drift")


@dataclass(frozen=True, repr=False)
class MixingReport(Printed):
    """The result of `mixing_report`; prints itself.

    - **failures**: sentences that say what is wrong; empty for a good run.
    - **notes**: what the draws cannot show about this run, whatever the verdict.
    - **table**: a row per `summary`: `mean` and `sd` with `mcse_mean` and `mcse_sd`,
      `ess_bulk`, `ess_tail`, `r_hat`, `autocorrelation_time` in draws, `nested_r_hat` of
      superchains, `ess_per_gradient` and `ess_per_second` if known. Not printed: `drift`
      between the halves of a chain in standard deviations, the `neighbour_correlation` of
      successive chains, and a `_limit` for each number that can fail.
    - **chains**: a row per `chain`: `num_non_finite` draws, `longest_stay` at one point in
      draws, the `moved` share of transitions, `is_stuck`, `is_copy` of another chain,
      `is_apart` from the others, and, if known, `acceptance_rate`, `num_diverging`, `bfmi`.
    """

    failures: tuple[str, ...]
    table: Dataset
    chains: Dataset
    num_draws: int
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed. Chains that all miss the same mode also agree."""
        return not self.failures

    def _parts(self) -> list[str | Rows]:
        size = f"{self.chains.sizes['chain']} chains of {self.num_draws} draws"
        shown = [name for name in self.table if not str(name).endswith(_HIDDEN)]
        rows = as_parts(self.table[shown], np.argsort(self.table["ess_bulk"].values))
        end = [*verdict(self.failures, ADVICE), *self.notes]
        return [f"Mixing of {size}", "", *rows, "", *end]


def mixing_report(
    source: Any,
    *,
    statistics: Statistics = None,
    min_ess: float = 400,
    superchains: int | ArrayLike | None = None,
    seed: int = 0,
) -> MixingReport:
    r"""Report whether chains have mixed, from a few summaries, and what failed.

    Summaries are the energy (`lp`) and all coordinates of a variable or, if there are more than
    20, eight random projections and four leading principal components: thousands of pixels
    would be thousands of tests. Energy and norm alone can miss a mode that your own statistic
    sees.

    A run fails if draws are not finite, a chain is stuck, one of ten or more chains lies apart
    from the others, chains are copies of each other, chains disagree, their second halves
    differ from their first, the effective sample size is below `min_ess`, neighbouring chains
    resemble each other (as if chains and draws were swapped), BFMI is below 0.3, or one draw in
    a thousand diverged. For slow chains that fail, the report says which scales or correlations
    their kernel should learn. The limit of R-hat is 1.01, or the value expected by chance with
    this many chains, effective draws and summaries.

    With `superchains`, groups of chains with the same start, nested R-hat [Margossian et al.
    2024] replaces R-hat, and two draws of each chain are enough.

    No comparison of chains sees a mode that none of them visits; see
    [`mode_report`][numpyro_ebm.mode_report]. Nor does it see the bias of an unadjusted kernel:
    a note says so. Test such draws with
    [`kernel_stein_discrepancy`][numpyro_ebm.diagnostics.kernel_stein_discrepancy].

    ```python
    report = ebm.mixing_report(draws, statistics={"norm": jnp.linalg.norm})
    assert report.ok, report
    ```

    **Arguments**

    - `source`: what [`to_arviz`][numpyro_ebm.to_arviz] takes, or what it returned.
    - `statistics`: a function of one point, or a dict of them by name; each returns a number,
      or an array of at most 20. With several variables, a point is a dict.
    - `min_ess`: the effective sample size that is enough; 400 is from Vehtari et al. [2021].
    - `superchains`: as in `to_arviz`.
    - `seed`: for the random projections.
    """
    check_positive("min_ess", min_ess)
    tree = to_arviz(source, superchains=superchains)
    if "posterior" not in tree.children:
        raise ValueError(
            f"`source` must have draws of chains, got groups {list(tree.children)}: a fit has "
            "none."
        )
    num_draws = tree["posterior"].sizes["draw"]
    health = chain_health(tree)
    usable = _usable(tree, health["num_non_finite"].values == 0)
    labels = _labels(tree, usable)
    names, rows, found, coordinates = [], [], {}, {}
    for name, x in summaries(tree, statistics, seed):
        names.append(name)
        scores = rank_scores(x[usable])
        rows.append(convergence(x[usable], labels, scores))
        found[name] = tuple(map(distances, scores))
        if name.split("[")[0] in tree["posterior"].data_vars:
            coordinates[name] = x[usable]
    columns = {key: ("summary", np.array([row[key] for row in rows])) for key in rows[0]}
    table = Dataset(columns, {"summary": names})
    table = table.assign(_limits(table, (int(usable.sum()), num_draws), labels, min_ess))
    table = table.assign(_costs(tree, table))
    is_apart, worst = apart(found)
    health["is_apart"] = ("chain", np.zeros(len(usable), bool))
    health["is_apart"][usable] = is_apart
    failures = (
        *failures_of_chains(health, num_draws),
        *outliers(health["is_apart"].values & ~health["is_stuck"].values, worst),
        *failures_of_axes(table, usable, labels, num_draws),
        *disagreements(table, "r_hat" if labels is None else "nested_r_hat"),
        *drifts(table),
        *scarcities(table, min_ess),
    )
    slow = [*disagreements(table, "r_hat"), *scarcities(table, min_ess)]
    if slow and coordinates:
        failures += tuple(shapes(coordinates))
    notes = tuple(_notes(tree["posterior"].attrs))
    return MixingReport(failures, table, health, num_draws, notes)


def _notes(attrs: Mapping[Any, Any]) -> Iterator[str]:
    if attrs.get("kernel") == "Exchange":
        yield (
            "The draws of `Exchange` are biased while its auxiliary chains are too short, "
            "which comparing chains cannot show: see `ebm.exchange_report(rng_key, mcmc)`."
        )
    elif not attrs.get("is_exact", 1):
        yield (
            f"`{attrs['kernel']}` is unadjusted: its step size biases the draws, which "
            "comparing chains cannot show, because all share the bias. Test them by "
            "`ebm.diagnostics.kernel_stein_discrepancy`, or use `ebm.MALA()` or "
            "`ebm.AdjustedMCLMC()`."
        )


def _usable(tree: DataTree, finite: np.ndarray) -> np.ndarray:
    """Which chains are compared; superchains are kept whole."""
    if "superchain" in tree["posterior"].coords:
        superchain = tree["posterior"].coords["superchain"].values
        finite = ~np.isin(superchain, superchain[~finite])
    return finite if finite.any() else np.ones_like(finite)


def _labels(tree: DataTree, usable: np.ndarray) -> np.ndarray | None:
    if "superchain" not in tree["posterior"].coords:
        return None
    labels = tree["posterior"].coords["superchain"].values[usable]
    sizes = np.unique(labels, return_counts=True)[1]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"`superchain` must give each label the same number of chains, got {labels}."
        )
    return labels if len(sizes) > 1 else None


def _limits(
    table: Dataset, size: tuple[int, int], labels: np.ndarray | None, min_ess: float
) -> dict[str, Any]:
    ess, num_tests = np.nan_to_num(table["ess_bulk"].values), table.sizes["summary"]
    half_noise = table["half_noise"].values
    columns = {
        "r_hat_limit": r_hat_limit(*size, np.maximum(ess, min_ess), half_noise, num_tests),
        "drift_limit": drift_limit(size[0], table["drift_noise"].values, num_tests),
    }
    if labels is not None:
        noise = table["nested_r_hat_noise"].values
        limit = nested_r_hat_limit(len(np.unique(labels)), size[0], noise, num_tests)
        columns["nested_r_hat_limit"] = limit
    return {name: ("summary", limit) for name, limit in columns.items()}


def _costs(tree: DataTree, table: Dataset) -> dict[str, Any]:
    attrs = tree["posterior"].attrs
    columns = {}
    stats = tree["sample_stats"].data_vars if "sample_stats" in tree.children else {}
    if "n_grad" in stats:
        gradients = float(stats["n_grad"].sum()) * int(attrs.get("thinning", 1))
        if gradients > 0:
            columns["ess_per_gradient"] = table["ess_bulk"] / gradients
    if "sampling_time" in attrs:
        columns["ess_per_second"] = table["ess_bulk"] / float(attrs["sampling_time"])
    return columns
