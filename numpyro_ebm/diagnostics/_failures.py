"""The sentences of `mixing_report`."""

from collections.abc import Iterator

import numpy as np
from scipy.stats import norm
from xarray import Dataset

from ._convergence import MANY_CHAINS, MIN_DRAWS
from ._report import chains, some_of

#: The level at which neighbouring chains are said to resemble each other.
_CHANCE = 1e-4
#: Stan's limit of BFMI, and the share of transitions that may diverge.
_BFMI = 0.3
_DIVERGING = 1e-3
#: A ratio of scales, and a correlation, that slow a kernel not adapted to them.
_SCALES, _CORRELATED = 30, 0.95
#: The autocorrelation of a chain with steps that are small relative to its range.
_CREEPING = 0.9
#: What to do next, by a part of a failure; the first that applies counts.
ADVICE = {
    "infinite": "look at the energy at the draws before the first that is not finite.",
    "copies": "split the key, `jax.random.split(key, num_chains)`, and run again.",
    "got stuck": "start elsewhere (`init_params`), or let the step size adapt in a longer "
    "`num_warmup`.",
    "diverged": "raise `target_accept_prob` to 0.95, or reparametrise.",
    "swapped": "pass draws as `(chain, draw, *event)`.",
    "that the others miss": "label the modes in `ebm.mode_report`, and sample with "
    "`ebm.ParallelTempering(kernel)`.",
    "let the kernel learn": "run again with the metric that is named above.",
    "disagree": "run longer; if R-hat does not fall, chains sit in different modes, see "
    "`ebm.mode_report`.",
    "": "double `num_warmup` and `num_samples`, and report again.",
}


def failures_of_chains(health: Dataset, num_draws: int) -> Iterator[str]:
    bad, stuck = health["num_non_finite"].values, health["is_stuck"].values
    if bad.any():
        yield (
            f"{bad.sum()} draws hold a value that is NaN or infinite, in {chains(bad > 0)}"
            f"{'' if bad.all() else '; the table leaves these out'}."
        )
    if stuck.any():
        stay = int(health["longest_stay"].values[stuck].max())
        accepted = ""
        if "acceptance_rate" in health:
            rate = float(health["acceptance_rate"].values[stuck].min())
            accepted = f", accepting down to {rate:.2f}"
        who = chains(stuck).capitalize()
        yield f"{who} got stuck, for up to {stay} of {num_draws} draws{accepted}."
    if (copy := health["is_copy"].values).any():
        yield (
            f"{chains(copy).capitalize()} are copies of each other, draw by draw: give each "
            "chain its own key."
        )
    if "bfmi" in health and (low := health["bfmi"].values < _BFMI).any():
        yield (
            f"BFMI is below {_BFMI} in {chains(low)}, down to "
            f"{float(health['bfmi'].min()):.2f}: momenta change the energy too slowly. "
            "Reparametrise, or learn the metric in a longer warm-up."
        )
    if "num_diverging" in health:
        count, size = int(health["num_diverging"].sum()), health.sizes["chain"] * num_draws
        if count > _DIVERGING * size:
            yield f"{count} of {size} transitions diverged. Take a smaller step."


def failures_of_axes(
    table: Dataset, usable: np.ndarray, labels: np.ndarray | None, num_draws: int
) -> Iterator[str]:
    num_chains = int(usable.sum())
    if num_chains < 2:
        yield f"{num_chains} chain cannot be compared with others: run four or more."
    elif num_draws < MIN_DRAWS and labels is None:
        yield (
            f"{num_draws} draws of each chain are too few to compare chains by: draw more, or "
            "start several chains at each point and say which, by `superchains`."
        )
    if labels is None and num_chains >= MANY_CHAINS:
        correlation = np.nan_to_num(table["neighbour_correlation"].values)
        limit = norm.isf(_CHANCE / len(correlation)) / np.sqrt(num_chains)
        worst = int(correlation.argmax())
        if correlation[worst] > limit:
            yield (
                f"Neighbouring chains resemble each other, with a correlation of "
                f"{correlation[worst]:.2f} in {table['summary'].values[worst]}, as successive "
                "draws do: are chains and draws swapped?"
            )


