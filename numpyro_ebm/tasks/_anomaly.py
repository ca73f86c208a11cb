"""`anomaly_score`: p-values of new points, whatever the energy is worth."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import beta

from .._checks import check_probability
from .._types import Array, ArrayLike, Bool, EnergyLike, Float, Scalar
from ..energies import AbstractEnergy, energy_named
from ._images import as_points, energy_of
from ._log_ratio import finite_energies


class AbstractStatistic(eqx.Module):
    """What makes a point an anomaly."""

    def energy(self, energy: AbstractEnergy) -> AbstractEnergy:
        """The energy by which points are ranked."""
        return energy

    @abc.abstractmethod
    def strangeness(self, values: Float[Array, " k"]) -> Float[Array, " k"]:
        """How strange each of some values is among all of them, whatever their order."""


class HighEnergy(AbstractStatistic):
    """Anomalies have a high energy: a density below that of nearly all reference points."""

    def strangeness(self, values: Float[Array, " k"]) -> Float[Array, " k"]:
        return values


class Typicality(AbstractStatistic):
    r"""Anomalies have an energy far from its mean, $\lvert E(x) - \overline E\rvert$.

    Also one that is far too low: in many dimensions, a point near the mode is as untypical as
    one in the tails [Nalisnick et al. 2019]. The mean is that of the reference points and the
    new point together, which keeps the p-value exact; infinite energies are left out of it.
    """

    def strangeness(self, values: Float[Array, " k"]) -> Float[Array, " k"]:
        return jnp.abs(values - jnp.mean(values, where=jnp.isfinite(values)))


class LikelihoodRatio(AbstractStatistic):
    r"""Anomalies have a low $p(x)/q(x)$, where $q$ is a background [Ren et al. 2019].

    The energy may be high just because an image is complex. A background that was fitted to
    the same data with some pixels redrawn at random knows about complexity, and not about what
    makes the data special. Neither $\log Z$ counts.

    **Arguments**

    - `background`: anything [`as_energy`][numpyro_ebm.as_energy] takes.
    """

    background: AbstractEnergy

    def __init__(self, background: EnergyLike) -> None:
        self.background = energy_named("background", background)

    def energy(self, energy: AbstractEnergy) -> AbstractEnergy:
        return energy - self.background

    def strangeness(self, values: Float[Array, " k"]) -> Float[Array, " k"]:
        return values


class AnomalyScores(eqx.Module):
    r"""What [`anomaly_score`][numpyro_ebm.tasks.anomaly_score] returns; prints itself.

    - **values**: the energy of each new point, or its difference to that of a background.
    - **p_values**: the share of reference points that are as strange or more so, the new point
      included; small for anomalies, at most uniform otherwise.
    - **reference_values**: of the reference points.
    """

    values: Float[Array, " n"]
    p_values: Float[Array, " n"]
    reference_values: Float[Array, " m"]

    def alarms(self, rate: float = 0.05) -> Bool[Array, " n"]:
        """Which points are anomalies, at this rate of false alarms.

        **Raises** `ValueError` if there are too few reference points for such a small rate.
        """
        _check_rate(rate, len(self.reference_values))
        return self.p_values <= rate

    def discoveries(self, rate: float = 0.1) -> Bool[Array, " n"]:
        """Which points are anomalies, so that this share of them is false on average.

        The procedure of Benjamini and Hochberg [1995], valid for p-values that share their
        reference [Bates et al. 2023]. `alarms` controls the share of normal points instead.
        """
        check_probability("rate", rate)
        ordered = np.sort(self.p_values)
        allowed = rate * np.arange(1, len(ordered) + 1) / len(ordered)
        # A p-value that equals its bound counts, also after rounding.
        passed = ordered[ordered <= allowed * (1 + 1e-6)]
        return self.p_values <= (passed.max() if len(passed) else -1.0)

    def rate_interval(self, rate: float = 0.05, prob: float = 0.9) -> tuple[float, float]:
        r"""Where the rate of false alarms of these reference points lies, with probability.

        On average over reference samples it is at most `rate`. That of one sample of $m$
        points is $\operatorname{Beta}(k, m + 1 - k)$, $k = \lfloor(m + 1)\,\text{rate}\rfloor$
        [Vovk 2012], if values have no ties.
        """
        check_probability("prob", prob)
        size = len(self.reference_values)
        k = _check_rate(rate, size)
        low, high = beta.interval(prob, k, size + 1 - k)
        return float(low), float(high)

    def __repr__(self) -> str:
        n, m = len(self.p_values), len(self.reference_values)
        least = 1 / (m + 1)
        if least > _RATE:
            return f"{n} points against {m} reference points; the least p-value is {least:.2g}"
        low, high = self.rate_interval(_RATE)
        return (
            f"{int(self.alarms(_RATE).sum())} alarms in {n} points at a rate of {_RATE:g}; "
            f"with these {m} reference points it is between {low:.3f} and {high:.3f}"
        )


#: The rate that is printed.
_RATE = 0.05


def _check_rate(rate: float, size: int) -> int:
    """How many of `size` reference points and a new one raise an alarm."""
    check_probability("rate", rate)
    k = int(np.floor(rate * (size + 1) * (1 + 1e-12)))
    if k < 1:
        raise ValueError(
            f"`rate` is {rate}, and with {size} reference points no p-value is below "
            f"{1 / (size + 1):.2g}: give {int(np.ceil(1 / rate)) - 1} or more."
        )
    return k


def anomaly_score(
    energy: EnergyLike,
    x: ArrayLike,
    reference: ArrayLike,
    statistic: AbstractStatistic | None = None,
) -> AnomalyScores:
    r"""How strange new points are, as p-values, by conformal calibration.

    ```python
    scores = ebm.tasks.anomaly_score(energy, new, held_out)
    scores.alarms(rate=0.05)
    ```

    $p(x) = \frac{1 + \#\{i : a(r_i) \ge a(x)\}}{m + 1}$, where $a$ is how strange a point is
    and $r_i$ are reference points [Vovk et al. 2005]. If these and a normal $x$ come from the
    same population and **were not used to fit the energy**, $P(p \le \alpha) \le \alpha$
    exactly, in finite samples, however bad the energy; how many anomalies are found depends on
    the energy. On training points it would promise too few false alarms. No $\log Z$ counts.
    Shown by `tests/tasks/test_anomaly.py`: 5 % of 20,000 normal points raise an alarm, and
    more if the energy was calibrated on what it has learned.

    In a NumPyro model the values are `site.fn.log_prob(x)` up to a constant, so any model that
    gives draws can be the reference: `energy_pit` and
    `posterior_predictive_check` of `ebm.diagnostics` compare whole samples.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes.
    - `x`: new points along the first axis.
    - `reference`: held-out normal points along the first axis, at least 19 for a rate of 5 %.
    - `statistic`: [`HighEnergy()`][numpyro_ebm.tasks.HighEnergy] by default,
      [`Typicality()`][numpyro_ebm.tasks.Typicality], or
      [`LikelihoodRatio(background)`][numpyro_ebm.tasks.LikelihoodRatio].

    **Raises** `ValueError` if a point is not finite or lies outside of the support, or the
    energy is NaN there.
    """
    energy = energy_of(energy, x)
    statistic = HighEnergy() if statistic is None else statistic
    if not isinstance(statistic, AbstractStatistic):
        raise TypeError(
            "`statistic` must be `HighEnergy()`, `Typicality()` or "
            f"`LikelihoodRatio(background)` of `ebm.tasks`, got {statistic!r:.80}."
        )
    points, others = as_points(energy, x), as_points(energy, reference, "reference")
    if others.shape[1:] != points.shape[1:]:
        raise ValueError(
            f"`reference` must hold points like those of `x`, of shape {points.shape[1:]}, got "
            f"{others.shape[1:]}."
        )
    ranked = statistic.energy(energy)
    of_reference = finite_energies(ranked, others, "reference")
    values = finite_energies(ranked, points, "x")
    return AnomalyScores(values, _p_values(statistic, values, of_reference), of_reference)


@eqx.filter_jit
def _p_values(
    statistic: AbstractStatistic, values: Float[Array, " n"], reference: Float[Array, " m"]
) -> Float[Array, " n"]:
    def one(value: Scalar) -> Scalar:
        strange = statistic.strangeness(jnp.append(reference, value))
        return (strange >= strange[-1]).mean()

    return jax.lax.map(one, values, batch_size=_BLOCK)


#: Points per block, each of which ranks all reference points.
_BLOCK = 256
