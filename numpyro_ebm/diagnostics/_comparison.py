"""Comparing energies on held-out data, with and without a normaliser."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._calculus import score_and_laplacian
from .._show import Printed, Rows
from .._types import Array, ArrayLike, EnergyLike, Float, PyTree, Scalar
from ..energies import (
    AbstractConditional,
    AbstractEnergy,
    Given,
    as_energy,
    check_energy,
    check_level,
    check_points,
    is_conditional,
    is_discrete,
    is_real,
)
from ..objectives import Batch, as_float_batch


class LogLikelihood(eqx.Module):
    r"""$\log p(x)$ of each datum, and the common error from $\log Z$.

    - **values**: $-E(x_i) - \log Z$, one per datum.
    - **log_z_error**: the standard error of $\log Z$.
    """

    values: Float[Array, " n"]
    log_z_error: Scalar

    @property
    def mean(self) -> Scalar:
        return self.values.mean()

    @property
    def std_error(self) -> Scalar:
        """The standard error of the mean: the spread of the data, and the error of log Z."""
        return _error(self.values, self.log_z_error)

    def __repr__(self) -> str:
        return (
            f"log-likelihood {float(self.mean):.4f} +- {float(self.std_error):.2g} per point "
            f"({len(self.values)} points; log Z contributes {float(self.log_z_error):.2g})"
        )


class AbstractScore(eqx.Module):
    """A proper scoring rule for an energy at one datum; higher is better."""

    #: Its name in a table.
    name: ClassVar[str]

    @abc.abstractmethod
    def at(self, energy: AbstractEnergy, x: Float[Array, "*event"]) -> Scalar:
        """The value of the rule at one point."""

    @abc.abstractmethod
    def check(self, energy: AbstractEnergy, label: str) -> None:
        """Raise unless the rule applies to `energy`."""

    @abc.abstractmethod
    def common_error(self, energy: AbstractEnergy) -> Scalar:
        """The standard error shared by all values of the rule for `energy`."""


class LogScore(AbstractScore):
    r"""$\log p(x) = -E(x) - \log Z$, for energies that know their `log_z`."""

    name: ClassVar[str] = "log-likelihood"

    def at(self, energy: AbstractEnergy, x: Float[Array, "*event"]) -> Scalar:
        return -energy(x) - energy.log_z

    def check(self, energy: AbstractEnergy, label: str) -> None:
        if energy.log_z is None:
            remedy = (
                "conditional, conditions=x)` computes that of each condition"
                if isinstance(energy, Given)
                else "energy)` estimates it"
            )
            raise ValueError(
                f"{label}, {energy!r}, does not know its `log_z`: `ebm.normalize(rng_key, "
                f"{remedy}. Where nothing can, compare energies by "
                "`ebm.diagnostics.HyvarinenScore()`, which needs none."
            )
        check_level(energy, label)

    def common_error(self, energy: AbstractEnergy) -> Scalar:
        known = energy.partition
        return jnp.zeros(()) if known is None else known.std_error


class HyvarinenScore(AbstractScore):
    r"""$-\tfrac12\lVert s(x)\rVert^2 - \nabla\cdot s(x)$, a proper rule without $\log Z$.

    Hyvärinen's rule [[Parry, Dawid and Lauritzen 2012](https://doi.org/10.1214/12-AOS971)],
    signed so that higher is better: minus the loss of
    [`ScoreMatching`][numpyro_ebm.ScoreMatching]. It judges the shape of a density where it has
    mass, and is nearly blind to the weights of separated modes. Compare energies only on the
    same scale of $x$, and only on unconstrained points: at a boundary the rule is wrong.
    """

    name: ClassVar[str] = "-Hyvarinen"

    def at(self, energy: AbstractEnergy, x: Float[Array, "*event"]) -> Scalar:
        slope, curvature = score_and_laplacian(energy, x)
        return curvature - 0.5 * jnp.sum(slope**2)

    def check(self, energy: AbstractEnergy, label: str) -> None:
        if is_discrete(energy):
            raise ValueError(f"{label} is discrete, and has no score for `HyvarinenScore`.")
        if not is_real(energy.support):
            raise ValueError(
                f"{label} lives on the support {energy.support}, at whose boundary the density "
                "need not vanish: there `HyvarinenScore` is wrong. Use "
                "`ebm.diagnostics.LogScore()`, or judge energies of unconstrained points, "
                "`ebm.Transformed(energy, transform)`, by transformed data."
            )

    def common_error(self, energy: AbstractEnergy) -> Scalar:
        return jnp.zeros(())


def log_likelihood(
    energy: EnergyLike | AbstractConditional,
    data: ArrayLike | Batch | tuple[ArrayLike, PyTree],
) -> LogLikelihood:
    r"""$\log p(x)$ of held-out data, with the error of $\log Z$ propagated.

    ```python
    density = ebm.normalize(jax.random.key(0), energy)
    print(ebm.log_likelihood(density, held_out))
    ```

    **Arguments**

    - `energy`: an energy that knows its `log_z`, such as
      [`Normalized`][numpyro_ebm.Normalized], or a NumPyro distribution; or a
      [`NormalizedConditional`][numpyro_ebm.energies.NormalizedConditional], for
      $\log p(y \mid x)$.
    - `data`: points along the first axis; for a conditional energy, a pair `(y, x)` of points
      and their conditions.

    **Raises** `ValueError` if the energy does not know its $\log Z$, or if data lie outside its
    support.
    """
    energy, batch, score = _as_scored(energy), as_float_batch(data), LogScore()
    common = _common_error(score, energy, batch, "`energy`")
    return LogLikelihood(_scores(score, energy, batch), common)


class Comparison(Printed, eqx.Module):
    r"""Energies ranked by their mean value of a scoring rule on the same data, best first.

    - **names**: of the energies; **score**: the name of the rule.
    - **mean**, **std_error**: of the rule over data.
    - **difference**, **difference_error**: to the best. Data are paired, so difficulty common
      to all energies cancels; errors of different $\log Z$ do not.
    - **values**: of the rule, `(energy, datum)`.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    score: str = eqx.field(static=True)
    mean: Float[Array, " k"]
    std_error: Float[Array, " k"]
    difference: Float[Array, " k"]
    difference_error: Float[Array, " k"]
    values: Float[Array, "k n"]

    def _parts(self) -> list[str | Rows]:
        rows = [["", self.score, "to the best"]]
        columns = self.mean, self.std_error, self.difference, self.difference_error
        for name, *numbers in zip(self.names, *map(np.asarray, columns), strict=True):
            mean, error, difference, difference_error = numbers
            value, gap = f"{mean:.4f} +- {error:.2g}", f"{difference:.4f} +- "
            gap = "" if name == self.names[0] else gap + f"{difference_error:.2g}"
            rows.append([name, value, gap])
        return [rows]