def outliers(is_apart: np.ndarray, worst: tuple[str, float, float] | None) -> Iterator[str]:
    if worst is not None and is_apart.any():
        name, distance, limit = worst
        yield (
            f"{chains(is_apart).capitalize()} {'lies' if is_apart.sum() == 1 else 'lie'} apart "
            f"from the others: the mean of {name}, on ranks, is off by {distance:.2f} standard "
            f"deviations, above the {limit:.2f} expected by chance. Is it a mode that the "
            "others miss?"
        )


def disagreements(table: Dataset, name: str) -> Iterator[str]:
    if name not in table:
        return
    r_hat, limit = table[name].values, table[f"{name}_limit"].values
    failed = r_hat > limit
    if failed.any():
        worst = int(np.argmax(np.where(failed, r_hat / limit, 0)))
        title = {"r_hat": "R-hat", "nested_r_hat": "Nested R-hat"}[name]
        yield (
            f"{title} of {table['summary'].values[worst]} is {r_hat[worst]:.4g}, above the "
            f"{limit[worst]:.4g} expected by chance{_others(table, failed, worst)}: the chains "
            "disagree."
        )


def drifts(table: Dataset) -> Iterator[str]:
    drift, limit = np.abs(table["drift"].values), table["drift_limit"].values
    failed = drift > limit
    if failed.any():
        worst = int(np.argmax(np.where(failed, drift / limit, 0)))
        yield (
            f"Halves of chains differ: in {table['summary'].values[worst]} by "
            f"{drift[worst]:.2f} standard deviations, above the "
            f"{limit[worst]:.2f} expected by chance{_others(table, failed, worst)}. "
            "Warm up longer."
        )


def scarcities(table: Dataset, min_ess: float) -> Iterator[str]:
    for name, title in (("ess_bulk", "Bulk"), ("ess_tail", "Tail")):
        ess = table[name].values
        failed = ess < min_ess
        if failed.any():
            worst = int(np.argmin(np.where(failed, ess, np.inf)))
            yield (
                f"{title} ESS of {table['summary'].values[worst]} is {ess[worst]:.0f}, below "
                f"{min_ess:g}{_others(table, failed, worst)}: draw more."
            )


def shapes(coordinates: dict[str, np.ndarray]) -> Iterator[str]:
    """For slow chains: scales and correlations that a kernel should learn."""
    if not any(map(_creeps, coordinates.values())):
        return
    names, x = list(coordinates), np.stack([x.ravel() for x in coordinates.values()])
    scales = x.std(1)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        return
    low, high = int(scales.argmin()), int(scales.argmax())
    if scales[high] > _SCALES * scales[low]:
        yield (
            f"Standard deviations reach from {scales[low]:.2g} in {names[low]} to "
            f"{scales[high]:.2g} in {names[high]}: let the kernel learn them, by "
            "`adapt_mass_matrix=True` and a longer warm-up."
        )
    correlation = np.abs(np.atleast_2d(np.corrcoef(x))) - np.eye(len(x))
    one, other = np.unravel_index(correlation.argmax(), correlation.shape)
    if correlation[one, other] > _CORRELATED:
        yield (
            f"{names[one]} and {names[other]} have a correlation of "
            f"{correlation[one, other]:.3f} in absolute value: let the kernel learn it, by "
            "`dense_mass=True`."
        )


def _creeps(x: np.ndarray) -> bool:
    """Whether a draw predicts the next one; a chain confined to one mode need not creep."""
    if x.shape[1] < 2:
        return False
    steps, spread = ((x[:, 1:] - x[:, :-1]) ** 2).mean(), 2 * x.var(1).mean()
    return bool(steps < (1 - _CREEPING) * spread)


def _others(table: Dataset, failed: np.ndarray, worst: int) -> str:
    failed = failed & (np.arange(len(failed)) != worst)
    names = table["summary"].values[failed]
    return f" (also {some_of(names)})" if len(names) else ""
