"""Whether two samples come from the same law."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import betainc

from .._checks import check_count, check_key
from .._radial import AbstractRadialKernel, GaussianKernel, at_scale, kernel_products
from .._types import Array, Float, Key, Scalar
from ._points import as_samples


class TwoSampleTest(eqx.Module):
    """The result of a two-sample test; prints itself.

    - **name**: of the statistic.
    - **statistic**: its value.
    - **p_value**: the probability of a value at least this large under a common law.
    """

    name: str = eqx.field(static=True)
    statistic: float
    p_value: float

    @property
    def ok(self) -> bool:
        """Whether no difference is detected at level 0.05."""
        return self.p_value > 0.05

    def __repr__(self) -> str:
        verdict = "no difference seen" if self.ok else "the samples DIFFER"
        return f"{verdict}: {self.name} = {self.statistic:.3g}, p = {self.p_value:.2g}"


def maximum_mean_discrepancy(
    rng_key: Key,
    x: Float[Array, "n *event"],
    y: Float[Array, "m *event"],
    *,
    kernel: AbstractRadialKernel = GaussianKernel(),
    num_permutations: int = 1000,
) -> TwoSampleTest:
    r"""$\mathrm{MMD}^2 = \mathbb E\,k(x, x') - 2\,\mathbb E\,k(x, y) + \mathbb E\,k(y, y')$.

    The unbiased U-statistic of Gretton et al. [2012], with a p-value from random permutations
    of the points of both samples: exact for independent points, whatever their number. Draws of
    chains are correlated; thin them first. Time grows as the square of the number of points,
    memory does not. Shown by `tests/diagnostics/test_two_sample.py`.

    **Arguments**

    - `x`, `y`: independent points, one per row.
    - `kernel`: $k$, by default Gaussian with the median distance between all points.
    - `num_permutations`: the number of permutations.

    **Raises** `ValueError` if samples have different event shapes, fewer than two points, or
    are not finite.
    """
    x, y = as_samples(x, y)
    check_key(rng_key)
    check_count("num_permutations", num_permutations)
    pooled = jnp.concatenate([x, y])
    kernel = at_scale(kernel, pooled)
    statistic, p_value = _permutation_test(rng_key, kernel, pooled, len(x), num_permutations)
    return TwoSampleTest("MMD^2", float(statistic), float(p_value))


@eqx.filter_jit
def _permutation_test(
    rng_key: Key, kernel: AbstractRadialKernel, pooled: Array, n: int, num_permutations: int
) -> tuple[Scalar, Scalar]:
    m = len(pooled) - n
    in_x = jnp.arange(len(pooled)) < n
    keys = jr.split(rng_key, num_permutations)
    permuted = jax.vmap(lambda key: jr.permutation(key, in_x), out_axes=1)(keys)
    in_x = jnp.column_stack([in_x, permuted]).astype(pooled.dtype)

    def pair(x: Array, y: Array) -> Scalar:
        squared_distance = jnp.sum((x - y) ** 2)
        return kernel.profile(squared_distance / jnp.asarray(kernel.length_scale) ** 2)[0]

    both = kernel_products(pair, pooled, jnp.column_stack([in_x, 1 - in_x]))
    to_x, to_y = jnp.split(both, 2, axis=1)
    # A point is not its own neighbour, and k(x, x) is one.
    xx = ((in_x * to_x).sum(0) - n) / (n * (n - 1))
    yy = (((1 - in_x) * to_y).sum(0) - m) / (m * (m - 1))
    xy = (in_x * to_y).sum(0) / (n * m)
    values = xx + yy - 2 * xy
    return values[0], (values >= values[0]).mean()


def classifier_two_sample_test(
    rng_key: Key, x: Float[Array, "n *event"], y: Float[Array, "m *event"]
) -> TwoSampleTest:
    r"""The accuracy of a classifier that tells unseen points of `x` from those of `y`.

    It is 1/2 if both come from the same law; the p-value is binomial [Lopez-Paz and Oquab
    2017]. Half of each sample is for training; the classifier is a vote among the nearest
    $\sqrt{n}$ of those points, with all coordinates standardised. A random part of the longer
    sample is used. Thin draws of chains first. Shown by `tests/diagnostics/test_two_sample.py`.

    **Arguments**

    - `x`, `y`: independent points, one per row.

    **Raises** `ValueError` if samples have different event shapes, fewer than two points, or
    are not finite.
    """
    check_key(rng_key)
    x, y = as_samples(x, y)
    accuracy, p_value = _classify(rng_key, x, y)
    return TwoSampleTest("accuracy", float(accuracy), float(p_value))


@jax.jit
def _classify(rng_key: Key, x: Array, y: Array) -> tuple[Scalar, Scalar]:
    size = min(len(x), len(y))
    half = size // 2
    x_key, y_key = jr.split(rng_key)
    x, y = jr.permutation(x_key, x)[:size], jr.permutation(y_key, y)[:size]
    train = jnp.concatenate([x[:half], y[:half]])
    scale = jnp.where(train.std(0) > 0, train.std(0), 1)
    num_neighbours = int(np.sqrt(2 * half)) | 1  # Odd, to avoid ties.

    def is_x(point: Array) -> Array:
        distances = jnp.sum(((train - point) / scale) ** 2, -1)
        _, nearest = jax.lax.top_k(-distances, num_neighbours)
        return (nearest < half).mean() > 0.5

    test = jnp.concatenate([x[half:], y[half:]])
    truth = jnp.arange(len(test)) < size - half
    correct = (jax.lax.map(is_x, test, batch_size=64) == truth).sum()
    # P(Binomial(n, 1/2) >= k), from the incomplete beta function.
    p_value = betainc(jnp.maximum(correct, 1.0), len(test) - correct + 1.0, 0.5)
    return correct / len(test), jnp.where(correct == 0, 1.0, p_value)


def sliced_wasserstein(
    rng_key: Key,
    x: Float[Array, "n *event"],
    y: Float[Array, "m *event"],
    *,
    num_projections: int = 128,
    order: float = 2.0,
) -> Scalar:
    r"""$\bigl(\mathbb E_\theta\,W_p^p(\theta^\top x, \theta^\top y)\bigr)^{1/p}$.

    The mean over directions, uniform on the sphere, of the distance between sorted
    projections [Bonneel et al. 2015]. A distance in the units of the points, above zero for
    any two samples; differentiable in both.

    **Arguments**

    - `x`, `y`: points, one per row.
    - `num_projections`: the number of directions.
    - `order`: $p \ge 1$.

    **Raises** `ValueError` if samples have different event shapes, fewer than two points, or
    are not finite.
    """
    x, y = as_samples(x, y)
    check_key(rng_key)
    check_count("num_projections", num_projections)
    if order < 1:
        raise ValueError(f"`order` must be at least 1, got {order}.")
    directions = jr.normal(rng_key, (num_projections, x.shape[1]), x.dtype)
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    x_rank, y_rank, widths = _quantiles(len(x), len(y))

    def distance(direction: Array) -> Scalar:
        gaps = jnp.sort(x @ direction)[x_rank] - jnp.sort(y @ direction)[y_rank]
        return jnp.sum(jnp.abs(gaps) ** order * widths)

    return jax.lax.map(distance, directions).mean() ** (1 / order)


def _quantiles(n: int, m: int) -> tuple[np.ndarray, np.ndarray, Array]:
    """Pairs of neighbours once both samples are sorted, and the weight of each pair."""
    levels = np.unique(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))
    starts = levels[:-1]
    return starts // m, starts // n, jnp.asarray(np.diff(levels) / (n * m))
