"""References of a tempered path that an energy does not bring along."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from .._types import Array, Float, Key, Point, Scalar, Shape
from ..chains import begin_moments, learn_moments
from ..energies import AbstractEnergy


class Zero(AbstractEnergy):
    """Zero, an improper reference: the path from it is one of temperatures."""

    @property
    def event_shape(self) -> None:
        """None: points of any shape."""

    def __call__(self, x: Point) -> Scalar:
        return jnp.zeros((), jnp.result_type(float))


class RavelledGaussian(AbstractEnergy):
    r"""$\tfrac12\lVert W(x - \mu)\rVert^2$ of the flattened coordinates of a point.

    - **whitening**: $W$, its diagonal or lower triangular.
    - **unravel**: from flat coordinates to a point.
    """

    loc: Float[Array, " d"]
    whitening: Float[Array, "*d d"]
    unravel: Callable[[Array], Point] = eqx.field(static=True)

    @property
    def event_shape(self) -> None:
        """None: a dict has no single shape."""

    @property
    def log_z(self) -> Scalar:
        diagonal = self.whitening if self.whitening.ndim == 1 else jnp.diag(self.whitening)
        return 0.5 * len(self.loc) * math.log(2 * math.pi) - jnp.log(diagonal).sum()

    def __call__(self, x: Point) -> Scalar:
        centred = ravel_pytree(x)[0] - self.loc
        is_diagonal = self.whitening.ndim == 1
        z = self.whitening * centred if is_diagonal else self.whitening @ centred
        return 0.5 * z @ z

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Point:
        """One draw, as a chain needs it."""
        z = jr.normal(rng_key, self.loc.shape, self.loc.dtype)
        if self.whitening.ndim == 1:
            return self.unravel(self.loc + z / self.whitening)
        return self.unravel(self.loc + solve_triangular(self.whitening, z, lower=True))


class FittedGaussian(eqx.Module):
    r"""A Gaussian reference in unconstrained space, fitted while chains warm up.

    After each round of the warm-up it takes the mean and 1.2 times the covariance of the
    target's replicas in that round, a variational reference [Surjanovic et al. 2022]: minimal
    in $KL(p\,\|\,q)$ among Gaussians. The path from it is much shorter than from a prior far
    from the posterior. It begins as a standard normal. If all chains start in one mode, it may
    be fitted to that mode alone, and never lead to another.

    ```python
    kernel = ebm.ParallelTempering(
        ebm.NUTS(), reference=ebm.kernels.FittedGaussian()
    )
    ```

    **Arguments**

    - `dense_mass`: fit the covariance matrix, not only its diagonal, the variances.
    """

    dense_mass: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        if not isinstance(self.dense_mass, bool):
            raise TypeError(f"`dense_mass` must be True or False, got {self.dense_mass!r}.")


class Fit(eqx.Module):
    """The Gaussian of a `FittedGaussian` so far, and moments of the round under way."""

    loc: Float[Array, " d"]
    whitening: Float[Array, "*d d"]
    moments: Any

    @classmethod
    def begin(cls, fitted: FittedGaussian, position: Point) -> "Fit":
        """A standard normal over points like `position`."""
        loc = jnp.zeros(ravel_pytree(position)[0].shape, jnp.result_type(float))
        whitening = jnp.eye(len(loc)) if fitted.dense_mass else jnp.ones_like(loc)
        return cls(loc, whitening, begin_moments(fitted.dense_mass, len(loc), whitening))

    def at(self, position: Point) -> RavelledGaussian:
        unravel = ravel_pytree(position)[1]
        return RavelledGaussian(loc=self.loc, whitening=self.whitening, unravel=unravel)

    def learn(self, positions: Point) -> "Fit":
        """Add the target's replicas, one per chain."""
        return Fit(self.loc, self.whitening, learn_moments(self.moments, positions))

    def end_round(self) -> "Fit":
        """The Gaussian that matches the moments, a little wider, and none yet."""
        mean, m2, count = self.moments.wc_state
        is_dense = m2.ndim == 2
        covariance = _WIDER * m2 / jnp.maximum(count - 1, 1)
        variances = jnp.diag(covariance) if is_dense else covariance
        # A coordinate that has not moved keeps its scale.
        old = self._variances()
        moved = variances > 0
        variances = jnp.where(moved, variances, old)
        if is_dense:
            # With few draws for so many coordinates, correlations are mostly chance.
            weight = count / (count + len(mean))
            covariance = weight * covariance + jnp.diag(
                variances - weight * jnp.diag(covariance)
            )
            root = jnp.linalg.cholesky(covariance)
            whitening = solve_triangular(root, jnp.eye(len(mean)), lower=True)
        else:
            whitening = 1 / jnp.sqrt(variances)
        fresh = begin_moments(is_dense, len(mean), whitening)
        return Fit(jnp.where(moved, mean, self.loc), whitening, fresh)

    def _variances(self) -> Array:
        if self.whitening.ndim == 1:
            return 1 / self.whitening**2
        root = solve_triangular(self.whitening, jnp.eye(len(self.loc)), lower=True)
        return (root**2).sum(1)


#: The covariance of a fitted reference, in units of that of the draws: where the reference is
#: narrower than the target, the path must find what its start never shows.
_WIDER = 1.2
