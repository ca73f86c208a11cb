"""Noise-contrastive estimation: learning by telling data from noise."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

from .._checks import check_count, check_noise, check_positive
from .._trainable import freeze, partition_trainable, unfreeze
from .._types import Array, Energy, Float, Key, Point, Scalar
from ..energies import (
    LogZ,
    Normalized,
    NormalizedConditional,
    confined,
    is_conditional,
    judged,
)
from ..normalizers import ImportanceSampling
from ._base import AbstractObjective, AbstractPointwiseObjective, weighted_mean
from ._batch import Data, as_batch
from ._noise import energy_of_noise, fitted_noise
from ._self_normalized import self_normalized


class Contrasted(eqx.Module):
    """What noise-contrastive estimation trains: an energy and its constant."""

    energy: Any
    log_z: Scalar | Any


class NoiseContrastiveEstimation(AbstractObjective):
    r"""$\mathbb E\operatorname{softplus}(-G(x)) + \nu\,\mathbb E\operatorname{softplus}(G(u))$.

    Logistic regression between data and $\nu$ draws of noise per datum, with
    $G(x) = -E(x) - \log Z - \log p_n(x) - \log\nu$ [Gutmann and Hyvärinen 2012]. The constant
    is a parameter like any other: the method is consistent for the energy *and* for $\log Z$.
    Efficient as $\nu$ grows, if the noise covers the data. If a classifier easily tells them
    apart (accuracy above 0.95), it stops learning, and the run warns. Cost: $1+\nu$ energies
    per point, no derivative in $x$. Shown by `tests/objectives/test_contrastive.py` against its
    asymptotic variances.

    The result is a [`Normalized`][numpyro_ebm.Normalized] energy. Its $\log Z$ is estimated for
    the learned energy by importance sampling from the noise, with that error; an infinite error
    means that the noise could not determine it. The classifier's own constant is the metric
    `log_z`. The two differ if the energy misfits or memorises the data: then the run warns.

    A [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy] learns the constant of each condition
    as part of itself, so that $\log Z(x) = 0$. This assumes that the network can represent it:
    only then is the method consistent [Ma and Collins 2018]. How far $\log Z(x)$ is from zero
    is measured by importance sampling from the noise at up to 200 conditions; its root mean
    square is the error of the result, a
    [`NormalizedConditional`][numpyro_ebm.energies.NormalizedConditional], and the run warns if
    it is above 0.2. [`normalize`][numpyro_ebm.normalize] replaces it by exact constants.

    **Arguments**

    - `noise`: a NumPyro or FlowJAX distribution of points; by default a Gaussian fitted to the
      data, wider by $1 + 0.5/\sqrt d$ in each direction (in high dimensions, noise twice as
      wide destroys $\log Z$); for discrete energies, independent coordinates.
    - `num_noise`: $\nu$, draws of noise per datum.
    """

    noise: Any = None
    num_noise: int = eqx.field(static=True, default=5)

    def __check_init__(self) -> None:
        check_count("num_noise", self.num_noise)

    def init(self, rng_key: Key, energy: Energy, data: Data) -> tuple[Contrasted, Any]:
        batch = as_batch(data)
        noise = self._noise(energy, batch.points)
        if batch.conditions is not None:
            return Contrasted(energy, freeze(jnp.zeros(()))), noise
        return Contrasted(energy, _first_log_z(rng_key, energy, noise)), noise

    def loss(
        self,
        rng_key: Key,
        trainable: Contrasted,
        state: Any,
        batch: Data,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[Any, dict[str, Array]]]:
        batch = as_batch(batch)
        size = len(batch)
        noise = jax.lax.stop_gradient(state.sample(rng_key, (self.num_noise * size,)))
        everything = batch.with_points(jnp.concatenate([batch.points, noise]))
        # Data and noise in one pass: two passes take a fifth longer.
        logits, noise_logits = jnp.split(self.logits(trainable, state, everything), [size])
        of_noise = jax.nn.softplus(noise_logits).reshape(self.num_noise, size).sum(0)
        losses = jax.nn.softplus(-logits) + of_noise
        shift = jnp.log(self.num_noise)
        hits = jnp.mean(logits > -shift) + jnp.mean(noise_logits < -shift)
        metrics = {"accuracy": 0.5 * hits, "log_z": unfreeze(trainable.log_z)}
        return weighted_mean(losses, weights), (state, metrics)

    def logits(self, trainable: Contrasted, noise: Any, batch: Data) -> Float[Array, " n"]:
        """$G$: the log-odds that each point of a batch is data rather than noise."""
        batch = as_batch(batch)
        log_prob = batch.map(_log_density, trainable.energy) - unfreeze(trainable.log_z)
        return log_prob - noise.log_prob(batch.points) - jnp.log(self.num_noise)

    def _noise(self, energy: Energy, points: Array) -> Any:
        noise = self.noise
        if noise is None:
            widening = 1 + 0.5 / np.sqrt(max(points[0].size, 1))
            noise = fitted_noise(energy, points, widening)
        check_noise(noise, points.shape[1:])
        return noise

    def finalize(self, trainable: Contrasted, state: Any) -> Any:
        if is_conditional(trainable.energy):
            return NormalizedConditional(trainable.energy, 0.0, jnp.inf)
        return Normalized(trainable.energy, trainable.log_z, jnp.inf)

    def quantify(
        self,
        rng_key: Key,
        trainable: Contrasted,
        state: Any,
        data: Data,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Any, str | None]:
        if is_conditional(trainable.energy):
            return self_normalized(rng_key, trainable.energy, state, as_batch(data))
        points = as_batch(data).points
        fit_key, draw_key = jr.split(rng_key)
        own = classifier_log_z(self, fit_key, trainable, state, points, weights)
        energy = unfreeze(trainable.energy)
        proposal = energy_of_noise(state, energy, points.shape[1:])
        found = ImportanceSampling(proposal).estimate(draw_key, energy)
        return with_log_z(trainable.energy, own, found)

    def remark(self, metrics: dict[str, np.ndarray]) -> str | None:
        accuracy = metrics["accuracy"][-100:].mean()
        if accuracy > _CHASM:
            return (
                f"The noise is told from the data with accuracy {accuracy:.2f}: they hardly "
                "overlap, so little was learned, or the energy memorised these points. "
                "Judge it on points that were held out (`early_stopping=ebm.EarlyStopping()`), "
                "or give a `noise` that is closer to the data, such as a flow."
            )
        if accuracy < _TRIVIAL:
            return (
                f"The noise is told from the data with accuracy {accuracy:.2f} only: it is so "
                "close to them that the energy learned little beyond it, or nothing yet."
            )
        return None


class ConditionalNoiseContrastiveEstimation(AbstractPointwiseObjective):
    r"""$2\,\mathbb E\operatorname{softplus}(E(x) - E(x+\sigma\epsilon))$.

    Conditional noise-contrastive estimation [Ceylan and Gutmann 2018] tells each datum from
    itself plus noise: no noise distribution to choose, and no constant to learn. Consistent.
    For $\sigma\to 0$ it is score matching (its loss is $2\log 2$ plus $\sigma^2/2$ times that
    of score matching); for large $\sigma$ it sees the proportions of modes. Cost: $1+\nu$
    energies per point, no derivative in $x$. Shown by `tests/objectives/test_contrastive.py`.

    **Arguments**

    - `noise_scale`: $\sigma$, in the units of the data.
    - `num_noise`: $\nu$, noisy points per datum.
    """

    noise_scale: float | Scalar
    num_noise: int = eqx.field(static=True, default=5)

    def __check_init__(self) -> None:
        check_positive("noise_scale", self.noise_scale)
        check_count("num_noise", self.num_noise)

    def at(self, rng_key: Key, energy: Energy, x: Float[Array, "*event"]) -> Scalar:
        noise = jr.normal(rng_key, (self.num_noise, *x.shape), x.dtype)
        noisy = jax.vmap(energy)(x + self.noise_scale * noise)
        return 2 * jax.nn.softplus(energy(x) - noisy).mean()


#: Balanced accuracies of the classifier above and below which a run warns.
_CHASM, _TRIVIAL = 0.95, 0.55
#: The most trained numbers that the standard error accounts for, and the rows it uses.
_MOST_PARAMETERS, _MOST_ROWS = 500, 10_000
#: A difference between two constants too small to matter in any use of the density.
_SMALL_GAP = 0.05


def with_log_z(energy: Energy, own: LogZ, found: LogZ) -> tuple[Normalized, str | None]:
    """`energy` with the constant of draws, not its classifier's, and a warning if they differ.

    If no draw can confirm it, the classifier's constant is used, without an error.
    """
    if not found.ok:
        return Normalized(energy, judged(own, found.checks)), None
    gap, error = abs(own.estimate - found.estimate), np.hypot(own.std_error, found.std_error)
    if not gap > max(_SMALL_GAP, 4 * error):
        return Normalized(energy, found), None
    return Normalized(energy, found), (
        f"The constant by which the classifier tells data from noise is "
        f"{own.estimate:.3f}, where log Z of the learned energy is {found.estimate:.3f} "
        f"(error {found.std_error:.2g}), and that is what was kept. The energy misfits the "
        "data, has not settled, or has memorised them: judge it on points that were held "
        "out (`early_stopping=ebm.EarlyStopping()`)."
    )


def _first_log_z(rng_key: Key, energy: Energy, noise: Any) -> Scalar:
    """A first log Z: classification starts at chance, not at the network's arbitrary volume."""
    draws = noise.sample(rng_key, (1000,))
    log_ratios = -jax.vmap(confined(unfreeze(energy)))(draws)
    log_ratios -= noise.log_prob(draws)
    log_z = logsumexp(log_ratios) - jnp.log(len(draws))
    return jnp.where(jnp.isfinite(log_z), log_z, 0)


