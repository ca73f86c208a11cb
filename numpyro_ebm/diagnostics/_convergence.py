"""R-hat, ESS and MCSE of one summary `(chain, draw)`, and their limits by chance."""

import numpy as np
from scipy.special import ndtri
from scipy.stats import f as f_distribution, rankdata, t as t_distribution

from .._arviz import array_stats

#: ArviZ's statistics need this many draws per chain.
MIN_DRAWS = 4
#: As in the paper. ArviZ uses 11 and 89 %, from its default `ci_prob` of 0.89.
_TAILS = (0.05, 0.95)
#: The probability that R-hat fails a report by chance alone, over all summaries.
_FALSE_ALARM = 0.01
#: Smaller values of R-hat are ignored [Vehtari et al. 2021].
_R_HAT = 1.01
#: A drift between halves that matters, in standard deviations.
_DRIFT = 0.1
#: Half a chain with fewer effective draws may still depend on its start, and the halves of a
#: chain may be correlated this much.
_MIN_ESS_OF_HALF, _HALVES = 1.5, 0.25
#: With at least this many chains, their number makes up for their length.
MANY_CHAINS = 20


def rank_scores(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of `x`, `(chain, draw)`, and of its distances from the median.

    NaN if a draw is not finite. If their number is odd, the middle draw is dropped.
    """
    x = _finite(x)
    even = x if x.shape[1] == 1 else _even(x)
    with np.errstate(all="ignore"):
        return normal_scores(even), normal_scores(np.abs(even - np.median(even)))


def convergence(
    x: np.ndarray,
    superchains: np.ndarray | None = None,
    scores: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, float]:
    r"""ArviZ's statistics of `x`, `(chain, draw)`, in half the time.

    For $N$ draws with standard deviation $s$ and centred draws $c$:

    - `ess_bulk`, `ess_tail` (at 5 and 95 %), `r_hat`: rank-normalised [Vehtari et al. 2021];
    - `mcse_mean`: $s / \sqrt{S}$ with $S$, the ESS of $x$;
    - `mcse_sd`: $\sqrt{(\overline{c^4} - \overline{c^2}^2) / (4 S_2 \overline{c^2})}$ with
      $S_2$, the ESS of $c^2$ (before 1.3.3, arviz-stats takes that of $x$);
    - `autocorrelation_time`: $N / S$, in draws;
    - `drift`: the mean change of ranks, or of ranks of distances from the median, from the
      first half of a chain to its second, in standard deviations; `drift_noise` is its error,
      for independent chains, and `half_noise` the variance of the mean of half a chain;
    - `neighbour_correlation`: of the means of successive chains; near zero unless the axes are
      swapped, because successive draws are correlated;
    - `nested_r_hat`, `nested_r_hat_noise`: of superchains, below.

    Chains of fewer than four draws are treated as independent draws for an ESS, and have no
    `r_hat`. Everything is NaN if a draw is not finite. `scores` are those of `rank_scores`, if
    known.
    """
    x = _finite(x)
    z, folded = rank_scores(x) if scores is None else scores
    is_short = x.shape[1] < MIN_DRAWS
    with np.errstate(all="ignore"):  # R-hat of a constant is undefined.
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
            "r_hat": np.nan if is_short else max(split_r_hat(z), split_r_hat(folded)),
            "autocorrelation_time": x.size / ess_mean,
            "neighbour_correlation": _neighbour_correlation(z),
        }
        row["half_noise"] = max(half_noise(z), half_noise(folded))
        row["drift_noise"] = np.sqrt(2 * row["half_noise"] / len(x))
        row["drift"] = max(abs(_change(z).mean()), abs(_change(folded).mean()))
        if superchains is not None:
            row["nested_r_hat"], row["nested_r_hat_noise"] = nested_r_hat(x, superchains)
    return {name: float(value) for name, value in row.items()}


def nested_r_hat(x: np.ndarray, superchains: np.ndarray) -> tuple[float, float]:
    r"""Nested R-hat [Margossian et al. 2024] of ranks, for many short chains, and its noise.

    $\sqrt{1 + B/W}$, with $B$ the variance of the means of superchains (groups of chains that
    started together) and $W$ the mean variance within a superchain: the variance of its chains'
    means, plus the mean variance of a chain. As in `arviz_stats.rhat_nested`, the larger of the
    values for the ranks of $x$ and for its distances from the median. With four draws or more,
    halves of chains count as chains. Fewer draws, down to a single one, are not split.

    If chains have forgotten their starts, $B$ is $1/M$ of the variance of the means of the $M$
    chains within a superchain; the noise is that value divided by $W$.
    """
    order = np.argsort(superchains, kind="stable")
    x = x[order].reshape(len(np.unique(superchains)), -1, x.shape[1])

    def one(z: np.ndarray) -> tuple[float, float]:
        num_chains = z.shape[1]
        chains = z.mean(2)
        # The means of one chain differ no more than its draws.
        noise = chains.var(1, ddof=1).mean() / num_chains if num_chains > 1 else np.nan
        if not is_short:
            z = z.reshape(len(z), 2 * num_chains, -1)
        means = z.mean(2)
        within = z.var(2, ddof=1).mean() if z.shape[2] > 1 else 0.0
        within += means.var(1, ddof=1).mean() if z.shape[1] > 1 else 0.0
        ratio = means.mean(1).var(ddof=1) / within
        return float(np.sqrt(1 + ratio)), float(noise / within) if num_chains > 1 else 1.0

    is_short = x.shape[2] < MIN_DRAWS
    x = x if is_short else _even(x)
    with np.errstate(all="ignore"):
        return max(one(normal_scores(x)), one(normal_scores(np.abs(x - np.median(x)))))


def r_hat_limit(
    num_chains: int, num_draws: int, ess: np.ndarray, half_noise: np.ndarray, num_tests: int
) -> np.ndarray:
    r"""The largest R-hat expected by chance: 1.01, or what chains of `ess` draws allow.

    The means of $m$ half-chains of $n$ draws, $e$ of them effective, have $1/e$ of the
    variance, and their draws the rest: $\hat R^2 \approx \frac{n-1}{n}(1 + F/(e-1))$, with $F$
    an F-variable with $m - 1$ and $m(e - 1)$ degrees of freedom. Its quantile gives one false
    alarm in a hundred over all summaries, each tested in the bulk and in the tails.

    In short halves an ESS sees too few lags to give $e$. With many chains, $e$ follows from how
    the two halves of a chain differ, allowing for a correlation of a quarter between them. It
    is at least one and a half: shorter halves still depend on their start.
    """
    m, n = 2 * num_chains, max(num_draws // 2, 2)
    e = ess / m
    if num_chains >= MANY_CHAINS:
        e = np.fmin(e, (1 - _HALVES) / np.maximum(half_noise, np.finfo(float).tiny))
    e = np.maximum(e, _MIN_ESS_OF_HALF)
    f = f_distribution.ppf(1 - _FALSE_ALARM / (2 * num_tests), m - 1, m * (e - 1))
    return np.maximum(_R_HAT, np.sqrt((n - 1) / n * (1 + f / (e - 1))))


def nested_r_hat_limit(
    num_superchains: int, num_chains: int, noise: np.ndarray, num_tests: int
) -> np.ndarray:
    r"""The same for nested R-hat, by an analysis of variance of the chains' means.

    Superchains differ by chance as their chains do: $B/W$ over its noise is an F-variable with
    $K - 1$ and $K(M - 1)$ degrees of freedom, whatever the autocorrelation.
    """
    degrees = num_superchains - 1, max(num_chains - num_superchains, num_superchains)
    f = f_distribution.ppf(1 - _FALSE_ALARM / (2 * num_tests), *degrees)
    return np.maximum(_R_HAT, np.sqrt(1 + f * noise))


def drift_limit(num_chains: int, noise: np.ndarray, num_tests: int) -> np.ndarray:
    """The largest drift expected by chance; a tenth of a standard deviation is ignored."""
    t = t_distribution.isf(_FALSE_ALARM / (4 * num_tests), max(num_chains - 1, 1))
    return np.maximum(_DRIFT, t * noise)


def bfmi(energy: np.ndarray) -> np.ndarray:
    """Mean squared change of the Hamiltonian over its variance, per chain, without NaN."""

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
        return float(array_stats().ess(x, method="mean"))
    # The draws of a chain may be worth only one; chains are independent.
    x = np.asarray(x, float)
    variance = x.var(ddof=1)
    return x.size if variance == 0 else len(x) * variance / x.mean(1).var(ddof=1)


def half_noise(z: np.ndarray) -> float:
    """The variance of the mean of half a chain, from the difference of its halves."""
    if len(z) < 2:
        return np.nan
    return float(_change(z).var(ddof=1) / 2)


def _change(z: np.ndarray) -> np.ndarray:
    half = z.shape[1] // 2
    if half == 0:
        return np.full(len(z), np.nan)
    return z[:, half:].mean(1) - z[:, :half].mean(1)


def _neighbour_correlation(z: np.ndarray) -> float:
    means = z.mean(1) - z.mean()
    return float(means[1:] @ means[:-1] / (means @ means))


def _below(x: np.ndarray, quantile: float) -> np.ndarray:
    limit = np.quantile(x, quantile)
    return x if np.isnan(limit) else x <= limit


def split_r_hat(x: np.ndarray) -> float:
    """Split R-hat without ranks; NaN for constants, one chain, or fewer than four draws."""
    if len(x) < 2 or x.shape[1] < MIN_DRAWS:
        return np.nan
    with np.errstate(all="ignore"):
        return float(array_stats().rhat(x, method="split"))


def _finite(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, float)
    return x if np.isfinite(x).all() else np.full(x.shape, np.nan)


def _even(x: np.ndarray) -> np.ndarray:
    """Drop the middle draw of an odd number, which belongs to neither half."""
    half = x.shape[-1] // 2
    return np.concatenate([x[..., :half], x[..., -half:]], axis=-1)
