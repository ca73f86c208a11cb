"""`tempering_report`: whether replicas travel between the ends of a path, and its log Z."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from xarray import Dataset

from .._show import Printed, Rows
from ..energies import LogZ
from ._datatree import to_arviz
from ._ladder import FEW_RESTARTS, TEMPERING_DIMS, Ladder, rate_of
from ._report import as_parts, chains, verdict

#: Pairs that swap less often are a bottleneck; a ladder must allow this share of the restarts
#: of an even one; and replicas must make this share of what their swaps allow.
_SWAPS, _EVEN, _SLOW = 0.1, 0.8, 0.5
#: What to do next, by a part of a failure; the first that applies counts.
_ADVICE = {
    "not equalised": "double `num_warmup`: each of its rounds moves the ladder.",
    "of neighbours swaps": "add rungs, as many as the failure says, or take a reference closer "
    "to the target: if it has one mode, `reference=ebm.kernels.FittedGaussian()`.",
    "no step size suits all": "take smaller steps, by a larger `target_accept_prob` of the "
    "inner kernel, or other coordinates, as for a funnel its non-centred ones.",
    "of the rate that their swaps allow": "let the inner kernel move farther in a transition: "
    "`ebm.NUTS()`, or `ebm.HMC()` with longer trajectories.",
    "": "draw more `num_samples`.",
}


@dataclass(frozen=True, repr=False)
class TemperingReport(Printed):
    r"""The result of `tempering_report`; prints itself.

    - **failures**: sentences that say what is wrong.
    - **table**: a row per `pair` of neighbours, from the target down: the ends `beta` and
      `beta_below` (means over chains, if each has its own ladder), the mean `swap_prob`, the
      `barrier` from there down to the start of the path, and, from a reference, `log_z`, what
      the pair adds to log Z.
    - **chains**: `restarts` and `round_trips` of each `chain`.
    - **barrier**: the global communication barrier $\Lambda$.
    - **rate**: restarts per transition; **expected_rate**, what the swaps of this ladder allow;
      **best_rate**, $1/(2 + 2\Lambda)$, what the best ladder allows.
    - **log_z**: by stepping stones, with its error; `None` for a path of temperatures.
    """

    failures: tuple[str, ...]
    table: Dataset
    chains: Dataset
    barrier: float
    rate: float
    expected_rate: float
    best_rate: float
    log_z: LogZ | None

    @property
    def ok(self) -> bool:
        """Whether nothing failed. A mode that no replica has found may still be missing."""
        return not self.failures

    def _parts(self) -> list[str | Rows]:
        rows = as_parts(self.table, np.argsort(self.table["swap_prob"].values))
        restarts, trips = (int(self.chains[x].sum()) for x in ("restarts", "round_trips"))
        num_chains, num_rungs = self.chains.sizes["chain"], self.table.sizes["pair"] + 1
        parts = [
            f"Tempering of {num_chains} chains on {num_rungs} rungs",
            "",
            *rows,
            "",
            f"Barrier {self.barrier:.3g}; {restarts} restarts, {trips} round trips",
            f"Restarts per transition {self.rate:.3g}, of {self.expected_rate:.3g} on this "
            f"ladder and {self.best_rate:.3g} on the best",
        ]
        if self.log_z is not None:
            parts.append(repr(self.log_z).splitlines()[0])
        return [*parts, *verdict(self.failures, _ADVICE)]


def tempering_report(source: Any) -> TemperingReport:
    r"""Report whether a run of [`ParallelTempering`][numpyro_ebm.ParallelTempering] has mixed.

    A *restart* is the arrival at the target of a replica that has been at the reference, with
    an independent draw, since it was last there; a *round trip* also leads back. The mean
    probability that neighbours do not swap, summed over the pairs, is the communication barrier
    $\Lambda$: the best ladder, of many rungs, makes $1/(2 + 2\Lambda)$ restarts per transition
    [Syed et al. 2022].

    From a reference, $\log Z$ is the sum of $\log Z_{\beta_k}/Z_{\beta_{k+1}}$ over the
    neighbours [Xie et al. 2011], each by the optimal bridge between them [Bennett 1976; Meng
    and Wong 1996]. Its error is that of the mean of the influences of all rungs at each draw,
    with their correlations in time. `lower` and `upper` are the sums of the slopes at the lower
    and upper ends.

    A report fails if fewer than 20 restarts were made, if a chain made none while others made
    five or more on average, if a pair swaps less than once in ten, if the ladder costs a fifth
    of the rate, if replicas make fewer than 200 restarts, and less than half of those that
    their swaps allow, or if a check of $\log Z$ fails.

    ```python
    fitted = ebm.kernels.FittedGaussian()
    kernel = ebm.ParallelTempering(ebm.MALA(), reference=fitted)
    draws = ebm.sample(jax.random.key(0), energy, kernel)
    print(ebm.tempering_report(draws))
    ```

    **Arguments**

    - `source`: what [`to_arviz`][numpyro_ebm.to_arviz] takes, or what it returned, of a run of
      `ParallelTempering`.

    **Raises** `ValueError` if `source` is of another kernel.
    """
    ladder = ladder_of(source)
    beta = ladder.beta.mean(0)
    columns = {
        "beta": beta[:-1],
        "beta_below": beta[1:],
        "swap_prob": 1 - ladder.rejection,
        "barrier": np.cumsum(ladder.rejection[::-1])[::-1],
    }
    if ladder.steps is not None:
        columns["log_z"] = ladder.steps
    pairs = {name: ("pair", x) for name, x in columns.items()}
    counts = {name: ("chain", getattr(ladder, name)) for name in ("restarts", "round_trips")}
    return TemperingReport(
        failures=tuple(_failures(ladder)),
        table=Dataset(pairs, {"pair": np.arange(len(beta) - 1)}),
        chains=Dataset(counts, {"chain": np.arange(len(ladder.restarts))}),
        barrier=ladder.barrier,
        rate=ladder.rate,
        expected_rate=ladder.expected_rate,
        best_rate=ladder.best_rate,
        log_z=ladder.log_z,
    )


def ladder_of(source: Any) -> Ladder:
    """The numbers of a tempered run in any form."""
    tree = to_arviz(source)
    stats: Any = tree["sample_stats"] if "sample_stats" in tree.children else {}
    if not set(TEMPERING_DIMS) <= set(stats):
        raise ValueError(
            "`source` must be a run of `ebm.ParallelTempering`, with the statistics "
            f"{', '.join(TEMPERING_DIMS)}; got {sorted(map(str, stats))}."
        )
    if stats["beta"].sizes["draw"] < 2:
        raise ValueError("`source` must have two draws or more per chain.")
    return Ladder.of(stats, int(tree["posterior"].attrs.get("thinning", 1)))


def _failures(ladder: Ladder) -> Iterator[str]:
    rejection, restarts = ladder.rejection, ladder.restarts
    swaps, total = 1 - rejection, int(restarts.sum())
    mean = np.full_like(rejection, rejection.mean())
    evenness = ladder.expected_rate / rate_of(mean)
    if evenness < _EVEN:
        yield (
            "The ladder is not equalised: pairs swap with probabilities from "
            f"{swaps.min():.2f} to {swaps.max():.2f}, which allows {evenness:.2f} of the "
            "restarts of an even ladder."
        )
    elif swaps.min() < _SWAPS:
        enough = math.ceil(2 * ladder.barrier) + 2
        yield (
            f"Pair {swaps.argmin()} of neighbours swaps with probability {swaps.min():.2f}, "
            f"below {_SWAPS}: take `num_temperatures={enough}`."
        )
    if total < FEW_RESTARTS:
        yield (
            f"Only {total} restarts in {ladder.num_transitions} transitions of "
            f"{len(restarts)} chains, fewer than {FEW_RESTARTS}."
        )
    elif restarts.mean() >= _MANY and (restarts == 0).any():
        who = chains(restarts == 0).capitalize()
        yield f"{who} made no restart, where the mean is {restarts.mean():.0f}."
    expected = ladder.expected_rate * ladder.num_transitions * len(restarts)
    speed = ladder.rate / ladder.expected_rate
    if expected >= FEW_RESTARTS and speed < _SLOW and total < _PLENTY:
        yield (
            f"Replicas travel at {speed:.2f} of the rate that their swaps allow: at the next "
            "swap they have not forgotten where they were at the last."
        )
    if ladder.log_z is not None and total >= FEW_RESTARTS:
        yield from (f"log Z has no interval: {problem}." for problem in ladder.log_z.problems)


#: A chain without a restart is suspect if the others have this many; and with so many in all,
#: the run is only slow.
_MANY, _PLENTY = 5, 200
