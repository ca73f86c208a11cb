"""`fit`: a normalised energy of continuous data in one call, by public pieces only."""

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import ComposeTransform

from ._checks import check_count, check_key
from ._rows import check_rank, check_rows, split_rows, unconstrained_rows
from ._show import Printed, Rows
from ._types import Array, ArrayLike, Float, Key
from .diagnostics import Comparison, compare
from .energies import (
    Bounded,
    Gaussian,
    LogZ,
    MLPEnergy,
    Normalized,
    Tilted,
    Transformed,
    Whiten,
)
from .estimation import EarlyStopping, Estimator, EstimatorRunResult, decaying_adam
from .normalizers import SequentialMonteCarlo, normalize
from .objectives import NoiseContrastiveEstimation


def fit(
    rng_key: Key,
    data: ArrayLike,
    held_out: ArrayLike | None = None,
    *,
    support: Any = constraints.real,
    width_size: int = 64,
    num_steps: int = 4000,
    progress_bar: bool = True,
) -> "Fit":
    r"""Learn a normalised energy of continuous data, and judge it on held-out rows.

    ```python
    fit = ebm.fit(jax.random.key(0), data)
    print(fit)  # held-out log-likelihood, what failed, and what to do next
    fit.energy
    ```

    It whitens the data, and tilts a Student-t density of them by a network, which is
    [`Bounded`][numpyro_ebm.energies.Bounded], so that there is a normaliser. It teaches two
    networks, of SiLU and of tanh, to tell data from draws of that density, until they no longer
    improve on rows set aside, and keeps the one that does better there. With fewer than 1500
    rows, it does this two to four times, sets other rows aside each time, and averages the
    energies. Finally it estimates $\log Z$. Each step is a line of the source: copy it to
    change one. Consistent for continuous data that the Student-t density covers. Shown by
    `tests/test_fitting.py`; `benchmarks/recipes.py` compares it with other objectives.

    **Arguments**

    - `data`: continuous, of shape `(n, d)`: at least 50 rows, and twice as many as columns.
      Flatten images; add noise to integers, as
      [`dequantize`][numpyro_ebm.energies.dequantize] does. For binary data use
      [`PseudoLikelihood`][numpyro_ebm.PseudoLikelihood].
    - `held_out`: rows for the report; by default a fifth of `data`, at random.
    - `support`: a NumPyro constraint, such as `constraints.positive`, inside of which all data
      lie. By default the energy has no bounds, and a little of its mass lies outside those of
      the data, if they have any.
    - `width_size`: of the two hidden layers.
    - `num_steps`: of each network, at most, and 100 or more; it stops earlier if the network no
      longer improves.
    - `progress_bar`: whether to show one.
    """
    check_key(rng_key)
    check_count("num_steps", num_steps, 100)
    split_key, net_key, run_key, z_key = jr.split(rng_key, 4)
    train, test = split_rows(split_key, data, held_out)
    check_rows(train)
    to_real = biject_to(support).inv
    whiten = Whiten.fit(unconstrained_rows(to_real, train))
    transform = ComposeTransform([to_real, whiten])
    points = jnp.asarray(transform(train))
    check_rank(points)
    reference = _student(points)

    num_networks = min(4, max(1, math.ceil(_FEW_ROWS / len(points))))
    keys = zip(jr.split(net_key, num_networks), jr.split(run_key, num_networks), strict=True)
    with warnings.catch_warnings():
        # The report judges the energy by other rows than these warnings do.
        warnings.filterwarnings("ignore", "`(NoiseContrastiveEstimation|log_partition)`")
        results = [
            _taught(*pair, reference, points, width_size, num_steps, progress_bar)
            for pair in keys
        ]
        networks = [result.energy.energy.energy for result in results]
        total: Any = sum(networks[1:], start=networks[0])
        energy = Tilted(total / num_networks, reference)
        few = points.shape[1] <= 3  # Then `normalize` takes a quadrature rule.
        method = None if few else SequentialMonteCarlo(num_particles=1024)
        density = normalize(z_key, energy, method)
    energy = Normalized(Transformed(density.energy, transform), density.partition)
    gaussian = Gaussian(train.mean(0), np.atleast_2d(np.cov(train.T, bias=True)))
    comparison = compare({"network": energy, "Gaussian": gaussian}, test)
    result = min(results, key=lambda result: result.validation_losses.min())
    return Fit(energy, comparison, result, len(train))


