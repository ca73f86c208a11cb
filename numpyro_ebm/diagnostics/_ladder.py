"""Numbers of a tempered run: barrier, travel of replicas, and log Z."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from ..energies import LogZ, judged
from ._convergence import ess

#: How the statistics of a tempered run extend over rungs and pairs of neighbours.
TEMPERING_DIMS = {
    "beta": ("temperature",),
    "log_ratio": ("temperature",),
    "replica": ("temperature",),
    "swap_prob": ("pair",),
    "restarts": (),
    "round_trips": (),
}
#: Below this number of restarts, nothing is known about an error.
FEW_RESTARTS = 20
#: A pair that swaps less often hardly overlaps.
_OVERLAP = 0.02
#: An influence series needs this effective size.
_MIN_ESS = 100
#: Draws whose mean acceptance is looked at, the fewest such means, and the lowest, relative to
#: their median: .88 on the banana, .97 on a Gaussian; .16 on a funnel, .38 with NUTS.
_BLOCK, _FEW_BLOCKS, _LEAST_RATIO = 40, 20, 0.6
_NARROW = (
    "no step size suits all of the target: at times its replicas hardly move for long, as in "
    "the neck of a funnel, and what lies beyond it is missed"
)


class Ladder(NamedTuple):
    """What the statistics of a tempered run tell, `(chain, draw, ...)`.

    - **beta**: `(chain, temperature)`.
    - **rejection**: the mean probability that a pair does not swap; they add up to the barrier.
    - **restarts**, **round_trips**: of each chain in `num_transitions`, between its first draw
      and its last.
    - **log_z**, **steps**: log Z, and what each pair adds to it; `None` if the path starts at a
      temperature.
    """

    beta: np.ndarray
    rejection: np.ndarray
    restarts: np.ndarray
    round_trips: np.ndarray
    num_transitions: int
    log_z: LogZ | None
    steps: np.ndarray | None

    @classmethod
    def of(cls, stats: Mapping[str, Any], thinning: int) -> "Ladder":
        arrays = {name: np.asarray(stats[name]) for name in TEMPERING_DIMS}
        beta = np.asarray(arrays["beta"][:, -1], float)
        counts = (arrays[name] for name in ("restarts", "round_trips"))
        restarts, trips = (x[:, -1] - x[:, 0] for x in counts)
        rejection = 1 - np.asarray(arrays["swap_prob"], float).mean((0, 1))
        num_transitions = (arrays["beta"].shape[1] - 1) * thinning
        found = rejection, restarts, trips, num_transitions
        if (beta[:, -1] > 0).any():
            return cls(beta, *found, None, None)
        log_ratio = np.asarray(arrays["log_ratio"], float)
        series = _series(log_ratio, beta)
        log_z = _log_z(log_ratio, beta, series.sum(2), rejection, int(restarts.sum()))
        accept_prob = np.asarray(stats["acceptance_rate"], float)
        log_z = judged(log_z, {_NARROW: _has_narrow_parts(accept_prob)})
        return cls(beta, *found, log_z, series.mean((0, 1)))

    @property
    def barrier(self) -> float:
        r"""The global communication barrier $\Lambda$."""
        return float(self.rejection.sum())

    @property
    def rate(self) -> float:
        """Restarts per transition."""
        return float(self.restarts.mean()) / max(self.num_transitions, 1)

    @property
    def expected_rate(self) -> float:
        """What the rejections of this ladder allow, if replicas forget between swaps."""
        return rate_of(self.rejection)

    @property
    def best_rate(self) -> float:
        """What any ladder between these ends allows."""
        return 1 / (2 + 2 * self.barrier)

    def attrs(self) -> dict[str, float]:
        """As attributes of `sample_stats`."""
        numbers: dict[str, float] = {
            "barrier": self.barrier,
            "num_restarts": int(self.restarts.sum()),
            "num_round_trips": int(self.round_trips.sum()),
        }
        if self.log_z is not None:
            numbers["log_z"] = float(self.log_z.estimate)
            numbers["log_z_std_error"] = float(self.log_z.std_error)
        return numbers


def rate_of(rejection: np.ndarray) -> float:
    r"""$1/(2 + 2\sum_k r_k/(1 - r_k))$ restarts per transition [Syed et al. 2022]."""
    rejection = np.minimum(rejection, 1 - 1e-9)
    return float(1 / (2 + 2 * (rejection / (1 - rejection)).sum()))


def _series(log_ratio: np.ndarray, beta: np.ndarray) -> np.ndarray:
    r"""For each pair of neighbours, $\log Z_{\beta_k}/Z_{\beta_{k+1}}$ by the optimal bridge.

    Its estimate plus the influence of each draw on it, `(chain, draw, pair)`: the mean is the
    estimate, and the error of the mean that of the estimate. Chains of one ladder share one
    bridge.
    """
    if (beta == beta[:1]).all():
        return _bridges(log_ratio, beta[0])
    each = zip(log_ratio, beta, strict=True)
    return np.concatenate([_bridges(one[None], rungs) for one, rungs in each])


def _has_narrow_parts(accept_prob: np.ndarray) -> bool:
    """Whether the target's replicas hardly move for long, where they otherwise move well."""
    num_blocks = accept_prob.shape[1] // _BLOCK
    blocks = accept_prob[:, : num_blocks * _BLOCK].reshape(-1, _BLOCK).mean(1)
    if len(blocks) < _FEW_BLOCKS:
        return False
    low, middle = np.nanquantile(blocks, [0.05, 0.5])
    return bool(low < _LEAST_RATIO * middle)


