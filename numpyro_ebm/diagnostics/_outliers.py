"""Chains that lie apart from the others, and chains that are copies."""

import hashlib
from typing import NamedTuple

import numpy as np
from scipy.stats import t as t_distribution

from ._convergence import half_noise

#: With fewer chains R-hat suffices: a single chain moves it enough.
_ENOUGH_CHAINS = 10
#: The probability that chance alone sets any chain apart, over all chains and summaries.
_FALSE_ALARM = 0.01
#: A distance on ranks that matters, in standard deviations of a draw.
_FAR = 0.5
#: Effective draws that make the mean of a chain nearly normal; and the share of the other
#: chains' draws with which a shorter chain is not alone.
_LONG, _ALONE = 30, 1e-3
#: Quantiles from which the tail of distances is extrapolated.
_QUANTILES = 0.75, 0.9
#: The median absolute deviation of a standard normal, and its efficiency there.
_NORMAL_MAD, _MAD_EFFICIENCY = 0.6745, 0.37
#: The probability that two chains of discrete draws called copies are equal by chance.
_CHANCE = 1e-6


class Distances(NamedTuple):
    """How far the mean of each chain is from the others', with its limits by chance.

    - **distance**: from the median of the means, in standard deviations of a draw.
    - **error**: of each distance.
    - **quantiles**: of the distances, at 75 and 90 %.
    - **is_judged**: which chains are long enough for a normal mean, or where no other chain
      goes.
    """

    distance: np.ndarray
    error: np.ndarray
    quantiles: tuple[float, float]
    is_judged: np.ndarray


def distances(z: np.ndarray) -> Distances:
    """Distances of normal scores `(chain, draw)`. The error is the largest of three.

    They come from the median deviation of the means, from how halves of chains differ, and from
    the latter for this chain alone, which may be the only one to reach a rare mode.
    """
    signed = z.mean(1) - np.median(z.mean(1))
    distance, noise, variances = np.abs(signed), half_noise(z) / 2, z.var(1)
    own = noise * variances / max(variances.mean(), np.finfo(float).tiny)
    error = np.sqrt(np.fmax((np.median(distance) / _NORMAL_MAD) ** 2, np.fmax(noise, own)))
    low, high = np.quantile(distance, _QUANTILES)
    is_judged = np.full(len(z), bool(z.var() >= _LONG * noise))
    found = Distances(distance, error, (float(low), float(high)), is_judged)
    for i in np.flatnonzero((distance > limits(found, 1)) & ~is_judged):
        others, sign = np.delete(z, i, 0), np.sign(signed[i])
        is_judged[i] = (sign * others >= sign * np.median(z[i])).mean() <= _ALONE
    return found


def limits(found: Distances, num_tests: int) -> np.ndarray:
    r"""The largest distance expected by chance, exceeded in a hundredth of all reports.

    R-hat of $m$ chains, one of them $\delta$ away, is $\sqrt{1 + \delta^2/m}$: with many chains
    it shows nothing. The limit is a quantile of Student's t, times the error, or, for means far
    from normal, the exponential tail through the quantiles of the distances.
    """
    chance = _FALSE_ALARM / (len(found.distance) * num_tests)
    t = t_distribution.isf(chance / 2, _MAD_EFFICIENCY * len(found.distance))
    (low, high), (p, q) = found.quantiles, _QUANTILES
    decay = (high - low) / np.log((1 - p) / (1 - q))
    tail = high + decay * np.log((1 - q) / chance)
    return np.maximum(t * found.error, max(tail, _FAR))


def apart(
    found: dict[str, tuple[Distances, ...]],
) -> tuple[np.ndarray, tuple[str, float, float] | None]:
    """Which chains lie apart; and for the most extreme summary, the distance and its limit."""
    tests = [(name, one) for name, pair in found.items() for one in pair]
    distance = np.stack([one.distance for _, one in tests])
    limit = np.stack([limits(one, len(tests)) for _, one in tests])
    judged = np.stack([one.is_judged for _, one in tests])
    is_apart = judged & (distance > limit) & (distance.shape[1] >= _ENOUGH_CHAINS)
    if not is_apart.any():
        return is_apart.any(0), None
    worst = np.unravel_index(np.where(is_apart, distance / limit, 0).argmax(), limit.shape)
    return is_apart.any(0), (tests[worst[0]][0], float(distance[worst]), float(limit[worst]))


def copies(variables: list[np.ndarray], moved: np.ndarray, is_discrete: bool) -> np.ndarray:
    """Which chains equal another in all draws of their second half."""
    num_chains, num_draws = variables[0].shape[:2]
    halves = [x[:, num_draws // 2 :] for x in variables]
    found: dict[bytes, list[int]] = {}
    for i in range(num_chains):
        content = hashlib.blake2b()
        for x in halves:
            content.update(np.ascontiguousarray(x[i]).data)
        found.setdefault(content.digest(), []).append(i)
    is_copy = np.zeros(num_chains, bool)
    for group in found.values():
        one, num_moves = group[0], int(moved[group[0], num_draws // 2 :].sum())
        if len(group) == 1 or num_moves == 0:
            continue
        # Continuous draws are never equal, if they have moved.
        log_chance = (
            num_moves * _log_agreement([x[one] for x in halves]) if is_discrete else -np.inf
        )
        is_copy[group] = log_chance < np.log(_CHANCE / num_chains**2)
    return is_copy


def _log_agreement(chain: list[np.ndarray]) -> float:
    """The log frequency with which distant discrete draws of one chain are equal."""
    num_draws = len(chain[0])
    flat = np.concatenate([x.reshape(num_draws, -1) for x in chain], axis=1)
    # Two lags, because a chain may alternate.
    lags = (num_draws // 2, num_draws // 2 + 1)
    rate = max((flat[lag:] == flat[:-lag]).all(1).mean() for lag in lags if lag < num_draws)
    return float(np.log(min(1.0, rate + 1 / num_draws)))