def _taught(
    net_key: Key,
    run_key: Key,
    reference: dist.Distribution,
    points: Float[Array, "n d"],
    width_size: int,
    num_steps: int,
    progress_bar: bool,
) -> EstimatorRunResult:
    """The better of two networks, by rows set aside."""
    objective = NoiseContrastiveEstimation(reference)
    estimator = Estimator(objective, decaying_adam(num_steps), ema_decay=0.99)
    results = []
    for activation in (jax.nn.silu, jnp.tanh):
        mlp = MLPEnergy(
            points.shape[1], width_size, activation=activation, reference=None, key=net_key
        )
        # With one key, both set the same rows aside, and see the same draws.
        result = estimator.run(
            run_key,
            num_steps,
            Tilted(Bounded(mlp, _BOUND), reference),
            points,
            batch_size=min(256, len(points) // 2),
            early_stopping=EarlyStopping(0.1, every=50, patience=20),
            progress_bar=progress_bar,
        )
        results.append(result)
    return min(results, key=lambda result: result.validation_losses.min())


class Fit(Printed, eqx.Module):
    """What [`fit`][numpyro_ebm.fit] learned, and how good it is; prints itself.

    - **energy**: of one row of the data, with its normaliser.
    - **comparison**: its log-likelihood of held-out rows, and that of a Gaussian with the mean
      and covariance of the data.
    - **result**: of the [`Estimator`][numpyro_ebm.Estimator], for whitened data, with the best
      of the networks.
    - **num_rows**: rows to which it was fitted.
    """

    energy: Normalized
    comparison: Comparison
    result: EstimatorRunResult
    num_rows: int = eqx.field(static=True)

    @property
    def log_z(self) -> LogZ:
        return self.energy.partition

    @property
    def gain(self) -> tuple[float, float]:
        """How much likelier than to the Gaussian held-out rows are, and the error, in nats."""
        sign = 1 if self.comparison.names[0] == "network" else -1
        other = np.asarray(self.comparison.difference)[1]
        return -sign * float(other), float(self.comparison.difference_error[1])

    @property
    def accuracy(self) -> float:
        """How well the network told data from draws of the reference when it was at its best.

        Near 0.5 it learned nothing beyond the reference; near 1 the two hardly overlap.
        """
        best = int(self.result.state.best.state.step)
        return float(self.result.metrics["accuracy"][:best][-50:].mean())

    @property
    def failures(self) -> tuple[str, ...]:
        """Sentences that say what is wrong; empty is good."""
        (gain, error), problems = self.gain, self.log_z.problems
        worse = f"Held-out rows are less likely than to a Gaussian: {gain:.3f} +- {error:.2g}."
        unsure = f"log Z, and so every log-likelihood, is unknown: {'; '.join(problems)}."
        return (worse,) * (not gain >= -error) + (unsure,) * bool(problems)

    @property
    def ok(self) -> bool:
        """Whether it is normalised, and not worse than a Gaussian."""
        return not self.failures

    def _parts(self) -> list[str | Rows]:
        steps, held_out = len(self.result.losses), self.comparison.values.shape[1]
        return [
            f"Fit to {self.num_rows} rows in {steps} steps; {held_out} rows held out",
            "",
            *self.comparison._parts(),
            "",
            f"{self.log_z}",
            f"Rows are told from draws of the reference with accuracy {self.accuracy:.2f}.",
            "",
            *(["NOT ok:", *map("- {}".format, self.failures)] if self.failures else ["ok"]),
            "What to do next:",
            *map("- {}".format, self._advice()),
        ]

    @property
    def _is_at_chance(self) -> bool:
        # The loss of a network that cannot tell the rows from `odds` times as many draws.
        odds = NoiseContrastiveEstimation().num_noise
        chance = np.log1p(odds) + odds * np.log1p(1 / odds)
        return bool(self.result.validation_losses.min() >= chance)

    def _advice(self) -> list[str]:
        (gain, error), is_known = self.gain, self.log_z.ok
        still_improved = not self.result.state.best.num_since
        advice = {
            "To these rows a network adds nothing: use `ebm.Gaussian`, or give it more rows.": (
                is_known and gain < error
            ),
            "On rows set aside the network is no better than the Student-t density that it "
            "tilts, so it was stopped early: give it more rows.": self._is_at_chance,
            "Estimate log Z with more effort, such as `ebm.normalize(rng_key, "
            "fit.energy.energy.energy, ebm.SequentialMonteCarlo(num_particles=10_000))` for "
            "whitened rows; or take a smaller `width_size`.": not is_known,
            f"It still improved at the end: pass `num_steps={2 * len(self.result.losses)}`.": (
                still_improved
            ),
            "Draw with `ebm.sample(rng_key, fit.energy, ebm.NUTS(dense_mass=True))`; keep it "
            "with `ebm.save(path, fit.energy)`.": self.ok and gain >= error,
        }
        return [text for text, holds in advice.items() if holds]


def _student(points: Float[Array, "n d"]) -> dist.Distribution:
    """The likeliest Student-t density with the covariance of whitened points, the identity."""
    dim = points.shape[1]
    candidates = [
        dist.MultivariateStudentT(df, jnp.zeros(dim), np.sqrt(1 - 2 / df) * jnp.eye(dim))
        for df in (3.0, 4.0, 6.0, 10.0, 30.0, 100.0)
    ]
    return max(candidates, key=lambda candidate: float(candidate.log_prob(points).mean()))


#: By how many nats the network changes the Student-t density at most.
_BOUND = 30.0

#: Below this number of rows, one network depends much on which rows are set aside.
_FEW_ROWS = 1500
