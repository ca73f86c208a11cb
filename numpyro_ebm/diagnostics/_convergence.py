"""Numbers of one summary `(chain, draw)`: R-hat, ESS, MCSE, and what chance makes of them."""

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri
from scipy.stats import f as f_distribution, rankdata

from ._arviz_stats import array_stats

#: ArviZ's statistics need as many draws of a chain.
MIN_DRAWS = 4
#: As in the paper. ArviZ makes 11 and 89 % of its default `ci_prob` of 0.89.
_TAILS = (0.05, 0.95)
#: How likely chance alone fails a report by R-hat, over all summaries.
_FALSE_ALARM = 0.01
#: Below it nobody looks at R-hat [Vehtari et al. 2021].
_R_HAT = 1.01
#: Half a chain of fewer effective draws may still remember its start.
_MIN_ESS_OF_HALF = 5


def convergence(x: np.ndarray, superchains: np.ndarray | None = None) -> dict[str, float]:
    r"""What ArviZ says of `x`, `(chain, draw)`, the same numbers in half the time.

    Of $N$ draws with the standard deviation $s$ and centred $c$,

    - `ess_bulk`, `ess_tail` (at 5 and 95 %), `r_hat`: rank-normalised [Vehtari et al. 2021];
    - `mcse_mean`: $s / \sqrt{S}$ with $S$, the ESS of $x$;
    - `mcse_sd`: $\sqrt{(\overline{c^4} - \overline{c^2}^2) / (4 S_2 \overline{c^2})}$ with
      $S_2$, the ESS of $c^2$ (before 1.3.3, arviz-stats takes that of $x$);
    - `autocorrelation_time`: $N / S$, in draws;
    - `neighbour_correlation`: of the means of successive chains, near zero unless the axes are
      swapped: draws follow each other;
    - `nested_r_hat`: of superchains, below.

    Chains of fewer than four draws are taken as independent for an ESS, and have no `r_hat`.
    All is NaN if a draw is not finite.
    """
    x = np.asarray(x, float)
    if not np.isfinite(x).all():
        x = np.full(x.shape, np.nan)
    is_short = x.shape[1] < MIN_DRAWS
    with np.errstate(all="ignore"):  # Constants have no R-hat.
        z = normal_scores(x if is_short else _even(x))
        ess_mean, ess_bulk = ess(x), ess(z)
        squares = (x - x.mean()) ** 2
        spread = (squares**2).mean() - squares.mean() ** 2
        row = {
            "mean": x.mean(),
            "sd": x.std(ddof=1),
            "mcse_mean": x.std(ddof=1) / np.sqrt(ess_mean),
            "mcse_sd": np.sqrt(spread / ess(squares) / squares.mean() / 4),
            "ess_bulk": ess_bulk,
            "ess_tail": min(ess(_below(x, q)) for q in _TAILS),
            "r_hat": np.nan if is_short else _largest(split_r_hat, z, _even(x)),
            "autocorrelation_time": x.size / ess_mean,
            "neighbour_correlation": _neighbour_correlation(z),
        }
        if superchains is not None:
            row["nested_r_hat"] = nested_r_hat(x, superchains)
    return {name: float(value) for name, value in row.items()}


def nested_r_hat(x: np.ndarray, superchains: np.ndarray) -> float:
    r"""Nested R-hat [Margossian et al. 2024] of ranks, for many short chains.

    $\sqrt{1 + B/W}$, with $B$ the variance of the means of superchains, groups of chains that
    started together, and $W$ the mean over superchains of the variance within: of the means of
    their chains, plus the mean variance of a chain. As in `arviz_stats.rhat_nested`, the larger
    one of the ranks of $x$ and of its distances from the median; from four draws on, halves of
    chains count as chains. Fewer draws are taken as they are, down to a single one.
    """
    labels = np.unique(superchains, return_inverse=True)[1]
    is_short = x.shape[1] < MIN_DRAWS
    if not is_short:
        x, labels = _split(x), np.tile(labels, 2)

    def one(z: np.ndarray) -> float:
        groups = z[np.argsort(labels, kind="stable")].reshape(labels.max() + 1, -1, z.shape[1])
        means = groups.mean(2)
        within = groups.var(2, ddof=1).mean(1) if z.shape[1] > 1 else 0.0
        between_chains = means.var(1, ddof=1) if means.shape[1] > 1 else 0.0
        within = np.mean(within + between_chains)
        return float(np.sqrt(1 + means.mean(1).var(ddof=1) / within))

    with np.errstate(all="ignore"):
        return _largest(one, normal_scores(x), x)


