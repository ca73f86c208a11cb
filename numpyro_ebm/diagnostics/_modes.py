"""`mode_report`: how chains share their time among modes, and whether correctly."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm
from xarray import DataArray, Dataset

from .._checks import check_count, check_positive
from .._show import Printed, Rows
from ._convergence import ess, half_noise, r_hat_limit, split_r_hat
from ._labels import Run, finite_run, known_weights, label
from ._report import as_parts, chains, verdict

#: The level of the test against the reference, over all modes.
_FALSE_ALARM = 0.01
#: A chain that never hops is suspect if the others hop this often.
_MANY_HOPS = 10
#: What to do next, by a part of a failure; the first that applies counts.
_ADVICE = {
    "not finite": "look at the draws that are not finite: the energy may be unbounded.",
    "`reference` disagree": "run the reference longer, or give the weights that you know.",
    "ever leaves": "sample with `ebm.ParallelTempering(kernel)`, whose chains change modes.",
    "visits": "sample with `ebm.ParallelTempering(kernel)`, or start chains in every mode.",
    "of the reference": "do not use these proportions; sample with "
    "`ebm.ParallelTempering(kernel)`.",
    "hopped": "run longer, or sample with `ebm.ParallelTempering(kernel)`.",
    "Chains disagree": "draw until every chain has hopped many times, or sample with "
    "`ebm.ParallelTempering(kernel)`.",
    "": "draw more: an occupancy needs many hops, not many draws.",
}


@dataclass(frozen=True, repr=False)
class ModeReport(Printed):
    """The result of `mode_report`; prints itself.

    - **failures**: sentences that say what is wrong.
    - **table**: a row per `mode`: its `occupancy` with `mcse`, `ess`, `r_hat` and
      `r_hat_limit`, the number of `visits`, their mean length `dwell` in draws, and its
      occupancy in the `reference`, with `reference_mcse`.
    - **chains**: `occupancy` of each `chain` and `mode`, and the number of `hops` of each.
    - **transitions**: `(mode, next_mode)`, the transition frequencies; rows sum to one.
    - **labels**: the mode of each draw, `(chain, draw)`.
    """

    failures: tuple[str, ...]
    table: Dataset
    chains: Dataset
    transitions: DataArray
    labels: np.ndarray

    @property
    def ok(self) -> bool:
        """Whether nothing failed. Without a reference, a mode may still be missing."""
        return not self.failures

    def _parts(self) -> list[str | Rows]:
        num_chains, num_draws = self.labels.shape
        shown = [name for name in self.table if name != "r_hat_limit"]
        rows = as_parts(self.table[shown], np.argsort(-self.table["occupancy"].values))
        parts = [f"Modes of {num_chains} chains of {num_draws} draws", "", *rows, ""]
        if num_draws > 1:
            parts.append(f"{int(self.chains['hops'].sum())} hops")
        parts += verdict(self.failures, _ADVICE)
        if num_draws == 1 and "reference" not in self.table:
            parts.append(
                "Chains of one draw do not show whether they leave their mode: these may be "
                "the occupancies of the starts."
            )
        if "reference" not in self.table:
            parts.append("A mode that no chain visits shows against a `reference` only.")
        return parts


def mode_report(
    source: Any,
    labels: Callable[[Any], Any] | None = None,
    *,
    num_modes: int | None = None,
    reference: Any = None,
    min_ess: float = 400,
    seed: int = 0,
) -> ModeReport:
    r"""Report how chains share their time among modes, and what is wrong.

    Chains that all sit in one mode of several can show an R-hat of 1.00 and thousands of
    effective draws. A `reference`, a run that crosses between modes or known weights, reveals
    it.

    A report fails if chains disagree on an occupancy, if no chain ever hops, if one never does
    while others often do, if an occupancy has an effective sample size below `min_ess`, if it
    differs from the reference at level 0.01 over the whole report, or if the reference
    disagrees with itself. Chains of one draw each cannot hop; only their occupancies are
    judged, which may be those of their starts.

    ```python
    tempered = ebm.sample(key, energy, ebm.ParallelTempering(ebm.MALA(), 16.0))
    print(ebm.mode_report(draws, lambda x: x[0] > 0, reference=tempered))
    ```

    **Arguments**

    - `source`: what [`to_arviz`][numpyro_ebm.to_arviz] takes, or populations of
      [`TemperedSMC`][numpyro_ebm.TemperedSMC].
    - `labels`: a function from one point to the number of its mode. Without it, modes are found
      by k-means: clusters with at least a hundredth of the draws of `source` and `reference`
      together, separated by a valley of density. Modes you know are more reliable.
    - `num_modes`: for k-means, if you know it.
    - `reference`: draws in any form that `source` accepts, or independent draws; or the known
      weights of the modes in `labels`, a sequence or a dict.
    - `min_ess`: the effective sample size that an occupancy needs.
    - `seed`: for k-means.
    """
    check_positive("min_ess", min_ess)
    if num_modes is not None:
        check_count("num_modes", num_modes)
    weights = known_weights(reference)
    if weights is not None and labels is None:
        raise ValueError(
            "`reference` of known weights needs `labels`, which tells the modes apart: those "
            "that k-means finds come in its own order."
        )
    runs = {"source": finite_run(source)}
    if reference is not None and weights is None:
        runs["reference"] = finite_run(reference)
    names, found = label(runs, labels, weights or {}, num_modes, seed)
    table, *others = (_table(modes, names, min_ess) for modes in found)
    table = table.assign(_reference_columns(names, weights, *others))
    per_chain = _per_chain(found[0], names, runs["source"].variables["chain"].values)
    failures = (
        *_failures_of_values(runs),
        *_failures_of_reference(table, *others),
        *_failures_of_hops(per_chain["hops"].values, table, found[0].shape[1]),
        *_failures_of_occupancy(table, min_ess),
    )
    coords = {"mode": names, "next_mode": names}
    steps = DataArray(_transitions(found[0], len(names)), coords)
    return ModeReport(failures, table, per_chain, steps, np.array(names)[found[0]])


def _reference_columns(
    names: list[int], weights: dict[int, float] | None, reference: Dataset | None = None
) -> dict[str, Any]:
    if reference is not None:
        return {"reference": reference["occupancy"], "reference_mcse": reference["mcse"]}
    if weights is None:
        return {}
    known = np.array([weights.get(name, 0.0) for name in names])
    return {"reference": ("mode", known), "reference_mcse": ("mode", np.zeros(len(names)))}


def _per_chain(modes: np.ndarray, names: list[int], chain: np.ndarray) -> Dataset:
    shares = np.stack([(modes == k).mean(1) for k in range(len(names))], axis=1)
    hops = (modes[:, 1:] != modes[:, :-1]).sum(1)
    columns = {"occupancy": (("chain", "mode"), shares), "hops": ("chain", hops)}
    return Dataset(columns, {"chain": chain, "mode": names})


def _table(modes: np.ndarray, names: list[int], min_ess: float) -> Dataset:
    """A row per mode; the ESS of an occupancy is that of the indicator of its mode."""
    begins = np.concatenate([modes[:, :1] >= 0, modes[:, 1:] != modes[:, :-1]], axis=1)
    rows = []
    for k in range(len(names)):
        inside = (modes == k).astype(float)
        visits = int((begins & (modes == k)).sum())
        size = float(ess(inside))
        rows.append(
            {
                "occupancy": inside.mean(),
                "mcse": inside.std() / np.sqrt(size),
                "ess": size,
                "r_hat": split_r_hat(inside),
                "half_noise": half_noise(inside) / max(inside.var(), np.finfo(float).tiny),
                "visits": visits,
                "dwell": inside.sum() / visits if visits else np.nan,
            }
        )
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    num_chains, num_draws = modes.shape
    columns["r_hat_limit"] = r_hat_limit(
        num_chains,
        num_draws,
        np.maximum(columns["ess"], min_ess),
        columns.pop("half_noise"),
        len(names),
    )
    return Dataset({key: ("mode", x) for key, x in columns.items()}, {"mode": names})


def _transitions(modes: np.ndarray, num_modes: int) -> np.ndarray:
    """How often each mode follows each; NaN for a mode without successors."""
    counts = np.zeros((num_modes, num_modes))
    np.add.at(counts, (modes[:, :-1], modes[:, 1:]), 1)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True)


def _failures_of_values(runs: dict[str, Run]) -> Iterator[str]:
    for name, run in runs.items():
        if run.num_dropped:
            yield f"{run.num_dropped} chains of `{name}` are not finite and were left out."


def _failures_of_reference(table: Dataset, reference: Dataset | None = None) -> Iterator[str]:
    if reference is not None:
        r_hat, limit = reference["r_hat"].values, reference["r_hat_limit"].values
        for k in np.flatnonzero(r_hat > limit):
            yield (
                f"The chains of `reference` disagree among themselves on mode "
                f"{table['mode'].values[k]}, with an R-hat of {r_hat[k]:.4g}."
            )
    if "reference" not in table:
        return
    columns = ("mode", "occupancy", "mcse", "ess", "reference", "reference_mcse")
    limit = norm.isf(_FALSE_ALARM / (2 * table.sizes["mode"]))
    for name, p, mcse, size, q, q_mcse in zip(*(table[c].values for c in columns), strict=True):
        # Chains that are never or always in a mode give no error estimate.
        error = np.hypot(max(mcse, np.sqrt(q * (1 - q) / size)), q_mcse)
        if p == 0 and q > limit * error:
            yield f"No chain visits mode {name}, which holds {q:.3f} of the reference."
        elif abs(p - q) > limit * error:
            yield (
                f"Mode {name} holds {p:.3f} of the draws and {q:.3f} of the reference, "
                f"{abs(p - q) / error if error else np.inf:.1f} standard errors apart."
            )


def _failures_of_hops(hops: np.ndarray, table: Dataset, num_draws: int) -> Iterator[str]:
    if num_draws == 1:
        return
    if (table["occupancy"].values > 0).sum() > 1 and hops.sum() == 0:
        yield "No chain ever leaves its mode: the occupancies are those of the starts."
    elif np.mean(hops) >= _MANY_HOPS and (hops == 0).any():
        who = chains(hops == 0).capitalize()
        yield f"{who} never hopped, where the mean is {np.mean(hops):.0f} times."


def _failures_of_occupancy(table: Dataset, min_ess: float) -> Iterator[str]:
    r_hat, limit = table["r_hat"].values, table["r_hat_limit"].values
    for k in np.flatnonzero(r_hat > limit):
        yield (
            f"Chains disagree on the occupancy of mode {table['mode'].values[k]}: R-hat is "
            f"{r_hat[k]:.4g}, above the {limit[k]:.4g} expected by chance."
        )
    size = table["ess"].values
    for k in np.flatnonzero(size < min_ess):
        yield (
            f"The occupancy of mode {table['mode'].values[k]} has an ESS of {size[k]:.0f}, "
            f"below {min_ess:g}."
        )