def _log_density(energy: Energy, x: Point) -> Scalar:
    # Noise may fall outside the energy's support.
    return -confined(energy)(x)


class _Moments(NamedTuple):
    """The curvature of the logistic loss, and the covariance of its gradients."""

    curvature: Array
    covariance: Array


@eqx.filter_jit
def classifier_log_z(
    objective: NoiseContrastiveEstimation,
    rng_key: Key,
    trainable: Contrasted,
    noise: Any,
    data: Array,
    weights: Float[Array, " n"] | None,
) -> LogZ:
    r"""The trained constant; its error is from the sandwich $H^{-1} V H^{-1}/n$.

    From the gradients at data and noise, over all trained numbers if there are at most 500; for
    a larger network over the constant alone, without the uncertainty of the energy's shape.
    """
    size = len(data)
    if size > _MOST_ROWS:
        order_key, rng_key = jr.split(rng_key)
        rows = jr.choice(order_key, size, (_MOST_ROWS,), replace=False)
        data, weights = jax.tree.map(lambda x: x[rows], (data, weights))
    params, rest = partition_trainable(trainable)
    if sum(x.size for x in jax.tree.leaves(params)) > _MOST_PARAMETERS:
        params, rest = eqx.partition(
            trainable, jax.tree.map(lambda x: x is trainable.log_z, trainable)
        )
    flat, unravel = ravel_pytree(params)
    # `log_z` is the last field, and so the last flat parameter.
    num_noise = objective.num_noise
    draws = noise.sample(rng_key, (num_noise * len(data),))

    def gradients(points: Array) -> tuple[Array, Array]:
        def logit(flat: Array, x: Array) -> Scalar:
            full = unfreeze(eqx.combine(unravel(flat), rest))
            return objective.logits(full, noise, x[None])[0]

        return jax.vmap(jax.value_and_grad(logit), (None, 0))(flat, points)

    def moments(points: Array, sign: int, weights: Array) -> _Moments:
        logits, slopes = gradients(points)
        prob = jax.nn.sigmoid(-sign * logits)
        pull = prob[:, None] * slopes
        mean = (weights[:, None] * pull).mean(0)
        # Weights may depend on the points: E[w^2 psi psi'], not E[w^2] E[psi psi'].
        spread = jnp.einsum("n,ni,nj->ij", weights**2, pull - mean, pull - mean) / len(points)
        curvature = jnp.einsum("n,ni,nj->ij", weights * prob * (1 - prob), slopes, slopes)
        return _Moments(curvature / len(points), spread)

    of_data = moments(data, 1, jnp.ones(len(data)) if weights is None else weights)
    of_noise = moments(draws, -1, jnp.ones(len(draws)))
    inverse = jnp.linalg.pinv(
        of_data.curvature + num_noise * of_noise.curvature, hermitian=True
    )
    # Each step draws new noise, so only the sampling error of the data remains.
    variance = (inverse @ of_data.covariance @ inverse)[-1, -1] / size
    return LogZ(unfreeze(trainable.log_z), jnp.sqrt(variance), method="classification")
