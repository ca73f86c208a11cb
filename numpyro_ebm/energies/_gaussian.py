"""Gaussian energies: normalised, with exact samplers."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp

from .._checks import as_finite, check_positive
from .._types import Array, ArrayLike, Float, Key, Scalar, Shape
from ._base import AbstractEnergy


class Gaussian(AbstractEnergy):
    r"""$\tfrac12 (x-\mu)^\top\Lambda(x-\mu)$, where $\log Z = \tfrac12\log|2\pi\Lambda^{-1}|$.

    Takes one of `covariance_matrix`, `precision_matrix` and `scale_tril`, as NumPyro's
    `MultivariateNormal` does. Its parameters, the mean and the precision matrix, train.
    """

    loc: Float[Array, " d"]
    precision_matrix: Float[Array, "d d"]

    def __init__(
        self,
        loc: ArrayLike,
        covariance_matrix: ArrayLike | None = None,
        precision_matrix: ArrayLike | None = None,
        scale_tril: ArrayLike | None = None,
    ) -> None:
        given = {
            "covariance_matrix": covariance_matrix,
            "precision_matrix": precision_matrix,
            "scale_tril": scale_tril,
        }
        given = {name: as_finite(name, m) for name, m in given.items() if m is not None}
        if len(given) != 1:
            raise ValueError(
                "Give exactly one of `covariance_matrix`, `precision_matrix` and `scale_tril`, "
                f"got {' and '.join(given) or 'none'}."
            )
        self.loc = as_finite("loc", loc)
        ((name, matrix),) = given.items()
        if self.loc.ndim != 1 or matrix.shape != self.loc.shape * 2:
            raise ValueError(
                f"`loc` must have shape (d,) and `{name}` (d, d), got {self.loc.shape} and "
                f"{matrix.shape}."
            )
        self.precision_matrix = _TO_PRECISION[name](matrix)
        _check_definite(name, self.precision_matrix)

    @property
    def event_shape(self) -> Shape:
        return self.loc.shape

    @property
    def covariance_matrix(self) -> Float[Array, "d d"]:
        return jnp.linalg.inv(self.precision_matrix)

    @property
    def mean(self) -> Float[Array, " d"]:
        return self.loc

    @property
    def variance(self) -> Float[Array, " d"]:
        return jnp.diagonal(self.covariance_matrix)

    @property
    def log_z(self) -> Scalar:
        return _log_z(self.precision_matrix)

    def __call__(self, x: Float[Array, " d"]) -> Scalar:
        return _quadratic(x - self.loc, self.precision_matrix)

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n d"]:
        """Independent draws."""
        noise = jr.normal(rng_key, sample_shape + self.event_shape, self.loc.dtype)
        return self.loc + _colour(noise, self.precision_matrix)


class GaussianMixture(AbstractEnergy):
    r"""$-\log\sum_k w_k\,\mathcal N(x;\mu_k,\Sigma_k)$, normalised: $\log Z = 0$.

    **Arguments**

    - `weights`: $w_k$, positive; they are scaled to sum to one.
    - `locs`: $\mu_k$, of shape `(k, d)`.
    - `covariance_matrices`: $\Sigma_k$, of shape `(k, d, d)`, or `(d, d)` if all are the same.
    """

    log_weights: Float[Array, " k"]
    locs: Float[Array, "k d"]
    precision_matrices: Float[Array, "k d d"]

    def __init__(
        self,
        weights: ArrayLike,
        locs: ArrayLike,
        covariance_matrices: ArrayLike,
    ) -> None:
        weights, self.locs = as_finite("weights", weights), as_finite("locs", locs)
        if weights.ndim != 1:
            raise ValueError(f"`weights` must be a vector, got shape {weights.shape}.")
        check_positive("weights", weights)
        if self.locs.ndim != 2 or len(self.locs) != len(weights):
            raise ValueError(
                f"`locs` must have shape ({len(weights)}, d), one row per weight, got "
                f"{self.locs.shape}."
            )
        size, dim = self.locs.shape
        covariances = as_finite("covariance_matrices", covariance_matrices)
        if covariances.shape[-2:] != (dim, dim):
            raise ValueError(
                f"`covariance_matrices` must have shape ({size}, {dim}, {dim}) or "
                f"({dim}, {dim}), got {covariances.shape}."
            )
        covariances = jnp.broadcast_to(covariances, (size, dim, dim))
        self.log_weights = jnp.log(weights / weights.sum())
        self.precision_matrices = jax.vmap(_precision)(jnp.linalg.cholesky(covariances))
        _check_definite("covariance_matrices", self.precision_matrices)

    @property
    def event_shape(self) -> Shape:
        return self.locs.shape[1:]

    @property
    def weights(self) -> Float[Array, " k"]:
        return jax.nn.softmax(self.log_weights)

    @property
    def mean(self) -> Float[Array, " d"]:
        return self.weights @ self.locs

    @property
    def variance(self) -> Float[Array, " d"]:
        covariances = jnp.linalg.inv(self.precision_matrices)
        inner = jnp.diagonal(covariances, axis1=1, axis2=2)
        return self.weights @ (inner + (self.locs - self.mean) ** 2)

    @property
    def log_z(self) -> Scalar:
        return jnp.zeros(())

    def __call__(self, x: Float[Array, " d"]) -> Scalar:
        log_weights = jax.nn.log_softmax(self.log_weights)
        quadratic = jax.vmap(lambda loc, precision: _quadratic(x - loc, precision))
        energies = quadratic(self.locs, self.precision_matrices)
        return -logsumexp(log_weights - energies - _log_z(self.precision_matrices))

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n d"]:
        """Independent draws."""
        component_key, noise_key = jr.split(rng_key)
        which = jr.categorical(component_key, self.log_weights, shape=sample_shape)
        noise = jr.normal(noise_key, sample_shape + self.event_shape, self.locs.dtype)
        return self.locs[which] + _colour(noise, self.precision_matrices[which])


def _quadratic(x: Float[Array, " d"], precision: Float[Array, "d d"]) -> Scalar:
    return 0.5 * x @ (precision @ x)


def _log_z(precision: Float[Array, "*k d d"]) -> Float[Array, "*k"]:
    # Of the symmetric part, all that a quadratic form sees; NaN unless that is definite.
    root = jnp.linalg.cholesky(precision)
    log_scales = jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1))
    return 0.5 * precision.shape[-1] * jnp.log(2 * jnp.pi) - jnp.sum(log_scales, -1)


def _precision(scale_tril: Float[Array, "d d"]) -> Float[Array, "d d"]:
    root = solve_triangular(scale_tril, jnp.eye(len(scale_tril)), lower=True)
    return root.T @ root


def _check_definite(name: str, precision: Float[Array, "*k d d"]) -> None:
    root = jnp.linalg.cholesky(precision)
    if not isinstance(root, Tracer) and not np.isfinite(root).all():
        kind = "invertible" if name == "scale_tril" else "positive definite"
        raise ValueError(f"`{name}` must be {kind}.")


def _colour(noise: Float[Array, "*n d"], precision: Float[Array, "*k d d"]) -> Array:
    # x = L^-T z has covariance (L L^T)^-1, where L L^T is the precision.
    root = jnp.broadcast_to(jnp.linalg.cholesky(precision), noise.shape + noise.shape[-1:])
    return solve_triangular(root, noise[..., None], trans=1, lower=True)[..., 0]


_TO_PRECISION = {
    "covariance_matrix": lambda matrix: _precision(jnp.linalg.cholesky(matrix)),
    "precision_matrix": lambda matrix: 0.5 * (matrix + matrix.T),
    "scale_tril": _precision,
}