def r_hat_limit(num_chains: int, ess: np.ndarray, num_tests: int) -> np.ndarray:
    r"""The most that chance makes of R-hat: 1.01, or what chains of `ess` draws allow.

    The means of $m$ half-chains of $e$ effective draws each vary by $1/e$ of the variance, so
    that $\hat R^2 - 1 \approx F / e$, $F$ an F-variable of $m - 1$ and $m(e - 1)$ degrees. Its
    quantile leaves one false alarm in a hundred over all summaries, each tested twice, in the
    bulk and in the tails. $e$ is five at least: chains shorter than that may remember where
    they started, which only their grouping in superchains can tell.
    """
    m = 2 * num_chains
    e = np.maximum(ess / m, _MIN_ESS_OF_HALF)
    f = f_distribution.ppf(1 - _FALSE_ALARM / (2 * num_tests), m - 1, m * (e - 1))
    return np.maximum(_R_HAT, np.sqrt(1 + f / e))


def nested_r_hat_limit(num_superchains: int, ess: np.ndarray, num_tests: int) -> np.ndarray:
    r"""The same of nested R-hat, whose $K$ superchains have $e = S/K$ effective draws each."""
    e = ess / num_superchains
    degrees = num_superchains - 1, np.maximum(ess - num_superchains, 1)
    f = f_distribution.ppf(1 - _FALSE_ALARM / (2 * num_tests), *degrees)
    return np.maximum(_R_HAT, np.sqrt(1 + f / e))


def bfmi(energy: np.ndarray) -> np.ndarray:
    """Of each chain, the mean squared change of the Hamiltonian by its variance; NaN is out."""

    def mean(x: np.ndarray, ddof: int = 0) -> np.ndarray:
        return np.nansum(x, axis=1) / (np.isfinite(x).sum(1) - ddof)

    energy = np.asarray(energy, float)
    with np.errstate(all="ignore"):
        deviation = energy - mean(energy)[:, None]
        return mean(np.diff(energy, axis=1) ** 2) / mean(deviation**2, ddof=1)


def normal_scores(x: np.ndarray) -> np.ndarray:
    """Ranks among all draws, as quantiles of a standard normal [Blom 1958]."""
    ranks = rankdata(x, method="average").reshape(x.shape)
    return ndtri((ranks - 3 / 8) / (x.size + 1 / 4))


def ess(x: np.ndarray) -> float:
    if x.shape[1] >= MIN_DRAWS:
        return array_stats().ess(x, method="mean")
    # Draws of a chain may be as good as one; chains are independent.
    x = np.asarray(x, float)
    variance = x.var(ddof=1)
    return x.size if variance == 0 else len(x) * variance / x.mean(1).var(ddof=1)


def _neighbour_correlation(z: np.ndarray) -> float:
    means = z.mean(1) - z.mean()
    return float(means[1:] @ means[:-1] / (means @ means))


def _below(x: np.ndarray, quantile: float) -> np.ndarray:
    limit = np.quantile(x, quantile)
    return x if np.isnan(limit) else x <= limit


def split_r_hat(x: np.ndarray) -> float:
    """Split R-hat without ranks; NaN of constants, of one chain, of fewer than four draws."""
    if len(x) < 2 or x.shape[1] < MIN_DRAWS:
        return np.nan
    with np.errstate(all="ignore"):
        return float(array_stats().rhat(x, method="split"))


def _largest(r_hat: Callable[[np.ndarray], float], z: np.ndarray, x: np.ndarray) -> float:
    """Of the ranks of `x`, which are `z`, and of its distances from the median."""
    return max(r_hat(z), r_hat(normal_scores(np.abs(x - np.median(x)))))


def _even(x: np.ndarray) -> np.ndarray:
    """Without the draw in the middle, which belongs to neither half."""
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]], axis=1)


def _split(x: np.ndarray) -> np.ndarray:
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])
