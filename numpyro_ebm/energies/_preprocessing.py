"""Transforms of data that keep their log-determinants inside `Transformed`."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import logit
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from .._checks import as_data, as_finite, as_floats, check_key, check_positive
from .._types import Array, ArrayLike, Float, Key, Shape


class Standardize(Transform):
    r"""$T(x) = (x - \mu)/\sigma$, a NumPyro transform.

    `Transformed(energy, Standardize.fit(data))` is an energy of raw data whose network sees
    inputs of unit scale.
    """

    domain: ClassVar[Any] = constraints.real
    codomain: ClassVar[Any] = constraints.real

    def __init__(self, loc: ArrayLike, scale: ArrayLike) -> None:
        check_positive("scale", scale)
        self.loc, self.scale = as_finite("loc", loc), as_finite("scale", scale)

    @classmethod
    def fit(cls, data: ArrayLike, weights: ArrayLike | None = None) -> "Standardize":
        """Fit mean and standard deviation per coordinate; a constant one keeps its scale.

        `weights`, if given, are those of the points.
        """
        values = np.asarray(as_data(data), float)
        loc, residuals = _centred(values, weights)
        scale = np.sqrt((residuals**2).sum(0))
        return cls(loc, np.where(np.ptp(values, 0) > 0, scale, 1))

    def __call__(self, x: Array) -> Array:
        return (x - self.loc) / self.scale

    def _inverse(self, y: Array) -> Array:
        return self.loc + self.scale * y

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        return jnp.broadcast_to(-jnp.log(self.scale), jnp.shape(x))

    def tree_flatten(self) -> tuple:
        return (self.loc, self.scale), (("loc", "scale"), {})

    def eq(self, other: object, static: bool = False) -> Any:
        if not isinstance(other, Standardize):
            return False
        return static or np.all(self.loc == other.loc) & np.all(self.scale == other.scale)


class Whiten(Transform):
    r"""$T(x) = R^{-1/2}\,(x - \mu)/\sigma$, where $R$ is the matrix of correlations.

    [`Standardize`][numpyro_ebm.energies.Standardize] with the correlations removed. Of all
    transforms to uncorrelated coordinates of unit scale, it moves standardised data the least:
    a coordinate keeps its meaning, and a pixel its place
    [[Kessy, Lewin and Strimmer 2018](https://doi.org/10.1080/00031305.2016.1277159)]. A network
    then sees what distinguishes collinear columns, such as the radius and the perimeter of one
    thing, as well as what they share.

    Eigenvalues of $R$ below $10^{-6}$ are raised to it: a direction in which standardised data
    vary by less than a thousandth is rounding, or an identity between columns, and a transform
    that stretches it by more has no accurate inverse in 32 bits. It stays narrow.

    **Arguments**

    - `loc`: $\mu$, of the shape of one point.
    - `covariance_matrix`: of the flattened points, of shape `(d, d)`.
    """

    def __init__(self, loc: ArrayLike, covariance_matrix: ArrayLike) -> None:
        self.loc = as_finite("loc", loc)
        as_finite("covariance_matrix", covariance_matrix)
        covariance = np.asarray(covariance_matrix, float)  # Not rounded to 32 bits.
        if covariance.shape != (self.loc.size,) * 2:
            raise ValueError(
                f"`covariance_matrix` must have shape {(self.loc.size,) * 2}, for points of "
                f"shape {self.loc.shape}, got {covariance.shape}."
            )
        if not (np.diagonal(covariance) > 0).all():
            raise ValueError("`covariance_matrix` must have positive variances.")
        scale = np.sqrt(np.diagonal(covariance))
        eigenvalues, axes = np.linalg.eigh(covariance / np.outer(scale, scale))
        spread = np.sqrt(np.maximum(eigenvalues, _FLOOR))
        self.scale = as_floats(scale.reshape(self.loc.shape))
        self.root = as_floats(axes * spread @ axes.T)
        self.inverse_root = as_floats(axes / spread @ axes.T)
        self.log_det = as_floats(-np.log(scale).sum() - np.log(spread).sum())

    @classmethod
    def fit(cls, data: ArrayLike, weights: ArrayLike | None = None) -> "Whiten":
        """Fit mean and covariance; a constant coordinate keeps its scale.

        `weights`, if given, are those of the points.

        **Raises** `ValueError` unless there are more points than coordinates.
        """
        values = np.asarray(as_data(data), float)
        if len(values) <= values[0].size:
            raise ValueError(
                f"`data` must hold more points than coordinates, got {len(values)} of "
                f"{values[0].size}: their covariance is singular. Use "
                "`ebm.energies.Standardize.fit(data)`."
            )
        loc, residuals = _centred(values, weights)
        flat = residuals.reshape(len(values), -1)
        is_constant = np.ptp(values, 0).ravel() == 0
        return cls(loc, flat.T @ flat + np.diag(is_constant.astype(float)))

    @property
    def domain(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return constraints.independent(constraints.real, jnp.ndim(self.loc))

    @property
    def codomain(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.domain

    def __call__(self, x: Array) -> Array:
        return self._product((x - self.loc) / self.scale, self.inverse_root)

    def _inverse(self, y: Array) -> Array:
        return self.loc + self.scale * self._product(y, self.root)

    def _product(self, x: Array, matrix: Array) -> Array:
        flat = x.reshape(*self._batch_shape(x), len(matrix))
        return (flat @ matrix).reshape(x.shape)

    def _batch_shape(self, x: Array) -> Shape:
        return jnp.shape(x)[: jnp.ndim(x) - jnp.ndim(self.loc)]

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        return jnp.broadcast_to(self.log_det, self._batch_shape(x))

    def tree_flatten(self) -> tuple:
        return tuple(getattr(self, name) for name in _WHITEN), (_WHITEN, {})

    def eq(self, other: object, static: bool = False) -> Any:
        if not isinstance(other, Whiten):
            return False
        pairs = [(getattr(self, name), getattr(other, name)) for name in _WHITEN]
        return static or np.all([np.array_equal(*pair) for pair in pairs])


class Logit(Transform):
    r"""$T(x) = \operatorname{logit}(\alpha + (1 - 2\alpha)\,x/n)$, from pixels in $[0, n]$.

    Pixels, unlike energies over $\mathbb R^d$, have bounds; this maps the bounds to infinity
    [[Dinh et al. 2017](https://arxiv.org/abs/1605.08803)]. The log-density of pixels that were
    integers before [`dequantize`][numpyro_ebm.energies.dequantize] is the usual one: divided by
    $-d\log 2$ it is in bits per dimension. Sample the energy of $T(x)$, and map the draws back
    with `Logit(...).inv`.

    **Arguments**

    - `num_levels`: $n$, 256 for bytes and 1 for pixels divided by 256.
    - `alpha`: keeps the edges finite.
    """

    codomain: ClassVar[Any] = constraints.real

    def __init__(self, num_levels: float = 256.0, alpha: float = 0.05) -> None:
        check_positive("num_levels", num_levels)
        check_positive("alpha", alpha)
        if not alpha < 0.5:
            raise ValueError(f"`alpha` must lie between 0 and 0.5, got {alpha}.")
        self.num_levels, self.alpha = num_levels, alpha

    @property
    def domain(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        margin = self.alpha * self.num_levels / (1 - 2 * self.alpha)
        return constraints.interval(-margin, self.num_levels + margin)

    def __call__(self, x: Array) -> Array:
        return logit(self.alpha + (1 - 2 * self.alpha) * x / self.num_levels)

    def _inverse(self, y: Array) -> Array:
        return (jax.nn.sigmoid(y) - self.alpha) * self.num_levels / (1 - 2 * self.alpha)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        slope = (1 - 2 * self.alpha) / self.num_levels
        # log(p(1 - p)) of p = sigmoid(y).
        return math.log(slope) + jax.nn.softplus(y) + jax.nn.softplus(-y)

    def tree_flatten(self) -> tuple:
        return (), ((), {"num_levels": self.num_levels, "alpha": self.alpha})

    def eq(self, other: object, static: bool = False) -> bool:
        if not isinstance(other, Logit):
            return False
        return (self.num_levels, self.alpha) == (other.num_levels, other.alpha)


def dequantize(rng_key: Key, data: ArrayLike) -> Float[Array, "n *event"]:
    r"""Integers plus uniform noise in $[0, 1)$: discrete data with a density.

    The log-density of the result, averaged over the noise, is a lower bound on the
    log-probability of the integers
    [[Theis et al. 2016](https://arxiv.org/abs/1511.01844)].
    """
    check_key(rng_key)
    data = as_data(data)
    if not np.array_equal(data, np.round(data)):
        raise ValueError("`data` must be integers; continuous data has a density already.")
    return data + jr.uniform(rng_key, data.shape)


def _centred(values: np.ndarray, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and residuals whose squares sum to the variance."""
    shares = np.full(len(values), 1 / len(values)) if weights is None else _shares(weights)
    if shares.shape != values.shape[:1]:
        raise ValueError(
            f"`weights` must be one per point, {len(values)} in all, got shape {shares.shape}."
        )
    shares = shares.reshape(-1, *(1,) * (values.ndim - 1))
    loc = (shares * values).sum(0)
    return loc, np.sqrt(shares) * (values - loc)


def _shares(weights: ArrayLike) -> np.ndarray:
    values = np.asarray(as_finite("weights", weights), float)
    if not ((values >= 0).all() and values.sum() > 0):
        raise ValueError("`weights` must not be negative, nor all zero.")
    return values / values.sum()


#: The smallest eigenvalue of a matrix of correlations that is not mistaken for rounding.
_FLOOR = 1e-6
#: What a `Whiten` consists of.
_WHITEN = ("loc", "scale", "root", "inverse_root", "log_det")
