r"""A Gaussian process for a scalar field that is seen through noisy gradients."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from .._checks import as_floats
from .._types import Array, Float, Scalar


class GradientProcess(eqx.Module):
    r"""$f(u)$ up to a constant, given gradients: a quadratic and a smooth rest.

    $f(u) = b^\top u + \tfrac12 u^\top C u + r(u)$ with $C \succeq 0$, where $r$ is a Gaussian
    process with the kernel $s^2 e^{-\frac12 |(u - u')/\ell|^2}$, whose gradients are seen with
    known noise [Solak et al. 2003]. Coordinates are standardised: $z = c + Lu$. Beyond the
    points $r$ returns to zero, and what is left is convex. The quadratic is estimated too, and
    its error counts: universal kriging.

    - **center**, **scale**, **inverse**: $c$, $L$ and $L^{-1}$.
    - **slope**, **curvature**: $b$ and $C$; **drift**: of their gradients at the points,
      decorrelated, and **drift_root**: a root of their covariance.
    - **points**, **lengths**, **amplitude**: of the process; **weights**: $K^{-1}$ times the
      gradients of $r$, **root**: the inverse of the Cholesky factor of $K$.
    - **inflation**: of its variances, by the errors at gradients left out; at least one.
    """

    center: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, "d d"]
    inverse: Float[np.ndarray, "d d"]
    slope: Float[np.ndarray, " d"]
    curvature: Float[np.ndarray, "d d"]
    points: Float[np.ndarray, "n d"]
    lengths: Float[np.ndarray, " d"]
    amplitude: float
    weights: Float[np.ndarray, "n d"]
    root: Float[np.ndarray, "m m"]
    drift: Float[np.ndarray, "m q"]
    drift_root: Float[np.ndarray, "q q"]
    inflation: float

    def standardized(self, z: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "k d"]:
        return (np.asarray(z, float) - self.center) @ self.inverse.T

    def value(self, z: Float[Array, " d"]) -> Scalar:
        """The field at `z`, up to a constant; traced and differentiable."""
        u = self._standardized(z)
        quadratic = as_floats(self.slope) @ u + 0.5 * u @ as_floats(self.curvature) @ u
        return quadratic + jnp.sum(self._traced_cross(u) * as_floats(self.weights.ravel()))

    def values(self, z: Float[np.ndarray, "k d"]) -> Float[np.ndarray, " k"]:
        """The field at many points, in double precision."""
        u = self.standardized(z)
        quadratic = u @ self.slope + 0.5 * np.einsum("ki,ij,kj->k", u, self.curvature, u)
        return quadratic + self._cross(u) @ self.weights.ravel()

    def errors(self, z: Float[np.ndarray, "k d"], base: Float[np.ndarray, " d"]) -> np.ndarray:
        """The standard errors of the differences between `z` and `base`."""
        u, v = self.standardized(z), self.standardized(np.asarray(base, float)[None])
        apart = self._cross(u) - self._cross(v)
        distance = np.sum(((u - v) / self.lengths) ** 2, 1)
        prior = 2 * self.amplitude**2 * -np.expm1(-0.5 * distance)
        explained = apart @ self.root.T
        known = np.sum(explained**2, 1)
        rest = _features(u, np) - _features(v, np) - explained @ self.drift
        drift = np.sum((rest @ self.drift_root) ** 2, 1)
        return np.sqrt(self.inflation * (np.maximum(prior - known, 0) + drift))

    def traced_error(self, z: Float[Array, " d"], base: Float[Array, " d"]) -> Scalar:
        """`errors` of one point under a trace, where single precision rounds it up."""
        u, v = self._standardized(z), self._standardized(as_floats(base))
        distance = jnp.sum(((u - v) / as_floats(self.lengths)) ** 2)
        prior = 2 * self.amplitude**2 * -jnp.expm1(-0.5 * distance)
        apart = self._traced_cross(u) - self._traced_cross(v)
        explained = as_floats(self.root) @ apart
        known = jnp.sum(explained**2)
        rest = _features(u, jnp) - _features(v, jnp) - explained @ as_floats(self.drift)
        drift = jnp.sum((rest @ as_floats(self.drift_root)) ** 2)
        floor = 100 * jnp.finfo(prior.dtype).eps * prior
        # A root of zero would have no gradient.
        error = self.inflation * (jnp.maximum(prior - known, floor) + drift)
        return jnp.sqrt(error + 1e-12)

    def _standardized(self, z: Float[Array, " d"]) -> Array:
        return as_floats(self.inverse) @ (z - as_floats(self.center))

    def _traced_cross(self, u: Float[Array, " d"]) -> Array:
        lengths = as_floats(self.lengths)
        apart = (u - as_floats(self.points)) / lengths
        kernel = self.amplitude**2 * jnp.exp(-0.5 * jnp.sum(apart**2, 1))
        return (kernel[:, None] * apart / lengths).ravel()

    def _cross(self, u: np.ndarray) -> np.ndarray:
        """The covariances of values at `u` with the gradients, `(k, n * d)`."""
        apart = (u[:, None] - self.points) / self.lengths
        kernel = self.amplitude**2 * np.exp(-0.5 * np.sum(apart**2, -1))
        return (kernel[..., None] * apart / self.lengths).reshape(len(u), -1)


def fit_process(
    z: Float[np.ndarray, "n d"],
    gradients: Float[np.ndarray, "n d"],
    noise: Float[np.ndarray, "m m"],
    center: Float[np.ndarray, " d"],
    scale: Float[np.ndarray, "d d"],
) -> GradientProcess:
    """The process given `gradients` at `z`, whose errors have the covariance `noise`.

    The lengths and the amplitude maximise the marginal likelihood.
    """
    inverse = solve_triangular(scale, np.eye(len(center)), lower=True)
    u = (z - center) @ inverse.T
    seen = (gradients @ scale).ravel()
    noise = _scaled(noise, scale)
    lengths, amplitude = _smoothness(u, seen, noise)
    kernel, _ = _kernel(u, lengths, amplitude)
    jitter = _JITTER * np.mean(np.diag(kernel)) * np.eye(len(seen))
    factor = cholesky(kernel + noise + jitter, lower=True)
    root = solve_triangular(factor, np.eye(len(seen)), lower=True)
    slopes = _slopes_of_features(u)
    drift = root @ slopes
    # So weak that it only matters if there are fewer gradients than coefficients.
    ridge = np.eye(drift.shape[1]) / (_WIDE * np.mean(seen**2) + 1e-30)
    covariance = np.linalg.inv(drift.T @ drift + ridge)
    slope, curvature = _convex(covariance @ drift.T @ (root @ seen), u.shape[1])
    quadratic = (slope + u @ curvature).ravel()
    weights = root.T @ (root @ (seen - quadratic))
    unseen = root.T @ (np.eye(len(root)) - drift @ covariance @ drift.T) @ root
    return GradientProcess(
        center,
        scale,
        inverse,
        slope,
        curvature,
        u,
        lengths,
        amplitude,
        weights.reshape(u.shape),
        root,
        drift,
        cholesky(covariance, lower=True),
        max(1.0, _left_out(unseen, seen, u.shape[1])),
    )


#: How much wider the prior of a coefficient is than the gradients, in variance.
_WIDE = 1e4


def independent(noise: Float[np.ndarray, "n d d"]) -> Float[np.ndarray, "m m"]:
    """The covariance of all errors, if those at different points are independent."""
    n, size, _ = noise.shape
    full = np.zeros((n, size, n, size))
    full[np.arange(n), :, np.arange(n)] = noise
    return full.reshape(n * size, n * size)


def _scaled(noise: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The covariance of gradients in standardised coordinates."""
    size = len(scale)
    blocks = noise.reshape(len(noise) // size, size, -1, size)
    return np.einsum("ai,namb,bj->nimj", scale, blocks, scale).reshape(noise.shape)


def _smoothness(u: np.ndarray, seen: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float]:
    """The lengths and the amplitude of the rest, by its marginal likelihood."""
    size = u.shape[1]
    slope, curvature = _quadratic(u, seen.reshape(u.shape), np.diag(noise).reshape(u.shape))
    rest = seen - (slope + u @ curvature).ravel()
    spread = np.sqrt(np.mean(rest**2)) + np.sqrt(np.mean(np.diag(noise)))
    start = np.append(np.full(size, np.log(1.5)), np.log(1.5 * spread))
    bounds = [*([(np.log(0.1), np.log(30.0))] * size), (start[-1] - 12, start[-1] + 8)]
    found = minimize(
        _loss,
        start,
        (u, rest, noise),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 40},
    )
    return np.exp(found.x[:-1]), float(np.exp(found.x[-1]))


def _features(u: Any, numbers: Any) -> Any:
    r"""$u_i$ and $u_i u_j$, halved if $i = j$: the terms of a quadratic."""
    i, j = np.triu_indices(u.shape[-1])
    products = u[..., i] * u[..., j] * np.where(i == j, 0.5, 1.0).astype(u.dtype)
    return numbers.concatenate([u, products], -1)


def _slopes_of_features(u: np.ndarray) -> np.ndarray:
    """The gradients of the features at `u`, `(n * d, q)`."""
    n, size = u.shape
    i, j = np.triu_indices(size)
    k = np.arange(len(i))
    products = np.zeros((n, size, len(i)))
    products[:, i, k] = u[:, j]
    products[:, j, k] = u[:, i]
    eye = np.broadcast_to(np.eye(size), (n, size, size))
    return np.concatenate([eye, products], -1).reshape(n * size, -1)


def _convex(coefficients: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Slope and curvature from coefficients, the latter made positive semi-definite."""
    curvature = np.zeros((size, size))
    i, j = np.triu_indices(size)
    curvature[i, j] = curvature[j, i] = coefficients[size:]
    values, vectors = np.linalg.eigh(curvature)
    return coefficients[:size], vectors * np.maximum(values, 0) @ vectors.T


#: Added to the diagonal of a covariance, relative to it.
_JITTER = 1e-10


def _quadratic(
    u: np.ndarray, gradients: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The convex quadratic whose gradients are closest."""
    total = variances.sum(1)
    # Draws of an ordered phase may all be alike, and then no variance is seen.
    usual = np.median(total) or np.mean(total) or 1.0
    weights = 1 / np.sqrt(usual + total)
    columns = np.column_stack([np.ones(len(u)), u]) * weights[:, None]
    found = np.linalg.lstsq(columns, gradients * weights[:, None], rcond=1e-8)[0]
    curvature = 0.5 * (found[1:] + found[1:].T)
    values, vectors = np.linalg.eigh(curvature)
    curvature = vectors * np.maximum(values, 0) @ vectors.T
    return np.average(gradients - u @ curvature, axis=0, weights=weights**2), curvature


def _kernel(
    u: np.ndarray, lengths: np.ndarray, amplitude: float
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The covariance of the gradients, and its slopes in the logarithms of the lengths."""
    size = u.shape[1]
    apart = u[:, None] - u
    scaled = apart / lengths**2
    base = amplitude**2 * np.exp(-0.5 * np.sum(apart * scaled, -1))[..., None, None]
    outer = scaled[..., :, None] * scaled[..., None, :]
    eye = np.eye(size)
    inner = eye / lengths**2 - outer
    slopes = []
    for c in range(size):
        at_c = eye[c]
        change = 2 * (at_c[:, None] + at_c) * outer - 2 * np.outer(at_c, at_c) / lengths**2
        slopes.append((apart[..., c] * scaled[..., c])[..., None, None] * inner + change)
    return _flat(base * inner), [_flat(base * slope) for slope in slopes]


def _flat(blocks: np.ndarray) -> np.ndarray:
    n, _, size, _ = blocks.shape
    return blocks.transpose(0, 2, 1, 3).reshape(n * size, n * size)


def _loss(
    x: np.ndarray, u: np.ndarray, rest: np.ndarray, noise: np.ndarray
) -> tuple[float, np.ndarray]:
    """Minus the log marginal likelihood, and a weak prior that lengths are near to one."""
    kernel, slopes = _kernel(u, np.exp(x[:-1]), float(np.exp(x[-1])))
    noise = noise + _JITTER * np.mean(np.diag(kernel)) * np.eye(len(rest))
    try:
        factor = cholesky(kernel + noise, lower=True)
    except np.linalg.LinAlgError:
        return np.inf, np.zeros_like(x)
    weights = cho_solve((factor, True), rest)
    # What the slope of the kernel is multiplied by.
    change = cho_solve((factor, True), np.eye(len(rest))) - np.outer(weights, weights)
    loss = 0.5 * rest @ weights + np.log(np.diag(factor)).sum() + 0.125 * np.sum(x[:-1] ** 2)
    slope = [0.5 * np.sum(change * each) for each in slopes] + 0.25 * x[:-1]
    return float(loss), np.append(slope, np.sum(change * kernel))


def _left_out(inverse: np.ndarray, seen: np.ndarray, size: int) -> float:
    """The mean square of the errors at points left out, in units of those expected."""
    blocks = inverse.reshape(-1, size, len(inverse) // size, size)
    own = blocks[np.arange(len(blocks)), :, np.arange(len(blocks))]
    own = own + _JITTER * np.trace(own, axis1=1, axis2=2)[:, None, None] * np.eye(size)
    parts = (inverse @ seen).reshape(-1, size)
    squares = np.einsum("ni,nij,nj->n", parts, np.linalg.inv(own), parts)
    return float(np.mean(squares) / size)