def _bridges(log_ratio: np.ndarray, beta: np.ndarray) -> np.ndarray:
    pairs = range(len(beta) - 1)
    steps = [(beta[k] - beta[k + 1]) * log_ratio[..., k : k + 2] for k in pairs]
    return np.stack([_bridge(step[..., 0], step[..., 1]) for step in steps], -1)


def _bridge(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The estimate and influences from log weights at both ends [Bennett 1976]."""

    def gap(log_z: float) -> float:
        return expit(below - log_z).mean() - expit(log_z - above).mean()

    # At the reference the target may have no density.
    finite = np.concatenate([x[np.isfinite(x)] for x in (above, below)])
    if not np.isfinite(below).any() or not np.isfinite(above).all():
        return np.full(above.shape, -np.inf)
    low, high = finite.min() - 1, finite.max() + 1
    while gap(low) < 0:
        low -= high - low
    while gap(high) > 0:
        high += high - low
    log_z = brentq(gap, low, high, xtol=1e-10)
    down, up = expit(below - log_z), expit(log_z - above)
    slope = (down * (1 - down)).mean() + (up * (1 - up)).mean()
    return log_z + (down - up) / max(slope, np.finfo(float).tiny)


def _log_z(
    log_ratio: np.ndarray,
    beta: np.ndarray,
    series: np.ndarray,
    rejection: np.ndarray,
    num_restarts: int,
) -> LogZ:
    estimate, is_finite = float(series.mean()), bool(np.isfinite(series).all())
    size = float(ess(series)) if is_finite else 0.0
    checks = {
        "no draw of the reference has a finite energy": not is_finite,
        f"only {num_restarts} replicas have come from the reference to the target, fewer than "
        f"{FEW_RESTARTS}": num_restarts < FEW_RESTARTS,
        "two neighbours hardly overlap, they swap less than once in fifty": (
            bool((rejection > 1 - _OVERLAP).any())
        ),
        f"the effective size of the draws of all replicas is below {_MIN_ESS}": not size
        >= _MIN_ESS,
    }
    is_sound = not any(checks.values())
    # The slope of log Z falls along the path.
    with np.errstate(invalid="ignore"):
        slopes, lengths = log_ratio.mean(1), beta[:, :-1] - beta[:, 1:]
        lower, upper = ((lengths * x).sum(1).mean() for x in (slopes[:, 1:], slopes[:, :-1]))
    return LogZ(
        estimate,
        series.std() / np.sqrt(size) if is_sound else np.inf,
        lower=lower,
        upper=upper,
        ess=size,
        df=max(min(size, num_restarts) - 1, 1),
        checks=checks,
        method="ParallelTempering",
        ess_of=f"{series.size} draws",
    )