def compare(
    energies: Mapping[str, Any],
    data: ArrayLike | Batch | tuple[ArrayLike, PyTree],
    score: AbstractScore = LogScore(),
) -> Comparison:
    """Compare energies on held-out data.

    ```python
    print(ebm.compare({"network": density, "Gaussian": gaussian}, held_out))
    ```

    **Arguments**

    - `energies`: names mapped to energies or NumPyro distributions on the same points, or to
      conditional energies.
    - `data`: points along the first axis, to which no energy was fitted; for conditional
      energies, a pair `(y, x)` of points and their conditions.
    - `score`: [`LogScore()`][numpyro_ebm.diagnostics.LogScore] for energies that know their
      `log_z`, or [`HyvarinenScore()`][numpyro_ebm.diagnostics.HyvarinenScore] for any.

    **Raises** `ValueError` if an energy does not know the `log_z` that the rule needs.
    """
    if not isinstance(energies, Mapping) or not energies:
        raise ValueError(
            "`energies` must be a dict from names to energies, with at least one of them, got "
            f"{energies!r}."
        )
    batch = as_float_batch(data)
    converted = {name: _as_scored(energy) for name, energy in energies.items()}
    common = jnp.stack(
        [
            _common_error(score, energy, batch, f"`energies[{name!r}]`")
            for name, energy in converted.items()
        ]
    )
    values = jnp.stack([_scores(score, energy, batch) for energy in converted.values()])
    order = jnp.argsort(-values.mean(1))
    values, common = values[order], common[order]
    gaps = values - values[0]
    joint = jnp.where(jnp.arange(len(common)) == 0, 0, jnp.hypot(common, common[0]))
    names = tuple(converted)
    return Comparison(
        names=tuple(names[i] for i in np.asarray(order)),
        score=score.name,
        mean=values.mean(1),
        std_error=jax.vmap(_error)(values, common),
        difference=gaps.mean(1),
        difference_error=jax.vmap(_error)(gaps, joint),
        values=values,
    )


def _as_scored(energy: Any) -> Any:
    return energy if is_conditional(energy) else as_energy(energy)


def _common_error(score: AbstractScore, energy: Any, batch: Batch, label: str) -> Scalar:
    """The error that all values share; raises unless the rule applies to `energy` and data."""
    if is_conditional(energy) != (batch.conditions is not None):
        raise ValueError(
            "`data` must be a pair `(y, x)` of points and their conditions for a conditional "
            f"energy, and an array of points for others; {label} is {energy!r}."
        )
    one = batch.energy_at(energy, 0)
    check_energy(one, batch.points.shape[1:])
    check_points(one, batch.points, "data")
    score.check(one, label)
    return score.common_error(one)


@eqx.filter_jit
def _scores(score: AbstractScore, energy: Any, batch: Batch) -> Float[Array, " n"]:
    # The constant of each condition may take a thousand nodes.
    size = _BLOCK if batch.conditions is None else _PAIRS
    return batch.map(score.at, energy, batch_size=size)


#: Data per block, without and with conditions.
_BLOCK, _PAIRS = 1024, 32


def _error(values: Float[Array, " n"], common: Scalar) -> Scalar:
    return jnp.hypot(values.std(ddof=1) / jnp.sqrt(len(values)), common)
