"""`loss_factor`: an objective in place of a likelihood."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from numpyro.ops.provenance import eval_provenance

from .._checks import as_data, as_finite, check_key, check_positive
from .._trainable import freeze, unfreeze
from .._types import Array, ArrayLike, EnergyLike, Float, Key, PyTree, Scalar, Shape
from ..energies import as_energy, check_energy, check_points, is_conditional
from ..objectives import (
    AbstractObjective,
    AbstractPointwiseObjective,
    Batch,
    ContrastiveDivergence,
    FlowContrastiveEstimation,
    NoiseContrastiveEstimation,
    as_float_batch,
)
from ..sites._enumeration import enumerated_axes, plate_shape


class Loss(eqx.Module):
    r"""$D(\theta)$: an objective at one energy, as a function of the weights of the data.

    - **trainable**, **state**: the energy, and what the objective carries.
    - **sizes**: how many data each row counts for.
    - **rng_key**: fixes the noise of a random objective.
    """

    objective: AbstractObjective
    trainable: PyTree
    state: PyTree
    batch: Batch
    sizes: Float[Array, " n"]
    rng_key: Key

    def mean(self, weights: Float[Array, " n"] | None = None) -> Scalar:
        """The mean loss over the data; `weights` multiply their sizes."""
        sizes = self.sizes if weights is None else weights * self.sizes
        sizes *= len(sizes) / sizes.sum()
        args = self.trainable, self.state, self.batch, sizes
        return self.objective.loss(self.rng_key, *args)[0]

    def rows(self, objective: AbstractPointwiseObjective) -> Float[Array, " n"]:
        """The loss of each row, times its size."""
        keys = jr.split(self.rng_key, len(self.batch))

        def at(energy: Any, x: Array, key: Key) -> Scalar:
            return objective.at(key, energy, x)

        return self.sizes * self.batch.map(at, self.trainable, keys)

    def is_random(self) -> bool:
        """Whether the loss depends on its key."""

        def value(rng_key: Key) -> Scalar:
            return eqx.tree_at(lambda loss: loss.rng_key, self, rng_key).mean()

        return "rng_key" in eval_provenance(value, rng_key=self.rng_key)


def loss_factor(
    name: str,
    objective: AbstractObjective,
    energy: EnergyLike,
    data: Any,
    *,
    weight: ArrayLike = 1.0,
    sample_weights: ArrayLike | None = None,
    rng_key: Key | None = None,
) -> None:
    r"""Multiply the density of a NumPyro model by $e^{-\beta n D(\theta)}$: no $Z(\theta)$.

    $D$ is the mean of an objective over $n$ data. The posterior is then a generalised one
    [Bissiri et al. 2016], $p(\theta)\,e^{-\beta n D(\theta)}$, which any kernel for gradients
    samples, while $Z(\theta)$ is never needed:

    ```python
    def model(x, weight=1.0):
        precision = numpyro.sample("precision", dist.LogNormal(0, 1))
        energy = ebm.as_energy(lambda x: 0.5 * precision * x**2, ())
        ebm.loss_factor("x", ebm.ScoreMatching(), energy, x, weight=weight)
    ```

    It is centred where the objective has its minimum, and consistent if the objective is. Its
    width is that of $\beta$ and of the units of the data, and means nothing at $\beta = 1$,
    except for [`MaximumLikelihood`][numpyro_ebm.MaximumLikelihood], which gives the posterior
    itself. [`calibrate_weight`][numpyro_ebm.calibrate_weight] finds the $\beta$ at which its
    spread is that of the estimate over repeated data; this also makes it invariant to units.

    What each objective costs, and what it is blind to:

    - `ScoreMatching`, `GeneralizedScoreMatching` on bounded supports: blind to the proportions
      of separated modes. Unbounded below, so for a flexible energy the posterior may be
      improper.
    - `KernelSteinDiscrepancy`: the same blindness, and to whatever varies faster than its
      length scale. Robust to outliers. All pairs of rows.
    - `PseudoLikelihood`, `RatioMatching` of discrete data: inefficient if coordinates depend
      strongly on each other.
    - `NoiseContrastiveEstimation`: blind where its noise has no mass. It needs `rng_key`, and
      log Z as a parameter: `ebm.Normalized(energy, log_z)` with a prior on `log_z`.
    - `ConditionalNoiseContrastiveEstimation`: blind to the proportions of modes farther apart
      than its noise. It needs `rng_key`.
    - `DenoisingScoreMatching` and its kin: biased, since the parameters are those of data plus
      noise. They need `rng_key`.
    - `MaximumLikelihood`: blind to nothing, where Z can be computed.

    Objectives in the units of the data, such as score matching, weigh coordinates by their
    units. If these differ, standardise them:
    `ebm.Transformed(energy, whiten.inv)` and `whiten(data)`, with
    `whiten = ebm.energies.Standardize.fit(data)`. Shown by `tests/posteriors/test_losses.py`
    against closed forms, and `test_calibration.py`.

    **Arguments**

    - `name`: of the site.
    - `objective`: any objective with a value: all but contrastive divergence and
      flow-contrastive estimation.
    - `energy`: at the parameters that the model sampled; a
      [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy] for pairs.
    - `data`: points, one per row, or a pair `(y, x)` of points and their conditions. In a
      plate, an objective that is a mean over points gives one factor per row, so the plate may
      subsample; elsewhere the factor is one number.
    - `weight`: $\beta$. It is no parameter of the model: no likelihood determines it.
    - `sample_weights`: how many data each row counts for; $n$ is their sum.
    - `rng_key`: fixes the noise of a random objective, which is then one deterministic loss for
      all parameters. Without it, random objectives are refused.

    **Raises** `ValueError` if the objective is random and `rng_key` is missing, if it does not
    fit the energy, or if data are not finite or not on the support of the energy.
    """
    check_objective(objective)
    if numpyro.get_mask() is False:
        numpyro.factor(name, jnp.zeros(plate_shape()))
        return
    if enumerated_axes():
        raise ValueError(
            f"`loss_factor` `{name}` cannot be enumerated over discrete sites: give them to "
            "NumPyro's `DiscreteGibbs`, or use continuous ones."
        )
    check_positive("weight", weight)
    loss = loss_of(objective, energy, data, sample_weights, rng_key)
    value = _by_plates(loss, name) if plate_shape() else loss.sizes.sum() * loss.mean()
    beta = _fixed(name, as_finite("weight", weight))
    # Minus infinity is no loss, and would freeze a chain: as NaN, it is rejected.
    log_factor = -beta * jnp.where(value == -jnp.inf, jnp.nan, value)
    unit = dist.Unit(log_factor)
    # What `calibrate_weight` reads.
    infer = {"is_auxiliary": True, "loss": loss}
    numpyro.sample(name, unit, obs=unit.sample(None), infer=infer)


def check_objective(objective: Any) -> None:
    if not isinstance(objective, AbstractObjective):
        raise TypeError(
            "`objective` must be one of this library, such as `ebm.ScoreMatching()`, got "
            f"{objective!r:.80}."
        )
    if isinstance(objective, ContrastiveDivergence | FlowContrastiveEstimation):
        raise TypeError(
            f"`{type(objective).__name__}` is a gradient without a value, and cannot be a "
            "factor: use `ebm.ScoreMatching()`, or `ebm.PseudoLikelihood()` for discrete data."
        )


def loss_of(
    objective: AbstractObjective,
    energy: Any,
    data: Any,
    sample_weights: ArrayLike | None,
    rng_key: Key | None,
) -> Loss:
    """The loss of an energy; raises if it does not fit the data, or is random."""
    key = jr.key(0) if rng_key is None else rng_key
    check_key(key)
    energy = unfreeze(energy if is_conditional(energy) else as_energy(energy))
    # While JAX traces the model, the data stay numbers that can be checked.
    with jax.ensure_compile_time_eval():
        batch = as_float_batch(data)
        sizes = _sizes(sample_weights, len(batch))
        one = batch.energy_at(energy, 0)
        check_energy(one, batch.points.shape[1:])
        check_points(one, batch.points, "data")
        trainable, state = objective.init(key, energy, batch)
    if isinstance(objective, NoiseContrastiveEstimation):
        trainable = _with_log_z(trainable, energy)
    loss = Loss(objective, unfreeze(trainable), state, batch, sizes, key)
    if rng_key is None and loss.is_random():
        raise ValueError(
            f"`{type(objective).__name__}` is random, and a factor must not be: give it a "
            "`rng_key`, which fixes its noise for all parameters."
        )
    return loss


def _sizes(sample_weights: ArrayLike | None, count: int) -> Float[Array, " n"]:
    if sample_weights is None:
        return jnp.ones(count, jnp.result_type(float))
    sizes = as_data(sample_weights, "sample_weights")
    if sizes.shape != (count,):
        raise ValueError(
            f"`sample_weights` must hold one number for each of {count} rows, got shape "
            f"{sizes.shape}."
        )
    if not isinstance(sizes, Tracer) and not (sizes.min() >= 0 and sizes.max() > 0):
        raise ValueError("`sample_weights` must not be negative, nor all zero.")
    return sizes


def _with_log_z(trainable: Any, energy: Any) -> Any:
    """What noise-contrastive estimation compares, with the constant of the energy."""
    if is_conditional(energy):
        return trainable
    if energy.log_z is None:
        raise ValueError(
            "`NoiseContrastiveEstimation` needs log Z of `energy`, as a parameter of its own: "
            '`log_z = numpyro.sample("log_z", dist.Normal(0, 10))`, and '
            "`ebm.Normalized(energy, log_z)`."
        )
    return eqx.tree_at(lambda t: t.log_z, trainable, freeze(energy.log_z))


def _by_plates(loss: Loss, name: str) -> Array:
    """One loss per row, along the axis of the plate of the data."""
    shape: Shape = plate_shape()
    count = len(loss.batch)
    if max(shape) != count or sum(size > 1 for size in shape) > 1:
        raise ValueError(
            f"`loss_factor` `{name}` has {count} rows of data in plates of shape {shape}: put "
            "it into the plate of its rows, or outside of plates. For groups, give each its "
            "own factor."
        )
    if not isinstance(loss.objective, AbstractPointwiseObjective):
        raise ValueError(
            f"`{type(loss.objective).__name__}` is not a mean over points, and has no factor "
            f"for each row of a plate: put `loss_factor` `{name}` outside of it."
        )
    return loss.rows(loss.objective).reshape(shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _fixed(name: str, weight: Scalar) -> Scalar:
    """`weight`; raises if it is differentiated, and so inferred."""
    return weight


def _fixed_jvp(name: str, primals: tuple, tangents: tuple) -> tuple[Scalar, Any]:
    if not isinstance(tangents[0], SymbolicZero):
        raise ValueError(
            f"`weight` of loss factor `{name}` is inferred, but no likelihood determines it, "
            "and the posterior would shrink it to zero. Fix it, by `ebm.calibrate_weight`."
        )
    return primals[0], tangents[0]


_fixed.defjvp(_fixed_jvp, symbolic_zeros=True)
